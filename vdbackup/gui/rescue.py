"""The rescue medium in the window: made here, and what a restore ends with that was done on one."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TypeVar

from PySide6.QtCore import QObject
from PySide6.QtWidgets import QCheckBox, QFormLayout, QHBoxLayout, QWidget

from vdbackup.errors import NotRetargeted, VdbackupError
from vdbackup.gui import parts
from vdbackup.gui.jobs import rescue_work
from vdbackup.gui.jobs.outcome import Outcome
from vdbackup.gui.runner import Runner
from vdbackup.jobs import Job, Work
from vdbackup.recovery.bootable.making import BootablePlan
from vdbackup.translation import tr

T = TypeVar("T")
WIDTH = 560  # pixels


class MediumDialog(parts.Dialog):
    """Asks where the image of a rescue medium goes, and of which kind it is.

    Attributes:
        target_edit, text_box, overwrite_box: what the user chose.
        accept_button: enabled when a file is named.
    """

    def __init__(self, parent: QWidget) -> None:
        title = tr("Make a rescue medium")
        super().__init__("mediumDialog", title, WIDTH, parent)
        self.column.addWidget(parts.label(title, "heading"))
        about = tr(
            "An image for a USB stick or a CD, for a computer that starts no more: it starts "
            "from that, finds the backups on attached disks, and restores them in this very "
            "window."
        )
        self.column.addWidget(parts.label(about, "muted"))
        self.target_edit = parts.field(
            "mediumEdit", tr("A new file, rescue.iso"), tr("File of the image")
        )
        choose = parts.button(tr("Choose a file…"), "chooseMediumButton")
        choose.clicked.connect(self._on_choose_clicked)
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self.target_edit, 1)
        row.addWidget(choose)
        self.text_box = QCheckBox(
            tr("Without the window: it asks in text, is smaller, and made sooner")
        )
        self.text_box.setObjectName("textBox")
        self.overwrite_box = QCheckBox(tr("Replace the file if there is one"))
        self.overwrite_box.setObjectName("overwriteBox")
        form = QFormLayout()
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(10)
        form.addRow(tr("Image"), row)
        form.addRow("", self.text_box)
        form.addRow("", self.overwrite_box)
        self.column.addLayout(form)
        self.accept_button = parts.button(tr("Continue"), "mediumAccept", "primary")
        self.accept_button.setEnabled(False)
        self.accept_button.clicked.connect(self.accept)
        self.add_buttons(self.accept_button)
        self.target_edit.textChanged.connect(
            lambda text: self.accept_button.setEnabled(bool(text.strip()))
        )

    @property
    def target(self) -> Path:
        """The file."""
        return Path(self.target_edit.text().strip()).expanduser()

    def _on_choose_clicked(self) -> None:
        filters = [tr("Disc images (*.iso)"), tr("All files (*)")]
        parts.choose_file(self, tr("Rescue medium"), self.target_edit, filters, new=True)


class Rescue(QObject):
    """Makes media, and restored disks ready for this computer."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner.window)
        self._runner = runner

    def make_medium(self) -> None:
        """Let the user name an image, see what is planned, and make it."""
        dialog = MediumDialog(self._runner.window)
        title = tr("Make a rescue medium")

        def plan() -> None:
            window, overwrite = not dialog.text_box.isChecked(), dialog.overwrite_box.isChecked()
            make = partial(
                rescue_work.plan_medium, dialog.target, window=window, overwrite=overwrite
            )
            self._runner.plan(
                None,
                title,
                tr("Make it"),
                make,
                lambda plan: self._run(title, partial(rescue_work.make_medium, plan)),
            )

        dialog.accepted.connect(plan)
        dialog.open()

    def offer(self, disk: Path) -> None:
        """After a restore to a disk: say what it takes for that to start here, and offer it.

        Only root may do it, who uses this window on the medium. A disk of data is left as it is.
        """
        if os.geteuid() != 0:
            return
        title = tr("Make {disk} start on this computer", disk=disk)

        def ask(plan: BootablePlan) -> None:
            if plan.needed:
                doing = partial(rescue_work.make_bootable, plan)
                self._runner.ask(title, tr("Do that"), plan, lambda _: self._run(title, doing))

        def holds_no_system(error: VdbackupError) -> bool:
            return isinstance(error, NotRetargeted)

        self._runner.plan(
            None,
            title,
            "",
            partial(rescue_work.plan_bootable, disk),
            ask,
            asks=False,
            clarify=holds_no_system,
        )

    def _run(self, title: str, doing: Work[Outcome[T]]) -> None:
        self._runner.workers.writer(None).submit(Job(title, doing), lambda _job: None)
