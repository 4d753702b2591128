"""A scheduled run: what a timer starts. The same backup as a click's, if its slot has none yet."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from vdbackup.errors import RepositoryLocked, VdbackupError, from_os
from vdbackup.jobs import Task, retry_when_cleared
from vdbackup.operations import backup, machine_backup
from vdbackup.operations.backup import BackupRequest, BackupResult
from vdbackup.operations.machine_backup import MachineRequest, MachineResult
from vdbackup.operations.machines import Machines
from vdbackup.operations.schedules import conditions
from vdbackup.operations.schedules.store import Outcome, Run, Schedule, Store
from vdbackup.records import MAX_SENTENCE
from vdbackup.repository.machine import KnownMachines
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.sources.reference import SourceRef
from vdbackup.translation import original, tr

PATIENCE = 3600.0
"""Seconds that another one who writes to the repository is waited for."""
_TICK = timedelta(minutes=5)
"""By how much the clocks of two computers may differ."""


@dataclass(frozen=True)
class RunResult:
    """How it ended.

    Attributes:
        made: what the backup did; None where none was due.
    """

    run: Run
    made: BackupResult | MachineResult | None = None


def run(store: Store, schedule: Schedule, machines: Machines, task: Task) -> RunResult:
    """Back the set up if that is due, and note how it ended.

    Raises what a backup does, once that is noted.
    """
    began = datetime.now(UTC)
    with store.running(schedule.id) as free:
        if not free:  # it notes itself how it ends
            return RunResult(noted(began, Outcome.SKIPPED, tr("Another run of it is under way.")))
        try:
            result = retry_when_cleared(
                lambda task: _backed_up(schedule, began, machines, task),
                PATIENCE,
                of=RepositoryLocked,
            )(task)
        except (VdbackupError, OSError) as error:
            problem = from_os(error) if isinstance(error, OSError) else error
            store.note(schedule.id, failed(began, problem))
            raise
        store.note(schedule.id, result.run)
        return result


def _backed_up(schedule: Schedule, began: datetime, machines: Machines, task: Task) -> RunResult:
    """Once the repository is free: somebody may have been quicker meanwhile.

    The disk of a machine is backed up with its others.
    """
    backup_set = Repository.open(schedule.repository).set(schedule.set_name)
    if point := point_of_slot(backup_set.latest_captured(), schedule, datetime.now(UTC)):
        sentence = tr(
            "Not due: point {point} was made since the last time it was.", point=point.sequence
        )
        return RunResult(noted(began, Outcome.SKIPPED, sentence))
    if why := conditions.hindrance(schedule):
        return RunResult(noted(began, Outcome.SKIPPED, why))
    if machine := KnownMachines.of(Repository.open(schedule.repository)).with_set(backup_set):
        of_all = MachineRequest(
            machine.name,
            schedule.repository,
            all_blocks=schedule.all_blocks,
            merges=not schedule.merge_at,
        )
        moment = machine_backup.back_up(of_all, machines, task)
        points = moment.moment.points
        own = points.get(schedule.set_name, moment.point)
        return RunResult(_done(began, moment, own, points.values()), moment)
    request = BackupRequest(
        SourceRef.parse(backup_set.settings.source.path),
        schedule.repository,
        set_name=schedule.set_name,
        seen=True,
        all_blocks=schedule.all_blocks,
        merges=not schedule.merge_at,
    )
    made = backup.back_up(request, machines, task)
    return RunResult(_done(began, made, made.point, [made.point]), made)


def point_of_slot(
    newest: RecoveryPoint | None, schedule: Schedule, now: datetime
) -> RecoveryPoint | None:
    """The point that the slot has which is now; None where one is due.

    What a clock that went ahead has dated tomorrow is of no slot: it must not stop backups.
    """
    if newest is None:
        return None
    created = datetime.fromisoformat(newest.created)
    created = created if created.tzinfo else created.replace(tzinfo=UTC)
    return newest if schedule.timing.slot(now) <= created <= now + _TICK else None


def _done(
    began: datetime,
    made: BackupResult | MachineResult,
    point: RecoveryPoint,
    points: Collection[RecoveryPoint],
) -> Run:
    """How it ended: the set's point, and the bytes of all that were made with it."""
    warnings = [*made.warnings, *(error.title for error in made.trouble)]
    return replace(
        noted(
            began,
            Outcome.WARNED if warnings else Outcome.DONE,
            " ".join(warnings) or tr("Point {point} was made.", point=point.sequence),
        ),
        point=point.sequence,
        stored_bytes=sum(each.stored_bytes for each in points),
        read_bytes=sum(each.reading.read_bytes for each in points if each.reading),
    )


def failed(began: datetime, error: VdbackupError) -> Run:
    """What is noted of a run that failed."""
    sentence = f"{error.title} {error.advice}".rstrip()
    return replace(noted(began, Outcome.FAILED, sentence), code=error.code)


def noted(began: datetime, outcome: Outcome, sentence: str) -> Run:
    """What is noted of a run that ends now."""
    ended = datetime.now(UTC)
    times = [each.isoformat(timespec="seconds") for each in (began, ended)]
    return Run(times[0], times[1], outcome, original(sentence)[:MAX_SENTENCE])
