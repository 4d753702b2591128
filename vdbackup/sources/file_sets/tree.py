"""The chosen files as they lie on this computer: what is in which folder, and what is left out."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vdbackup.jobs import readable_size
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.file_sets.content import Content
from vdbackup.sources.file_sets.inode import BLOCK
from vdbackup.sources.file_sets.one_moment import Instead
from vdbackup.sources.file_sets.places import Place, Places, joined
from vdbackup.sources.file_sets.storages import Storages
from vdbackup.sources.file_sets.subvolume import EMPTY_INODE, NAME, ROOT_INODE
from vdbackup.text import printable
from vdbackup.translation import grouped, tr

TAG = b"CACHEDIR.TAG"
SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
"""How a folder is marked whose files can be made again (bford.info/cachedir)."""
_NAMED = 5
_SPARSE = 1 << 20
"""Bytes from which it is looked at where a file has holes."""


@dataclass
class LeftOut:
    """What was not looked into, and is said.

    Attributes:
        apart: folders of this program's own: the repository.
        mounted: folders in which other file systems are mounted.
        caches: how many folders are marked as caches.
        large: how many files are larger than is wanted.
        unreadable: why a folder could not be read, a few words each.
    """

    apart: list[bytes] = field(default_factory=list)
    mounted: list[bytes] = field(default_factory=list)
    caches: int = 0
    large: int = 0
    unreadable: list[str] = field(default_factory=list)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What there is to say of that as it is meant to be."""
        said = []
        if self.apart:
            said.append(tr("The repository {apart} is left out.", apart=named(self.apart)))
        if self.mounted:
            said.append(
                tr(
                    "Other file systems, mounted at {mounted}, are left out.",
                    mounted=named(self.mounted),
                )
            )
        if self.caches:
            which = (
                tr("1 folder that is")
                if self.caches == 1
                else tr("{caches} folders that are", caches=grouped(self.caches))
            )
            said.append(tr("The content of {which} marked as a cache is left out.", which=which))
        if self.large:
            which = (
                tr("1 file is")
                if self.large == 1
                else tr("{large} files are", large=grouped(self.large))
            )
            said.append(tr("{which} larger than what is wanted, and left out.", which=which))
        return tuple(said)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What there is to say of what should not be so."""
        if not self.unreadable:
            return ()
        which = ", ".join(self.unreadable[:_NAMED])
        more = len(self.unreadable) - _NAMED
        others = tr(" and {more} more", more=grouped(more)) if more > 0 else ""
        said = tr("These folders could not be read: {which}{others}.", which=which, others=others)
        return (tr("{said} What the point before has of them stays.", said=said),)


@dataclass(frozen=True)
class Survey:
    """How much was chosen.

    Attributes:
        files: how many, folders and all else included.
        content: bytes that they take, in whole blocks.
        left_out: what of it was not looked into.
    """

    files: int
    content: int
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def sentence(self) -> str:
        """That, for a person."""
        count = (
            tr("1 file")
            if self.files == 1
            else tr("{files} files and folders", files=grouped(self.files))
        )
        return f"{count}, {readable_size(self.content)}."


class Tree:
    """The folders that lead to what was chosen, and what lies in that.

    Args:
        choice: what was chosen.
        apart: folders that never belong to it, as the repository.

    Attributes:
        left_out: what was not looked into.
        instead: what is read in the place of folders.
        storages: on which the files lie, as far as they were counted.
    """

    def __init__(self, choice: Choice, apart: Collection[Path] = ()) -> None:
        self._choice = choice
        self._apart = {(found.st_dev, found.st_ino) for found in _there(apart)}
        self._leading: dict[bytes, set[bytes]] = {}
        for path in map(os.fsencode, choice.paths):
            above = path
            while above != b"/":
                folder, _, name = above.rpartition(b"/")
                self._leading.setdefault(folder or b"/", set()).add(name)
                above = folder or b"/"
        self.left_out = LeftOut()
        self.instead = Instead()
        self.storages = Storages()

    def places(self) -> Places:
        """The ways to its folders."""
        return Places(instead=self.instead.folders)

    def leads(self, path: bytes) -> bool:
        """Whether a folder only leads to what was chosen."""
        return path in self._leading

    def names(self, place: Place, device: int) -> list[bytes] | None:
        """What in a folder belongs to it, sorted; None where it cannot be read.

        Args:
            place: the folder.
            device: on which the folder lies that it was chosen with (stat.st_dev).
        """
        path = place.path
        if path in self._leading:
            return sorted(self._leading[path])
        if self._is_foreign(path, place.found, device):
            return []
        try:
            names = [name for name in place.names() if self._belongs(place, name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            self.note_unreadable(path, error)
            return None
        if TAG in names and not self._choice.caches and _is_marked(place):
            self.left_out.caches += 1
            return [TAG]
        return sorted(names)

    def leaves_out(self, found: os.stat_result) -> bool:
        """Whether a file is left out for what is known of it, which is counted."""
        if not self._choice.is_too_large(found):
            return False
        self.left_out.large += 1
        return True

    def note_unreadable(self, path: bytes, why: OSError) -> None:
        """Have it said of a folder that it could not be read."""
        self.left_out.unreadable.append(f"{text(path)} ({why.strerror})")

    def _is_foreign(self, path: bytes, found: os.stat_result, device: int) -> bool:
        own = self.instead.devices.get(found.st_dev, found.st_dev)
        if (own, found.st_ino) in self._apart:
            self.left_out.apart.append(path)
            return True
        is_hidden = path in self.instead.foreign or (
            found.st_ino == EMPTY_INODE and found.st_dev in self.instead.subvolumes
        )
        if is_hidden or (found.st_dev != device and not self._choice.crosses):
            self.left_out.mounted.append(path)
            return True
        return False

    def _belongs(self, folder: Place, name: bytes) -> bool:
        if folder.found.st_ino == ROOT_INODE and NAME.fullmatch(name):
            return False  # a backup's own snapshot
        return not self._choice.leaves_out(joined(folder.path, name))

    def survey(self, check: Callable[[int], None]) -> Survey:
        """Count what belongs to it; the folders that lead there are not counted.

        Args:
            check: called for each folder with how many files there are so far; what it raises ends
                the counting.
        """
        content = 0
        counted = [0]
        for place, name, found in self._every(lambda: check(counted[0])):
            if self.leads(joined(place.path, name)):
                continue
            counted[0] += 1
            if stat.S_ISREG(found.st_mode):
                content += -(-_stored(place, name, found) // BLOCK) * BLOCK
            elif stat.S_ISDIR(found.st_mode):
                content += max(BLOCK, found.st_size)
        left_out, self.left_out = self.left_out, LeftOut()
        return Survey(counted[0], content, left_out)

    def _every(self, check: Callable[[], None]) -> Iterator[tuple[Place, bytes, os.stat_result]]:
        """The folder, the name and what is known of each file that belongs to it."""
        todo: list[tuple[bytes, int | None]] = [(b"/", None)]
        seen: set[tuple[int, ...]] = set()
        with self.places() as places:
            while todo:
                check()
                path, device = todo.pop()
                try:
                    place = places.to(path)
                except OSError:
                    continue
                device = place.found.st_dev if device is None else device
                for name in self.names(place, device) or ():
                    try:
                        found = place.look(name)
                    except OSError:
                        continue
                    if self.leaves_out(found):
                        continue
                    self.storages.note(found)
                    key = self.storages.one_file(found)
                    if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                        if key in seen:
                            continue
                        seen.add(key)
                    yield place, name, found
                    if stat.S_ISDIR(found.st_mode):
                        todo.append((joined(path, name), None if self.leads(path) else device))


def text(path: bytes) -> str:
    """A path for a sentence: what is no text in it is shown as such."""
    return printable(os.fsdecode(path))


def named(paths: list[bytes]) -> str:
    """Paths for a sentence: the first few."""
    more = (
        tr(" and {count} more", count=grouped(len(paths) - _NAMED)) if len(paths) > _NAMED else ""
    )
    return ", ".join(map(text, paths[:_NAMED])) + more


def _there(folders: Collection[Path]) -> Iterator[os.stat_result]:
    for folder in folders:
        try:
            yield folder.stat()
        except OSError:
            continue  # it is not there yet


def _is_marked(place: Place) -> bool:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(TAG, flags, dir_fd=place.fd)
    except OSError:
        return False
    try:
        return os.read(fd, len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False
    finally:
        os.close(fd)


def _stored(place: Place, name: bytes, found: os.stat_result) -> int:
    """Bytes that a file's content takes, without its holes.

    How much its file system stores of it says less: nothing yet, of what was just written.
    """
    if found.st_size < _SPARSE or found.st_blocks * 512 >= found.st_size:
        return found.st_size
    try:
        with Content(place, name, lambda _: None) as content:
            return sum(end - start for start, end in content.data())
    except OSError:
        return found.st_size
