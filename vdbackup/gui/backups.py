"""What the user has backed up: each source is planned, shown and captured, then boot-tested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QWidget

from vdbackup.disks.contents import UnclearFormat
from vdbackup.errors import OtherSource, VdbackupError
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.jobs import care, making
from vdbackup.gui.jobs.outcome import Outcome
from vdbackup.gui.runner import Runner
from vdbackup.gui.source_questions import FormatDialog, OtherSourceDialog
from vdbackup.jobs import Job, JobState, Plan
from vdbackup.operations import (
    adopt,
    backup,
    machine_backup,
)
from vdbackup.operations.adopt import AdoptRequest, AdoptResult
from vdbackup.operations.backup import AUTO, BackupRequest, BackupResult
from vdbackup.operations.machine_backup import MachineRequest, MachineResult
from vdbackup.pace import Limit, Pace
from vdbackup.repository.model import RecoveryPoint
from vdbackup.settings import KnownSource
from vdbackup.sources.reference import SourceRef
from vdbackup.translation import tr

P = TypeVar("P", bound=Plan)


class Form(Protocol):
    """Where a source was named: it waits until it is known whether that can be backed up."""

    waiting: bool

    def window(self) -> QWidget:
        """What it lies in."""

    def end_waiting(self, error: VdbackupError | None = None) -> None:
        """Say what is wrong, or go on."""


class Backups(QObject):
    """Starts everything that makes points of a source, and remembers the sources.

    Signals:
        begun(Entry): a source is backed up for the first time.
    """

    begun = Signal(object)

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner.window)
        self._runner = runner

    def back_up(
        self,
        entry: Entry,
        kind: str = AUTO,
        *,
        ask: bool | None = None,
        disk_format: str | None = None,
        read_all: bool = False,
    ) -> None:
        """Make a recovery point; asks first if the settings (or `ask`) say so.

        The format is that of a new set; an existing one keeps its own.
        """
        asks = self._runner.store.value.ask_before_backup if ask is None else ask
        if entry.machine:
            self._back_up_machine(entry, kind, ask=asks, read_all=read_all)
            return
        backup_set = entry.backup_set
        request = BackupRequest(
            entry.source,
            entry.repository,
            set_name=backup_set.name if backup_set else None,
            kind=kind,
            disk_format=None if backup_set else disk_format,
            seen=backup_set is not None,
            read_all=read_all,
            all_blocks=self._runner.store.value.all_blocks,
        )
        self._back_up(entry, request, ask=asks)

    def _back_up_machine(self, entry: Entry, kind: str, *, ask: bool, read_all: bool) -> None:
        """Make a moment of a machine, which knows its own sources."""
        name = entry.machine.name if entry.machine else ""
        all_blocks = self._runner.store.value.all_blocks
        request = MachineRequest(
            name, entry.repository, kind=kind, read_all=read_all, all_blocks=all_blocks
        )
        if not ask:
            self._run_machine(request)
            return
        make = partial(machine_backup.plan, request)
        self._runner.plan(
            request.repository,
            tr("Back up {entry}", entry=entry.title),
            tr("Back up"),
            make,
            lambda _plan: self._run_machine(request),
            silence=True,
        )

    def _run_machine(
        self, request: MachineRequest, made_it: Callable[[], None] = lambda: None
    ) -> None:
        def ended(job: Job[Outcome[MachineResult]]) -> None:
            if job.result:
                made_it()
                self._note_names(request.repository, job.result.value.to_be_indexed)
            if job.result and (made := job.result.value).to_be_tested:
                self._test(request.repository, made.set_name, made.point, request.name)

        back_up = partial(making.back_up_machine, request, self._runner.store.machines, self._pace)
        self._runner.run(
            request.repository, tr("Back up {request}", request=request.name), back_up, ended
        )

    def begin_machine(
        self,
        form: Form,
        name: str,
        sources: Sequence[SourceRef],
        repository: Path,
        disk_format: str | None,
    ) -> None:
        """Back several disks up as one machine.

        It is remembered once it is one: before, that would be its first disk, as if it were alone.
        """
        all_blocks = self._runner.store.value.all_blocks
        request = MachineRequest(
            name, repository, tuple(sources), disk_format=disk_format, all_blocks=all_blocks
        )
        title = tr("Back up {name}", name=name)

        def remember() -> None:
            self.begun.emit(self.add_source(sources[0], repository))

        def start(_plan: Plan | None) -> None:
            self._run_machine(request, remember)

        self._offer(repository, title, partial(machine_backup.plan, request), start, form)

    def _back_up(self, entry: Entry, request: BackupRequest, *, ask: bool) -> None:
        title = tr("Back up {entry}", entry=entry.title)

        def clarify(error: VdbackupError) -> bool:
            return self._clarify(error, request, lambda other: self._back_up(entry, other, ask=ask))

        def ended(job: Job[Outcome[BackupResult]]) -> None:
            if job.error:
                clarify(job.error)
            elif job.result:
                self._after(entry, request.repository, job.result.value)

        def start(_plan: Plan | None) -> None:
            back_up = partial(making.back_up, request, self._runner.store.machines, self._pace)
            self._runner.run(request.repository, title, back_up, ended)

        if not ask:
            start(None)
            return
        make = partial(backup.plan, request)
        self._runner.plan(
            request.repository, title, tr("Back up"), make, start, silence=True, clarify=clarify
        )

    def _after(self, entry: Entry, repository: Path, made: BackupResult) -> None:
        """What the set wants done with a new point by whoever has made it."""
        self._note_names(repository, made.to_be_indexed)
        if made.to_be_tested:
            called = entry.title if entry.shares_name else made.set_name
            self._test(repository, made.set_name, made.point, called)

    def begin(
        self, source: SourceRef, repository: Path, disk_format: str | None, form: Form
    ) -> None:
        """Back a source up that the user has just named, and remember it once that can be done."""
        all_blocks = self._runner.store.value.all_blocks
        request = BackupRequest(source, repository, disk_format=disk_format, all_blocks=all_blocks)
        self._begin(request, form)

    def _begin(self, request: BackupRequest, form: Form) -> None:
        entry = Entry(request.source, request.repository)
        title = tr("Back up {entry}", entry=entry.title)

        def start(plan: backup.CapturePlan) -> None:
            named = plan.source.ref if entry.source.is_files else entry.source  # links are followed
            self._runner.show_again(entry.repository, (plan.set_name,))
            added = self.add_source(named, entry.repository)
            self._back_up(added, replace(request, source=named), ask=False)
            self.begun.emit(added)

        def again(request: BackupRequest) -> None:
            if form.waiting:
                self._begin(request, form)

        def clarify(error: VdbackupError) -> bool:
            return self._clarify(error, request, again, form)

        make = partial(backup.plan, request)
        self._offer(entry.repository, title, make, start, form, clarify)

    def _offer(
        self,
        repository: Path,
        title: str,
        make: Callable[[], P],
        start: Callable[[P], None],
        form: Form,
        clarify: Callable[[VdbackupError], bool] = lambda _error: False,
    ) -> None:
        """Plan what a form asks for, which waits meanwhile; ask, and start."""

        def planned(job: Job[P]) -> None:
            if not form.waiting:
                return
            if job.error and clarify(job.error):
                return
            form.end_waiting(job.error)
            if job.state is not JobState.FINISHED:
                return
            if self._runner.store.value.ask_before_backup:
                self._runner.ask(title, tr("Back up"), job.outcome(), start, silence=True)
            else:
                start(job.outcome())

        job = Job(tr("Plan: {title}", title=title), lambda _task: make())
        self._runner.workers.reader(repository).submit(job, planned)

    def _clarify(
        self,
        error: VdbackupError,
        request: BackupRequest,
        again: Callable[[BackupRequest], None],
        form: Form | None = None,
    ) -> bool:
        """Ask what only the user knows of a source, then try again; False where it is not that."""
        parent = self._runner.window if form is None else form.window()
        if isinstance(error, UnclearFormat):
            question = FormatDialog(error, parent)
            question.accepted.connect(
                lambda: again(replace(request, source_format=question.chosen))
            )
            if form is not None:
                question.rejected.connect(lambda: form.end_waiting(error))
            question.open()
            return True
        if isinstance(error, OtherSource):
            other = OtherSourceDialog(error, parent)
            own = replace(request, set_name=None, kind=AUTO)
            meant = replace(request, same_source=True)
            other.accepted.connect(lambda: again(meant if other.goes_on else own))
            other.open()
            return True
        return False

    def add_source(self, source: SourceRef, repository: Path) -> Entry:
        """Remember a source; what has been backed up of it is read."""
        known = KnownSource(source, repository)
        self._runner.store.update(lambda settings: settings.with_source(known))
        self._runner.catalogue.refresh(repository)
        return Entry(source, repository)

    def start_demo(self, folder: Path) -> None:
        """Make a demo disk and a week of its backups in `folder`, and show them."""
        image, repository = folder / "demo-disk.img", folder / "backups"

        def made(job: Job[Outcome[tuple[RecoveryPoint, ...]]]) -> None:
            if job.state is JobState.FINISHED:
                self.begun.emit(self.add_source(SourceRef.of_path(image), repository))

        doing = partial(making.make_demo, image, repository, self._runner.store.machines)
        job = Job(tr("Make a demo disk"), doing)
        self._runner.workers.writer(repository).submit(job, made)

    def adopt(self, tip: SourceRef, repository: Path) -> None:
        """Make a set of another program's chain, and remember it."""
        self._adopt(AdoptRequest(tip, repository))

    def _adopt(self, request: AdoptRequest) -> None:
        title = tr("Adopt {tip}", tip=request.tip)

        def clarify(error: VdbackupError) -> bool:
            if not isinstance(error, UnclearFormat):
                return False
            question = FormatDialog(error, self._runner.window)
            question.accepted.connect(
                lambda: self._adopt(replace(request, source_format=question.chosen))
            )
            question.open()
            return True

        def ended(job: Job[Outcome[AdoptResult]]) -> None:
            if job.state is JobState.FINISHED:
                self.begun.emit(self.add_source(request.tip, request.repository))

        def start(_plan: Plan) -> None:
            doing = partial(making.adopt_chain, request)
            self._runner.run(request.repository, title, doing, ended)

        make = partial(adopt.plan, request)
        self._runner.plan(request.repository, title, tr("Adopt"), make, start, clarify=clarify)

    def prove_boots(self, entry: Entry, point: RecoveryPoint) -> None:
        """Prove that a point boots; asks nothing, and waits for nothing but the test before."""
        self._test(entry.repository, entry.name, point, entry.title)

    def _test(self, repository: Path, set_name: str, point: RecoveryPoint, called: str) -> None:
        title = tr("Boot test of {called} #{point}", called=called, point=point.sequence)
        doing = partial(
            care.boots, repository, set_name, point.id, self._runner.store.machines.boot_test()
        )
        self._runner.submit(self._runner.workers.tester(repository), repository, Job(title, doing))

    def _note_names(self, repository: Path, sets: Sequence[str]) -> None:
        """Note the names of files in new points; like a test it gives way to whoever writes."""
        for name in sets:
            where = self._runner.store.locations.names_file
            doing = partial(care.note_names, repository, name, where)
            job = Job(tr("Names of files in {name}", name=name), doing)
            self._runner.submit(self._runner.workers.tester(repository), repository, job)

    @property
    def _pace(self) -> Pace:
        """Of a backup that somebody waits for: it gives way to nobody."""
        rate = self._runner.store.value.limit_mib << 20
        return Pace(Limit(rate) if rate > 0 else None)
