"""What only the user knows of a source: what it is, and whether it is the one of before."""

from __future__ import annotations

from PySide6.QtWidgets import QGridLayout, QPushButton, QWidget

from vdbackup.disks.contents import UnclearFormat
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import OtherSource
from vdbackup.gui import parts
from vdbackup.translation import tr

WIDTH = 520  # pixels


class FormatDialog(parts.Dialog):
    """Asks what a source is that is not what its name says. Enter and Escape back nothing up.

    Attributes:
        chosen: "raw" or a format, once the dialog is accepted.
        buttons: one for each choice.
    """

    def __init__(self, error: UnclearFormat, parent: QWidget | None = None) -> None:
        super().__init__("formatQuestion", tr("What is this?"), WIDTH, parent)
        self.chosen = ""
        column = self.column
        column.addWidget(parts.label(tr("What is this?"), "heading"))
        column.addWidget(parts.label(error.title))
        column.addWidget(parts.label(error.advice, "muted"))
        self.buttons = {choice: self._button(choice) for choice in error.choices}
        first, *others = self.buttons.values()
        self.press_by_enter(self.add_buttons(first, tr("Cancel"), *others))

    def _button(self, choice: DiskFormat) -> QPushButton:
        text = (
            tr("Back up byte for byte")
            if choice == DiskFormat.RAW
            else tr("Back up the {choice} disk", choice=choice.upper())
        )
        made = parts.button(text, f"choose-{choice}")
        made.clicked.connect(lambda: self._on_chosen(choice))
        return made

    def _on_chosen(self, choice: DiskFormat) -> None:
        self.chosen = choice
        self.accept()


class OtherSourceDialog(parts.Dialog):
    """Shows the two disks, and asks where the backup goes. Enter begins a set: that loses nothing.

    Attributes:
        goes_on: whether the user says that the set is this source's, once the dialog is accepted.
        own_button, same_button: what the user may press.
    """

    def __init__(self, error: OtherSource, parent: QWidget | None = None) -> None:
        title = tr("Another disk") if error.sure else tr("The same disk?")
        super().__init__("otherSourceQuestion", title, WIDTH, parent)
        self.goes_on = False
        column = self.column
        column.addWidget(parts.label(title, "heading"))
        disks = QGridLayout()
        disks.setHorizontalSpacing(14)
        disks.setColumnStretch(1, 1)
        for row, (what, disk) in enumerate(
            (
                (tr("Backed up in {set_name}", set_name=error.set_name), error.known),
                (tr("There now"), error.now),
            )
        ):
            disks.addWidget(parts.label(what, "muted", wrap=False), row, 0)
            disks.addWidget(parts.label(disk, "strong", selectable=True), row, 1)
        column.addLayout(disks)
        reasons = f"{error.reasons[:1].upper()}{error.reasons[1:]}."
        column.addWidget(parts.Notice(reasons, "sourceReasons", "warning"))
        column.addWidget(
            parts.label(
                tr(
                    "A set of its own leaves all points of {set_name} as they are. If it is the "
                    "same disk after all, go on in {set_name}: nothing older is merged or deleted "
                    "this time.",
                    set_name=error.set_name,
                ),
                "muted",
            )
        )
        self.own_button = parts.button(tr("Begin a set of its own"), "ownSet", "primary")
        self.own_button.clicked.connect(self.accept)
        self.same_button = parts.button(tr("Go on in that set"), "sameSource")
        self.same_button.clicked.connect(self._on_same)
        self.add_buttons(self.own_button, tr("Cancel"), self.same_button)

    def _on_same(self) -> None:
        self.goes_on = True
        self.accept()
