"""Put files of a point back to where they came from, on a system that runs from there.

They are copied, as any extraction copies them (extract.py), into a folder of ours beside the place
where they belong, made durable, and then take their names one by one: each file is there as it was
or as it is in the point, and never half. Where nothing was when it was planned nothing is replaced,
and what was there only if it was asked for. Folders that are there stay as they are, with all that
lies in them and not in the point. No link is followed, and nothing is put into another file system
that is mounted on the way.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets as random
import shutil
import stat as posix
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from vdbackup.agent import writeback
from vdbackup.durable import PARTIAL
from vdbackup.errors import Cancelled, NotInPoint, UnfitTarget
from vdbackup.jobs import Plan, Task, readable_size
from vdbackup.recovery import homes
from vdbackup.recovery.browse import FileBrowser
from vdbackup.recovery.extract import extract
from vdbackup.recovery.file_sets.outlook import Named, names_in
from vdbackup.recovery.file_sets.seen import Seen
from vdbackup.recovery.homes import Home
from vdbackup.recovery.tree_walk import Item, Walk
from vdbackup.repository import checked
from vdbackup.repository.repository import Repository
from vdbackup.sources.file_sets.places import Places, joined
from vdbackup.translation import grouped, tr, trn
from vdbackup.volumes.filesystems.node import Kind, Node, Stat

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OURS = re.compile(rf"\.vdbackup-[0-9a-f]{{16}}{re.escape(PARTIAL)}")


@dataclass(frozen=True)
class PutBackRequest:
    """What is to be put back.

    Attributes:
        repository, set_name, point_id: the point.
        paths: in it, as FileBrowser lists them.
        overwrite: replace what is there and differs; else it stays, and is named.
        ignore_damage: put back what is damaged, too, as it is.
        secrets: keys of what is encrypted (FileBrowser.unlock).
    """

    repository: Repository
    set_name: str
    point_id: str
    paths: tuple[str, ...]
    overwrite: bool = False
    ignore_damage: bool = False
    secrets: tuple[bytes, ...] = ()


@dataclass
class _Outlook:
    """What would be done; paths are those of this computer."""

    files: int = 0
    content: int = 0
    same: int = 0
    other: Named = field(default_factory=Named)
    newer: Named = field(default_factory=Named)
    blocked: Named = field(default_factory=Named)
    seen: Seen = field(default_factory=Seen)


@dataclass(frozen=True, kw_only=True)
class PutBackPlan(Plan):
    """What putting files back would do.

    Attributes:
        request: what was asked for.
        places: where each path belongs.
        files: how many files the point has of it, folders left out.
        same: how many of them are there with the size and the time that they have in the point.
        other: how many are there and differ; `newer` of these were changed later.
        seen: all that is there, to be known again.
    """

    request: PutBackRequest
    places: tuple[Home, ...]
    files: int
    same: int
    other: int
    newer: int
    seen: Seen


@dataclass(frozen=True)
class PutBack:
    """What was done.

    Attributes:
        files: how many took their places, folders left out.
        same: how many were there as they are in the point, by size and time.
        warnings: what was left out, and what is not as it was.
    """

    files: int
    same: int
    warnings: tuple[str, ...]


# --------------------------------------------------------------------------------- planning


def plan(request: PutBackRequest, task: Task) -> PutBackPlan:
    """Look what would be done; nothing is written.

    Raises:
        UnfitTarget: a file system is not mounted here, or the folder that something lay in is gone.
        RecoveryError: a path leads to nothing in the point, or cannot be read. Cancelled.
    """
    with _opened(request, tr("looking at the files of")) as (browser, _):
        items = _items(browser, request.paths)
        places = tuple(_home(browser, item) for item in items)
        _check_folders(places)
        found = _Outlook()
        task.phase(tr("Looking what is there"))
        for item, place in zip(items, places, strict=True):
            _look(item, place, found, task)
    found.seen.close()
    return PutBackPlan(
        summary=_summary(request, places, found),
        bytes_to_copy=found.content,
        creates=tuple(str(place.path) for place in places),
        replaces=tuple(found.other.first) if request.overwrite else (),
        request=request,
        places=places,
        files=found.files,
        same=found.same,
        other=found.other.count,
        newer=found.newer.count,
        seen=found.seen,
    )


@contextmanager
def _opened(
    request: PutBackRequest, doing: str
) -> Iterator[tuple[FileBrowser, checked.CheckedDisk]]:
    point = request.repository.set(request.set_name).point(request.point_id)
    what = tr("{doing} point {point}", doing=doing, point=point.sequence)
    with checked.open_point(
        request.repository, request.set_name, point.id, what, ignore_damage=request.ignore_damage
    ) as disk:
        browser = FileBrowser(disk)
        if request.secrets:
            browser.unlock(request.secrets)
        yield browser, disk


def _items(browser: FileBrowser, paths: Sequence[str]) -> list[Item]:
    found, unreadable = browser.items(paths)
    if unreadable or any(not item.path.strip("/") for item in found):
        raise NotInPoint(
            unreadable[0] if unreadable else tr("That is a whole file system."),
            tr("Name the folders in it that are to be put back."),
        )
    return found


def _home(browser: FileBrowser, item: Item) -> Home:
    inner = item.path.removeprefix(f"/{item.volume}") if item.volume else item.path
    if not inner.strip("/"):
        raise NotInPoint(
            tr("{path} is a whole file system.", path=item.path),
            tr("Name the folders in it that are to be put back."),
        )
    return homes.home(browser.identity(item.volume), inner)


def _check_folders(places: Sequence[Home]) -> None:
    """Find out whether what something is put back into is there, and is no way out."""
    mounted = homes.mount_points()
    for place in places:
        with Places(os.fsencode(place.mount)) as ways:
            try:
                ways.to(place.inner.rpartition(b"/")[0] or b"/")
            except OSError as error:
                raise UnfitTarget(
                    tr("The folder that {path} lay in is not there any more.", path=place.path),
                    tr("Put that folder back as a whole, or extract into another one."),
                ) from error
        above = os.fsencode(place.path)
        while above != os.fsencode(place.mount):
            if above in mounted:
                raise UnfitTarget(
                    tr("Another file system is mounted where {path} lay.", path=place.path),
                    tr("Unmount it, or extract into a folder."),
                )
            above = above.rpartition(b"/")[0] or b"/"


class _Looking:
    """Compares what a walk shows with what is there, by what `ls` says of both."""

    def __init__(self, item: Item, place: Home, ways: Places, found: _Outlook) -> None:
        self._strip, self._inner = item.path, place.inner
        self._mount, self._ways, self._found = os.fsencode(place.mount), ways, found

    def enter(self, path: str, name: str, stat: Stat) -> bool:
        there = self._there(path)
        if there is not None and not posix.S_ISDIR(there.st_mode):
            self._found.blocked.note(self._own(path))
            return False
        return True

    def leave(self, path: str, node: Node, stat: Stat) -> None:
        pass

    def leaf(self, path: str, name: str, node: Node, stat: Stat) -> None:
        found = self._found
        found.files += 1
        found.content += stat.size if stat.kind == Kind.FILE else 0
        there, own = self._there(path), self._own(path)
        if there is None:
            return
        if posix.S_ISDIR(there.st_mode):
            found.blocked.note(own)
            return
        found.seen.note(own, there)
        if looks_same(stat, there):
            found.same += 1
            return
        found.other.note(own)
        if stat.modified is not None and there.st_mtime_ns > stat.modified:
            found.newer.note(own)

    def warn(self, sentence: str) -> None:
        pass  # who copies it says so

    def _relative(self, path: str) -> bytes:
        return self._inner + os.fsencode(path)[len(os.fsencode(self._strip)) :]

    def _own(self, path: str) -> bytes:
        return self._mount.rstrip(b"/") + self._relative(path)

    def _there(self, path: str) -> os.stat_result | None:
        above, _, name = self._relative(path).rpartition(b"/")
        try:
            return self._ways.to(above or b"/").look(name)
        except OSError:
            return None


def _look(item: Item, place: Home, found: _Outlook, task: Task) -> None:
    with Places(os.fsencode(place.mount)) as ways:
        Walk(_Looking(item, place, ways, found), task.cancel).run(item)


def looks_same(stat: Stat, there: os.stat_result) -> bool:
    """Whether a file that is there has kind, size and time of what is in the point."""
    kinds = {Kind.FILE: posix.S_ISREG, Kind.LINK: posix.S_ISLNK}
    is_kind = kinds.get(stat.kind)
    return (
        is_kind is not None
        and is_kind(there.st_mode)
        and stat.size == there.st_size
        and stat.modified == there.st_mtime_ns
    )


def _summary(request: PutBackRequest, places: Sequence[Home], found: _Outlook) -> str:
    said = [
        tr(
            "{files} of the point, {size}, go back to where they came from: {places}. Nothing is "
            "deleted.",
            files=trn("{count} file", "{count} files", found.files),
            size=readable_size(found.content),
            places=", ".join(str(place.path) for place in places),
        )
    ]
    if found.same:
        said.append(
            tr(
                "{same} of them are there with the same size and time, and stay.",
                same=grouped(found.same),
            )
        )
    if found.other.count:
        count, newer = grouped(found.other.count), grouped(found.newer.count)
        sentence = (
            tr(
                "{count} that are there differ, and are replaced; {newer} of these were changed "
                "later than what is in the point.",
                count=count,
                newer=newer,
            )
            if request.overwrite
            else tr(
                "{count} that are there differ, and stay as they are; {newer} of these were "
                "changed later than what is in the point.",
                count=count,
                newer=newer,
            )
        )
        said.append(sentence)
    if found.blocked.count:
        what = tr("These stay, as a folder stands where a file was, or the other way round")
        said.append(f"{what}: {names_in(found.blocked)}.")
    return " ".join(said)


# ------------------------------------------------------------------------------------ doing


def run(plan: PutBackPlan, task: Task) -> PutBack:
    """Do what was planned.

    Raises what `plan` does, and OSError; Cancelled: what took its place until then stays.
    """
    with _opened(plan.request, tr("putting back files of")) as (browser, disk):
        items = _items(browser, plan.request.paths)
        places = tuple(_home(browser, item) for item in items)
        if places != plan.places:
            raise UnfitTarget(
                tr("Other file systems are mounted now than when this was planned."),
                tr("Look at the plan again."),
            )
        _check_folders(places)
        moving = _Moving(plan, task)
        warnings: list[str] = []
        try:
            for item, place in zip(items, places, strict=True):
                warnings += _put(item, place, moving, task)
        except Cancelled:
            raise Cancelled(
                left=tr(
                    "{count} had been put back until then.",
                    count=trn("{count} file", "{count} files", moving.files),
                )
            ) from None
        warnings = [*browser.warnings(plan.request.paths), *warnings]
    return PutBack(moving.files, moving.same, (*warnings, *moving.sentences, *disk.damage))


def _put(item: Item, place: Home, moving: _Moving, task: Task) -> tuple[str, ...]:
    """One item; sentences that say what of it was not copied as it was."""
    above, _, name = place.inner.rpartition(b"/")
    with Places(os.fsencode(place.mount)) as ways:
        parent = os.open(b".", _FOLDER, dir_fd=ways.to(above or b"/").fd)
    try:
        with _folder_beside(parent) as beside:
            own = Item(item.path, os.fsdecode(name), item.node, item.volume)
            warnings = extract([own], Path(f"/proc/self/fd/{beside}"), task)
            # before anything is replaced: a name that means half a file after a power cut is worse
            # than the file that was there
            writeback.sync_file_system(beside)
            moving.move(beside, parent, os.fsencode(place.path))
        os.fsync(parent)
    finally:
        os.close(parent)
    return warnings


@contextmanager
def _folder_beside(parent: int) -> Iterator[int]:
    """A folder of ours in an open one, gone afterwards; those that a kill has left go, too."""
    for left in filter(_OURS.fullmatch, os.listdir(parent)):
        _sweep(left, parent)
    name = f".vdbackup-{random.token_hex(8)}{PARTIAL}"
    os.mkdir(name, 0o700, dir_fd=parent)
    fd = os.open(name, _FOLDER, dir_fd=parent)
    try:
        with suppress(OSError):  # says that it is not left behind; not all storage can
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield fd
    finally:
        shutil.rmtree(name, dir_fd=parent, ignore_errors=True)
        os.close(fd)


def _sweep(name: str, parent: int) -> None:
    """Remove what was left there, unless somebody is at work in it."""
    with suppress(OSError):
        fd = os.open(name, _FOLDER, dir_fd=parent)
        try:
            if os.fstat(fd).st_uid == os.geteuid():
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(name, dir_fd=parent)
        finally:
            os.close(fd)


class _Moving:
    """Gives files that lie ready their names.

    Attributes:
        files, same: as of PutBack.
    """

    def __init__(self, plan: PutBackPlan, task: Task) -> None:
        self._plan, self._task = plan, task
        self._mounted = homes.mount_points()
        self._stays, self._came, self._blocked = Named(), Named(), Named()
        self.files = self.same = 0

    @property
    def sentences(self) -> list[str]:
        """What was not put back, a sentence for each kind."""
        said = {
            tr("Something is there already under these names, and stays"): self._stays,
            tr("These have come or changed since it was planned, and stay"): self._came,
            tr("These stay, as a folder stands where a file was, or the other way round"): (
                self._blocked
            ),
        }
        return [f"{what}: {names_in(found)}." for what, found in said.items() if found.count]

    def move(self, ready: int, folder: int, path: bytes) -> None:
        """What lies in one open folder goes into another, the one that holds `path`."""
        # Opened anew: Btrfs lists of a folder what was in it when it was opened (Linux 6.5 and on).
        filled = os.open(b".", _FOLDER, dir_fd=ready)
        todo = [(filled, os.dup(folder), path.rpartition(b"/")[0] or b"/")]
        try:
            while todo:
                source, target, above = todo.pop()
                try:
                    for name in sorted(map(os.fsencode, os.listdir(source))):
                        self._task.check()
                        own = joined(above, name)
                        if inner := self._one(source, target, name, own):
                            todo.append((*inner, own))
                finally:
                    os.close(source)
                    os.close(target)
        finally:
            for source, target, _ in todo:
                os.close(source)
                os.close(target)

    def _one(self, source: int, target: int, name: bytes, own: bytes) -> tuple[int, int] | None:
        """One name; of a folder that is there already both, to go on in."""
        made = os.stat(name, dir_fd=source, follow_symlinks=False)
        try:
            there = os.stat(name, dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            self._take(source, target, name, own, made)
            return None
        if posix.S_ISDIR(made.st_mode) != posix.S_ISDIR(there.st_mode) or own in self._mounted:
            self._blocked.note(own)
        elif posix.S_ISDIR(made.st_mode):
            inner = os.open(name, _FOLDER, dir_fd=source)
            try:
                return inner, os.open(name, _FOLDER, dir_fd=target)
            except OSError:
                os.close(inner)
                raise
        else:
            self._replace(source, target, name, own, (made, there))
        return None

    def _take(
        self, source: int, target: int, name: bytes, own: bytes, made: os.stat_result
    ) -> None:
        """Put it where nothing is; what has come there meanwhile stays."""
        if posix.S_ISDIR(made.st_mode):
            files = _files_in(name, source)
            try:
                os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise
                self._came.note(own)
                return
            self.files += files
            return
        try:
            os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        except FileExistsError:
            self._came.note(own)
            return
        except OSError:  # FAT knows no second name
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
        self.files += 1

    def _replace(
        self,
        source: int,
        target: int,
        name: bytes,
        own: bytes,
        both: tuple[os.stat_result, os.stat_result],
    ) -> None:
        made, there = both
        alike = posix.S_IFMT(made.st_mode) == posix.S_IFMT(there.st_mode) and (
            made.st_size,
            made.st_mtime_ns,
        ) == (there.st_size, there.st_mtime_ns)
        if alike:
            self.same += 1
        elif not self._plan.seen.knows(own, there):
            self._came.note(own)
        elif not self._plan.request.overwrite:
            self._stays.note(own)
        else:
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
            self.files += 1


def _files_in(name: bytes, folder: int) -> int:
    """How many files lie in a folder of ours and those in it."""
    return sum(len(files) for _, _, files, _ in os.fwalk(name, dir_fd=folder))
