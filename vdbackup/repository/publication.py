"""Publication: the files of a new point take their names; deleting it is the same backwards.

A point's manifest, and all its other files (layer, digests, overlay, and later perhaps a report and
a picture), each lie in flight (`.partial`) or bear their names. These states follow each other,
each durable before the next begins:

    in flight    all of them lie in flight, whole
    named        all but the manifest bear their names
    published    the manifest bears its own: the point exists

So a layer that bears its name has a manifest, in place or in flight, and a manifest in flight whose
files are all there is a point's: whoever opens the repository for writing next finishes it
(`finish`). Where anything is missing, nothing of it had a name yet, or all of it was being taken
back: what lies in flight is nobody's, and is swept away (draft.sweep).

A manifest in flight beside one in place is a newer one of a point that exists (files.write_json):
that was cut off, and is swept away, too.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import closing, suppress
from pathlib import Path

from vdbackup.durable import check_regular, read_own
from vdbackup.errors import LiesTwice, NewerLayout, VdbackupError
from vdbackup.repository import naming
from vdbackup.repository.backup_set import point_files
from vdbackup.repository.files import PARTIAL, remove, sync_file, sync_folder, write_json_in_flight
from vdbackup.repository.lock import check_lock
from vdbackup.repository.manifests import manifest_path, read_manifests, understood
from vdbackup.repository.model import RecoveryPoint
from vdbackup.translation import tr


def prepare(folder: Path, point: RecoveryPoint) -> None:
    """Put the manifest beside a point's other files, which lie in flight, durable but for the name.

    Args:
        folder: the set's; the caller holds the repository's lock.
        point: what its manifest will say.
    """
    check_lock(in_flight(folder / point.disk))
    write_json_in_flight(manifest_path(folder, point), point.to_json())
    sync_folder(folder)  # all four, before the first of them takes its name


def publish(folder: Path, point: RecoveryPoint) -> None:
    """Make a point exist that is prepared; the caller holds the repository's lock."""
    _name_files(folder, point)
    _let_exist(folder, point)


def withdraw(folder: Path, point: RecoveryPoint) -> None:
    """Let a point exist no more, or take back what was begun of it; its files go.

    Until its manifest has gone, an interruption leaves a point that `finish` makes again, whole.
    Nothing here needs space on a full disk.
    """
    check_lock(folder)
    manifest, *others = point_files(folder, point)
    if os.path.lexists(manifest):
        os.rename(manifest, in_flight(manifest))
        sync_folder(folder)  # readers see no point any more, before a file of it goes
    named = [path for path in others if os.path.lexists(path)]
    for path in named:
        check_lock(path)  # storage was waited for: whoever took over may have made it a point again
        os.rename(path, in_flight(path))
    if named:
        sync_folder(folder)  # a layer that bears its name always has a manifest
    for path in (manifest, *others):
        remove(in_flight(path))
    sync_folder(folder)


def begun(folder: Path) -> list[str]:
    """Names of the manifests that lie in flight, of points that do not exist; no file is read."""
    names = set(os.listdir(folder))
    manifests = (name.removesuffix(PARTIAL) for name in names if name.endswith(PARTIAL))
    return sorted(
        name
        for name in manifests
        if naming.number_of_manifest(name) is not None and name not in names
    )


def finish(folder: Path, but: Collection[int] = ()) -> list[RecoveryPoint]:
    """Finish what was cut off; the points that exist now.

    Args:
        folder: the set's; the caller holds the repository's lock, so nobody else is at it.
        but: numbers of points that a merge is at: what lies in flight of them is its own.

    Raises OSError where the storage does not say what is there, NewerLayout where a newer version
    began it: then all stays as it is.
    """
    names = [name for name in begun(folder) if naming.number_of_manifest(name) not in but]
    if not names:
        return []
    known = {point.id for point in read_manifests(folder)[0]}
    finished = []
    for name in names:
        point = _whole(folder, name)
        if point is not None and point.id not in known:
            sync_file(in_flight(folder / name))  # whoever wrote it may have been killed before
            sync_folder(folder)
            _name_files(folder, point)
            _let_exist(folder, point)
            known.add(point.id)
            finished.append(point)
    return finished


def in_flight(path: Path) -> Path:
    """Where a file lies until it takes its name."""
    return path.with_name(path.name + PARTIAL)


def _name_files(folder: Path, point: RecoveryPoint) -> None:
    """Give all files but the manifest their names, where they have not got them yet."""
    _, *others = point_files(folder, point)
    for path in others:
        if os.path.lexists(in_flight(path)):
            check_lock(path)  # or else it is another's point of the same number, half written
            os.rename(in_flight(path), path)
    sync_folder(folder)  # whole files that no manifest names, before one does


def _let_exist(folder: Path, point: RecoveryPoint) -> None:
    """Give the manifest its name."""
    check_lock(folder)
    manifest = manifest_path(folder, point)
    os.rename(in_flight(manifest), manifest)
    sync_folder(folder)


def _whole(folder: Path, manifest: str) -> RecoveryPoint | None:
    """The point of a manifest in flight, if all files are there that it speaks of; else None.

    Names and contents are external text: no link is followed, and nothing is taken for a point's
    that does not say itself that it is.
    """
    try:
        point = understood(folder, manifest, read_own(in_flight(folder / manifest)))
        if point.sequence == naming.number_of_manifest(manifest) and _fit(folder, point):
            return point
    except NewerLayout:
        raise
    except (VdbackupError, FileNotFoundError):
        pass  # not all of it had reached the storage, or somebody else has put it there
    return None


def _fit(folder: Path, point: RecoveryPoint) -> bool:
    """Whether layer and digests are what the manifest says, and the overlay is the layer's child.

    An overlay may be missing, for it can be made anew. Raises VdbackupError or FileNotFoundError
    where one of the others is not there, or is something else.
    """
    # late: numpy comes with both, and whoever only lists points opens no file of theirs
    from vdbackup.disks.formats import open_disk
    from vdbackup.repository.digest_file import DigestFile

    name, overlay_name = naming.layer_of(point.disk), naming.overlay_of(point.overlay)
    if name is None or overlay_name is None:
        return False
    layer = _where(folder / point.disk)
    with closing(open_disk(layer, name.format)) as disk:
        info = disk.info
    noted = (point.id, point.virtual_size, point.disk_size)
    if (info.disk_id or "", info.virtual_size, layer.stat().st_size) != noted:
        return False
    DigestFile(_where(folder / point.digests), point.virtual_size).close()
    with suppress(FileNotFoundError):
        overlay = _where(folder / point.overlay)
        with closing(open_disk(overlay, overlay_name.format)) as disk:
            return disk.info.parent is not None and disk.info.parent.means(info)
    return True


def _where(path: Path) -> Path:
    """The file, in place or in flight.

    Raises FileNotFoundError where it is in neither, RepositoryError where something else bears one
    of the names, or there are two: which of them is meant, nobody knows.
    """
    found = []
    for each in (path, in_flight(path)):
        with suppress(FileNotFoundError):
            check_regular(each)
            found.append(each)
    if len(found) > 1:
        raise LiesTwice(tr("{path} lies there twice, in place and in flight.", path=path))
    if not found:
        raise FileNotFoundError(path)
    return found[0]
