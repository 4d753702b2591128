"""The fields by which a user says how they are told of trouble, and a button that tries it out."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtWidgets import QFormLayout, QHBoxLayout, QWidget

from vdbackup.errors import UsageError
from vdbackup.gui import parts, remedies
from vdbackup.gui.jobs.worker import Worker
from vdbackup.jobs import Job
from vdbackup.operations import telling
from vdbackup.operations.telling import Attempt, Way, Ways
from vdbackup.settings import Settings
from vdbackup.translation import tr

_BY = {
    Way.DESKTOP: tr("On the desktop"),
    Way.MAIL: tr("By mail"),
    Way.COMMAND: tr("By the command"),
}


class ToldWays(QWidget):
    """Mail and a command, checked before they are kept.

    Attributes:
        mail_to, command: the fields.
        said: why they make no sense, or how the test went.
    """

    def __init__(self, settings: Settings, worker: Worker, name: Callable[[str], QWidget]) -> None:
        super().__init__()
        self._worker = worker
        self.mail_to = parts.field(
            "mailTo", tr("none"), tr("Address to which mail is sent when a scheduled backup fails")
        )
        self.mail_to.setText(settings.mail_to)
        self.mail_to.setToolTip(tr("By msmtp or sendmail, which have to be set up here."))
        self.command = parts.field(
            "troubleCommand", tr("none"), tr("Command that is told when a scheduled backup fails")
        )
        self.command.setText(settings.trouble_command)
        self.command.setToolTip(tr("It gets a title and a sentence as its last two arguments."))
        self._test = parts.button(tr("Test"), "testTelling")
        self._test.setToolTip(tr("Tells you something now, to see whether that works."))
        self._test.setAccessibleName(tr("Test how you are told"))
        self._test.clicked.connect(self._on_test)
        self.said = parts.Notice("", "toldSaid")
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(8)
        form.addRow(name(tr("Mail to")), self.mail_to)
        form.addRow(name(tr("Run")), self.command)
        row = QHBoxLayout()  # no button is as wide as a field
        row.addWidget(self._test)
        row.addStretch(1)
        form.addRow(name(""), row)
        form.addRow(self.said)

    @property
    def texts(self) -> tuple[str, str]:
        """What is typed: address, command."""
        return self.mail_to.text().strip(), self.command.text().strip()

    def make_sense(self) -> bool:
        """Whether they can be kept; if not, that is said."""
        return self._ways() is not None

    def _ways(self) -> Ways | None:
        try:
            return Ways.of(*self.texts)
        except UsageError as error:
            self.said.say(remedies.sentences(error), "bad")
            return None

    def _on_test(self) -> None:
        if (ways := self._ways()) is None:
            return
        self._test.setEnabled(False)
        self.said.say(tr("You are being told…"), "")
        job = Job(tr("Test message"), lambda _task: telling.try_out(ways))
        self._worker.submit(job, self._on_tried)

    def _on_tried(self, job: Job[tuple[Attempt, ...]]) -> None:
        self._test.setEnabled(True)
        tried = job.result or ()
        lines = [
            tr("{way}: {how}", way=_BY[each.way], how=each.problem or tr("told.")) for each in tried
        ]
        bad = any(each.problem and not each.expected for each in tried)
        self.said.say("\n".join(lines), "warning" if bad else "")
