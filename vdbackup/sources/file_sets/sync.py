"""The chosen files, brought onto their disk: what is there already, as it is, stays as it is.

First what is on both sides is looked at, folder by folder, so that all is known that has gone; then
what is new is made, of what has gone where that is the same file under another name; then the rest
of what has gone is given up. What has not changed (size, times, number) is not read.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass, replace

from vdbackup.jobs import Task
from vdbackup.sources.file_sets.content import Content
from vdbackup.sources.file_sets.folder import Entry, Folder
from vdbackup.sources.file_sets.found import Found
from vdbackup.sources.file_sets.image import LOST_AND_FOUND, ROOT, Image
from vdbackup.sources.file_sets.inode import Inode
from vdbackup.sources.file_sets.looking import Replaced, Unread, check_same, reading
from vdbackup.sources.file_sets.places import Place, attributes_of, joined
from vdbackup.sources.file_sets.tree import Tree

_ATTEMPTS = 3
"""How often a file is read that changes meanwhile."""
_MOST_LINKS = 65_000
"""Of a file on ext4: what has more names is there more than once. A folder that has more subfolders
says that it has 1 (dir_nlink)."""
_LARGEST = (1 << 44) - (1 << 12)
"""Bytes of a file on ext4."""
_MAX_NAME = 255
"""Bytes of a name on ext4."""
_PHASE = "Files"
_OFTEN = 0.1
"""Seconds between two reports."""


@dataclass(frozen=True)
class _Visit:
    """A folder to look at.

    Attributes:
        path: of it.
        device: on which what was chosen lies that it belongs to; None where it was chosen itself.
        number: of its inode on the disk.
        parent: of that which it lies in.
        is_new: whether it was not there before.
    """

    path: bytes
    device: int | None
    number: int
    parent: int
    is_new: bool = False


@dataclass(frozen=True)
class _Pending:
    """A folder that has been looked at, and what in it is still to be made."""

    visit: _Visit
    folder: Folder
    names: list[bytes]
    found: os.stat_result
    believed: bool


class Sync:
    """One run of it.

    Args:
        image: the file system, open.
        tree: the files.
        content: bytes of them, about, for the progress.
        reads_all: read what has not changed, too.
        task: what it reports to, and what stops it.
    """

    def __init__(
        self, image: Image, tree: Tree, content: int, *, reads_all: bool, task: Task
    ) -> None:
        self._image, self._tree = image, tree
        self._reads_all, self._task = reads_all, task
        self._done, self._total, self._say_at = 0, content, 0.0
        self._visits: list[_Visit] = []
        self._pending: list[_Pending] = []
        self._gone: dict[int, None] = {}
        self._gone_by_number: dict[tuple[int, int], int] = {}
        self._claimed: set[int] = set()
        self._linked: dict[tuple[int, ...], int] = {}
        self._names: dict[int, int] = {}
        self._places = tree.places()
        self._storages = tree.storages
        self.found = Found()

    def run(self) -> None:
        """Do it; raises what the disk raises, FileSystemNotMade, and Cancelled."""
        self._visits.append(_Visit(b"/", None, ROOT, ROOT))
        with self._places:
            self._look()
            while self._pending:
                self._make(self._pending.pop())
                self._look()
        self._give_up()

    def _look(self) -> None:
        while self._visits:
            self._visit(self._visits.pop())

    def _visit(self, visit: _Visit) -> None:
        """Look at a folder that is on both sides, or just made."""
        self._task.check()
        folder = self._folder_of(visit)
        there = folder.entries
        if visit.number == ROOT and LOST_AND_FOUND in there:
            del there[LOST_AND_FOUND]
        try:
            place = self._places.to(visit.path)
        except FileNotFoundError:
            for name, entry in there.items():
                self._remove(folder, name, entry)
            self._write(visit, folder)
            return
        except OSError as error:  # something else has taken its place
            self._tree.note_unreadable(visit.path, error)
            self._write(visit, folder)
            self._all_stay(there)
            return
        self._look_into(place, visit, folder, there)

    def _look_into(
        self, place: Place, visit: _Visit, folder: Folder, there: dict[bytes, Entry]
    ) -> None:
        """Compare a folder with what the disk has in it, and note what is to be made."""
        found, believed = place.found, self._storages.is_settled(place.found)
        device = found.st_dev if visit.device is None else visit.device
        names = self._tree.names(place, device)
        is_chosen, visit = visit.device is None, replace(visit, device=device)
        if names is None:
            self._finish(place, visit, folder, found, believed=False)
            self._all_stay(there)
            return
        if is_chosen and there and not names and self._is_another(place, visit.number):
            self.found.away.append(visit.path)
            if folder.changed:
                self._write(visit, folder)
            self._all_stay(there)
            return
        new = [
            name
            for name in names
            if name not in there or self._compare(place, visit, folder, name, there.pop(name))
        ]
        for name, entry in there.items():
            self._remove(folder, name, entry)
        if new:
            self._pending.append(_Pending(visit, folder, new, found, believed))
        else:
            self._finish(place, visit, folder, found, believed=believed)

    def _is_another(self, place: Place, number: int) -> bool:
        """Whether a folder is empty, and not the one that was kept: its drive is not mounted."""
        before = self._image.read(number).known.number
        now = self._storages.known(place.found).number
        try:
            return before not in (0, now) and not place.names()
        except OSError:  # it has just gone
            return False

    def _folder_of(self, visit: _Visit) -> Folder:
        """What the disk has of it."""
        if visit.is_new:
            return Folder.new(visit.number, visit.parent)
        folder = self._image.folder(visit.number)
        folder.set_parent(visit.parent)
        return folder

    def _compare(
        self, place: Place, visit: _Visit, folder: Folder, name: bytes, entry: Entry
    ) -> bool:
        """Look at what has a name on both sides; whether it is to be made anew."""
        try:
            found = place.look(name)
        except OSError as error:
            # what was chosen itself may be on a drive that is away
            if isinstance(error, FileNotFoundError) and not self._tree.leads(visit.path):
                self._remove(folder, name, entry)
            else:
                self.found.kept.append(joined(visit.path, name))
                self._stays(entry)
            return False
        if self._tree.leaves_out(found):
            self._remove(folder, name, entry)
            return False
        mode = self._image.read(entry.inode).mode
        is_taken = entry.is_folder and entry.inode in self._claimed  # of another name by now
        if is_taken or stat.S_IFMT(mode) != stat.S_IFMT(found.st_mode):
            self._remove(folder, name, entry)
            return True
        if stat.S_ISDIR(mode):
            self._enter(visit, name, entry.inode)
            return False
        number = self._keep(place, name, found, entry.inode)
        if number != entry.inode:
            self._remove(folder, name, entry)
        if number is not None:
            folder.set(name, number, found.st_mode)
        return False

    def _enter(self, parent: _Visit, name: bytes, number: int, *, is_new: bool = False) -> None:
        if number in self._gone:
            self._claimed.add(number)
        device = None if self._tree.leads(parent.path) else parent.device
        path = joined(parent.path, name)
        self._visits.append(_Visit(path, device, number, parent.number, is_new))

    def _make(self, pending: _Pending) -> None:
        """Make what is new in a folder."""
        visit, folder = pending.visit, pending.folder
        try:
            place = self._places.to(visit.path)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                self._tree.note_unreadable(visit.path, error)
            self._write(visit, folder)
            return
        for name in pending.names:
            self._make_one(place, visit, folder, name)
        self._finish(place, visit, folder, pending.found, believed=pending.believed)

    def _make_one(self, place: Place, visit: _Visit, folder: Folder, name: bytes) -> None:
        path = joined(visit.path, name)
        if len(name) > _MAX_NAME or (visit.number == ROOT and name == LOST_AND_FOUND):
            self.found.unfit.append(path)
            return
        try:
            found = place.look(name)
        except OSError as error:
            if not isinstance(error, FileNotFoundError) or self._tree.leads(visit.path):
                self.found.unreadable.append(path)
            return
        if self._tree.leaves_out(found):
            return
        if stat.S_ISDIR(found.st_mode):
            number = self._moved(found)
            is_new = number is None
            if number is None:
                number, inode = self._image.new(found.st_mode)
                self._image.write(number, inode)
            self._enter(visit, name, number, is_new=is_new)
        else:
            number = self._keep(place, name, found, None)
        if number is not None:
            folder.set(name, number, found.st_mode)

    def _keep(
        self, place: Place, name: bytes, found: os.stat_result, number: int | None
    ) -> int | None:
        """Have a file that is no folder on the disk; its inode there, None where it has none.

        Args:
            place: where it lies.
            name: of it there.
            found: what it is like; where another one of its kind has its name by now, that counts.
            number: of the inode that has had its name, None where there is none.
        """
        kind = stat.S_IFMT(found.st_mode)
        for _ in range(_ATTEMPTS):
            try:
                return self._kept(place, name, found, number)
            except Replaced:
                with suppress(OSError):
                    found = place.look(name)
            if stat.S_IFMT(found.st_mode) != kind:
                break
        path = joined(place.path, name)
        (self.found.unreadable if number is None else self.found.kept).append(path)
        return number

    def _kept(
        self, place: Place, name: bytes, found: os.stat_result, number: int | None
    ) -> int | None:
        """The same where it is what was found; raises Replaced where it is another one."""
        key = self._storages.one_file(found)
        linked = self._linked.get(key) if found.st_nlink > 1 else None
        if linked is not None and self._names[linked] < _MOST_LINKS:
            self._names[linked] += 1
            return linked
        if number is not None and (number in self._names or number in self._claimed):
            number = None  # it is another file's by now
        if number is None:
            number = self._moved(found)
        elif number in self._gone:
            self._claimed.add(number)
        try:
            kept = self._written(place, name, found, number)
        except Replaced:
            self._claimed.discard(number or 0)
            raise
        if kept is None:  # it has just gone
            self._claimed.discard(number or 0)
            return None
        if found.st_nlink > 1:
            self._linked[key] = kept
            self._names[kept] = 1
        elif number is not None and self._image.read(kept).links != 1:
            self._names[kept] = 1
        return kept

    def _written(
        self, place: Place, name: bytes, found: os.stat_result, number: int | None
    ) -> int | None:
        """Have a file's inode be as it is, and its content."""
        if number is not None:
            inode = self._image.read(number)
            same = inode.known == self._storages.known(found)
            if same and self._storages.tells_changes(found) and not self._reads_all:
                self._note(found.st_size)
                return number
        try:
            if stat.S_ISREG(found.st_mode):
                return self._file(place, name, found, number)
            return self._other(place, name, found, number)
        except Unread as error:
            if isinstance(error.why, FileNotFoundError):
                return None
            path = joined(place.path, name)
            (self.found.unreadable if number is None else self.found.kept).append(path)
            return number

    def _file(
        self, place: Place, name: bytes, found: os.stat_result, number: int | None
    ) -> int | None:
        path = joined(place.path, name)
        with reading():
            content = Content(place, name, self._moved_bytes)
        with content:
            check_same(found, content.found, has_number=self._has_number(found))
            if content.size > _LARGEST:
                self.found.unfit.append(path)
                return number
            with reading():
                attributes = attributes_of(content.fd)
            begun, inode = (number, self._image.read(number)) if number else self._begun(content)
            believed = True
            for _ in range(_ATTEMPTS):
                believed = self._storages.is_settled(content.found)
                content.lost = False
                inode = self._image.write_content(begun, inode, content)
                if not content.has_changed():
                    break
                self._image.write(begun, inode)
            else:
                self.found.restless.append(path)
                believed = False
            if content.lost:
                self.found.lost.append(path)
            self._note(content.size)
            believed = believed and not content.lost
            self._describe(path, begun, inode, content.found, attributes, believed=believed)
        return begun

    def _begun(self, content: Content) -> tuple[int, Inode]:
        number, inode = self._image.new(content.found.st_mode)
        inode.links = 1
        return number, inode

    def _other(self, place: Place, name: bytes, found: os.stat_result, number: int | None) -> int:
        """A link, a device, a pipe or a socket: what of it may change is in its inode."""
        believed = self._storages.is_settled(found)
        with reading(), place.opened(name) as fd:
            check_same(found, now := os.fstat(fd), has_number=self._has_number(found))
            found = now
            attributes = attributes_of(fd)
            target = os.readlink(b"", dir_fd=fd) if stat.S_ISLNK(found.st_mode) else None
        if number is not None and (target is not None or not _is_plain(found.st_mode)):
            inode = self._image.read(number)
            same = (
                target == self._image.target(number, inode)
                if target is not None
                else (inode.device == found.st_rdev)
            )
            if not same:
                self._gone[number] = None
                self._claimed.discard(number)
                number = None
        if number is None:
            number, inode = self._image.new(found.st_mode)
            inode.links = 1
            if target is not None:
                inode = self._image.write_link(number, inode, target)
            elif not _is_plain(found.st_mode):
                inode.be_device(found.st_rdev)
        else:
            inode = self._image.read(number)
        path = joined(place.path, name)
        self._describe(path, number, inode, found, attributes, believed=believed)
        return number

    def _describe(
        self,
        path: bytes,
        number: int,
        inode: Inode,
        found: os.stat_result,
        attributes: dict[str, bytes],
        *,
        believed: bool,
    ) -> None:
        """Write an inode with all that is known of its file, times after the content."""
        inode.take_of(found, self._storages.known(found), believed=believed)
        self._image.write(number, inode)
        if (attributes or inode.has_attributes) and self._image.set_attributes(number, attributes):
            self.found.bare.append(path)

    def _finish(
        self, place: Place, visit: _Visit, folder: Folder, found: os.stat_result, *, believed: bool
    ) -> None:
        """Write a folder, where it has changed."""
        inode = self._image.read(visit.number)
        same = inode.known == self._storages.known(found) and inode.links == _links_of(folder)
        if same and not folder.changed:
            return
        inode = self._write(visit, folder)
        attributes: dict[str, bytes] = {}
        try:
            attributes = attributes_of(place.fd)
        except OSError:
            believed = False
        self._describe(visit.path, visit.number, inode, found, attributes, believed=believed)

    def _write(self, visit: _Visit, folder: Folder) -> Inode:
        """Write what is in a folder; the rest of it stays as it is."""
        inode = self._image.read(visit.number)
        inode.links = _links_of(folder)
        inode = self._image.write_folder(visit.number, inode, folder)
        self._image.write(visit.number, inode)
        return inode

    def _remove(self, folder: Folder, name: bytes, entry: Entry) -> None:
        """Have a name gone; what it meant may be needed under another one."""
        folder.remove(name)
        todo = [entry]
        while todo:
            each = todo.pop()
            if each.inode in self._gone or each.inode in self._claimed:
                continue
            self._gone[each.inode] = None
            inode = self._image.read(each.inode)
            if known := inode.known.number:
                self._gone_by_number[known, stat.S_IFMT(inode.mode)] = each.inode
            if each.is_folder:
                todo += self._image.folder(each.inode).entries.values()

    def _all_stay(self, there: dict[bytes, Entry]) -> None:
        for entry in there.values():
            self._stays(entry)

    def _stays(self, entry: Entry) -> None:
        """Count the names of what stays as it is, though nobody can look at it now."""
        todo = [entry]
        while todo:
            each = todo.pop()
            if each.is_folder:
                if each.inode not in self._claimed:
                    todo += self._image.folder(each.inode).entries.values()
            elif self._image.read(each.inode).links > 1:
                self._names[each.inode] = self._names.get(each.inode, 0) + 1
            self._claimed.add(each.inode)

    def _moved(self, found: os.stat_result) -> int | None:
        """The inode of a file that has gone from where it was, if it is this one."""
        if not self._has_number(found):
            return None
        key = (found.st_ino & 0xFFFFFFFFFFFFFFFF, stat.S_IFMT(found.st_mode))
        number = self._gone_by_number.get(key)
        if number is None or number in self._claimed or number in self._names:
            return None
        self._claimed.add(number)
        return number

    def _has_number(self, found: os.stat_result) -> bool:
        return self._storages.of(found.st_dev).has_numbers

    def _give_up(self) -> None:
        """Free what has no name any more, and say of the rest how many it has."""
        for number in self._gone:
            if number not in self._claimed and number not in self._names:
                self._image.free(number)
        for number, count in self._names.items():
            inode = self._image.read(number)
            if inode.links != count:
                inode.links = count
                self._image.write(number, inode)

    def _moved_bytes(self, count: int) -> None:
        """Go no faster than is wanted, and rest where that is; raises Cancelled."""
        self._task.checkpoint()
        if self._task.pace.limit is not None:
            self._task.pace.limit.hold(count, self._task.cancel)

    def _note(self, size: int) -> None:
        self._done = min(self._done + size, self._total)
        if (now := time.monotonic()) >= self._say_at:
            self._say_at = now + _OFTEN
            self._task.phase(_PHASE, self._done, self._total)


def _links_of(folder: Folder) -> int:
    """How many names a folder has: each in it knows it as '..'."""
    links = 2 + sum(entry.is_folder for entry in folder.entries.values())
    return links if links < _MOST_LINKS else 1


def _is_plain(mode: int) -> bool:
    """Whether it is a pipe or a socket, of which there is nothing more to say."""
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
