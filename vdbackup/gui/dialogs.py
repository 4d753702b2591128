"""The dialogs in which the user says more of what is to be done, or sees it before it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtWidgets import QFileDialog

from vdbackup.gui import leaving, theme
from vdbackup.gui.add_source import AddSourceDialog, AddSourceForm
from vdbackup.gui.adopt_dialog import AdoptDialog
from vdbackup.gui.backups import Backups
from vdbackup.gui.bisect_dialog import BisectDialog
from vdbackup.gui.boot_dialog import BootDialog
from vdbackup.gui.browse_dialog import BrowseDialog
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.changes_dialog import DifferencesDialog, SizeDialog
from vdbackup.gui.choice_dialog import ChoiceDialog
from vdbackup.gui.convert_dialog import ConvertDialog
from vdbackup.gui.find_dialog import FindDialog
from vdbackup.gui.jobs import repositories, sessions
from vdbackup.gui.machines.sessions import Sessions
from vdbackup.gui.operations import Operations
from vdbackup.gui.pin_dialog import PinDialog
from vdbackup.gui.plan_dialog import PlanDialog
from vdbackup.gui.policy_dialog import PolicyDialog
from vdbackup.gui.protect_dialog import Kind, ProtectDialog
from vdbackup.gui.rehearse_dialog import RehearseDialog
from vdbackup.gui.retarget_dialog import RetargetDialog
from vdbackup.gui.runner import Runner
from vdbackup.gui.schedule_dialog import ScheduleDialog
from vdbackup.gui.settings_dialog import SettingsDialog
from vdbackup.gui.theme import Theme
from vdbackup.gui.thin_dialog import ThinDialog
from vdbackup.gui.tracking_dialog import TrackingDialog
from vdbackup.gui.versions_dialog import VersionsDialog
from vdbackup.jobs import Job
from vdbackup.operations.written_logs import ReadLog
from vdbackup.recovery.checks import Check, CommandCheck, GuestCheck, TextCheck
from vdbackup.recovery.file_sets.choices import choice_now
from vdbackup.recovery.sessions.saved import SavedSession
from vdbackup.repository.model import RecoveryPoint
from vdbackup.sources.reference import SourceRef
from vdbackup.translation import tr
from vdbackup.volumes.keys import Keys


class Dialogs(QObject):
    """Opens dialogs before a window, and has done what is accepted in them.

    Signals:
        foretold(frozenset): the points that a policy would take, as it is being chosen.
        point_wanted(Entry, str): one of them is to be shown in the timeline, by its id.
        failed(str, VdbackupError): what was asked for could not be, and why.
    """

    foretold = Signal(object)
    point_wanted = Signal(object, str)
    failed = Signal(str, object)

    def __init__(
        self, runner: Runner, backups: Backups, operations: Operations, sessions: Sessions
    ) -> None:
        super().__init__(runner.window)
        self._window = runner.window
        self._store, self._workers, self._catalogue = runner.store, runner.workers, runner.catalogue
        self._backups, self._operations, self._sessions = backups, operations, sessions

    @property
    def _theme(self) -> Theme:
        return theme.chosen(self._store.value.theme)

    def browse(self, entry: Entry, point: RecoveryPoint) -> None:
        """Show the files in a point."""
        mounts = self._store.locations.data / "points"
        dialog = BrowseDialog(entry, point, self._workers, self._theme, mounts, self._window)
        dialog.versions_wanted.connect(partial(self._show_versions, entry))

        def put_back(paths: list[str], keys: Keys, overwrite: bool) -> None:
            self._operations.put_back(entry, point, paths, keys, overwrite=overwrite)

        dialog.put_back_wanted.connect(put_back)
        dialog.show()

    def find(self, entry: Entry) -> None:
        """Let the user look for files by name; in which point one is, the graph shows."""
        where = self._store.locations.names_file
        dialog = FindDialog(entry, where, self._workers, self._window)
        dialog.point_chosen.connect(partial(self.point_wanted.emit, entry))
        dialog.files_wanted.connect(partial(self._browse_again, entry))
        dialog.versions_wanted.connect(partial(self._show_versions, entry))
        dialog.show()

    def explain_size(self, entry: Entry, point: RecoveryPoint) -> None:
        """Show why a point is as large as it is."""
        dialog = SizeDialog(entry, point, self._workers, self._window)
        dialog.leaving_out_wanted.connect(partial(self.change_choice, entry))
        dialog.show()

    def compare(
        self, entry: Entry, point: RecoveryPoint, other: RecoveryPoint | None = None
    ) -> None:
        """Show which files differ between a point and another one: the one before, if none is."""
        dialog = DifferencesDialog(entry, point, self._workers, self._window)
        if other is not None:
            dialog.other.setCurrentIndex(dialog.other.findData(other.id))
        dialog.show()

    def bisect(self, entry: Entry, point: RecoveryPoint) -> None:
        """Let the user say how the first bad point is told, and look for it."""
        dialog = BisectDialog(entry, point, self._window)

        def find() -> None:
            how = self._store.machines.boot_test()
            check: Check = TextCheck(dialog.text, how)
            if dialog.command:
                inside = dialog.is_inside
                check = GuestCheck(dialog.command, how) if inside else CommandCheck(dialog.command)
            self._operations.bisect(entry, dialog.between, check)

        dialog.accepted.connect(find)
        dialog.open()

    def _show_versions(self, entry: Entry, path: str, keys: Keys) -> None:
        """List the states of a file; which is chosen, the graph shows."""
        dialog = VersionsDialog(entry, path, keys, self._workers, self._window)
        dialog.point_chosen.connect(partial(self.point_wanted.emit, entry))
        dialog.files_wanted.connect(partial(self._browse_again, entry))
        dialog.show()

    def _browse_again(self, entry: Entry, point_id: str) -> None:
        if (point := entry.point(point_id)) is not None:
            self.browse(entry, point)

    def add_source(self, source: Path | None = None) -> None:
        """Let the user name a source, and back it up."""
        dialog = AddSourceDialog(self._workers.reader(None), self._window)
        self.listen_to(dialog.form)
        if source is not None:
            dialog.form.source_edit.setText(str(source))
            dialog.form.repository_edit.setFocus()
        dialog.open()

    def add_files(self, paths: Sequence[Path]) -> None:
        """Let the user see how much lies in folders that are named, and back them up."""
        dialog = AddSourceDialog(self._workers.reader(None), self._window)
        self.listen_to(dialog.form)
        dialog.open()
        dialog.form.choose_files([str(path) for path in paths])

    def change_choice(self, entry: Entry, left_out: Sequence[str] = ()) -> None:
        """Let the user choose other files for a set; patterns of what is to be left out, too."""
        backup_set = entry.backup_set
        choice = choice_now(backup_set.settings) if backup_set else None
        if choice is None:
            return
        reader = self._workers.reader(None)
        begun = replace(choice, exclude=(*choice.exclude, *left_out))
        dialog = ChoiceDialog(begun, reader, self._window, apart=(entry.repository,), before=choice)
        dialog.accepted.connect(lambda: self._operations.change_choice(entry, dialog.choice))
        dialog.open()

    def listen_to(self, form: AddSourceForm) -> None:
        """Back up what is named in a form."""

        def begin(source: SourceRef, repository: Path, disk_format: str | None) -> None:
            self._backups.begin(source, repository, disk_format, form)

        form.submitted.connect(begin)
        form.machine_submitted.connect(partial(self._backups.begin_machine, form))

    def open_backups(self) -> None:
        """Let the user name a folder with backups, and show them."""
        dialog = QFileDialog(self._window, tr("Open the folder that holds the backups"))
        dialog.setFileMode(QFileDialog.FileMode.Directory)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.fileSelected.connect(lambda folder: self.show_backups(Path(folder)))
        dialog.open()

    def show_backups(self, folder: Path) -> None:
        """Show the backups in a folder, if there are some."""
        title = tr("Open {folder}", folder=folder)

        def opened(job: Job[Path]) -> None:
            if job.error:
                self.failed.emit(title, job.error)
            elif (repository := job.result) is not None:
                self._store.update(
                    lambda settings: settings.with_repository(repository).showing(repository)
                )
                self._catalogue.refresh(repository)

        job = Job(title, partial(repositories.open_backups, folder))
        self._workers.reader(None).submit(job, opened)

    def leave(self, repository: Path) -> None:
        """Let all that is backed up to a folder leave the list, once the user has seen what."""
        names = [each.name for each in self._catalogue.entries if each.repository == repository]

        def leave() -> None:
            self._store.update(lambda settings: settings.without_repository(repository))

        if len(names) < 2:
            leave()
            return
        plan = leaving.plan_repository(repository, names)
        dialog = PlanDialog(
            tr("Remove from the list?"), tr("Remove from the list"), plan, self._window
        )
        dialog.accepted.connect(leave)
        dialog.open()

    def track(self, entry: Entry) -> None:
        """Show how the changes of a disk are tracked, and let that be begun or ended."""
        TrackingDialog(entry, self._workers.reader(None), self._window).open()

    def protect(self, entry: Entry) -> None:
        """Show which ways a source can have to keep more of it; begin one, or end what goes on."""
        protecting = self._operations.protecting
        reader = self._workers.reader(None)
        dialog = ProtectDialog(entry, reader, self._window, runs=protecting.runs(entry))

        def accepted() -> None:
            lasts = dialog.seconds
            if dialog.ends:
                protecting.end(entry)
            elif dialog.wanted is Kind.WRITES:
                protecting.begin_every_write(entry, dialog.log_bytes, lasts)
            elif dialog.ways:
                track = not dialog.ways.tracked
                protecting.begin_points(entry, dialog.every.value(), lasts, track=track)

        dialog.accepted.connect(accepted)
        dialog.open()

    def thin_writes(self, entry: Entry, log: ReadLog) -> None:
        """Let the user say which of the moments behind a point stay, and delete the others."""
        dialog = ThinDialog(log, self._window)
        dialog.accepted.connect(lambda: self._operations.thin_writes(entry, log, *dialog.seconds))
        dialog.open()

    def choose_policy(self, entry: Entry) -> None:
        """Let the user say which points of a source stay, and show which would go."""
        reader = self._workers.reader(entry.repository)
        dialog = PolicyDialog(entry, reader, self._theme, self._window)
        dialog.foretold.connect(self.foretold)
        dialog.finished.connect(lambda _answer: self.foretold.emit(frozenset()))
        dialog.accepted.connect(lambda: self._operations.change_policy(entry, dialog.change))
        dialog.open()

    def schedule(self, entry: Entry) -> None:
        """Let the user say when a source is backed up automatically."""
        reader = self._workers.reader(entry.repository)
        dialog = ScheduleDialog(entry, self._store.schedules, reader, self._window)
        dialog.accepted.connect(
            lambda: self._operations.change_schedule(entry, dialog.plan, removes=dialog.removes)
        )
        dialog.open()

    def pin(self, entry: Entry, point: RecoveryPoint) -> None:
        """Let a point stay, once the user has said why."""
        dialog = PinDialog(point, self._window)
        dialog.accepted.connect(
            lambda: self._operations.pin(entry, point, dialog.note.text().strip())
        )
        dialog.open()

    def forget(self, entry: Entry) -> None:
        """Let a source leave the list; where it has backups, once the user has seen what stays."""

        def forget() -> None:
            alone = self._is_alone(entry)
            self._store.update(lambda settings: leaving.without(entry, settings, alone=alone))
            self._catalogue.refresh(entry.repository)

        if entry.backup_set is None:
            forget()
            return
        schedules = self._store.schedules
        is_scheduled = any(schedules.find(entry.repository, name) for name in entry.set_names)
        plan = leaving.plan_source(entry, is_scheduled=is_scheduled)
        title = tr("Remove {entry} from this list?", entry=entry.title)
        dialog = PlanDialog(title, tr("Remove from the list"), plan, self._window)
        dialog.accepted.connect(forget)
        dialog.open()

    def _is_alone(self, entry: Entry) -> bool:
        """Whether nothing else of its repository is in the list."""
        return [each.repository for each in self._catalogue.entries].count(entry.repository) < 2

    def boot_with(self, entry: Entry, point: RecoveryPoint) -> None:
        """Let the user choose the hardware and the second disk of a machine, then start it."""
        others = [each for each in self._catalogue.entries if each.points and each != entry]
        dialog = BootDialog(point, self._store.value.memory_mib, others, self._window)
        dialog.accepted.connect(
            lambda: self._sessions.boot(
                entry,
                point,
                dialog.request,
                keeps_writes=dialog.every_write.isChecked(),
                attach=dialog.attach,
            )
        )
        dialog.open()

    def retarget(self, entry: Entry, point: RecoveryPoint) -> None:
        """Let the user choose hardware that a point's machine is made ready for."""
        dialog = RetargetDialog(point, self._window)
        dialog.accepted.connect(
            lambda: self._operations.retarget(entry, point, dialog.wish, dialog.drivers)
        )
        dialog.open()

    def rehearse(self, entry: Entry, point: RecoveryPoint) -> None:
        """Let the user say what a point would be restored to, and do that beforehand."""
        dialog = RehearseDialog(point, self._workers.reader(None), self._window)
        dialog.accepted.connect(
            lambda: self._operations.rehearse(entry, point, dialog.wanted, dialog.folder)
        )
        dialog.open()

    def convert(self, entry: Entry) -> None:
        """Let the user choose a format that a set is copied to."""
        dialog = ConvertDialog(entry, self._window)
        dialog.accepted.connect(lambda: self._operations.convert(entry, dialog.disk_format))
        dialog.open()

    def adopt(self) -> None:
        """Let the user name another program's chain, and make a set of it."""
        dialog = AdoptDialog(self._window)

        def accepted() -> None:
            if dialog.tip and dialog.repository:
                self._backups.adopt(dialog.tip, dialog.repository)

        dialog.accepted.connect(accepted)
        dialog.open()

    def change_settings(self) -> None:
        """Let the user change the settings."""
        self._store.reload()  # a command may have changed them
        entries, reader = self._catalogue.entries, self._workers.reader(None)
        store = self._store
        dialog = SettingsDialog(store.value, store.locations, entries, reader, self._window)

        def accepted() -> None:
            self._store.change(**dialog.changes())
            for entry, change in dialog.policies():
                self._operations.change_policy(entry, change)

        dialog.accepted.connect(accepted)
        dialog.open()

    def discard(self, saved: SavedSession, written: int) -> None:
        """Let what a machine wrote go, once the user has seen what that is."""
        plan = sessions.plan_discard(saved, written)
        dialog = PlanDialog(
            tr("Discard what {saved} wrote?", saved=saved.title), tr("Discard"), plan, self._window
        )
        dialog.accepted.connect(lambda: self._sessions.discard(saved))
        dialog.open()
