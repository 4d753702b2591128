"""What a finished job tells the user: one sentence, and details for whoever wants them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from vdbackup.errors import VdbackupError
from vdbackup.gui import remedies, words
from vdbackup.operations.changed import NOTHING, Changed
from vdbackup.repository.model import RecoveryPoint
from vdbackup.translation import tr

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Told:
    """What is said of something that has ended.

    Attributes:
        sentence: what happened.
        details: lines that are shown when asked for.
        warnings: what was not as it should have been, a sentence each; shown at once.
    """

    sentence: str
    details: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome(Told, Generic[T_co]):
    """What a job's work returns: what it came to, and what is said of it.

    Attributes:
        value: what came of it, as the engine has it.
        changed: what is to be read again.
    """

    value: T_co
    changed: Changed = NOTHING


def facts(point: RecoveryPoint) -> tuple[str, ...]:
    """A new point's details, a line each."""
    return (
        tr(
            "Recovery point #{point} ({type}), {id}",
            point=point.sequence,
            type=tr(point.type.value),
            id=point.id,
        ),
        tr("Made {created}", created=words.when_exactly(point.created)),
        tr(
            "{size} of {size_2} in {disk}",
            size=words.size(point.stored_bytes),
            size_2=words.size(point.virtual_size),
            disk=point.disk,
        ),
    )


def said_of(trouble: Iterable[VdbackupError]) -> tuple[str, ...]:
    """What went wrong beside what was done."""
    return tuple(map(remedies.sentences, trouble))
