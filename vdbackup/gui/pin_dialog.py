"""Pin a recovery point: why, in the user's words."""

from __future__ import annotations

from PySide6.QtWidgets import QWidget

from vdbackup.gui import parts, words
from vdbackup.records import MAX_SENTENCE
from vdbackup.repository.model import RecoveryPoint
from vdbackup.translation import tr

WIDTH = 420  # pixels


class PinDialog(parts.Dialog):
    """Asks for a note, which may be empty.

    Attributes:
        note: where it is typed.
    """

    def __init__(self, point: RecoveryPoint, parent: QWidget | None = None) -> None:
        super().__init__("pinDialog", tr("Pin #{point}", point=point.sequence), WIDTH, parent)
        self.column.addWidget(
            parts.label(tr("Pin {point}", point=words.point_title(point)), "heading")
        )
        about = tr("It stays until you unpin it: nothing deletes it or merges it away.")
        self.column.addWidget(parts.label(about, "muted"))
        self.note = parts.field(
            "pinNote", tr("Why it stays, such as “before the upgrade”"), tr("Note")
        )
        self.note.setMaxLength(MAX_SENTENCE)
        self.column.addWidget(self.note)
        pin = parts.button(tr("Pin"), "pinAccept", "primary")
        pin.clicked.connect(self.accept)
        self.add_buttons(pin)
        self.note.setFocus()
