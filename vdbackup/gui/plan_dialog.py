"""Before anything is changed: what would be done, in a sentence and in bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from PySide6.QtWidgets import QCheckBox, QPlainTextEdit, QWidget

from vdbackup.gui import parts, words
from vdbackup.jobs import Plan
from vdbackup.text import printable
from vdbackup.translation import grouped, tr

WIDTH = 460  # pixels
FEW = 6  # names that are read in a sentence; more are a list
MANY = 12  # lines of a list that has room of its own


class PlanDialog(parts.Dialog):
    """Shows a plan, and is accepted when the user wants it done. Use `open()`, never `exec()`.

    What cannot be done as things stand can only be read, and closed.

    Attributes:
        plan: what is shown.
        accept_button, cancel_button: what the user may press.
        never_again: a box to tick (hidden unless offered).
    """

    def __init__(
        self,
        title: str,
        verb: str,
        plan: Plan,
        parent: QWidget | None = None,
        *,
        offer_silence: bool = False,
    ) -> None:
        super().__init__("planDialog", title, WIDTH, parent)
        self.plan = plan
        column = self.column
        column.addWidget(parts.label(title, "heading"))
        column.addWidget(parts.label(printable(plan.summary)))
        column.addWidget(parts.Notice(printable(plan.hindrance), "planHindrance", "bad"))
        if plan.bytes_to_copy:
            sentence = tr(
                "At most {size} will be read or written.", size=words.size(plan.bytes_to_copy)
            )
            column.addWidget(parts.label(sentence, "muted"))
        if plan.invalidates:
            column.addWidget(
                parts.Notice(
                    tr(
                        "No longer there afterwards: {invalidates}.",
                        invalidates=_few(plan.invalidates),
                    ),
                    role="warning",
                )
            )
        if len(plan.invalidates) > FEW:
            gone = tr("What is no longer there afterwards")
            column.addWidget(_scrolled(map(printable, plan.invalidates), gone))
        details = [
            *_listed(tr("Makes"), plan.creates),
            *_listed(tr("Changes or deletes"), plan.replaces),
        ]
        if details:
            lines: QWidget = parts.label("\n".join(details), "muted", selectable=True)
            if len(details) > MANY:
                lines = _scrolled(details, tr("Files"))
            column.addWidget(parts.Fold(tr("Files"), lines))
            column.addWidget(lines)
        self.never_again = QCheckBox(tr("Do not ask again before a backup"))
        self.never_again.setObjectName("neverAgain")
        self.never_again.setVisible(offer_silence and not plan.hindrance)
        column.addWidget(self.never_again)
        dangerous = bool(plan.invalidates or plan.replaces)
        self.accept_button = parts.button(verb, "planAccept", "danger" if dangerous else "primary")
        self.accept_button.clicked.connect(self.accept)
        self.cancel_button = self.add_buttons(self.accept_button)
        self.accept_button.setDisabled(bool(plan.hindrance))
        if dangerous or plan.hindrance:
            self.press_by_enter(self.cancel_button)
            self.cancel_button.setFocus()


def _scrolled(lines: Iterable[str], accessible_name: str) -> QPlainTextEdit:
    """A list that may be longer than there is room for."""
    made = QPlainTextEdit("\n".join(lines))
    made.setReadOnly(True)
    made.setAccessibleName(accessible_name)
    made.setFixedHeight(150)
    return made


def _few(names: Sequence[str]) -> str:
    return (
        ", ".join(map(printable, names))
        if len(names) <= FEW
        else tr("the {count} below", count=grouped(len(names)))
    )


def _listed(title: str, names: Sequence[str]) -> list[str]:
    return [f"{title}: {printable(name)}" for name in names]
