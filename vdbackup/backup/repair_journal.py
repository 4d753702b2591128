"""Repair of a journal: how far a merge came whose `journal.json` is damaged, by what the disks say.

Each step of a merge (merge.py) leaves something that nothing else leaves:

- Two layers of one number are the child and the result: the parent's file has the result's name.
- A point without its layer, and a child that reads past it, are the parent and the result, which
  has replaced the child's file.
- A parent whose file bears the child's identity is about to become the result.
- Digests of the child that cover more than its layer holds are those of both: the parent's file, or
  a new one beside it, holds everything.
- A layer that differs from its digests only where its only child has blocks of its own is the
  parent, and the child is being copied into it.

Where nothing of that is found, nobody has changed a point: the journal only stands in the way. What
fits more than one story, or needs digests that are damaged too, stays as it is.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np

from vdbackup.backup.merged_point import merged_point
from vdbackup.backup.quarantine import keep_a_copy, put_aside
from vdbackup.backup.repair_identity import Layer, valid_digests
from vdbackup.backup.repair_point import repair_point
from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import Ranges, aligned, blocks_of, total, union
from vdbackup.disks.transfer import transfer
from vdbackup.errors import NotRepaired, RepositoryError
from vdbackup.jobs import Task
from vdbackup.repository import holds, naming
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import DigestFold, differ
from vdbackup.repository.draft import seal
from vdbackup.repository.files import PARTIAL, read_json
from vdbackup.repository.journal import JOURNAL_NAME, Journal
from vdbackup.repository.manifests import manifest_path
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.naming import PointType
from vdbackup.repository.repository import LAYER_MODE, Repository
from vdbackup.translation import tr

_RANK = (PointType.FULL, PointType.DIFFERENTIAL, PointType.INCREMENTAL)
"""A result is of its parent's type, which comes before the child's here, or is the same."""


@dataclass(frozen=True)
class Left:
    """What a merge has left in a set.

    Attributes:
        journal: says what is to be finished; None where nothing is.
        redundant: names of points' files that the result has made needless.
    """

    journal: Journal | None
    redundant: tuple[str, ...] = ()


def is_damaged(folder: Path) -> bool:
    """Whether a set's journal, which is there, says nothing."""
    try:
        Journal.load(folder)
    except RepositoryError:
        return True
    except FileNotFoundError:
        return False
    return False


def write_anew(
    repository: Repository,
    folder: Path,
    layers: list[Layer],
    done: list[str],
    task: Task,
) -> None:
    """Write a damaged journal anew by what the disks say, or put it aside where all is whole.

    The new one is in place before anything else changes: without any, a parent that is being copied
    into would be offered as a point. That may be one which the storage does not give just now.
    """
    read = {layer.path.name for layer in layers}
    unread = {name for name in os.listdir(folder) if naming.layer_of(name)} - read
    if unread:
        raise NotRepaired(
            tr(
                "Its journal is damaged, and {unread} cannot be read: how far the merge came "
                "cannot be known.",
                unread=min(unread),
            ),
            tr("Put one of them back from a copy, then have it repaired again."),
        )
    _check_digests(folder, layers)
    numbers = Counter(layer.sequence for layer in layers)
    for layer in layers:
        single = numbers[layer.sequence] == 1
        if single and not _names_its_own_files(layer):
            repair_point(repository, folder, layer, layers, done, task)
    left = _found_out(folder, layers, task)
    if left.journal is not None:
        _check_free(repository, folder, left.journal)
    for name in left.redundant:
        put_aside(folder, name)
        done.append(
            tr(
                "{folder}: {name} was left of a point that was merged; it was put aside.",
                folder=folder.name,
                name=name,
            )
        )
    if left.journal is None:
        _seal_again(folder, layers)
        put_aside(folder, JOURNAL_NAME)
        done.append(
            tr(
                "{folder}: {journal_name} was damaged; no merge has to be finished.",
                folder=folder.name,
                journal_name=JOURNAL_NAME,
            )
        )
        return
    keep_a_copy(folder, JOURNAL_NAME)
    left.journal.save(folder)
    done.append(
        tr(
            "{folder}: {journal_name} was written anew from the disks.",
            folder=folder.name,
            journal_name=JOURNAL_NAME,
        )
    )


def _check_free(repository: Repository, folder: Path, journal: Journal) -> None:
    """Raise PointInUse where a session lies on the parent: no merge would have touched it.

    What looks like one has another reason then. But for a new file that is ready beside it: that is
    thrown away (merge.finish_interrupted).
    """
    result = journal.result
    if result is not None and os.path.lexists(folder / (result.disk + PARTIAL)):
        return
    settings = repository.settings(folder.name)
    holds.check_free(BackupSet(folder.name, folder, settings, ()), [journal.parent])


def _names_its_own_files(layer: Layer) -> bool:
    """Whether a layer has a manifest that can be read."""
    path = naming.manifest_beside(layer.path)
    try:
        return RecoveryPoint.from_json(read_json(path), path.name).disk == layer.path.name
    except (RepositoryError, FileNotFoundError):
        return False


def _check_digests(folder: Path, layers: Sequence[Layer]) -> None:
    """Raise RepositoryError where a layer's digests are damaged: nothing tells what it held.

    To be asked before anything is made anew: digests of a torn parent would prove what is torn.
    """
    for layer in layers:
        digests = naming.digests_beside(layer.path)
        renamed = any(each.sequence == layer.sequence and each is not layer for each in layers)
        if not renamed and not valid_digests(digests, layer.info.virtual_size):
            raise _unknown(folder, tr("{digests} is damaged, too", digests=digests.name))


def _found_out(folder: Path, layers: Sequence[Layer], task: Task) -> Left:
    """What was merged into what, and how far it came; raises RepositoryError where it is unknown.

    Args:
        folder: the set's; every layer has a manifest, but for one of two with the same number.
        layers: all of them, readable; their digests are whole (`_check_digests`).
        task: what it reports to, and what stops it.
    """
    points = _manifests(folder)
    there = {layer.path.name: layer for layer in layers}
    return (
        _by_two_of_a_number(folder, points, layers)
        or _by_a_layer_that_is_gone(folder, points, there)
        or _by_what_is_in_the_parent(folder, points, there, task)
        or Left(None, _of_no_point(folder))
    )


def _of_no_point(folder: Path) -> tuple[str, ...]:
    """Names of points' files of which there is neither a layer nor a manifest any more.

    That is what parent and child leave where a merge was cut off while it deleted. The result is
    there, and has the higher of both numbers: what has a higher one than any layer is not theirs.
    """
    names = [name for name in sorted(os.listdir(folder)) if naming.number_of(name) is not None]
    stems = {naming.stem_of(name) for name in names if naming.layer_of(name) or _is_manifest(name)}
    numbers = {naming.number_in(stem) for stem in stems}
    newest = max(map(int, numbers), default=0)

    def is_redundant(name: str) -> bool:
        stem = naming.stem_of(name)
        number, _, what = stem.partition("-")
        known = stem in stems if what in set(PointType) else number in numbers
        return not known and int(number) <= newest

    return tuple(filter(is_redundant, names))


def _is_manifest(name: str) -> bool:
    return naming.number_of_manifest(name) is not None


def _files_of_layer(layer: Path) -> tuple[Path, ...]:
    """A layer and what bears its name: its manifest, which counts as long as it is there, first."""
    return (naming.manifest_beside(layer), naming.digests_beside(layer), layer)


def _seal_again(folder: Path, layers: Sequence[Layer]) -> None:
    """Let layers that a merge was about to write to be as they were, where it has not."""
    points = {point.disk: point for point in _manifests(folder)}
    for layer in layers:
        point = points.get(layer.path.name)
        if point is not None and _was_touched(layer.path, point):
            seal(layer.path, point)


def _manifests(folder: Path) -> list[RecoveryPoint]:
    points = []
    for path in sorted(folder.glob("[0-9]*-*.json")):
        with suppress(RepositoryError, FileNotFoundError):
            points.append(RecoveryPoint.from_json(read_json(path), path.name))
    return [point for point in points if os.path.lexists(manifest_path(folder, point))]


def _by_two_of_a_number(
    folder: Path, points: list[RecoveryPoint], layers: Sequence[Layer]
) -> Left | None:
    """The parent's file has taken the result's name, which is not the child's."""
    counted = Counter(layer.sequence for layer in layers)
    twice = [number for number, count in counted.items() if count > 1]
    if not twice:
        return None
    two = sorted(
        (layer for layer in layers if layer.sequence == twice[0]),
        key=lambda layer: _RANK.index(layer.kind),
    )
    if len(twice) > 1 or len(two) > 2:
        raise _unknown(folder, tr("several layers have the number {twice}", twice=twice[-1]))
    by_disk = {point.disk: point for point in points}
    result, child = by_disk.get(two[0].path.name), by_disk.get(two[1].path.name)
    before = result.merged if result else (child.parent,) if child else ()
    parent = next((p for p in points if p.id in before and p.type == two[0].kind), None)
    redundant = tuple(path.name for path in _files_of_layer(two[1].path) if os.path.lexists(path))
    if parent is None:
        if result is None or not result.merged:
            raise _unknown(folder, tr("two layers have the number {twice}", twice=twice[0]))
        return Left(None, (*redundant, *_of_no_point(folder)))  # all was done but for deleting
    if result is None and child is not None:
        result = _result(folder, parent, child, two[0].path)
    if result is None:
        raise _unknown(
            folder, tr("two layers have the number {twice}, and no manifest", twice=twice[0])
        )
    return Left(Journal(parent, child or result, result), redundant if child is None else ())


def _by_a_layer_that_is_gone(
    folder: Path, points: list[RecoveryPoint], there: dict[str, Layer]
) -> Left | None:
    """The parent's file has replaced the child's, whose name is the result's, too."""
    for parent in points:
        if parent.disk in there:
            continue
        for child in points:
            layer = there.get(child.disk)
            if layer is None or child.type != parent.type:
                continue
            if parent.id in child.merged:  # it is the result's manifest already
                return Left(Journal(parent, child, child))
            grandparent = next((p for p in points if p.id == parent.parent), None)
            above = there.get(grandparent.disk) if grandparent else None
            reads_past = (
                layer.info.parent is not None
                and above is not None
                and layer.info.parent.means(above.info)
            )
            if child.parent == parent.id and reads_past:
                result = _result(folder, parent, child, layer.path)
                return Left(Journal(parent, child, result))
    return None


def _by_what_is_in_the_parent(
    folder: Path,
    points: list[RecoveryPoint],
    there: dict[str, Layer],
    task: Task,
) -> Left | None:
    """Both layers are there under their own names."""
    pairs = _pairs(points, there)
    for parent, child in pairs:
        whole = folder / (merged_point(parent, child).disk + PARTIAL)
        own = there[parent.disk]
        if own.info.disk_id == child.id:
            return Left(Journal(parent, child, _result(folder, parent, child, own.path)))
        if merged_point(parent, child).digests == child.digests and _covers_more(
            there[child.disk], folder / child.digests
        ):
            layer = whole if os.path.lexists(whole) else own.path
            return Left(Journal(parent, child, _result(folder, parent, child, layer)))
    touched = [pair for pair in pairs if _was_touched(there[pair[0].disk].path, pair[0])]
    known = {parent.id for parent, _ in touched}
    others = [pair for pair in pairs if pair[0].id not in known]  # a power cut may take the signs
    for looked_at in (touched, others):
        torn = [
            (parent, child)
            for parent, child in looked_at
            if _is_torn(folder, there[parent.disk], parent, child, task)
        ]
        if torn:
            break
    if len(torn) > 1:
        numbers = tr(" and ").join(str(parent.sequence) for parent, _ in torn)
        raise _unknown(folder, tr("points {numbers} both look like it", numbers=numbers))
    return Left(Journal(*torn[0])) if torn else None


def _pairs(
    points: list[RecoveryPoint], there: dict[str, Layer]
) -> list[tuple[RecoveryPoint, RecoveryPoint]]:
    """Each point with its only child: what can be merged."""
    children: dict[str | None, list[RecoveryPoint]] = {}
    for point in points:
        children.setdefault(point.parent, []).append(point)
    return [
        (parent, children[parent.id][0])
        for parent in points
        if len(children.get(parent.id, ())) == 1
        and parent.disk in there
        and children[parent.id][0].disk in there
    ]


def _result(
    folder: Path, parent: RecoveryPoint, child: RecoveryPoint, layer: Path
) -> RecoveryPoint:
    """What the journal of such a merge says of its result, whose layer and digests are made."""
    result = merged_point(parent, child)
    made = folder / (result.digests + PARTIAL)
    if not made.exists():
        made = folder / result.digests
    if not valid_digests(made, child.virtual_size):
        raise _unknown(folder, tr("{made} is damaged, too", made=made.name))
    with DigestFold([made], child.virtual_size) as digests:
        held = total(digests.held())
    return replace(result, disk_size=layer.stat().st_size, stored_bytes=held)


def _covers_more(layer: Layer, digests: Path) -> bool:
    """Whether there are digests of more than the layer holds: its parent's, too."""
    size = layer.info.virtual_size
    with Chain.alone(layer.path, layer.format) as data, DigestFold([digests], size) as known:
        own = aligned(data.layers[0].block_map().own_ranges(), known.block, size)
        held = known.held()
        return total(union(own, held)) > total(own)


def _was_touched(path: Path, point: RecoveryPoint) -> bool:
    """Whether somebody wrote to a layer since it was sealed (draft.py), or was about to."""
    found = path.stat()
    sealed = datetime.fromisoformat(point.created).timestamp()
    return (
        found.st_size != point.disk_size
        or found.st_mode & 0o777 != LAYER_MODE
        or abs(found.st_mtime - sealed) > 0.001  # what JSON keeps of a moment
    )


def _is_torn(
    folder: Path,
    layer: Layer,
    parent: RecoveryPoint,
    child: RecoveryPoint,
    task: Task,
) -> bool:
    """Whether a layer is as captured but for blocks that its child holds, some of which differ.

    In a child, a block that its digests do not know differs, too, even where it is zeros: it hides
    what the parent has there.
    """
    size, is_child = layer.info.virtual_size, layer.info.parent is not None
    with (
        Chain.alone(layer.path, layer.format) as data,
        DigestFold([folder / parent.digests], size) as wanted,
        DigestFold([folder / child.digests], child.virtual_size) as over,
    ):
        own, childs, block = data.layers[0].block_map(), over.held(), wanted.block
        differs: set[bool] = set()  # whether a block that differs is the child's, too

        def compare(pieces: Ranges, view: memoryview) -> None:
            blocks = blocks_of(pieces, block)
            other = differ(wanted.digest(view), wanted.expected(blocks))
            if is_child:
                other |= ~wanted.holds(blocks)
            differs.update(_lie_in(blocks[other] * block, childs).tolist())

        transfer(
            union(aligned(own.own_ranges(), block, size), wanted.held()),
            data.read,
            compare,
            phase=tr("Look at point {parent}", parent=parent.sequence),
            task=task,
        )
    if len(differs) > 1:
        raise _unknown(folder, tr("{layer} is damaged, too", layer=layer.path.name))
    return differs == {True}


def _lie_in(offsets: np.ndarray, ranges: Ranges) -> np.ndarray:
    """bool[offsets]: which of those bytes lie in the ranges."""
    at = np.searchsorted(ranges[:, 0], offsets, "right")
    ends = np.concatenate(([0], ranges[:, 0] + ranges[:, 1]))
    return np.asarray(offsets < ends[at], np.bool_)


def _unknown(folder: Path, why: str) -> NotRepaired:
    return NotRepaired(
        tr(
            "How far the merge came whose journal in {folder} is damaged cannot be known: {why}.",
            folder=folder,
            why=why,
        ),
        tr("Put the journal back from a copy, then have it repaired again."),
    )
