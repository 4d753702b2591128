"""Verify: is every block of a point still what was captured?

Each layer is read once, however many points read through it, and each of its blocks is compared
with its digest. A damaged block counts against every point whose disk shows it, and against no
other: a later layer may hide it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import aligned, total, union
from vdbackup.disks.transfer import transfer
from vdbackup.errors import READ_ONLY, DiskError, RepositoryLocked, VdbackupError
from vdbackup.jobs import CancelToken, Plan, Report, patient
from vdbackup.repository import claims
from vdbackup.repository.digests import BLOCK, DigestFold, differ, digest_blocks
from vdbackup.repository.model import Check, RecoveryPoint
from vdbackup.repository.repository import BackupSet, Repository, check_size

log = logging.getLogger(__name__)

_ALTERED = "the block is not as it was captured"


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
    count = f"{len(wanted)} point{'' if len(wanted) == 1 else 's'}"
    return VerifyPlan(
        summary=f"{count} of {set_name} in {len(layers)} layers: read, compared with the digests.",
        bytes_to_copy=sum(layer.stored_bytes for layer in layers.values()),
        repository=repository,
        set_name=set_name,
        point_ids=wanted,
    )


def run(plan: VerifyPlan, report: Report, cancel: CancelToken) -> list[Verdict]:
    """Verify, then record each point's verdict in its manifest, where that can be written.

    Nothing is locked while it reads: backups are made meanwhile. The verdicts are recorded when
    nobody else writes to the repository. Cancelled while it waits for that, it records none.

    Raises PointInUse where somebody is just changing what is to be read.
    """
    doing = f"verifying {plan.set_name}"
    with claims.reading(plan.repository, plan.set_name, plan.point_ids, doing) as backup_set:
        found = {
            layer.id: _check_layer(backup_set, layer, report, cancel)
            for layer in _layers(backup_set, plan.point_ids).values()
        }
        points = [backup_set.point(point_id) for point_id in plan.point_ids]
        verdicts = [Verdict(p, _findings_for(backup_set, p, found)) for p in points]
    _record(plan, verdicts, report, cancel)
    return verdicts


def _record(
    plan: VerifyPlan, verdicts: Sequence[Verdict], report: Report, cancel: CancelToken
) -> None:
    """Note what was found of the points that are still what was read.

    A repository that cannot be written to takes no notes: that is no reason not to read it.
    """
    at = _now()

    def note(_report: Report, cancel: CancelToken) -> None:
        with plan.repository.lock(f"recording a verification of {plan.set_name}", cancel):
            now = {point.id: point for point in plan.repository.set(plan.set_name).points}
            for verdict in verdicts:
                point = now.get(verdict.point.id)
                if point and _same_files(point, verdict.point):
                    checked = replace(point, verified=Check(at, verdict.ok))
                    plan.repository.save_point(plan.set_name, checked)

    try:
        patient(note, of=RepositoryLocked)(report, cancel)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        log.warning("the verification of %s is not recorded: %s", plan.set_name, error)


def _same_files(point: RecoveryPoint, read: RecoveryPoint) -> bool:
    """Whether no merge has made another layer of the point's since it was read."""
    return (point.disk, point.merged) == (read.disk, read.merged)


def _layers(backup_set: BackupSet, point_ids: tuple[str, ...]) -> dict[str, RecoveryPoint]:
    """The layers that these points read through, each once."""
    layers: dict[str, RecoveryPoint] = {}
    for point in map(backup_set.point, point_ids):
        try:
            layers |= {layer.id: layer for layer in backup_set.chain(point)}
        except VdbackupError:  # `_findings_for` says it; what is there is checked all the same
            layers[point.id] = point
    return layers


def _check_layer(
    backup_set: BackupSet, layer: RecoveryPoint, report: Report, cancel: CancelToken
) -> list[Finding]:
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
            return _compare(layer, data, digests, report, cancel)


def _compare(
    layer: RecoveryPoint, data: Chain, digests: DigestFold, report: Report, cancel: CancelToken
) -> list[Finding]:
    stored = aligned(data.layers[0].block_map().own_ranges(), BLOCK, data.size)
    if layer.parent is None:  # a base owns the whole disk; what it does not store reads as zeros
        stored = aligned(data.map.data_ranges(), BLOCK, data.size)
    elif total(stored) != total(digests.held()):
        problem = "it does not hold the blocks that it held when it was captured"
        return [Finding(layer.disk, None, 0, problem)]
    wrong: list[int] = []
    unreadable: dict[int, str] = {}
    lock = threading.Lock()

    def read(offset: int, view: memoryview) -> None:
        try:
            data.readinto(offset, view)
        except (DiskError, OSError) as error:
            if len(view) > BLOCK:
                for at in range(0, len(view), BLOCK):
                    read(offset + at, view[at : at + BLOCK])
                return
            title = error.title if isinstance(error, DiskError) else error.strerror
            with lock:
                unreadable[offset // BLOCK] = f"the block cannot be read: {title}"

    def check(offset: int, view: memoryview) -> None:
        actual = digest_blocks(view)
        first = offset // BLOCK
        differing = np.flatnonzero(differ(actual, digests.expected(first, len(actual))))
        with lock:
            wrong.extend((differing + first).tolist())

    transfer(
        union(stored, digests.held()),
        read,
        check,
        phase=f"Verify point {layer.sequence}",
        report=report,
        cancel=cancel,
    )
    return [
        Finding(layer.disk, block * BLOCK, BLOCK, unreadable.get(block, _ALTERED))
        for block in sorted({*wrong, *unreadable})
    ]


def _findings_for(
    backup_set: BackupSet, point: RecoveryPoint, found: dict[str, list[Finding]]
) -> tuple[Finding, ...]:
    """What concerns this point: whole files of its chain, and the blocks that its disk shows."""
    try:
        chain = backup_set.chain(point)
    except VdbackupError as error:
        return (Finding(point.disk, None, 0, error.title), *found[point.id])
    findings = [f for layer in chain for f in found[layer.id] if f.offset is None]
    if findings:
        return tuple(findings)
    try:
        backup_set.open_chain(point).close()
    except VdbackupError as error:
        return (Finding(point.disk, None, 0, error.title),)
    with backup_set.open_digests(point) as digests:
        for number, layer in enumerate(chain):
            findings += [
                finding
                for finding in found[layer.id]
                if digests.layer_of((finding.offset or 0) // BLOCK) in (number, -1)
            ]
    return tuple(findings)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
