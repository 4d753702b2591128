"""Repair: finish or undo what was interrupted, and rebuild what metadata is missing from the disks.

The disks are the truth. A layer knows its identity and its parent's; its name says its place and
kind, its modification time its moment. Manifests, digests, overlays and `set.json` are made from
that. Whatever a layer holds is taken as right: digests that are computed anew prove nothing about
the time before.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from vdbackup.backup import merge
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import DiskInfo, ParentRef
from vdbackup.disks.extents import aligned, runs_of, total
from vdbackup.disks.formats import FORMATS
from vdbackup.disks.transfer import transfer
from vdbackup.errors import RepositoryError, VdbackupError
from vdbackup.jobs import CancelToken, Report
from vdbackup.repository.digests import (
    BLOCK,
    DigestFile,
    DigestFold,
    DigestWriter,
    digest_blocks,
    is_zero,
)
from vdbackup.repository.draft import make_overlay, sweep
from vdbackup.repository.files import PARTIAL, read_json, sync_folder, write_json
from vdbackup.repository.journal import JOURNAL_NAME
from vdbackup.repository.model import PointType, RecoveryPoint, SetSettings, SourceIdentity
from vdbackup.repository.repository import (
    LAYOUT,
    MARKER,
    SETTINGS,
    Repository,
    manifest_path,
)

_LAYER = re.compile(rf"^(\d{{4,}})-({'|'.join(PointType)})\.({'|'.join(FORMATS)})$")

_REBUILT = "Its manifest was rebuilt from the disk."


@dataclass(frozen=True)
class _Layer:
    """A layer file as it speaks for itself."""

    path: Path
    sequence: int
    kind: PointType
    format: str
    info: DiskInfo


def run(path: Path, report: Report, cancel: CancelToken) -> list[str]:
    """Repair the repository in `path`; what was done, a sentence each.

    Raises RepositoryError if it is none, RepositoryLocked while another program writes to it.
    """
    done: list[str] = []
    repository = _opened(path, done)
    with repository.lock("repairing"):
        for folder in sorted(entry for entry in path.iterdir() if entry.is_dir()):
            if folder.suffix != PARTIAL:  # a set in the making is nobody's backup
                _repair_set(repository, folder, done, report, cancel)
    return done


def _opened(path: Path, done: list[str]) -> Repository:
    try:
        return Repository.open(path)
    except RepositoryError:
        readable = (path / MARKER).exists() and "layout" in _json_or_empty(path / MARKER)
        if readable or not any(_LAYER.match(file.name) for file in path.glob("*/*")):
            raise  # a newer layout, or no repository at all
    write_json(path / MARKER, {"layout": LAYOUT, "id": str(uuid.uuid4())})
    done.append(f"{MARKER} was written anew.")
    return Repository.open(path)


def _repair_set(
    repository: Repository, folder: Path, done: list[str], report: Report, cancel: CancelToken
) -> None:
    layers = _read_layers(folder, done)
    if not layers:
        return
    if not _valid_settings(folder):
        settings = SetSettings(
            SourceIdentity("", folder.name, ""),
            layers[-1].info.virtual_size,
            layers[-1].info.sector_size,
            layers[-1].format,
        )
        write_json(folder / SETTINGS, settings.to_json())
        done.append(
            f"{folder.name}: {SETTINGS} was written anew; its source is not known any more."
        )
    if (folder / JOURNAL_NAME).exists():
        result = merge.finish_interrupted(repository, folder.name, report, cancel)
        layers = _read_layers(folder, done)
        if result:
            done.append(
                f"{folder.name}: an interrupted merge was finished: point {result.sequence}."
            )
    sweep(folder)
    for layer in layers:
        _repair_point(repository, folder, layer, layers, done, report, cancel)


def _read_layers(folder: Path, done: list[str]) -> list[_Layer]:
    layers = []
    for path in sorted(folder.iterdir()):
        match = _LAYER.match(path.name)
        if not match:
            continue
        try:
            with Chain.alone(path, match[3]) as alone:  # its map is read, too
                info = alone.layers[0].info
            layers.append(_Layer(path, int(match[1]), PointType(match[2]), match[3], info))
        except VdbackupError as error:
            done.append(
                f"{folder.name}: {path.name} is not readable and stays as it is: {error.title}"
            )
    return layers


def _repair_point(
    repository: Repository,
    folder: Path,
    layer: _Layer,
    layers: list[_Layer],
    done: list[str],
    report: Report,
    cancel: CancelToken,
) -> None:
    point = _manifest(folder, layer, layers)
    if not _valid_digests(folder / point.digests):
        _compute_digests(folder, layer, point, report, cancel)
        done.append(f"{folder.name}: the digests of point {point.sequence} were computed anew.")
    if not _valid_manifest(folder, point):
        with DigestFold([folder / point.digests], point.virtual_size) as own:
            point = replace(point, stored_bytes=total(own.held()))
        repository.save_point(folder.name, point)
        done.append(f"{folder.name}: the manifest of point {point.sequence} was rebuilt.")
    if not (folder / point.overlay).exists():
        _make_overlay(folder, layer, point)
        done.append(f"{folder.name}: an empty overlay was made for point {point.sequence}.")


def _manifest(folder: Path, layer: _Layer, layers: list[_Layer]) -> RecoveryPoint:
    """The point as the layer itself describes it, with what only its manifest can know."""
    said = _json_or_empty(layer.path.with_suffix(".json"))
    parent = layer.info.parent
    parents = [each for each in layers if parent and parent.proves and parent.means(each.info)]
    stat = layer.path.stat()
    point = RecoveryPoint(
        id=layer.info.disk_id or "",
        sequence=layer.sequence,
        created=datetime.fromtimestamp(stat.st_mtime, UTC).isoformat(timespec="milliseconds"),
        type=layer.kind,
        parent=_parent_id(parent, parents, said),
        disk=layer.path.name,
        overlay=f"{layer.sequence:04d}-overlay.{layer.format}",
        digests=f"{layer.path.stem}.digests",
        disk_size=stat.st_size,
        virtual_size=layer.info.virtual_size,
        sector_size=layer.info.sector_size,
        stored_bytes=0,  # its digests tell
    )
    for name in ("merged", "warnings", "unreadable"):
        point = _with_what_is_said(point, said, name)
    return replace(point, warnings=tuple(dict.fromkeys((*point.warnings, _REBUILT))))


def _with_what_is_said(point: RecoveryPoint, said: dict[str, object], name: str) -> RecoveryPoint:
    """The point with one attribute from its old manifest, where that makes sense."""
    try:
        return RecoveryPoint.from_json(point.to_json() | {name: said.get(name, ())})
    except RepositoryError:
        return point


def _parent_id(
    parent: ParentRef | None, found: list[_Layer], manifest: dict[str, object]
) -> str | None:
    """The parent's id; `manifest` is what the child's says until now, and may say anything."""
    if parent is None:
        return None
    # of a parent that is missing, whatever is known (a VHDX knows no id of it, but what it
    # contains): it must not pass for a full
    known = found[0].info.disk_id if found else parent.disk_id
    said = manifest.get("parent")
    return known or (said if isinstance(said, str) and said else parent.content_id)


def _compute_digests(
    folder: Path, layer: _Layer, point: RecoveryPoint, report: Report, cancel: CancelToken
) -> None:
    final = folder / point.digests
    final.unlink(missing_ok=True)
    partial = final.with_name(final.name + PARTIAL)
    writer = DigestWriter(partial, point.virtual_size)
    try:
        with Chain.alone(layer.path, layer.format) as data:
            own = data.layers[0].block_map()
            ranges = own.own_ranges() if layer.info.parent else own.data_ranges()

            def add(offset: int, view: memoryview) -> None:
                digests = digest_blocks(view)
                # a full holds what is not zero; what a child holds may hide something
                kept = ~is_zero(digests) | (layer.info.parent is not None)
                for start, end in runs_of(kept):
                    writer.add(offset // BLOCK + start, digests[start:end])

            transfer(
                aligned(ranges, BLOCK, data.size),
                data.readinto,
                add,
                phase=f"Digests of point {point.sequence}",
                report=report,
                cancel=cancel,
            )
        writer.finish()
    finally:
        writer.close()
    partial.rename(final)
    sync_folder(folder)


def _make_overlay(folder: Path, layer: _Layer, point: RecoveryPoint) -> None:
    reference = ParentRef(layer.info.disk_id, layer.info.content_id, point.disk)
    partial = folder / (point.overlay + PARTIAL)
    make_overlay(partial, layer.format, point, reference)
    partial.rename(folder / point.overlay)
    sync_folder(folder)


def _valid_settings(folder: Path) -> bool:
    try:
        SetSettings.from_json(read_json(folder / SETTINGS))
    except (RepositoryError, FileNotFoundError):
        return False
    return True


def _valid_manifest(folder: Path, wanted: RecoveryPoint) -> bool:
    """Whether the manifest is there and speaks of this layer; its other facts are its own."""
    try:
        point = RecoveryPoint.from_json(read_json(manifest_path(folder, wanted)))
    except (RepositoryError, FileNotFoundError):
        return False
    # not the length: a layer that was cut off must stay in contradiction to its manifest
    identity = (point.id, point.sequence, point.type, point.parent, point.disk)
    return identity == (wanted.id, wanted.sequence, wanted.type, wanted.parent, wanted.disk)


def _valid_digests(path: Path) -> bool:
    try:
        DigestFile(path).close()
    except VdbackupError:
        return False
    return True


def _json_or_empty(path: Path) -> dict[str, object]:
    try:
        return read_json(path)
    except (RepositoryError, FileNotFoundError):
        return {}
