"""What people are told of a schedule's runs: each trouble once, and once that it is over.

    <history>/ID.told       what they were told of, until it is over

What is a trouble is what `health` says needs somebody, a run that failed, and a merge that failed
or had to leave something as it was, after a backup or at a time of its own.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

from vdbackup import durable, records
from vdbackup.operations import health, telling
from vdbackup.operations.health import Concern, Moment, RepositoryHealth
from vdbackup.operations.schedules.store import Outcome, Schedule, Store
from vdbackup.operations.telling import Ways
from vdbackup.translation import again, tr

log = logging.getLogger(__name__)

_NO_SENSE = (OSError, ValueError, TypeError, RecursionError)


@dataclass(frozen=True)
class Told:
    """What people know already.

    Attributes:
        troubles: what each is about.
    """

    troubles: tuple[str, ...] = field(default=())


def tell(store: Store, schedule: Schedule, moment: Moment, ways: Ways) -> tuple[str, ...]:
    """Tell of what is new since the last time, and of what is over; why that could not be."""
    found = health.look(schedule.repository, store, moment)
    file = store.told_of(schedule.id)
    known = _known(file)
    there = {**_needing(found, schedule), **_ended_badly(store, schedule)}
    title = tr("Backup of {set_name}", set_name=schedule.set_name)
    troubles: list[str] = []
    for about, sentence in there.items():
        if about not in known:
            troubles += telling.tell(ways, title, sentence)
    # of what is away nobody knows whether it is still as it was
    over = [each for each in known if each not in there] if found.problem is None else []
    for about in over:
        troubles += telling.tell(ways, title, _over(about))
    now = tuple(sorted({*there, *known} - set(over)))
    if now != known:
        _note(file, Told(now))
    return tuple(troubles)


def _needing(found: RepositoryHealth, schedule: Schedule) -> dict[str, str]:
    """What needs somebody, by what it is about."""
    own = [each for each in found.sets if each.name == schedule.set_name]
    findings = [finding for each in own for finding in each.findings if finding.needs_somebody]
    return {each.about.value: each.sentence for each in findings}


def _ended_badly(store: Store, schedule: Schedule) -> dict[str, str]:
    """What went wrong last: of what is away nothing else is known."""
    last, merge = store.history_of(schedule.id).last, store.last_merge(schedule.id)
    found = {}
    if last is not None and last.outcome is Outcome.FAILED:
        found[Concern.FAILED.value] = again(last.sentence)
    if schedule.merge_at and merge is not None and merge.outcome is not Outcome.DONE:
        found[Concern.NOT_MERGED.value] = again(merge.sentence)
    return found


def _over(about: str) -> str:
    words = {
        Concern.FAILED: tr("It is backed up again: the trouble is over."),
        Concern.NOT_MERGED: tr("Older points are merged again: the trouble is over."),
        Concern.NOT_FOLLOWED_UP: tr(
            "What follows a backup could be done again: the trouble is over."
        ),
        Concern.LATE: tr("There is a new backup: the trouble is over."),
        Concern.UNREAD: tr("All of the source can be read again: the trouble is over."),
        Concern.WRITES_ENDED: tr("There is a newer point, or writes are kept again."),
    }
    known = next((said for concern, said in words.items() if concern.value == about), "")
    return known or tr("Something that needed you is over ({about}).", about=about)


def _known(file: Path) -> tuple[str, ...]:
    try:
        return records.tolerant(Told, json.loads(durable.read_own(file))).troubles
    except FileNotFoundError:
        return ()
    except _NO_SENSE as error:
        log.warning("%s says nothing: %s", file, error)
        return ()


def _note(file: Path, told: Told) -> None:
    if not told.troubles:
        durable.remove(file)
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    durable.replace(file, (json.dumps(records.to_json(told), indent=2) + "\n").encode("ascii"))
