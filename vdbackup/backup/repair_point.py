"""Repair of a point: its manifest, digests and overlay are made again from its layer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from vdbackup.backup import repair_identity
from vdbackup.backup.quarantine import QUARANTINE, keep_a_copy, put_aside
from vdbackup.backup.repair_identity import Layer, valid_digests
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import FINE_UNIT, UNIT, ParentRef
from vdbackup.disks.extents import Ranges, aligned, blocks_of, total
from vdbackup.disks.transfer import transfer
from vdbackup.errors import DiskError, RepositoryError
from vdbackup.jobs import Task
from vdbackup.repository import naming
from vdbackup.repository.digest_file import DigestFile
from vdbackup.repository.digest_writer import DigestWriter
from vdbackup.repository.digests import DigestFold, digest_blocks, is_zero
from vdbackup.repository.draft import make_overlay
from vdbackup.repository.files import made_beside, read_json
from vdbackup.repository.kept_logs import kept_logs
from vdbackup.repository.manifests import manifest_path
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr

_IDENTITY = ("id", "sequence", "type", "parent")
_ONLY_SAID = (
    "merged", "merged_before", "warnings", "unreadable", "promoted_from", "captured_from",
    "exact_size", "reading", "moment",
)  # fmt: skip
"""What the old manifest alone knows."""
_REBUILT = tr("Its manifest was rebuilt from the disk.")


def repair_point(
    repository: Repository,
    folder: Path,
    layer: Layer,
    layers: Sequence[Layer],
    done: list[str],
    task: Task,
) -> None:
    """Make again whatever of the layer's point is missing or damaged; what was is put aside.

    Args:
        repository: the caller holds its lock.
        folder: the set's.
        layer: which speaks for the point.
        layers: all of the set, its parent among them.
        done: what was done is added, a sentence each.
        task: what it reports to, and what stops it.
    """
    point = _manifest(folder, layer, layers)
    if not valid_digests(folder / point.digests, point.virtual_size):
        put_aside(folder, point.digests)
        _compute_digests(folder, layer, point, _unit(folder, layer, layers), task)
        done.append(
            tr(
                "{folder}: the digests of point {point} were computed anew.",
                folder=folder.name,
                point=point.sequence,
            )
        )
    if not _valid_manifest(folder, point):
        with DigestFold([folder / point.digests], point.virtual_size) as own:
            point = replace(point, stored_bytes=total(own.held()))
        keep_a_copy(folder, manifest_path(folder, point).name)
        repository.save_point(folder.name, point)
        done.append(
            tr(
                "{folder}: the manifest of point {point} was rebuilt.",
                folder=folder.name,
                point=point.sequence,
            )
        )
    if not os.path.lexists(folder / point.overlay):
        _make_overlay(folder, layer, point)
        done.append(
            tr(
                "{folder}: an empty overlay was made for point {point}.",
                folder=folder.name,
                point=point.sequence,
            )
        )
        done += _moments_that_fit_no_more(folder, point)
    if repair_identity.seal_again(layer):
        done.append(
            tr("{folder}: {layer} is read-only again.", folder=folder.name, layer=layer.path.name)
        )


def _moments_that_fit_no_more(folder: Path, point: RecoveryPoint) -> list[str]:
    """What is to be said of logs of writes that lie on what the lost overlay held."""
    return [
        tr(
            "{folder}: the kept writes of the session {session} fit only onto the overlay of point "
            "{point} as it was: their moments cannot be read until it is put back, from "
            "{quarantine} or a copy.",
            folder=folder.name,
            session=kept.session,
            point=point.sequence,
            quarantine=QUARANTINE,
        )
        for kept in kept_logs(folder)
        if kept.protection.point == point.id and kept.protection.overlay_contents
    ]


def _manifest(folder: Path, layer: Layer, layers: Sequence[Layer]) -> RecoveryPoint:
    """The point as the layer itself describes it, with what only its manifest can know."""
    record = json_or_empty(naming.manifest_beside(layer.path))
    parent = layer.info.parent
    parents = [each for each in layers if parent and parent.proves and parent.means(each.info)]
    stat = layer.path.stat()
    point = RecoveryPoint(
        id=layer.info.disk_id or "",
        sequence=layer.sequence,
        created=datetime.fromtimestamp(stat.st_mtime, UTC).isoformat(timespec="milliseconds"),
        type=layer.kind,
        parent=_parent_id(parent, parents, record),
        disk=layer.path.name,
        overlay=naming.overlay_name(layer.sequence, layer.format),
        digests=naming.digests_name(layer.path.name),
        disk_size=stat.st_size,
        virtual_size=layer.info.virtual_size,
        sector_size=layer.info.sector_size,
        stored_bytes=0,  # its digests tell
    )
    for name in _ONLY_SAID:
        point = _with_field(point, record, name)
    return replace(point, warnings=tuple(dict.fromkeys((*point.warnings, _REBUILT))))


def _with_field(point: RecoveryPoint, record: dict[str, object], name: str) -> RecoveryPoint:
    """The point with one attribute from its old manifest, where that makes sense."""
    if name not in record:
        return point
    try:
        return RecoveryPoint.from_json(point.to_json() | {name: record[name]})
    except RepositoryError:
        return point


def _parent_id(
    parent: ParentRef | None, found: list[Layer], manifest: dict[str, object]
) -> str | None:
    """The parent's id; `manifest` is what the child's says until now, and may say anything."""
    if parent is None:
        return None
    # of a parent that is missing, whatever is known (a VHDX knows no id of it, but what it
    # contains): it must not pass for a full
    known = found[0].info.disk_id if found else parent.disk_id
    named = manifest.get("parent")
    return known or (named if isinstance(named, str) and named else parent.content_id)


def _valid_manifest(folder: Path, wanted: RecoveryPoint) -> bool:
    """Whether the manifest is there and speaks of this layer; its other facts are its own."""
    try:
        point = RecoveryPoint.from_json(read_json(manifest_path(folder, wanted)))
    except (RepositoryError, FileNotFoundError):
        return False
    # not the length: a layer that was cut off must stay in contradiction to its manifest
    files = ("disk", "overlay", "digests")
    same = (getattr(point, name) == getattr(wanted, name) for name in (*_IDENTITY, *files))
    return all(same)


def _unit(folder: Path, layer: Layer, layers: Sequence[Layer]) -> int:
    """In what blocks a layer's digests are to be: as its chain's are, or else as it is written."""
    chain = _chain_of(layer, layers)
    for each in chain:
        path = folder / naming.digests_name(each.path.name)
        with suppress(DiskError, RepositoryError, OSError), closing(DigestFile(path)) as known:
            return known.block
    return FINE_UNIT if any(map(_is_fine, chain)) else UNIT


def _chain_of(layer: Layer, layers: Sequence[Layer]) -> list[Layer]:
    """All that read through the full that this one does, itself among them, by sequence."""
    known = {each.info.content_id: each for each in layers}
    known |= {each.info.disk_id or "": each for each in layers}
    known.pop("", None)
    roots: dict[Path, Path] = {}
    for each in layers:
        named = each.info.parent
        parent = named and (known.get(named.disk_id or "") or known.get(named.content_id))
        above = parent.path if parent else each.path
        roots[each.path] = roots.get(above, above)
    return [each for each in layers if roots[each.path] == roots[layer.path]]


def _is_fine(layer: Layer) -> bool:
    """Whether a layer holds parts of units; of a full in VHD or VHDX only its children tell."""
    if layer.info.block_size == FINE_UNIT:
        return True
    with Chain.alone(layer.path, layer.format) as data:
        own = data.layers[0].block_map().own_ranges()
        return layer.info.parent is not None and bool((own[:, 0] % UNIT).any())


def _compute_digests(
    folder: Path, layer: Layer, point: RecoveryPoint, unit: int, task: Task
) -> None:
    with (
        made_beside(folder / point.digests) as partial,
        closing(DigestWriter(partial, point.virtual_size, unit)) as writer,
    ):
        with Chain.alone(layer.path, layer.format) as data:
            own = data.layers[0].block_map()
            ranges = own.own_ranges() if layer.info.parent else own.data_ranges()

            def add(pieces: Ranges, view: memoryview) -> None:
                digests = digest_blocks(view, unit)
                # a full holds what is not zero; what a child holds may hide something
                kept = ~is_zero(digests) | (layer.info.parent is not None)
                writer.add(blocks_of(pieces, unit), digests, kept)

            transfer(
                aligned(ranges, unit, data.size),
                data.read,
                add,
                phase=tr("Digests of point {point}", point=point.sequence),
                task=task,
            )
        writer.finish()


def _make_overlay(folder: Path, layer: Layer, point: RecoveryPoint) -> None:
    reference = ParentRef(layer.info.disk_id, layer.info.content_id, point.disk)
    with made_beside(folder / point.overlay) as partial:
        make_overlay(partial, layer.format, point, reference)


def json_or_empty(path: Path) -> dict[str, object]:
    """What a record says; nothing where it is damaged or not there."""
    try:
        return read_json(path)
    except (RepositoryError, FileNotFoundError):
        return {}
