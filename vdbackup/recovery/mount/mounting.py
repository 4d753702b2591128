"""Mount a point as a folder, and unmount it: who may, where, and what of the point is shown."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vdbackup.disks.holders import holders, named
from vdbackup.errors import Damaged, NotMounted, ProgramMissing, UnfitTarget
from vdbackup.jobs import readable_size
from vdbackup.processes import start_of
from vdbackup.recovery.browse import FileBrowser
from vdbackup.recovery.mount import fuse
from vdbackup.recovery.mount.disk_tree import NAME, DiskTree
from vdbackup.recovery.mount.table import DEVICE, shown_at
from vdbackup.recovery.mount.tree import Tree
from vdbackup.repository import checked
from vdbackup.repository.checked import CheckedDisk
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr
from vdbackup.volumes.keys import Keys
from vdbackup.volumes.volumes import Volumes

_HELPER = "fusermount3"
_ENDS_BY_ITSELF = 2.0
"""Seconds that the process behind a folder has to see that it is unmounted."""
_ENDS_WITHIN = 10.0
"""Seconds that it has to end, and to let go of the point."""
_LOOK = 0.05


@dataclass(frozen=True)
class Mounted:
    """A point that is a folder.

    Attributes:
        where: the folder.
        point: its number.
        volumes: what it shows, and what of it cannot be read, a sentence each.
        warnings: why what it shows may not be the newest.
    """

    where: Path
    point: int
    volumes: tuple[str, ...]
    warnings: tuple[str, ...]


def check(where: Path) -> Path:
    """The folder with its whole path; raises where nothing can be mounted on it.

    Raises:
        UnfitTarget: it is no empty folder. ProgramMissing: the system cannot mount so.
    """
    where = _absolute(where)
    if not DEVICE.exists():
        raise ProgramMissing(
            tr("Folders cannot be mounted: this system has no /dev/fuse."),
            tr("Load the kernel's module: modprobe fuse."),
        )
    if shutil.which(_HELPER) is None:
        raise ProgramMissing(
            tr("Folders cannot be mounted: {helper} is missing.", helper=_HELPER),
            tr("Install the package fuse3."),
        )
    clear(where)
    if shown_at(where) is not None:
        raise UnfitTarget(
            tr("{where} shows a point already.", where=where),
            tr("Unmount it first, or choose another folder."),
        )
    if not where.is_dir():
        what = tr("is no folder") if os.path.lexists(where) else tr("does not exist")
        raise UnfitTarget(
            f"{where} {what}.", tr("Name an empty folder; make one, if there is none.")
        )
    if any(where.iterdir()):
        raise UnfitTarget(
            tr("{where} is not empty.", where=where),
            tr("Choose an empty folder: what is in it would be hidden."),
        )
    return where


def mount(
    repository: Repository,
    set_name: str,
    point_id: str,
    where: Path,
    mounted: Callable[[Mounted], None],
    keys: Keys | None = None,
) -> None:
    """Show a point as a folder, in this thread, until that is unmounted or a signal ends it.

    The point is claimed meanwhile. Where the process is killed the kernel lets go of the claim, and
    the helper of libfuse unmounts; in one of four cases it looks before the kernel has closed the
    connection, and leaves a dead folder (fuse3 3.14), which the next mount, or `unmount`, clears.

    Args:
        repository: where the point is.
        set_name: its set.
        point_id: the point.
        where: an empty folder.
        mounted: called as soon as the folder shows the files.
        keys: of what is encrypted (`Volumes.unlock`); none leaves it so.

    Raises:
        UnfitTarget, ProgramMissing: as `check`. NotMounted: the system refused.
        PointInUse, PointNotFound, DiskError: the point cannot be read now.
        RecoveryError: its partition table is damaged, or the keys are none of it.
    """

    def files(disk: CheckedDisk) -> _Shown:
        volumes = Volumes(disk)
        if keys:
            volumes.unlock(keys)
        browser = FileBrowser(disk, volumes)
        lines = tuple(
            f"{each.name or 'The disk'}: {each.problem or each.filesystem}"
            for each in browser.volumes()
        )
        return _Shown(Tree(volumes), lines, browser.warnings(["/"]))

    _mount(repository, set_name, point_id, where, mounted, files)


def mount_disk(
    repository: Repository,
    set_name: str,
    point_id: str,
    where: Path,
    mounted: Callable[[Mounted], None],
) -> None:
    """The same with the point's whole disk as the only file in the folder; raises as `mount`."""

    def file(disk: CheckedDisk) -> _Shown:
        line = f"{NAME}: {readable_size(disk.size)}"
        return _Shown(DiskTree(disk), (line,), ())

    _mount(repository, set_name, point_id, where, mounted, file)


@dataclass(frozen=True, eq=False)
class _Shown:
    """What a folder is to show, and what is said of it."""

    tree: Tree | DiskTree
    lines: tuple[str, ...]
    warnings: tuple[str, ...]


def _mount(
    repository: Repository,
    set_name: str,
    point_id: str,
    where: Path,
    mounted: Callable[[Mounted], None],
    shown: Callable[[CheckedDisk], _Shown],
) -> None:
    where = check(where)
    repository = Repository.open(repository.path.absolute())  # libfuse changes the folder we are in
    number = repository.set(set_name).point(point_id).sequence
    doing = tr("showing point {number} as the folder {where}", number=number, where=where)
    with checked.open_point(repository, set_name, point_id, doing) as disk:
        try:
            what = shown(disk)
        except Damaged as error:  # what it offers to pass over damage is not offered here
            raise NotMounted(
                tr("{where} was not mounted: {error}", where=where, error=error.title), error.advice
            ) from error
        found = Mounted(where, number, what.lines, what.warnings)
        # the process behind it stands in its name, for whoever unmounts it
        name = f"{set_name}#{number}@{os.getpid()}"
        fuse.serve(what.tree, where, name, disk.size, lambda: mounted(found))


def unmount(where: Path) -> None:
    """Let a folder show no point any more; returns when the process behind it has ended.

    Raises:
        NotMounted: no point is mounted there. UnfitTarget: somebody uses the folder.
    """
    where = _absolute(where)
    found = shown_at(where)
    if found is None:
        raise NotMounted(
            tr("No recovery point is mounted at {where}.", where=where), tr("Check the path.")
        )
    if clear(where):
        return
    ended = subprocess.run(
        [_HELPER, "-u", "--", str(where)],
        capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}, check=False,
    )  # fmt: skip
    if ended.returncode and shown_at(where) is not None:
        who = named(holders([where]))
        because = tr("{who} has something in it open", who=who) if who else ended.stderr.strip()
        raise UnfitTarget(
            tr("{where} was not unmounted: {because}.", where=where, because=because),
            tr("Close what uses the folder, then try again."),
        )
    if not _has_ended(found.process, _ENDS_BY_ITSELF):
        # A mount namespace that was made meanwhile (of a service, a container) has a copy of the
        # mount, for which the kernel keeps the connection: a signal ends its process all the same.
        with suppress(ProcessLookupError):
            os.kill(found.process, signal.SIGTERM)
        _has_ended(found.process, _ENDS_WITHIN)


def _has_ended(process: int, within: float) -> bool:
    """Whether a process has ended, or does so within as many seconds."""
    until = time.monotonic() + within
    while start_of(process) is not None:
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK)
    return True


def detach(where: Path) -> None:
    """Unmount a folder as soon as nobody uses it any more; whoever does goes on."""
    subprocess.run(
        [_HELPER, "-u", "-z", "--", str(_absolute(where))], capture_output=True, check=False
    )


def clear(where: Path) -> bool:
    """Let a folder be one again that shows nothing because the process behind it was killed.

    Whoever has something in it open gets no answer any more, and keeps nobody from it. Returns
    whether there was any such.
    """
    where = _absolute(where)
    found = shown_at(where)
    if found is None or not found.is_dead:
        return False
    detach(where)
    return True


def is_mounted(where: Path) -> bool:
    """Whether a folder shows a point: one whose process was killed does not."""
    found = shown_at(_absolute(where))
    return found is not None and not found.is_dead


def _absolute(where: Path) -> Path:
    """As the kernel names it; where the process behind it is gone, too (realpath asks no more)."""
    return Path(os.path.realpath(where))
