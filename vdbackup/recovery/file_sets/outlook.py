"""What restoring chosen files would do, file by file: what is new, what is there, what differs.

Nothing is read of files that are there but what `ls` says of them; the restore itself compares.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from vdbackup.errors import Damaged
from vdbackup.jobs import Task
from vdbackup.recovery.file_sets.giving import Foretold
from vdbackup.recovery.file_sets.seen import Seen
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.file_sets.folder import Entry
from vdbackup.sources.file_sets.image import LOST_AND_FOUND, ROOT, Image
from vdbackup.sources.file_sets.inode import Inode
from vdbackup.sources.file_sets.places import Place, Places, joined
from vdbackup.sources.file_sets.tree import Tree
from vdbackup.text import printable
from vdbackup.translation import grouped, tr

MAX_NAMED = 100
"""Of each kind: of more, how many there are is all that is known."""


@dataclass
class Named:
    """Files of one kind: how many, and the first of them."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def note(self, path: bytes) -> None:
        """One more."""
        self.count += 1
        if len(self.first) < MAX_NAMED:
            self.first.append(printable(os.fsdecode(path)))


@dataclass
class Outlook:
    """What a restore would do.

    Attributes:
        files: how many files the point has of it, folders left out.
        content: bytes that they hold.
        new: how many of them are not there.
        same: how many are there with the size and the time that they have in the point.
        other: what is there under the same names and differs: replaced, or left alone.
        newer: those of them that were changed later than what is in the point.
        blocked: names that stand for a folder here and a file there: they stay, always.
        closed: folders that something would be made in, and nothing may be.
        unreadable: folders of the point that are not as they were captured.
        seen: all that is there, to be known again.
        refused: what cannot be given there, a sentence for each kind.
    """

    files: int = 0
    content: int = 0
    new: int = 0
    same: int = 0
    other: Named = field(default_factory=Named)
    newer: Named = field(default_factory=Named)
    blocked: Named = field(default_factory=Named)
    closed: Named = field(default_factory=Named)
    unreadable: Named = field(default_factory=Named)
    seen: Seen = field(default_factory=Seen)
    refused: tuple[str, ...] = ()


def belonging(image: Image, number: int) -> dict[bytes, Entry]:
    """What lies in a folder of the point, but what no name can be and what ext4 has for itself."""
    entries = image.folder(number).entries
    if number == ROOT:
        entries.pop(LOST_AND_FOUND, None)
    return {name: each for name, each in entries.items() if b"/" not in name and b"\0" not in name}


def looks_same(inode: Inode, status: os.stat_result) -> bool:
    """Whether a file that is there has kind, size and time of what is in the point."""
    is_file = stat.S_ISREG(inode.mode)
    return (
        stat.S_IFMT(inode.mode) == stat.S_IFMT(status.st_mode)
        and (not is_file or inode.size == status.st_size)
        and inode.known.modified == status.st_mtime_ns
    )


def nearest(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


class Outlooking:
    """Looks at the point and at the target.

    Args:
        image: the files as the point has them.
        target: the folder that stands for "/".
        choice: what the point is of.
        task: what stops it, and what it reports to.
    """

    def __init__(self, image: Image, target: Path, choice: Choice, task: Task) -> None:
        self._image, self._target, self._task = image, target, task
        self._tree = Tree(choice)
        self._foretold = Foretold(nearest(Path(f"{target}/{choice.paths[0]}")))
        self._once: set[int] = set()
        self._folders = {ROOT}
        self._todo: list[tuple[bytes, int, bool]] = []
        self.found = Outlook()

    def run(self) -> Outlook:
        """All of it; raises Cancelled, and what the disk raises where it cannot be read."""
        self._todo.append((b"/", ROOT, self._target.is_dir()))
        with Places(os.fsencode(os.path.realpath(self._target))) as places:
            while self._todo:
                self._task.check()
                self._look(places, *self._todo.pop())
        self.found.seen.close()
        self.found.refused = self._foretold.sentences
        return self.found

    def _look(self, places: Places, path: bytes, number: int, is_there: bool) -> None:
        try:
            entries = belonging(self._image, number)
            if number != ROOT and not (is_there and self._tree.leads(path)):  # it is described
                self._foretell(number, self._image.read(number))
            place = places.to(path) if is_there else None
        except Damaged:
            self.found.unreadable.note(path)
            return
        except OSError:  # it was there a moment ago, or may not be looked into
            self.found.closed.note(path)
            return
        before = self.found.new + self.found.other.count
        for name, entry in entries.items():
            self._compare(place, path, name, entry)
        makes = self.found.new + self.found.other.count > before
        if place is not None and makes and not _may_write(place):
            self.found.closed.note(path)

    def _compare(self, place: Place | None, path: bytes, name: bytes, entry: Entry) -> None:
        own = joined(path, name)
        status = _status(place, name)
        if entry.is_folder:
            self._enter(own, entry.inode, status)
            return
        try:
            inode = self._image.read(entry.inode)
        except Damaged:
            self.found.unreadable.note(own)
            return
        self.found.files += 1
        if inode.links < 2 or entry.inode not in self._once:
            self._once.update({entry.inode} if inode.links > 1 else ())
            self.found.content += inode.size if stat.S_ISREG(inode.mode) else 0
            self._foretell(entry.inode, inode)
        if status is None:
            self.found.new += 1
        elif stat.S_ISDIR(status.st_mode):
            self.found.blocked.note(own)
        else:
            self.found.seen.note(own, status)
            self._judge(own, inode, status)

    def _foretell(self, number: int, inode: Inode) -> None:
        self._foretold.note(inode, lambda: self._image.attributes(number))

    def _judge(self, own: bytes, inode: Inode, status: os.stat_result) -> None:
        if looks_same(inode, status):
            self.found.same += 1
            return
        self.found.other.note(own)
        if status.st_mtime_ns > inode.known.modified:
            self.found.newer.note(own)

    def _enter(self, own: bytes, number: int, status: os.stat_result | None) -> None:
        if status is not None and not stat.S_ISDIR(status.st_mode):
            self.found.blocked.note(own)
        elif number not in self._folders:  # else a folder in itself, of a damaged file system
            self._folders.add(number)
            self._todo.append((own, number, status is not None))


def _status(place: Place | None, name: bytes) -> os.stat_result | None:
    if place is None:
        return None
    try:
        return place.look(name)
    except OSError:  # not there, or a name that this file system cannot have: the restore says so
        return None


def _may_write(place: Place) -> bool:
    return os.access(f"/proc/self/fd/{place.fd}", os.W_OK | os.X_OK, effective_ids=True)


def names_in(found: Named) -> str:
    """The first few names, and how many more there are, for a sentence."""
    few = ", ".join(found.first[:5])
    more = found.count - min(5, len(found.first))
    return few + (tr(" and {count} more", count=more) if more > 0 else "")


def of_differing(other: Named, newer: Named, *, overwrite: bool) -> str:
    """What becomes of files that are there and differ, and how many of them are newer."""
    numbers = {"count": grouped(other.count), "newer": grouped(newer.count)}
    if overwrite:
        return tr(
            "Different there, and replaced: {count}; changed later than what is in the point: "
            "{newer}.",
            **numbers,
        )
    return tr(
        "Different there, and left as they are: {count}; changed later than what is in the point: "
        "{newer}.",
        **numbers,
    )
