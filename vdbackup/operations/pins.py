"""Pin a recovery point: it stays whatever the policy says, until somebody unpins it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from vdbackup.errors import UsageError
from vdbackup.jobs import Plan, Task
from vdbackup.operations.changed import Changed
from vdbackup.records import MAX_SENTENCE
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import MAX_PINS, Pin, RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.translation import grouped, tr


@dataclass(frozen=True, kw_only=True)
class PinPlan(Plan):
    """What pinning a point, or unpinning it, would mean.

    Attributes:
        note: why, in the user's words; None to unpin it.
    """

    repository: Repository
    set_name: str
    point: RecoveryPoint
    note: str | None


@dataclass(frozen=True)
class PinResult:
    """What has been done.

    Attributes:
        pin: what is noted from now on; None where the point is not pinned any more.
        sentence: the same for a person.
        changed: what is to be read again.
    """

    set_name: str
    point: RecoveryPoint
    pin: Pin | None
    sentence: str
    changed: Changed


def plan(repository: Repository, set_name: str, point_id: str, note: str | None) -> PinPlan:
    """What it would mean.

    Args:
        repository: where the set is.
        set_name: the set.
        point_id: the point.
        note: why it is pinned; it may be empty. None to unpin it.

    Raises:
        PointNotFound: there is no such point.
        UsageError: the note is too long, or there are too many pins.
    """
    backup_set = repository.set(set_name)
    point = backup_set.point(point_id)
    _check(backup_set, point, note)
    return PinPlan(
        summary=_sentence(backup_set, point, note),
        repository=repository,
        set_name=set_name,
        point=point,
        note=note,
    )


def run(plan: PinPlan, task: Task) -> PinResult:
    """Pin or unpin the point; raises what `plan` does, as it may have gone meanwhile."""
    repository, name = plan.repository, plan.set_name
    with repository.lock(tr("pinning a point of {name}", name=name), task.cancel):
        backup_set = repository.set(name)
        point = backup_set.point(plan.point.id)
        _check(backup_set, point, plan.note)
        settings = backup_set.settings
        pins = tuple(pin for pin in settings.pins if pin.sequence != point.sequence)
        pin = None
        if plan.note is not None:
            pin = Pin(point.sequence, plan.note, datetime.now(UTC).isoformat(timespec="seconds"))
            pins = (*pins, pin)
        if pins != settings.pins:
            repository.save_settings(name, replace(settings, pins=pins))
    sentence = _sentence(backup_set, point, plan.note)
    return PinResult(name, point, pin, sentence, Changed.only(name))


def _check(backup_set: BackupSet, point: RecoveryPoint, note: str | None) -> None:
    if note is not None and len(note) > MAX_SENTENCE:
        raise UsageError(
            tr("The note has {count} characters.", count=grouped(len(note))),
            tr("Say it in {max_sentence} at most.", max_sentence=grouped(MAX_SENTENCE)),
        )
    another = note is not None and backup_set.pin(point) is None
    if another and len(backup_set.settings.pins) >= MAX_PINS:
        raise UsageError(
            tr(
                "{backup_set} has {max_pins} pinned points already.",
                backup_set=backup_set.name,
                max_pins=grouped(MAX_PINS),
            ),
            tr("Unpin others first."),
        )


def _sentence(backup_set: BackupSet, point: RecoveryPoint, note: str | None) -> str:
    if note is None:
        if backup_set.pin(point) is None:
            return tr("Point {point} is not pinned.", point=point.sequence)
        return tr(
            "Point {point} is like any other again: the policy may take it.", point=point.sequence
        )
    return tr(
        "Point {point} is pinned: it is neither deleted nor merged away, whatever the policy says.",
        point=point.sequence,
    )
