"""The steps of a merge: what each does, by what it knows that it is done, what comes before it.

Whoever merges, or finishes a merge that was cut off, goes through the same table from its top
(`go_on`): a step that says it is done is passed over, any other is done, or done again. Each may be
cut off at any change, and is durable when it returns, before the next begins. The journal
(repository/journal.py) is in phase "copy" until both files of the result are whole, then in phase
"relink", and holds the result.

    step        what it does                      is done when               durable before it
    ---------   -------------------------------   ------------------------   -----------------------
    copy        the child's blocks go into the    the journal holds the      the journal, in phase
                parent's file, and are read       result: only reading it    "copy": nothing offers
                back from there                   all would tell otherwise   the parent any more
    join        the digests of both become one    such digests cover what    the blocks of both, in
                file, in flight; the journal      the result holds           the parent's file or in
                says so, in phase "relink"                                   a new one in flight
    publish     what lies in flight takes its     nothing lies in flight,    both files and their
                name: a new file the parent's,    and the result's digests   names; the journal, in
                the digests the result's          are in place               phase "relink"
    take over   the parent's file takes the       the file of the result's   the digests, for the
                child's identity and the          name hangs where the       result is offered from
                result's name                     parent hung                now on
    relink      what hung on the child hangs on   each names the result,     the result's name
                the result: its children, its     and is sealed; a VHD or
                overlay                           VHDX is linked again
    manifest    the result's is written           it says so                 the links
    delete      what only parent and child        none of it is there        the manifest
                needed goes, then the journal

Where the storage shares extents, the new file is ready and checked before the journal is written,
which begins in phase "relink" (merge.py): copy and join are done by then.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from vdbackup.backup.merged_layer import WRITABLE_MODE, check_held, copy_into_parent
from vdbackup.backup.merged_point import merge_digests, merged_point
from vdbackup.disks.disk import DiskInfo, ParentRef
from vdbackup.disks.extents import total
from vdbackup.disks.formats import open_disk
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import Cancelled, Damaged, DiskError, PointNotFound, RepositoryError
from vdbackup.jobs import Task
from vdbackup.repository.backup_set import BackupSet, point_files
from vdbackup.repository.digests import DigestFold
from vdbackup.repository.draft import make_overlay, seal
from vdbackup.repository.files import made_beside, read_json, remove, sync_file, sync_folder
from vdbackup.repository.journal import Journal
from vdbackup.repository.lock import check_lock
from vdbackup.repository.manifests import manifest_path
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.publication import in_flight
from vdbackup.repository.repository import LAYER_MODE, Repository
from vdbackup.translation import tr


class Merging:
    """A merge on its way: what its steps look at and change.

    Attributes:
        backup_set: as it was read when the merge began, or was gone on with.
        journal: how far it has come.
        task: what it reports to, and what stops it.
    """

    def __init__(
        self, repository: Repository, backup_set: BackupSet, journal: Journal, task: Task
    ) -> None:
        self.repository, self.backup_set = repository, backup_set
        self.journal, self.task = journal, task

    @property
    def folder(self) -> Path:
        """The set's."""
        return self.backup_set.folder

    @property
    def format(self) -> DiskFormat:
        """The set's."""
        return self.backup_set.settings.format

    @property
    def parent(self) -> RecoveryPoint:
        """Whose file takes the child's blocks, and whose moment goes."""
        return self.journal.parent

    @property
    def child(self) -> RecoveryPoint:
        """Whose moment stays, and whose file goes."""
        return self.journal.child

    @property
    def result(self) -> RecoveryPoint:
        """What stands for both; before its digests are joined it lacks what its files hold."""
        return self.journal.result or merged_point(self.parent, self.child)

    @property
    def new_layer(self) -> Path:
        """The file in flight that is made where extents are shared."""
        return in_flight(self.folder / self.result.disk)


@dataclass(frozen=True)
class Step:
    """One row of the table.

    Attributes:
        name: as it is there.
        run: does it; may be done again after it was cut off anywhere.
        is_done: whether that is needless.
    """

    name: str
    run: Callable[[Merging], None]
    is_done: Callable[[Merging], bool]


def go_on(merging: Merging) -> RecoveryPoint:
    """Every step that is not done yet; the result. The caller holds lock and claims."""
    for step in STEPS:
        if not step.is_done(merging):
            step.run(merging)
    merging.journal.clear(merging.folder)
    return merging.result


def check_before_going_on(merging: Merging) -> None:
    """To be called before a merge is gone on with that was cut off.

    A process that was killed may have left what is seen, and no fsync has covered: what says that
    it is done has to be durable, as if its step had just returned. And what was durable may have
    been lost since, and the child goes after this: a file in flight looks as if it could be thrown
    away.

    Raises Damaged where the parent's file, or the new one, does not hold the child's blocks.
    """
    backup_set = merging.backup_set
    layers = [merging.result, *backup_set.children(merging.child.id)]
    paths = [backup_set.overlay_path(merging.result), *map(backup_set.disk_path, layers)]
    for path in filter(Path.exists, paths):
        sync_file(path)
    sync_folder(merging.folder)
    if not _is_copied(merging) or _is_taken_over(merging):
        return
    new, old = merging.new_layer, backup_set.disk_path(merging.parent)
    path = new if os.path.lexists(new) else old
    if not os.path.lexists(path):
        raise _missing(merging)
    check_held(backup_set, path.name, merging.child, tr("Check"), merging.task)


# -------------------------------------------------------------------------------------------- copy


def _copy(merging: Merging) -> None:
    try:
        copy_into_parent(merging.backup_set, merging.parent, merging.child, merging.task)
    except Cancelled:
        raise Cancelled(left=tr("What was begun is finished by the next operation.")) from None


def _is_copied(merging: Merging) -> bool:
    return merging.journal.result is not None


# -------------------------------------------------------------------------------------------- join


def join(merging: Merging) -> None:
    """Join the digests, and know the result by that; the journal is not saved."""
    folder, result = merging.folder, merging.result
    new = os.path.lexists(merging.new_layer)
    layer = merging.new_layer if new else merging.backup_set.disk_path(merging.parent)
    digests = in_flight(folder / result.digests)
    held = merge_digests(folder, merging.parent, merging.child, digests)
    sync_folder(folder)  # its name, and that of a new layer, before a journal relies on them
    if merging.journal.result is None:
        result = replace(result, disk_size=layer.stat().st_size, stored_bytes=held)
        merging.journal = replace(merging.journal, result=result)


def _join(merging: Merging) -> None:
    join(merging)
    merging.journal.save(merging.folder)


def _is_joined(merging: Merging) -> bool:
    digests = merging.folder / merging.result.digests
    made = in_flight(digests)
    if merging.journal.result is None:
        return False
    if _is_taken_over(merging):
        return True  # what has happened to them since is no matter of the merge's
    return _cover(made if os.path.lexists(made) else digests, merging.result)


def _cover(digests: Path, result: RecoveryPoint) -> bool:
    """Whether these are digests of as much as the result holds: the child's alone, of less."""
    try:
        with DigestFold([digests], result.virtual_size) as fold:
            return total(fold.held()) == result.stored_bytes
    except (DiskError, RepositoryError):
        return False


# ----------------------------------------------------------------------------------------- publish


def _publish(merging: Merging) -> None:
    """A layer made from clones takes the parent's name: what reads through that reads the same.

    Where the child's digests bear the name of the result's, the child reads by those too: it holds
    less than the result, but through its parent it is the same disk.
    """
    folder, result = merging.folder, merging.result
    check_lock(folder)
    digests = folder / result.digests
    for made, path in (
        (merging.new_layer, folder / merging.parent.disk),
        (in_flight(digests), digests),
    ):
        if os.path.lexists(made):
            os.rename(made, path)
    sync_folder(folder)


def _is_published(merging: Merging) -> bool:
    made = (merging.new_layer, in_flight(merging.folder / merging.result.digests))
    return not any(map(os.path.lexists, made))


# --------------------------------------------------------------------------------------- take over


def _take_over(merging: Merging) -> None:
    """Where the child bears the result's name already, the rename replaces it."""
    backup_set, result = merging.backup_set, merging.result
    path = backup_set.disk_path(merging.parent)
    if not os.path.lexists(path):
        raise _missing(merging)
    check_lock(path)
    identity = _info(backup_set.disk_path(merging.child), merging.format)
    path.chmod(WRITABLE_MODE)
    with closing(open_disk(path, merging.format, writable=True)) as layer:
        layer.adopt(identity.disk_id or "", identity.content_id, result.disk)
    seal(path, result)
    os.rename(path, backup_set.disk_path(result))
    sync_folder(backup_set.folder)


def _is_taken_over(merging: Merging) -> bool:
    """By what the file says itself: the child's, which may have that name, hangs on the parent."""
    result, backup_set = merging.result, merging.backup_set
    try:
        info = _info(backup_set.disk_path(result), merging.format)
    except (DiskError, FileNotFoundError):
        return False
    if (info.disk_id or "") != result.id:
        return False
    if not os.path.lexists(merging.folder / merging.parent.disk):
        return _named(info.parent) != merging.parent.disk
    # a copy of the parent's that somebody has put back must not take the result's place
    try:
        above = backup_set.point(result.parent).disk if result.parent else None
    except PointNotFound:
        return False
    return _named(info.parent) == above


def _named(parent: ParentRef | None) -> str | None:
    """The file that a link names; None of none."""
    return re.split(r"[/\\]", parent.relative_path)[-1] if parent else None


def _missing(merging: Merging) -> Damaged:
    return Damaged(
        tr(
            "{disk} is missing from {folder}: point {child} was being merged into it.",
            disk=merging.parent.disk,
            folder=merging.folder,
            child=merging.child.sequence,
        ),
        tr("Put the file back from a copy."),
    )


# ------------------------------------------------------------------------------------------ relink


def _relink(merging: Merging) -> None:
    backup_set, result = merging.backup_set, merging.result
    check_lock(backup_set.folder)
    reference = _reference(merging)
    for point in backup_set.children(merging.child.id):
        path = backup_set.disk_path(point)
        path.chmod(WRITABLE_MODE)
        _relink_file(path, merging.format, reference)
        seal(path, point)
    overlay = backup_set.overlay_path(result)
    if overlay.exists():
        _relink_file(overlay, merging.format, reference)
    else:  # somebody has thrown it away
        with made_beside(overlay) as partial:
            make_overlay(partial, merging.format, result, reference)


def _relink_file(path: Path, disk_format: DiskFormat, parent: ParentRef) -> None:
    with closing(open_disk(path, disk_format, writable=True)) as disk:
        if disk.info.parent != parent:
            disk.relink(parent)


def _is_relinked(merging: Merging) -> bool:
    """Never in a VHD or VHDX, whose links lie there twice: both are written, one may be older."""
    backup_set = merging.backup_set
    overlay = backup_set.overlay_path(merging.result)
    layers = [backup_set.disk_path(each) for each in backup_set.children(merging.child.id)]
    if not overlay.exists() or not all(map(_is_sealed, layers)):
        return False
    reference = _reference(merging)
    return all(_info(path, merging.format).parent == reference for path in (overlay, *layers))


def _reference(merging: Merging) -> ParentRef:
    """How the result's children name it; a VHD or VHDX does not say all of that."""
    result = merging.result
    info = _info(merging.backup_set.disk_path(result), merging.format)
    return ParentRef(info.disk_id, info.content_id, result.disk)


def _is_sealed(layer: Path) -> bool:
    return layer.stat().st_mode & 0o777 == LAYER_MODE


# -------------------------------------------------------------------------------- manifest, delete


def _write_manifest(merging: Merging) -> None:
    merging.repository.save_point(merging.backup_set.name, merging.result)


def _manifest_says_so(merging: Merging) -> bool:
    try:
        record = read_json(manifest_path(merging.folder, merging.result))
        return RecoveryPoint.from_json(record) == merging.result
    except (RepositoryError, FileNotFoundError):
        return False


def _delete(merging: Merging) -> None:
    for path in _redundant(merging):
        remove(path)
    sync_folder(merging.folder)


def _is_deleted(merging: Merging) -> bool:
    return not any(map(os.path.lexists, _redundant(merging)))


def _redundant(merging: Merging) -> list[Path]:
    """The child's layer, the parent's overlay, and what described them.

    The pictures of their boot tests go, too: the result has not been tested.
    """
    folder, result = merging.folder, merging.result
    kept = set(point_files(folder, result)) - {folder / result.picture}
    both = (*point_files(folder, merging.parent), *point_files(folder, merging.child))
    return [path for path in both if path not in kept]


def _info(path: Path, disk_format: DiskFormat) -> DiskInfo:
    with closing(open_disk(path, disk_format)) as disk:
        return disk.info


STEPS = (
    Step("copy", _copy, _is_copied),
    Step("join", _join, _is_joined),
    Step("publish", _publish, _is_published),
    Step("take over", _take_over, _is_taken_over),
    Step("relink", _relink, _is_relinked),
    Step("manifest", _write_manifest, _manifest_says_so),
    Step("delete", _delete, _is_deleted),
)
