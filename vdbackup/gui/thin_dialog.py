"""Which of the moments in a log of writes stay: all of its last time, then one now and then."""

from __future__ import annotations

from PySide6.QtWidgets import QFormLayout, QWidget

from vdbackup.gui import parts, words, written_words
from vdbackup.operations import thinning
from vdbackup.operations.written_logs import ReadLog
from vdbackup.translation import markedn, tr

WIDTH = 480  # pixels
MINUTE = 60  # seconds
MOST = 60 * 24 * 365
"""Minutes."""
_ABOUT = tr(
    "What was written is not lost: of the moments that go, the next one that stays holds it. What "
    "goes is shown before it does."
)


class ThinDialog(parts.Dialog):
    """Asks for two times; accepted, `seconds` says what stays.

    Attributes:
        within: minutes before the log's end of which every write stays.
        every: minutes of which one moment stays before that.
    """

    def __init__(self, log: ReadLog, parent: QWidget | None = None) -> None:
        super().__init__("thinDialog", tr("Thin the writes"), WIDTH, parent)
        self.column.addWidget(parts.label(tr("Thin the writes"), "heading"))
        said = words.breakable_lines(written_words.stored_summary(log))
        self.column.addWidget(parts.label(said, "muted"))
        self.within = _minutes("thinWithin", tr("Minutes of which every write stays"), 0)
        self.within.setValue(thinning.WITHIN // MINUTE)
        self.every = _minutes("thinEvery", tr("Minutes of which one moment stays"), 1)
        self.every.setValue(thinning.EVERY // MINUTE)
        form = QFormLayout()
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(8)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.FieldsStayAtSizeHint)
        form.addRow(parts.label(tr("Every write of the last"), wrap=False), self.within)
        form.addRow(parts.label(tr("Before: one moment each"), wrap=False), self.every)
        self.column.addLayout(form)
        self.column.addWidget(parts.label(_ABOUT, "muted"))
        thin = parts.button(tr("Thin"), "thinAccept", "primary")
        thin.clicked.connect(self.accept)
        self.add_buttons(thin)

    @property
    def seconds(self) -> tuple[int, int]:
        """Of which every write stays, and of which one moment stays before."""
        return self.within.value() * MINUTE, self.every.value() * MINUTE


def _minutes(name: str, accessible_name: str, least: int) -> parts.SpinBox:
    made = parts.SpinBox(name, accessible_name)
    made.setRange(least, MOST)
    parts.name_number(made, *markedn(" minute", " minutes"))
    return made
