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
from dataclasses import dataclass
from pathlib import Path

from vdbackup.backup import merge, repair_identity, repair_journal, repair_settings
from vdbackup.backup.quarantine import QUARANTINE, keep_a_copy, put_aside, put_point_aside
from vdbackup.backup.repair_identity import Layer
from vdbackup.backup.repair_point import json_or_empty, repair_point
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import DiskInfo
from vdbackup.durable import check_regular
from vdbackup.errors import (
    Cancelled,
    Damaged,
    DiskError,
    LockLost,
    NoSpace,
    NotRepaired,
    Obstructed,
    PointInUse,
    RepositoryError,
    VdbackupError,
    from_os,
)
from vdbackup.jobs import Task
from vdbackup.repository import naming, publication
from vdbackup.repository.draft import sweep
from vdbackup.repository.files import PARTIAL
from vdbackup.repository.lease import LEASE_NAME
from vdbackup.repository.lock import LOCK_NAME
from vdbackup.repository.marker import LAYOUT, MARKER, Marker, is_newer
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import (
    LOST_AND_FOUND,
    SETTINGS,
    Repository,
    check_folder_name,
)
from vdbackup.translation import tr

log = logging.getLogger(__name__)

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Repaired:
    """What was repaired in a repository.

    Attributes:
        done: a sentence each.
        undone: why the rest could not be.
    """

    done: list[str]
    undone: list[NotRepaired]


def run(path: Path, task: Task) -> Repaired:
    """Repair the repository in `path`, one set after the other: one that fails stops no other.

    Raises RepositoryError if it is none, RepositoryLocked while another program writes to it;
    PointInUse, when all else is done, where somebody reads what an interrupted merge is to change.
    """
    repaired = Repaired([], [])
    in_use: PointInUse | None = None
    repository = _opened(path, repaired.done)
    for name in (LOCK_NAME, LEASE_NAME):
        _put_obstacle_aside(path, name, repaired.done)
    with repository.lock(tr("repairing"), task.cancel):
        for folder in sorted(entry for entry in path.iterdir() if os.path.isdir(entry)):
            if folder.suffix == PARTIAL or folder.name == LOST_AND_FOUND:
                continue  # a set in the making is nobody's backup
            try:
                _repair_set(repository, folder, repaired, task)
            except (Cancelled, LockLost, NoSpace):
                raise
            except PointInUse as error:  # it is worth waiting for
                in_use = error
            except (VdbackupError, OSError) as error:  # that stops its own set's repair alone
                problem = from_os(error) if isinstance(error, OSError) else error
                title = tr(
                    "{folder}: it could not be repaired: {problem}",
                    folder=folder.name,
                    problem=problem.title,
                )
                repaired.undone.append(NotRepaired.because_of(problem, title))
    if in_use:
        for each in (*repaired.done, *repaired.undone):
            log.warning("%s", each)
        raise in_use
    return repaired


def _opened(path: Path, done: list[str]) -> Repository:
    try:
        return Repository.open(path)
    except RepositoryError:
        marker = json_or_empty(path / MARKER)
        if is_newer(marker) or not any(naming.layer_of(file.name) for file in path.glob("*/*")):
            raise  # or no repository at all
    _put_obstacle_aside(path, MARKER, done)
    keep_a_copy(path, MARKER)
    known = marker.get("id")
    own_id = known if isinstance(known, str) and _UUID.fullmatch(known) else str(uuid.uuid4())
    Marker(LAYOUT, own_id).save(path)
    done.append(tr("{marker} was written anew.", marker=MARKER))
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
        put_aside(path, name)
        done.append(
            tr(
                "{name} lies in {quarantine} now: {obstacle}",
                name=name,
                quarantine=QUARANTINE,
                obstacle=obstacle.title,
            )
        )


def _repair_set(repository: Repository, folder: Path, repaired: Repaired, task: Task) -> None:
    if folder.name in repository.misnamed():
        check_folder_name(folder.name)
    done = repaired.done
    layers, broken = _read_layers(folder, done)
    if not repair_settings.are_valid(folder):
        # a merge needs layers; they tell the settings anew, and are no leftovers
        if not layers and not repository.interrupted(folder.name) and _published(folder, done):
            layers, broken = _read_layers(folder, done)
        _repair_settings(folder, layers, repaired)
    if repository.unfinished(folder.name):
        if not _finish(repository, folder, layers, repaired, task):
            return
        layers, broken = _read_layers(folder, done)
    if not layers and not broken:
        return
    sweep(folder)
    for path, problem in broken.items():
        put_point_aside(folder, path)
        done.append(
            tr(
                "{folder}: {path} is not readable, and lies in {quarantine} now with what belongs "
                "to it: {problem}",
                folder=folder.name,
                path=path.name,
                quarantine=QUARANTINE,
                problem=problem,
            )
        )
    overlays = _overlays(folder)
    _put_reports_aside(folder, overlays)
    children = [layer.info for layer in layers] + list(overlays.values())
    for number, layer in enumerate(layers):
        mended = repair_identity.mend(folder, layer, children, done, task)
        if mended is None:
            continue  # altered: its manifest has to go on contradicting it
        layers[number] = mended
        repair_point(repository, folder, mended, layers, done, task)
    _put_manifests_aside(repository, folder, done)
    _mend_names(repository, folder, layers, overlays, done)


def _published(folder: Path, done: list[str]) -> list[RecoveryPoint]:
    """Let points exist whose publication was cut off, by sequence; settings are not needed."""
    points = publication.finish(folder)
    done += merge.published_sentences(folder.name, points)
    return points


def _repair_settings(folder: Path, layers: list[Layer], repaired: Repaired) -> None:
    if layers:
        repaired.done.append(repair_settings.write_anew(folder, layers))
    elif sentence := repair_settings.bring_back(folder):
        repaired.done.append(sentence)
    elif os.path.lexists(folder / SETTINGS):
        title = tr(
            "{folder}: {settings} is damaged, and neither its copy nor a disk says what it was.",
            folder=folder.name,
            settings=SETTINGS,
        )
        advice = tr("Delete the folder if nothing in it is yours.")
        repaired.undone.append(NotRepaired(title, advice))


def _finish(
    repository: Repository, folder: Path, layers: list[Layer], repaired: Repaired, task: Task
) -> bool:
    """Finish a publication and a merge that were cut off; False where the merge cannot be."""
    done = repaired.done
    try:
        if repair_journal.is_damaged(folder):
            # before: a manifest that is rebuilt lacks what the one in flight alone says
            points = _published(folder, done)
            layers, _ = _read_layers(folder, done)
            repair_journal.write_anew(repository, folder, layers, done, task)
            layers, _ = _read_layers(folder, done)
            if points:
                repository.remember_sequence(folder.name, max(each.sequence for each in points))
        if repair_settings.are_valid(folder):
            published = merge.publish_begun(repository, folder.name)
            done += merge.published_sentences(folder.name, published)
        if not repository.interrupted(folder.name):
            return True
        _make_all_known(repository, folder, layers, done, task)
        result = merge.finish_interrupted(repository, folder.name, task)
    except (Damaged, DiskError, RepositoryError) as error:
        title = tr(
            "{folder}: an interrupted merge cannot be finished, and all stays as it is: {error}",
            folder=folder.name,
            error=error.title,
        )
        repaired.undone.append(NotRepaired.because_of(error, title))
        return False
    if result:
        done.append(merge.merged_sentence(folder.name, result))
    return True


def _make_all_known(
    repository: Repository,
    folder: Path,
    layers: list[Layer],
    done: list[str],
    task: Task,
) -> None:
    """Rebuild damaged manifests, but for those of the merge: it is not finished without the others.

    What their points read through is what it changes, perhaps.
    """
    unknown = {each.name for each in repository.set(folder.name).broken}
    for layer in layers:
        if f"{layer.path.stem}.json" in unknown:
            repair_point(repository, folder, layer, layers, done, task)
    _put_manifests_aside(repository, folder, done)


def _put_manifests_aside(repository: Repository, folder: Path, done: list[str]) -> None:
    """Manifests that are damaged and whose layers are gone: nothing can be made of them."""
    there = {naming.stem_of(name) for name in os.listdir(folder) if naming.layer_of(name)}
    for manifest in repository.set(folder.name).broken:
        if naming.stem_of(manifest.name) not in there:
            put_aside(folder, manifest.name)
            done.append(
                tr(
                    "{folder}: {manifest} speaks of no layer: {problem}",
                    folder=folder.name,
                    manifest=manifest.name,
                    problem=manifest.problem,
                )
            )


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
            done.append(
                tr("{folder}: {path} says its own name again.", folder=folder.name, path=path.name)
            )


def _read_layers(folder: Path, done: list[str]) -> tuple[list[Layer], dict[Path, str]]:
    """The layers of a set, by sequence, and the files that are none, with what is wrong."""
    layers: list[Layer] = []
    broken: dict[Path, str] = {}
    for path in sorted(folder.iterdir()):
        name = naming.layer_of(path.name)
        if not name:
            continue
        try:
            check_regular(path)
            with Chain.alone(path, name.format) as alone:  # its map is read, too
                layers.append(Layer(path, *name, alone.layers[0].info))
        except VdbackupError as error:
            broken[path] = error.title
        except OSError as error:  # of the storage: another time it may be readable
            done.append(
                tr(
                    "{folder}: {path} stays as it is: {error}",
                    folder=folder.name,
                    path=path.name,
                    error=from_os(error).title,
                )
            )
    return sorted(layers, key=lambda layer: layer.sequence), broken


def _overlays(folder: Path) -> dict[Path, DiskInfo]:
    """The overlays of a set that are disks; one that is none is put aside."""
    overlays = {}
    for path in sorted(folder.iterdir()):
        name = naming.overlay_of(path.name)
        if not name:
            continue
        try:
            check_regular(path)
            with Chain.alone(path, name.format) as alone:
                overlays[path] = alone.layers[0].info
        except VdbackupError:
            put_aside(folder, path.name)
    return overlays


def _put_reports_aside(folder: Path, overlays: dict[Path, DiskInfo]) -> None:
    """Reports that speak of no overlay that is there: an overlay made anew is empty."""
    identities = {path.stem: info.disk_id for path, info in overlays.items()}
    for path in sorted(folder.iterdir()):
        overlay = naming.overlay_reported_in(path.name)
        if overlay and json_or_empty(path).get("overlay") != identities.get(overlay, ""):
            put_aside(folder, path.name)
