"""Repair: finish or undo what was interrupted, and rebuild what metadata is missing from the disks.

The disks are the truth. A layer knows its identity and its parent's; its name says its place and
kind, its modification time its moment. Manifests, digests, overlays and `set.json` are made from
that. Whatever a layer holds is taken as right: digests that are computed anew prove nothing about
the time before.

A layer that another program has opened for writing may bear another identity since, so that its
children do not know it any more. It gets the old one back if its manifest and digests, which are as
they were, prove that it holds what was captured, block by block; if it does not, it stays as it is.

Nothing is deleted. What cannot be understood goes into the folder `quarantine` in the set's: a
layer that is no disk with all that belongs to it, and a manifest, digests, an overlay or `set.json`
that is damaged, before a new one is made; so does a report on changes to an overlay that is not
there any more. Whoever has a good copy of a layer puts it back into the set's folder and repairs
again. Points that read through a layer that is gone stay, and are refused.
"""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from vdbackup.backup import merge, repair_identity, repair_journal
from vdbackup.backup.repair_identity import Layer, valid_digests
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import DiskInfo, ParentRef
from vdbackup.disks.extents import aligned, total
from vdbackup.disks.names import BACKUP_FORMATS, DiskFormat
from vdbackup.disks.transfer import transfer
from vdbackup.durable import check_regular, give_to_owner_of_folder, read_own
from vdbackup.durable import replace as replace_file
from vdbackup.errors import (
    Cancelled,
    Damaged,
    DiskError,
    LockLost,
    NoSpace,
    Obstructed,
    PointInUse,
    RepositoryError,
    VdbackupError,
    from_os,
)
from vdbackup.jobs import CancelToken, Report
from vdbackup.repository.backup_set import LAYER_NAME
from vdbackup.repository.digest_writer import DigestWriter
from vdbackup.repository.digests import (
    BLOCK,
    DigestFold,
    digest_blocks,
    is_zero,
)
from vdbackup.repository.draft import make_overlay, sweep
from vdbackup.repository.files import PARTIAL, read_json, remove, sync_folder, write_json
from vdbackup.repository.journal import JOURNAL_NAME
from vdbackup.repository.lease import LEASE_NAME
from vdbackup.repository.lock import LOCK_NAME
from vdbackup.repository.manifests import manifest_path
from vdbackup.repository.model import PointType, RecoveryPoint, SetSettings, SourceIdentity
from vdbackup.repository.repository import (
    LAYOUT,
    LOST_AND_FOUND,
    MARKER,
    SETTINGS,
    Repository,
)
from vdbackup.sources.facts import with_written
from vdbackup.sources.identity import Facts

log = logging.getLogger(__name__)

_OVERLAY = re.compile(rf"^(\d{{4,}})-overlay\.({'|'.join(BACKUP_FORMATS)})$")
_REPORT = re.compile(r"^(\d{4,}-overlay)\.retarget\.json$")
_IDENTITY = ("id", "sequence", "type", "parent")
_REBUILT = "Its manifest was rebuilt from the disk."
QUARANTINE = "quarantine"
"""The folder in a set's folder for what is broken."""


@dataclass(frozen=True)
class Repaired:
    """What was repaired in a repository and what could not be, a sentence each."""

    done: list[str]
    undone: list[str]


def run(path: Path, report: Report, cancel: CancelToken) -> Repaired:
    """Repair the repository in `path`, one set after the other: one that fails stops no other.

    Raises RepositoryError if it is none, RepositoryLocked while another program writes to it;
    PointInUse, when all else is done, where somebody reads what an interrupted merge is to change.
    """
    said = Repaired([], [])
    in_use: PointInUse | None = None
    repository = _opened(path, said.done)
    for name in (LOCK_NAME, LEASE_NAME):
        _put_obstacle_aside(path, name, said.done)
    with repository.lock("repairing", cancel):
        for folder in sorted(entry for entry in path.iterdir() if os.path.isdir(entry)):
            if folder.suffix == PARTIAL or folder.name == LOST_AND_FOUND:
                continue  # a set in the making is nobody's backup
            try:
                _repair_set(repository, folder, said, report, cancel)
            except (Cancelled, LockLost, NoSpace):
                raise
            except PointInUse as error:  # it is worth waiting for
                in_use = error
            except (VdbackupError, OSError) as error:  # that stops its own set's repair alone
                problem = from_os(error) if isinstance(error, OSError) else error
                said.undone.append(f"{folder.name}: it could not be repaired: {problem}")
    if in_use:
        for sentence in (*said.done, *said.undone):
            log.warning("%s", sentence)
        raise in_use
    return said


def _opened(path: Path, done: list[str]) -> Repository:
    try:
        return Repository.open(path)
    except RepositoryError:
        readable = "layout" in _json_or_empty(path / MARKER)
        if readable or not any(LAYER_NAME.match(file.name) for file in path.glob("*/*")):
            raise  # a newer layout, or no repository at all
    _put_obstacle_aside(path, MARKER, done)
    write_json(path / MARKER, {"layout": LAYOUT, "id": str(uuid.uuid4())})
    done.append(f"{MARKER} was written anew.")
    return Repository.open(path)


def _put_obstacle_aside(path: Path, name: str, done: list[str]) -> None:
    """Put aside what bears the name of a file of the repository's and is none; nobody can lock it.

    A file of that name stays: another program may hold it, or it can be read.
    """
    try:
        check_regular(path / name)
    except FileNotFoundError:
        return
    except Obstructed as obstacle:
        _quarantine(path, name)
        done.append(f"{name} lies in {QUARANTINE} now: {obstacle.title}")


def _repair_set(
    repository: Repository, folder: Path, said: Repaired, report: Report, cancel: CancelToken
) -> None:
    done = said.done
    layers, broken = _read_layers(folder, done)
    if layers and not _valid_settings(folder):
        done.append(_write_settings(folder, layers))
    if repository.interrupted(folder.name):
        try:
            if repair_journal.is_damaged(folder):
                _find_journal_out(repository, folder, layers, done, report, cancel)
                layers, broken = _read_layers(folder, done)
            _make_all_known(repository, folder, layers, done, report, cancel)
            result = merge.finish_interrupted(repository, folder.name, report, cancel)
        except (Damaged, DiskError, RepositoryError) as error:
            said.undone.append(
                f"{folder.name}: an interrupted merge cannot be finished, and all stays as it is: "
                f"{error.title}"
            )
            return
        layers, broken = _read_layers(folder, done)
        if result:
            done.append(
                f"{folder.name}: an interrupted merge was finished: point {result.sequence}."
            )
    if not layers and not broken:
        return
    sweep(folder)
    for path, problem in broken.items():
        _quarantine_point(folder, path)
        done.append(
            f"{folder.name}: {path.name} is not readable, and lies in {QUARANTINE} now with what "
            f"belongs to it: {problem}"
        )
    overlays = _overlays(folder)
    _put_reports_aside(folder, overlays)
    children = [layer.info for layer in layers] + list(overlays.values())
    for number, layer in enumerate(layers):
        mended = repair_identity.mend(folder, layer, children, done, report, cancel)
        if mended is None:
            continue  # altered: its manifest has to go on contradicting it
        layers[number] = mended
        _repair_point(repository, folder, mended, layers, done, report, cancel)
    _put_manifests_aside(repository, folder, done)
    _mend_names(repository, folder, layers, overlays, done)


def _find_journal_out(
    repository: Repository,
    folder: Path,
    layers: list[Layer],
    done: list[str],
    report: Report,
    cancel: CancelToken,
) -> None:
    """Write a damaged journal anew by what the disks say, or put it aside where all is whole.

    The new one is in place before anything else changes: without any, a parent that is being copied
    into would be offered as a point. That may be one which the storage does not give just now.
    """
    read = {layer.path.name for layer in layers}
    unread = {name for name in os.listdir(folder) if LAYER_NAME.match(name)} - read
    if unread:
        raise RepositoryError(
            f"Its journal is damaged, and {min(unread)} cannot be read: how far the merge came "
            "cannot be known.",
            "Put one of them back from a copy, then have it repaired again.",
        )
    repair_journal.check_digests(folder, layers)
    numbers = Counter(layer.sequence for layer in layers)
    for layer in layers:
        single = numbers[layer.sequence] == 1
        if single and not _names_its_own_files(layer):
            _repair_point(repository, folder, layer, layers, done, report, cancel)
    left = repair_journal.found_out(folder, layers, report, cancel)
    for stem in left.redundant:
        for path in sorted(folder.glob(f"{stem}.*")):
            _quarantine(folder, path.name)
        done.append(f"{folder.name}: what was left of {stem}, which was merged, was put aside.")
    if left.journal is None:
        repair_journal.seal_again(folder, layers)
        _quarantine(folder, JOURNAL_NAME)
        done.append(f"{folder.name}: {JOURNAL_NAME} was damaged; no merge has to be finished.")
        return
    _keep_a_copy(folder, folder / JOURNAL_NAME)
    left.journal.save(folder)
    done.append(f"{folder.name}: {JOURNAL_NAME} was written anew from the disks.")


def _names_its_own_files(layer: Layer) -> bool:
    """Whether a layer has a manifest that can be read."""
    path = layer.path.with_suffix(".json")
    try:
        return RecoveryPoint.from_json(read_json(path), path.name).disk == layer.path.name
    except (RepositoryError, FileNotFoundError):
        return False


def _make_all_known(
    repository: Repository,
    folder: Path,
    layers: list[Layer],
    done: list[str],
    report: Report,
    cancel: CancelToken,
) -> None:
    """Rebuild damaged manifests, but for those of the merge: it is not finished without the others.

    What their points read through is what it changes, perhaps.
    """
    unknown = {each.name for each in repository.set(folder.name).broken}
    for layer in layers:
        if f"{layer.path.stem}.json" in unknown:
            _repair_point(repository, folder, layer, layers, done, report, cancel)
    _put_manifests_aside(repository, folder, done)


def _put_manifests_aside(repository: Repository, folder: Path, done: list[str]) -> None:
    """Manifests that are damaged and whose layers are gone: nothing can be made of them."""
    there = {name.partition(".")[0] for name in os.listdir(folder) if LAYER_NAME.match(name)}
    for manifest in repository.set(folder.name).broken:
        if manifest.name.removesuffix(".json") not in there:
            _quarantine(folder, manifest.name)
            done.append(f"{folder.name}: {manifest.name} speaks of no layer: {manifest.problem}")


def _mend_names(
    repository: Repository,
    folder: Path,
    layers: list[Layer],
    overlays: dict[Path, DiskInfo],
    done: list[str],
) -> None:
    points = {point.disk: point for point in repository.set(folder.name).points}
    named = [(layer.path, layer.info) for layer in layers if layer.path.name in points]
    for path, info in [*named, *overlays.items()]:
        if repair_identity.mend_name(path, info, points.get(path.name)):
            done.append(f"{folder.name}: {path.name} says its own name again.")


def _write_settings(folder: Path, layers: list[Layer]) -> str:
    """Write `set.json` anew, with what can still be known of its source; the sentence for it."""
    info = layers[-1].info
    names = [*folder.iterdir(), *folder.glob(f"{QUARANTINE}/*")]
    numbers = [int(match[1]) for each in names if (match := LAYER_NAME.match(each.name))]
    source = _source_said(folder, layers)
    settings = SetSettings(
        source or SourceIdentity("", folder.name, "", _facts_inside(layers[-1])),
        info.virtual_size,
        info.sector_size,
        layers[-1].format,
        last_sequence=max(numbers),
    )
    _quarantine(folder, SETTINGS)
    write_json(folder / SETTINGS, settings.to_json())
    whose = (
        f"its source is {source.path}"
        if source
        else "its source is only known by what is on the disk: the next backup has to name the set"
    )
    return f"{folder.name}: {SETTINGS} was written anew; {whose}, and it keeps all its points."


def _source_said(folder: Path, layers: list[Layer]) -> SourceIdentity | None:
    """The set's source, by what is left of `set.json`, or else by the newest manifest."""
    manifests = [_json_or_empty(layer.path.with_suffix(".json")) for layer in reversed(layers)]
    said = [each.get("captured_from") for each in manifests]
    for each in (_json_or_empty(folder / SETTINGS).get("source"), *said):
        with suppress(AttributeError, KeyError, TypeError, ValueError):
            return SourceIdentity.from_json(each)
    return None


def _facts_inside(layer: Layer) -> dict[str, tuple[str, ...]]:
    """What the layer's disk itself says of its source; only its size if it cannot be read."""
    size, sector_size = layer.info.virtual_size, layer.info.sector_size
    try:
        with Chain.open(layer.path, layer.format) as chain:
            return with_written(Facts(), chain.readinto, size, sector_size).record()
    except (VdbackupError, OSError):
        return Facts(size=str(size)).record()


def _read_layers(folder: Path, done: list[str]) -> tuple[list[Layer], dict[Path, str]]:
    """The layers of a set, by sequence, and the files that are none, with what is wrong."""
    layers: list[Layer] = []
    broken: dict[Path, str] = {}
    for path in sorted(folder.iterdir()):
        match = LAYER_NAME.match(path.name)
        if not match:
            continue
        try:
            check_regular(path)
            disk_format = DiskFormat(match[3])
            with Chain.alone(path, disk_format) as alone:  # its map is read, too
                info = alone.layers[0].info
            layers.append(Layer(path, int(match[1]), PointType(match[2]), disk_format, info))
        except VdbackupError as error:
            broken[path] = error.title
        except OSError as error:  # of the storage: another time it may be readable
            done.append(f"{folder.name}: {path.name} stays as it is: {from_os(error).title}")
    return sorted(layers, key=lambda layer: layer.sequence), broken


def _overlays(folder: Path) -> dict[Path, DiskInfo]:
    """The overlays of a set that are disks; one that is none is put aside."""
    overlays = {}
    for path in sorted(folder.iterdir()):
        match = _OVERLAY.match(path.name)
        if not match:
            continue
        try:
            check_regular(path)
            with Chain.alone(path, DiskFormat(match[2])) as alone:
                overlays[path] = alone.layers[0].info
        except VdbackupError:
            _quarantine(folder, path.name)
    return overlays


def _put_reports_aside(folder: Path, overlays: dict[Path, DiskInfo]) -> None:
    """Reports that speak of no overlay that is there: an overlay made anew is empty."""
    identities = {path.stem: info.disk_id for path, info in overlays.items()}
    for path in sorted(folder.iterdir()):
        match = _REPORT.match(path.name)
        if match and _json_or_empty(path).get("overlay") != identities.get(match[1], ""):
            _quarantine(folder, path.name)


def _quarantine_point(folder: Path, layer: Path) -> None:
    """Put a layer aside, and what speaks of it or hangs on it alone.

    The layer goes last: a repair that is cut off before finds it broken again, and puts the rest
    aside. The other way round its point would stay in the list for ever.
    """
    number = layer.name.partition("-")[0]
    overlay = f"{number}-overlay"
    others = (f"{overlay}{layer.suffix}", f"{overlay}.retarget.json", f"{number}-boot.png")
    for name in (f"{layer.stem}.json", f"{layer.stem}.digests", *others, layer.name):
        _quarantine(folder, name)


def _quarantine(folder: Path, name: str) -> None:
    """Put a file aside, if it is there; what was put aside before stays, too."""
    if os.path.lexists(folder / name):
        target = _place_aside(folder, name)
        (folder / name).rename(target)
        sync_folder(target.parent)
        sync_folder(folder)


def _place_aside(folder: Path, name: str) -> Path:
    aside = folder / QUARANTINE
    aside.mkdir(mode=0o700, exist_ok=True)
    give_to_owner_of_folder(aside)
    sync_folder(folder)  # what is moved into a folder that a power cut takes away is gone with it
    target, number = aside / name, 2
    while os.path.lexists(target):
        target, number = aside / f"{name}.{number}", number + 1
    return target


def _repair_point(
    repository: Repository,
    folder: Path,
    layer: Layer,
    layers: list[Layer],
    done: list[str],
    report: Report,
    cancel: CancelToken,
) -> None:
    point = _manifest(folder, layer, layers)
    if not valid_digests(folder / point.digests, point.virtual_size):
        _quarantine(folder, point.digests)
        _compute_digests(folder, layer, point, report, cancel)
        done.append(f"{folder.name}: the digests of point {point.sequence} were computed anew.")
    if not _valid_manifest(folder, point):
        with DigestFold([folder / point.digests], point.virtual_size) as own:
            point = replace(point, stored_bytes=total(own.held()))
        manifest = manifest_path(folder, point)
        _keep_a_copy(folder, manifest)
        repository.save_point(folder.name, point)
        done.append(f"{folder.name}: the manifest of point {point.sequence} was rebuilt.")
    if not os.path.lexists(folder / point.overlay):
        _make_overlay(folder, layer, point)
        done.append(f"{folder.name}: an empty overlay was made for point {point.sequence}.")
    if repair_identity.seal_again(layer):
        done.append(f"{folder.name}: {layer.path.name} is read-only again.")


def _keep_a_copy(folder: Path, manifest: Path) -> None:
    """Put a copy aside: a crash must not take what only the old one says.

    What is no ordinary file, or too long to be read, says nothing, and is put aside itself.
    """
    try:
        said = read_own(manifest)
    except FileNotFoundError:
        return
    except Obstructed:
        _quarantine(folder, manifest.name)
        return
    replace_file(_place_aside(folder, manifest.name), said)


def _manifest(folder: Path, layer: Layer, layers: list[Layer]) -> RecoveryPoint:
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
    for name in ("merged", "warnings", "unreadable", "promoted_from", "captured_from"):
        point = _with_what_is_said(point, said, name)
    return replace(point, warnings=tuple(dict.fromkeys((*point.warnings, _REBUILT))))


def _with_what_is_said(point: RecoveryPoint, said: dict[str, object], name: str) -> RecoveryPoint:
    """The point with one attribute from its old manifest, where that makes sense."""
    try:
        return RecoveryPoint.from_json(point.to_json() | {name: said.get(name, ())})
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
    said = manifest.get("parent")
    return known or (said if isinstance(said, str) and said else parent.content_id)


def _compute_digests(
    folder: Path, layer: Layer, point: RecoveryPoint, report: Report, cancel: CancelToken
) -> None:
    final = folder / point.digests
    partial = final.with_name(final.name + PARTIAL)
    remove(partial)  # of a repair that was interrupted here
    writer = DigestWriter(partial, point.virtual_size)
    try:
        with Chain.alone(layer.path, layer.format) as data:
            own = data.layers[0].block_map()
            ranges = own.own_ranges() if layer.info.parent else own.data_ranges()

            def add(offset: int, view: memoryview) -> None:
                digests = digest_blocks(view)
                # a full holds what is not zero; what a child holds may hide something
                kept = ~is_zero(digests) | (layer.info.parent is not None)
                writer.add(offset // BLOCK, digests, kept)

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


def _make_overlay(folder: Path, layer: Layer, point: RecoveryPoint) -> None:
    reference = ParentRef(layer.info.disk_id, layer.info.content_id, point.disk)
    partial = folder / (point.overlay + PARTIAL)
    remove(partial)
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
    files = ("disk", "overlay", "digests")
    same = (getattr(point, name) == getattr(wanted, name) for name in (*_IDENTITY, *files))
    return all(same)


def _json_or_empty(path: Path) -> dict[str, object]:
    try:
        return read_json(path)
    except (RepositoryError, FileNotFoundError):
        return {}
