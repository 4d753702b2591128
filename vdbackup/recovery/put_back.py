"""Put files of a point back to where they came from, on a system that runs from there.

They are copied, as any extraction copies them (extract.py), into a folder of ours beside the place
where they belong, made durable, and then take their names one by one: each file is there as it was
or as it is in the point, and never half. Where nothing was when it was planned nothing is replaced,
and what was there only if it was asked for. Folders that are there stay as they are, with all that
lies in them and not in the point. No link is followed, and nothing is put into another file system
that is mounted on the way.
"""

from __future__ import annotations

import os
import stat as posix
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vdbackup.agent import writeback
from vdbackup.errors import Cancelled, NotInPoint, UnfitTarget
from vdbackup.jobs import Plan, Task, readable_size
from vdbackup.recovery import homes
from vdbackup.recovery.beside import FOLDER, folder_beside
from vdbackup.recovery.browse import FileBrowser
from vdbackup.recovery.extract import extract
from vdbackup.recovery.file_sets.outlook import Named, names_in, of_differing
from vdbackup.recovery.file_sets.seen import Seen
from vdbackup.recovery.homes import Home
from vdbackup.recovery.rights import RightsLater
from vdbackup.recovery.taking_places import TakingPlaces, looks_same
from vdbackup.recovery.tree_walk import Item, Walk
from vdbackup.repository import checked
from vdbackup.repository.repository import Repository
from vdbackup.sources.file_sets.places import Places
from vdbackup.translation import grouped, tr, trn
from vdbackup.volumes.filesystems.node import Kind, Node, Stat
from vdbackup.volumes.keys import Keys


@dataclass(frozen=True)
class PutBackRequest:
    """What is to be put back.

    Attributes:
        repository, set_name, point_id: the point.
        paths: in it, as FileBrowser lists them.
        overwrite: replace what is there and differs; else it stays, and is named.
        ignore_damage: put back what is damaged, too, as it is.
        keys: of what is encrypted (FileBrowser.unlock).
    """

    repository: Repository
    set_name: str
    point_id: str
    paths: tuple[str, ...]
    overwrite: bool = False
    ignore_damage: bool = False
    keys: Keys = field(default_factory=Keys)


@dataclass
class _Outlook:
    """What would be done; paths are those of this computer.

    Attributes:
        content: bytes of all files of the point; `missing` of those that are not there, `differing`
            of those that are, and differ.
    """

    files: int = 0
    content: int = 0
    missing: int = 0
    differing: int = 0
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
        bytes_to_copy=found.missing + (found.differing if request.overwrite else 0),
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
        if request.keys:
            browser.unlock(request.keys)
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


class _Way:
    """From what lies at an item of a point to where it belongs."""

    def __init__(self, item: Item, place: Home, ways: Places) -> None:
        self._strip, self._inner = len(os.fsencode(item.path)), place.inner
        self._mount, self._ways = os.fsencode(place.mount), ways

    def own(self, path: str) -> bytes:
        """The path on this computer."""
        return self._mount.rstrip(b"/") + self._relative(path)

    def there(self, path: str) -> tuple[os.stat_result, os.stat_result] | None:
        """What is there now, and the folder that it lies in; None where nothing is."""
        above, _, name = self._relative(path).rpartition(b"/")
        try:
            place = self._ways.to(above or b"/")
            return place.look(name), place.found
        except OSError:
            return None

    def _relative(self, path: str) -> bytes:
        return self._inner + os.fsencode(path)[self._strip :]


class _Looking:
    """Compares what a walk shows with what is there, by what `ls` says of both."""

    def __init__(self, way: _Way, found: _Outlook) -> None:
        self._way, self._found = way, found

    def enter(self, path: str, name: str, stat: Stat) -> bool:
        there = self._way.there(path)
        if there is not None and not posix.S_ISDIR(there[0].st_mode):
            self._found.blocked.note(self._way.own(path))
            return False
        return True

    def leave(self, path: str, node: Node, stat: Stat) -> None:
        pass

    def leaf(self, path: str, name: str, node: Node, stat: Stat) -> None:
        found = self._found
        found.files += 1
        size = stat.size if stat.kind == Kind.FILE else 0
        found.content += size
        looked, own = self._way.there(path), self._way.own(path)
        if looked is None:
            found.missing += size
            return
        there, _ = looked
        if posix.S_ISDIR(there.st_mode):
            found.blocked.note(own)
            return
        found.seen.note(own, there)
        if looks_same(stat, there):
            found.same += 1
            return
        found.differing += size
        found.other.note(own)
        if stat.modified is not None and there.st_mtime_ns > stat.modified:
            found.newer.note(own)

    def warn(self, sentence: str) -> None:
        pass  # who copies it says so


def _look(item: Item, place: Home, found: _Outlook, task: Task) -> None:
    with Places(os.fsencode(place.mount)) as ways:
        Walk(_Looking(_Way(item, place, ways), found), task.cancel).run(item)


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
                "There with the same size and time, and left alone: {same}.",
                same=grouped(found.same),
            )
        )
    if found.other.count:
        said.append(of_differing(found.other, found.newer, overwrite=request.overwrite))
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
        moving = TakingPlaces(plan.seen, task, overwrites=plan.request.overwrite)
        warnings: list[str] = []
        try:
            for item, place in zip(items, places, strict=True):
                warnings += _put(browser, item, place, moving, task)
        except Cancelled:
            raise Cancelled(
                left=tr(
                    "{count} had been put back until then.",
                    count=trn("{count} file", "{count} files", moving.files),
                )
            ) from None
        warnings = [*browser.warnings(plan.request.paths), *warnings]
    return PutBack(moving.files, moving.same, (*warnings, *moving.sentences, *disk.damage))


def _put(
    browser: FileBrowser, item: Item, place: Home, moving: TakingPlaces, task: Task
) -> list[str]:
    """One item, with what of it lies in other subvolumes; sentences on what was not copied so."""
    todo, warnings = [(item, place)], list[str]()
    while todo:
        item, place = todo.pop()
        with Places(os.fsencode(place.mount)) as ways:
            above = place.inner.rpartition(b"/")[0] if item.name else place.inner
            parent = os.open(b".", FOLDER, dir_fd=ways.to(above or b"/").fd)
            try:
                warnings += _put_into(parent, item, place, _Way(item, place, ways), moving, task)
                os.fsync(parent)
            finally:
                os.close(parent)
        todo += [_inner(browser, item, place, own) for own in moving.elsewhere()]
    return warnings


def _put_into(
    parent: int, item: Item, place: Home, way: _Way, moving: TakingPlaces, task: Task
) -> tuple[str, ...]:
    device = os.fstat(parent).st_dev

    def is_wanted(path: str, stat: Stat) -> bool:
        looked = way.there(path)
        if looked is None:
            return True
        there, above = looked
        # what lies in other file systems its folder decides on, which is met later
        return above.st_dev == device and not moving.leaves(way.own(path), stat, there)

    rights = RightsLater(way.own)
    path = os.fsencode(place.path)
    with folder_beside(parent) as beside:
        own = Item(item.path, os.fsdecode(path.rpartition(b"/")[2]) if item.name else "",
                   item.node, item.volume)  # fmt: skip
        warnings = extract([own], Path(f"/proc/self/fd/{beside}"), task, rights, is_wanted)
        # before anything is replaced: a name that means half a file after a power cut is worse
        # than the file that was there
        writeback.sync_file_system(beside)
        above = path.rpartition(b"/")[0] or b"/"
        moving.move(beside, parent, above if item.name else path, rights)
    return warnings


def _inner(browser: FileBrowser, item: Item, place: Home, own: bytes) -> tuple[Item, Home]:
    """What is in a folder of an item, and where it belongs, by the path of that."""
    beneath = own[len(os.fsencode(place.path)) :]
    ((found,), _) = browser.items([item.path.rstrip("/") + os.fsdecode(beneath)])
    inner = Home(place.mount, place.inner.rstrip(b"/") + beneath, place.device)
    return Item(found.path, "", found.node, found.volume), inner
