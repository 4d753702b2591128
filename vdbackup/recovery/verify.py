"""Verify: is every block of a point still what was captured?

Each layer is read once, however many points read through it, and each of its blocks is compared
with its digest. A damaged block counts against every point whose disk shows it, and against no
other: a later layer may hide it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

import numpy as np

from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import Ranges, aligned, as_ranges, blocks_of, runs_of, total, union
from vdbackup.disks.transfer import neighbours, transfer
from vdbackup.errors import READ_ONLY, DiskError, PointNotFound, RepositoryLocked, VdbackupError
from vdbackup.jobs import Plan, Task, retry_when_cleared
from vdbackup.repository import claims
from vdbackup.repository.backup_set import BackupSet, check_size
from vdbackup.repository.digests import DigestFold, differ
from vdbackup.repository.model import Check, RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr, trn

log = logging.getLogger(__name__)

_ALTERED = tr("the block is not as it was captured")
_UNKNOWN = tr(
    "the digests are damaged: whether these bytes are as they were captured cannot be said"
)


@dataclass(frozen=True, kw_only=True)
class VerifyPlan(Plan):
    """What would be verified."""

    repository: Repository
    set_name: str
    point_ids: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was captured.

    Attributes:
        file: the layer's or digests' file name.
        offset: where on the disk, in bytes; None if the file as a whole is the trouble.
        length: in bytes.
        problem: in words.
    """

    file: str
    offset: int | None
    length: int
    problem: str


@dataclass(frozen=True)
class Verdict:
    """What was found out about one point: no findings, it is whole."""

    point: RecoveryPoint
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether the point is as it was captured."""
        return not self.findings


def plan(
    repository: Repository, set_name: str, point_ids: tuple[str, ...] | None = None
) -> VerifyPlan:
    """What verifying these points (all of the set for None) would read."""
    backup_set = repository.set(set_name)
    wanted = tuple(
        backup_set.point(each).id for each in point_ids or [p.id for p in backup_set.points]
    )
    layers = _layers(backup_set, wanted)
    count = trn("{count} point", "{count} points", len(wanted))
    return VerifyPlan(
        summary=tr(
            "{count} of {set_name} in {count_2} layers: read, compared with the digests.",
            count=count,
            set_name=set_name,
            count_2=len(layers),
        ),
        bytes_to_copy=sum(layer.stored_bytes for layer in layers.values()),
        repository=repository,
        set_name=set_name,
        point_ids=wanted,
    )


def longest_ago(backup_set: BackupSet, count: int) -> tuple[str, ...]:
    """The points whose verification is the oldest, at most so many: each comes up in its turn.

    First those that never were verified, the newest of them before the others: that is the one
    which will be needed.
    """
    never = [point for point in reversed(backup_set.points) if point.verified is None]
    others = [point for point in backup_set.points if point.verified is not None]
    others.sort(key=lambda point: _moment(point.verified))
    return tuple(point.id for point in (*never, *others)[:count])


def run(plan: VerifyPlan, task: Task) -> list[Verdict]:
    """Verify, then record each point's verdict in its manifest, where that can be written.

    Nothing is locked while it reads: backups are made meanwhile. The verdicts are recorded when
    nobody else writes to the repository. Cancelled while it waits for that, it records none.

    Raises PointInUse where somebody is just changing what is to be read.
    """
    doing = tr("verifying {set_name}", set_name=plan.set_name)
    with claims.reading(plan.repository, plan.set_name, plan.point_ids, doing) as backup_set:
        found = {
            layer.id: _check_layer(backup_set, layer, task)
            for layer in _layers(backup_set, plan.point_ids).values()
        }
        concerned = _Verdicts(backup_set, found)
        points = [backup_set.point(point_id) for point_id in plan.point_ids]
        verdicts = [Verdict(point, concerned.of(point)) for point in points]
    _record(plan, verdicts, task)
    return verdicts


def _record(plan: VerifyPlan, verdicts: Sequence[Verdict], task: Task) -> None:
    """Note what was found of the points that are still what was read.

    A repository that cannot be written to takes no notes: that is no reason not to read it.
    """
    at = _now()

    def note(task: Task) -> None:
        with plan.repository.lock(
            tr("recording a verification of {set_name}", set_name=plan.set_name), task.cancel
        ):
            now = {point.id: point for point in plan.repository.set(plan.set_name).points}
            for verdict in verdicts:
                point = now.get(verdict.point.id)
                if point and _same_files(point, verdict.point):
                    checked = replace(point, verified=Check(at, verdict.ok))
                    plan.repository.save_point(plan.set_name, checked)

    try:
        retry_when_cleared(note, of=RepositoryLocked)(task)
    except PointNotFound as error:  # somebody has taken the set away: what was read was so
        log.warning("the verification of %s is not recorded: %s", plan.set_name, error)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        log.warning("the verification of %s is not recorded: %s", plan.set_name, error)


def _same_files(point: RecoveryPoint, read: RecoveryPoint) -> bool:
    """Whether no merge has made another layer of the point's since it was read."""
    return (point.disk, point.merged) == (read.disk, read.merged)


def _layers(backup_set: BackupSet, point_ids: tuple[str, ...]) -> dict[str, RecoveryPoint]:
    """The layers that these points read through, each once, and behind those that it needs.

    Where one is missing or they form a circle, `_Verdicts` says it; what is there is checked all
    the same.
    """
    layers: dict[str, RecoveryPoint] = {}
    for point_id in point_ids:
        walk: dict[str, RecoveryPoint] = {}
        needed: str | None = point_id
        while needed is not None and needed not in layers and needed not in walk:
            try:
                walk[needed] = backup_set.point(needed)
            except PointNotFound:
                break
            needed = walk[needed].parent
        layers |= dict(reversed(walk.items()))
    return layers


def _check_layer(backup_set: BackupSet, layer: RecoveryPoint, task: Task) -> list[Finding]:
    try:
        backup_set.check_layer(layer)
        data = Chain.alone(backup_set.disk_path(layer), backup_set.settings.format)
    except VdbackupError as error:
        return [Finding(layer.disk, None, 0, error.title)]
    with data:
        try:
            check_size(data.layers[-1].info, layer)
        except VdbackupError as error:
            return [Finding(layer.disk, None, 0, error.title)]
        try:
            digests = DigestFold([backup_set.folder / layer.digests], layer.virtual_size)
        except VdbackupError as error:
            return [Finding(layer.digests, None, 0, error.title)]
        with digests:
            return _compare(layer, data, digests, task)


def _compare(layer: RecoveryPoint, data: Chain, digests: DigestFold, task: Task) -> list[Finding]:
    size = digests.block
    if layer.parent is not None:  # a base owns the whole disk
        own = aligned(data.layers[0].block_map().own_ranges(), size, data.size)
        if total(own) != total(digests.held()):
            problem = tr("it does not hold the blocks that it held when it was captured")
            return [Finding(layer.disk, None, 0, problem)]
    wrong: list[int] = []
    unknown: list[tuple[int, int]] = []
    unreadable: dict[int, str] = {}
    lock = threading.Lock()

    def read(pieces: Ranges, view: memoryview) -> None:
        try:
            data.read(pieces, view)
        except (DiskError, OSError):
            for number, block in enumerate(blocks_of(pieces, size).tolist()):
                read_block(block, view[number * size : (number + 1) * size])

    def read_block(block: int, view: memoryview) -> None:
        try:
            data.readinto(block * size, view)
        except (DiskError, OSError) as error:
            title = error.title if isinstance(error, DiskError) else error.strerror
            with lock:
                unreadable[block] = tr("the block cannot be read: {title}", title=title)

    def check(pieces: Ranges, view: memoryview) -> None:
        blocks = blocks_of(pieces, size)
        known, sure = digests.as_far_as_known(blocks)
        differing = differ(digests.digest(view), known) & sure
        with lock:
            wrong.extend(blocks[differing].tolist())
            for first, end in neighbours(blocks, ~sure):
                unknown.append((int(blocks[first]), end - first))

    transfer(
        digests.to_check(data),
        read,
        check,
        phase=tr("Verify point {layer}", layer=layer.sequence),
        task=task,
    )
    stretches = union(as_ranges(unknown), np.empty((0, 2), np.int64))
    return [
        Finding(layer.disk, block * size, size, unreadable.get(block, _ALTERED))
        for block in sorted({*wrong, *unreadable})
    ] + [
        Finding(layer.digests, first * size, blocks * size, _UNKNOWN)
        for first, blocks in stretches.tolist()
    ]


class _Verdicts:
    """What concerns each point: whole files of its chain, and the blocks that its disk shows.

    From the full up, each layer adds what it has to what the one below it shows: no chain is opened
    for every point that it is the chain of.
    """

    def __init__(self, backup_set: BackupSet, found: dict[str, list[Finding]]) -> None:
        """`found`: by layer, those that a layer needs before it."""
        self._set = backup_set
        self._found = found
        self._without_parent: dict[str, str] = {}  # in words, what the manifests lack
        self._files: dict[str, list[Finding]] = {}
        self._link: dict[str, str] = {}  # in words, which of the chain's links is wrong
        self._blocks: dict[str, list[Finding]] = {}
        for layer_id in found:
            self._add(backup_set.point(layer_id))

    def of(self, point: RecoveryPoint) -> tuple[Finding, ...]:
        """No findings: the point is whole."""
        if problem := self._without_parent.get(point.id):
            return (Finding(point.disk, None, 0, problem), *self._found[point.id])
        if files := self._files[point.id]:
            return tuple(files)
        if problem := self._link.get(point.id):
            return (Finding(point.disk, None, 0, problem),)
        return tuple(self._blocks[point.id])

    def _add(self, layer: RecoveryPoint) -> None:
        own, below = self._found[layer.id], layer.parent or ""
        problem = self._without_parent.get(below, "")
        if layer.parent is not None and below not in self._files:
            problem = _title(partial(self._set.chain, layer))
        if problem:
            self._without_parent[layer.id] = problem
        files = [*self._files.get(below, ()), *(each for each in own if each.offset is None)]
        self._files[layer.id] = files
        if problem or files:
            self._blocks[layer.id] = []
            return
        link = self._link.get(below) or _title(partial(self._set.check_link, layer))
        if link:
            self._link[layer.id] = link
        self._blocks[layer.id] = [*self._shown(layer, self._blocks.get(below, [])), *own]

    def _shown(self, layer: RecoveryPoint, below: list[Finding]) -> list[Finding]:
        """Those of the layers below whose blocks this layer does not hold itself."""
        if not below:
            return []
        with DigestFold([self._set.folder / layer.digests], layer.virtual_size) as digests:
            return [part for each in below for part in _left_of(each, digests)]


def _left_of(finding: Finding, layer: DigestFold) -> list[Finding]:
    """The same of the blocks that the layer does not hold itself."""
    size = layer.block
    first = (finding.offset or 0) // size
    left = runs_of(~layer.holds(np.arange(first, first + finding.length // size)))
    return [
        replace(finding, offset=(first + start) * size, length=(end - start) * size)
        for start, end in left
    ]


def _title(check: Callable[[], object]) -> str:
    """What a check refuses, or ""."""
    try:
        check()
    except VdbackupError as error:
        return error.title
    return ""


def _moment(check: Check | None) -> datetime:
    at = datetime.fromisoformat(check.at if check else _now())
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
