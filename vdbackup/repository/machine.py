"""Machines: several sources that are one computer, and the moments that their points belong to.

A machine is a small record in the repository's folder, `machine-NAME.json`: its name, and the sets
of its disks. Each disk's set stays a set of its own, with its own chain, so that whatever reads,
merges or checks sets knows nothing of machines. Which points belong together, each of them says
itself (`model.Moment`), and one that says it is enough: a moment is whole where each of its sets
has its point. What a crash or a lost file has left is a half, which is shown as such and never
taken for a whole.

The record is written before the first point of a machine exists, and with the number of each moment
before that: no number is given twice.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

from vdbackup import records
from vdbackup.errors import (
    BadSetName,
    DamagedMetadata,
    MachineNotFound,
    NotOneMachine,
    NotWhole,
    PointNotFound,
    Remedy,
    RepositoryError,
    VdbackupError,
    from_os,
)
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.files import read_json, write_json
from vdbackup.repository.model import Moment, RecoveryPoint, few_sets
from vdbackup.repository.repository import Repository, check_set_name
from vdbackup.translation import tr, trn

log = logging.getLogger(__name__)

_PREFIX, _SUFFIX = "machine-", ".json"
_SHORTEST_ID = 8
"""Characters of a moment's id that mean it: fewer may be a number."""


def _check_name(name: str) -> str:
    """The name, if a machine's file can bear it: what a set's folder can; raises BadSetName."""
    try:
        return check_set_name(name)
    except BadSetName as error:
        raise BadSetName(
            tr("{name!r} cannot be the name of a machine.", name=name), error.advice
        ) from error


@dataclass(frozen=True)
class Machine:
    """A machine's record.

    Attributes:
        name: of it; also the file's.
        sets: those of its disks; that of the one that it starts from first.
        last_number: the highest that a moment of it ever had.
    """

    name: Annotated[str, _check_name]
    sets: Annotated[tuple[str, ...], few_sets]
    last_number: int = 0

    def save(self, repository: Repository) -> None:
        """Write the record, durably; the caller holds the repository's lock."""
        write_json(_path(repository, self.name), records.to_json(self))


@dataclass(frozen=True)
class MomentPoints:
    """A moment of a machine, as far as it is there.

    Attributes:
        moment: what its points note.
        points: of each set that has one, in the machine's order.
    """

    moment: Moment
    points: Mapping[str, RecoveryPoint]

    @property
    def missing(self) -> tuple[str, ...]:
        """The sets that have no point of it."""
        return tuple(name for name in self.moment.sets if name not in self.points)

    @cached_property
    def created(self) -> str:
        """When it was captured, UTC, ISO 8601: of the first of its points."""
        return min(point.created for point in self.points.values())

    @property
    def title(self) -> str:
        """What sentences call it."""
        return tr(
            "moment {moment} of {machine}", moment=self.moment.number, machine=self.moment.machine
        )

    def check_whole(self, remedy: Remedy | None = None) -> None:
        """Raise NotWhole where a disk's point is missing.

        Args:
            remedy: what can be done all the same.
        """
        if self.missing:
            raise NotWhole(
                trn(
                    "Moment {moment} of {machine} is not whole: {missing} has no point of it.",
                    "Moment {moment} of {machine} is not whole: {missing} have no point of it.",
                    len(self.missing),
                    moment=self.moment.number,
                    machine=self.moment.machine,
                    missing=", ".join(self.missing),
                ),
                tr(
                    "Use another moment; or restore what there is of it disk by disk, from their "
                    "sets."
                ),
                remedy=remedy,
            )


@dataclass(frozen=True)
class DamagedMachine:
    """A machine's record that makes no sense, or contradicts another one's."""

    name: str
    problem: RepositoryError


@dataclass(frozen=True)
class KnownMachines:
    """All machines of a repository: a picture taken when it was read.

    Attributes:
        all: those that can be read, by name.
        damaged: the others. Until they are set right, nothing is merged or deleted that may be
            theirs.
    """

    all: tuple[Machine, ...]
    damaged: tuple[DamagedMachine, ...]

    @classmethod
    def of(cls, repository: Repository) -> KnownMachines:
        """Read them; raises OSError where the repository is gone."""
        found: list[Machine] = []
        damaged: list[DamagedMachine] = []
        for name in _names(repository):
            try:
                found.append(_read(repository, name))
            except FileNotFoundError:  # it has just gone
                continue
            except RepositoryError as error:
                damaged.append(DamagedMachine(name, error))
            except OSError as error:
                problem = from_os(error)
                if not isinstance(problem, RepositoryError):
                    problem = DamagedMetadata(problem.title, problem.advice)
                damaged.append(DamagedMachine(name, problem))
        twice = _claimed_twice(found)
        damaged += [DamagedMachine(name, problem) for name, problem in twice.items()]
        return cls(tuple(each for each in found if each.name not in twice), tuple(damaged))

    def named(self, name: str) -> Machine:
        """The machine of that name; raises MachineNotFound, or what is wrong with it."""
        for machine in self.all:
            if machine.name == name:
                return machine
        for each in self.damaged:
            if each.name == name:
                raise each.problem
        names = ", ".join(each.name for each in self.all)
        raise MachineNotFound(
            tr("There is no machine {name!r} in this repository.", name=name),
            trn("There is {names}.", "There are {names}.", len(self.all), names=names)
            if names
            else "",
        )

    def with_set(self, backup_set: BackupSet) -> Machine | None:
        """The machine that a set belongs to; None where it stands alone.

        Raises RepositoryError where it may belong to one whose record cannot be read.
        """
        lost = {each.name: each.problem for each in self.damaged}
        for point in backup_set.points:
            if point.moment and point.moment.machine in lost:
                raise lost[point.moment.machine]
        return self.claiming(backup_set.name)

    def claiming(self, set_name: str) -> Machine | None:
        """The machine whose record names a set, if there is one that can be read."""
        return next((each for each in self.all if set_name in each.sets), None)


def moments(machine: Machine, sets: Iterable[BackupSet]) -> list[MomentPoints]:
    """All moments of a machine, by number, whole or not.

    Args:
        machine: whose.
        sets: those of the repository that can be read.
    """
    own = {each.name: each for each in sets if each.name in machine.sets}
    found: dict[str, MomentPoints] = {}
    for backup_set in own.values():
        for point in backup_set.points:
            moment = point.moment
            if moment and moment.machine == machine.name and moment.id not in found:
                found[moment.id] = _points_of(moment, own)
    return sorted(found.values(), key=lambda each: (each.moment.number, each.moment.id))


def _points_of(moment: Moment, sets: Mapping[str, BackupSet]) -> MomentPoints:
    """The points of a moment that are there, and that say nothing else of themselves."""
    points = {}
    for name, point_id in moment.ids.items():
        with suppress(KeyError, PointNotFound):
            point = sets[name].point(point_id)
            if point.moment in (None, moment):
                points[name] = point
    return MomentPoints(moment, points)


def moments_of(repository: Repository, machine: Machine) -> list[MomentPoints]:
    """All moments of a machine, read afresh; a set that cannot be read has no points."""
    names = [name for name in machine.sets if name in repository.names()]
    return moments(machine, repository.survey(names)[0])


def moment_of(
    repository: Repository, backup_set: BackupSet, point: RecoveryPoint
) -> MomentPoints | None:
    """The moment that a point belongs to, as far as it is there; None where it stands alone.

    Raises RepositoryError where it may belong to a machine whose record cannot be read.
    """
    machine = KnownMachines.of(repository).with_set(backup_set)
    if machine is None:
        return None
    found = moments_of(repository, machine)
    return next((each for each in found if point.id in each.moment.points), None)


def points_together(
    repository: Repository, backup_set: BackupSet, point: RecoveryPoint
) -> dict[str, RecoveryPoint]:
    """The points that stand for a machine at a point's moment, by set: it alone if for none.

    That of the disk that the machine starts from comes first. Raises NotWhole.
    """
    moment = moment_of(repository, backup_set, point)
    if moment is None:
        return {backup_set.name: point}
    moment.check_whole(Remedy.BOOT_WITHOUT_MISSING)
    return dict(moment.points)


def usable_together(
    repository: Repository, backup_set: BackupSet, point: RecoveryPoint
) -> tuple[dict[str, RecoveryPoint], tuple[str, ...]]:
    """The same as far as they are there and can be opened, and the sets of which none is.

    A system may come up without a disk that held data alone.
    """
    moment = moment_of(repository, backup_set, point)
    if moment is None:
        return {backup_set.name: point}, ()
    usable = {name: each for name, each in moment.points.items() if _opens(repository, name, each)}
    return usable, tuple(name for name in moment.moment.sets if name not in usable)


def _opens(repository: Repository, set_name: str, point: RecoveryPoint) -> bool:
    try:
        repository.set(set_name).open_chain(point).close()
    except (VdbackupError, OSError) as error:
        log.warning("%s of %s cannot be used: %s", point.id, set_name, error)
        return False
    return True


def find_moment(repository: Repository, machine: Machine, reference: str) -> MomentPoints:
    """The moment that is meant; raises PointNotFound.

    Args:
        repository: where it is.
        machine: whose moment.
        reference: its number, its id or the start of that, or "latest": the newest whole one.
    """
    every = moments_of(repository, machine)
    if reference == "latest":
        found = [each for each in every if not each.missing][-1:]
    elif reference.isascii() and reference.isdigit() and len(reference) < _SHORTEST_ID:
        found = [each for each in every if each.moment.number == int(reference)]
    else:
        long_enough = len(reference) >= _SHORTEST_ID
        found = [each for each in every if long_enough and each.moment.id.startswith(reference)]
    if len(found) == 1:
        return found[0]
    raise PointNotFound(
        (
            tr(
                "{reference!r} matches no moment of {machine}.",
                reference=reference,
                machine=machine.name,
            )
            if not found
            else tr(
                "{reference!r} matches more than one moment of {machine}.",
                reference=reference,
                machine=machine.name,
            )
        ),
        tr("Give its number, its id, or `latest`."),
        remedy=Remedy.LIST_POINTS,
    )


def joined(
    machine: Machine | None, name: str, sets: Sequence[str], known: KnownMachines
) -> Machine:
    """A machine that has these sets; those that it had and that are not named stay.

    Raises NotOneMachine where another one has one of them.
    """
    if machine is None:
        _check_name(name)
        there = [*(each.name for each in known.all), *(each.name for each in known.damaged)]
        if alike := next((each for each in there if each.casefold() == name.casefold()), None):
            raise NotOneMachine(  # on many a storage both would be one file
                tr(
                    "There is a machine {alike}, whose name differs only in upper and lower case.",
                    alike=alike,
                ),
                tr("Name that one, or find another name."),
            )
    before = machine.sets if machine else ()
    every = (*before, *(each for each in sets if each not in before))
    for each in every:
        other = known.claiming(each)
        if other is not None and other.name != name:
            raise NotOneMachine(
                tr("The set {which} belongs to the machine {other}.", which=each, other=other.name),
                tr("A disk can be one machine's only: leave it out, or name that machine."),
            )
    try:
        few_sets(every)
    except ValueError as error:
        raise NotOneMachine(
            tr("{count} disks are too many for a machine.", count=len(every)), ""
        ) from error
    return replace(machine, sets=every) if machine else Machine(name, every)


def _names(repository: Repository) -> list[str]:
    listed = (name for name in sorted(os.listdir(repository.path)) if name.startswith(_PREFIX))
    return [
        name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
        for name in listed
        if name.endswith(_SUFFIX) and not (repository.path / name).is_dir()
    ]


def record_name(name: str) -> str:
    """What the file of a machine's record is called, in the repository's folder."""
    return f"{_PREFIX}{name}{_SUFFIX}"


def _path(repository: Repository, name: str) -> Path:
    return repository.path / record_name(name)


def _read(repository: Repository, name: str) -> Machine:
    try:
        machine = records.tolerant(Machine, read_json(_path(repository, name)))
        for each in machine.sets:
            check_set_name(each)
    except (TypeError, ValueError, BadSetName) as error:
        raise _makes_no_sense(name, str(error)) from error
    if machine.name != name:
        raise _makes_no_sense(
            name, tr("it is that of {machine}", machine=records.quoted(machine.name))
        )
    return machine


def _makes_no_sense(name: str, why: str) -> DamagedMetadata:
    return DamagedMetadata(
        tr("The record of the machine {name} is damaged: {why}.", name=name, why=why),
        tr(
            "Back the machine up again by naming all its sources, once {prefix}{name}{suffix} is "
            "removed: the points say themselves which of them belong together.",
            prefix=_PREFIX,
            name=name,
            suffix=_SUFFIX,
        ),
    )


def _claimed_twice(machines: Sequence[Machine]) -> dict[str, DamagedMetadata]:
    """By name, the machines of whose sets another one claims one, too."""
    claims = Counter(name for machine in machines for name in machine.sets)
    found = {}
    for machine in machines:
        twice = [name for name in machine.sets if claims[name] > 1]
        if twice:
            found[machine.name] = DamagedMetadata(
                tr(
                    "The set {twice} is claimed by the machine {machine} and by another one.",
                    twice=twice[0],
                    machine=machine.name,
                ),
                tr(
                    "Remove the record of the one that is wrong (a file {prefix}NAME{suffix} in "
                    "the repository).",
                    prefix=_PREFIX,
                    suffix=_SUFFIX,
                ),
            )
    return found
