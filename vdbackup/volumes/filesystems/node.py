"""What every file system looks like from here: nodes that have a stat, and children or content.

The structures come from dissect's libraries as far as they can be trusted with it. What they do not
check, or get wrong (each place says what), is read here. All of it may be hostile: whoever calls a
node does so under `reading`, the one place where whatever goes wrong in there becomes a sentence.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import logging
import stat as posix
import struct
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Hashable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from vdbackup.errors import GuestUnreadable, VdbackupError
from vdbackup.text import printable
from vdbackup.translation import tr

log = logging.getLogger(__name__)

ADVICE = tr("Boot the recovery point, or restore it, to get at what is in it.")

_MAX_TARGET = 65_536
"""Bytes; Linux allows 4,096 and NTFS 16 KiB."""

Run = tuple[int | None, int]
"""First block (None: a hole) and number of blocks."""
Range = tuple[int, int]
"""First byte, and the byte after the last one."""


class Kind(enum.StrEnum):
    """What a name in a folder stands for; OTHER is a device, a pipe, a socket or unreadable."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    OTHER = "other"


class Stat(NamedTuple):
    """What is known of a node.

    Attributes:
        kind: what it is.
        size: in bytes.
        modified: in ns since 1970; None where it is not known.
        mode: permissions.
        inode: the same for all names of one file in this file system; None where that cannot be
            told.
        type: as in POSIX's st_mode, of what is OTHER; 0 where it is not known.
        owner: numbers of user and group; None where the file system knows none.
        links: names that it has.
        device: of a device its major and minor number, as `os.makedev` puts them together.
        accessed, changed: when it was read, and when what is known of it changed, as `modified`.
        stored: bytes that it takes; None where that is not known.
    """

    kind: Kind
    size: int
    modified: int | None
    mode: int
    inode: int | None = None
    type: int = 0
    owner: tuple[int, int] | None = None
    links: int = 1
    device: int = 0
    accessed: int | None = None
    changed: int | None = None
    stored: int | None = None


class Content(NamedTuple):
    """A file's bytes: `stream` gives those in `ranges` (ascending), all others are zeros.

    The stream seeks and reads like a file and is good until another content of the same file
    system is read.
    """

    stream: Any
    size: int
    ranges: list[Range]


class Unreadable(Exception):
    """Why something cannot be read, as the end of a sentence: "it is encrypted"."""


class Node(ABC):
    """A file, folder or whatever else a folder names. Any method may raise anything."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    @abstractmethod
    def identity(self) -> Hashable:
        """The same for all names of one folder, and for nothing else in this file system."""

    @abstractmethod
    def stat(self) -> Stat:
        """What is known of it."""

    @abstractmethod
    def children(self) -> Iterator[Node]:
        """A folder's entries as they are stored, without the first "." and ".."."""

    @abstractmethod
    def content(self) -> Content:
        """A file's bytes."""

    def blocks(self) -> list[Range]:
        """Where in the volume a file's bytes lie, or a folder's own, in bytes and in any order.

        What is stored inside the file system's own structures lies nowhere. Raises Unreadable where
        that cannot be told.
        """
        return []

    def attributes(self) -> dict[str, bytes]:
        """Extended attributes by name, as Linux calls them: "user.x", "security.capability"."""
        return {}

    def default_path(self) -> str:
        """Of a topmost folder: the path of what is mounted where nobody names it; "" for itself."""
        return ""

    @abstractmethod
    def _target(self) -> str: ...

    def target(self) -> str:
        """Where a link points."""
        if self.stat().size > _MAX_TARGET:
            raise Unreadable(tr("it is a link of impossible length"))
        return self._target()


class EmptyFolder(Node):
    """A folder with nothing in it, where a file system has a place for another one."""

    __slots__ = ()

    @property
    def identity(self) -> Hashable:
        """No other folder is this one."""
        return self

    def stat(self) -> Stat:
        """A folder."""
        return Stat(Kind.FOLDER, 0, None, 0o755)

    def children(self) -> Iterator[Node]:
        """None."""
        return iter(())

    def content(self) -> Content:
        """None: raises Unreadable."""
        raise Unreadable(tr("it is a folder"))

    def _target(self) -> str:
        raise Unreadable(tr("it is a folder"))


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever a node raises into a RecoveryError that says that `what` cannot be read.

    `what` is a path or the beginning of a sentence.

    What is wrong with the storage that the backup lies on passes: errors of ours about the disk,
    and errors of the operating system.
    """
    try:
        yield
    except VdbackupError:
        raise
    except Unreadable as error:
        raise GuestUnreadable(
            tr("{what} cannot be read: {error}.", what=printable(what), error=error), ADVICE
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        log.info("%s cannot be read", what, exc_info=True)
        raise GuestUnreadable(
            tr(
                "{what} cannot be read: its structures are damaged, or of a kind that vdbackup "
                "does not know.",
                what=printable(what),
            ),
            ADVICE,
        ) from error


def guarded(folder: Node, what: str) -> Iterator[Node]:
    """A folder's children, each of them got under `reading`."""
    with reading(what):
        children = folder.children()
    while True:
        with reading(what):
            node = next(children, None)
        if node is None:
            return
        yield node


_KINDS = {posix.S_IFREG: Kind.FILE, posix.S_IFDIR: Kind.FOLDER, posix.S_IFLNK: Kind.LINK}


def posix_stat(mode: int, size: int, modified: int) -> Stat:
    """The stat of an inode whose mode is POSIX's."""
    kind = _KINDS.get(posix.S_IFMT(mode), Kind.OTHER)
    return Stat(kind, size, plausible(modified), posix.S_IMODE(mode), type=posix.S_IFMT(mode))


def read_at(content: Content, offset: int, length: int) -> bytes:
    """A file's bytes from `offset` on, `length` of them or up to its end.

    Raises Unreadable where a part of them is missing.
    """
    end = min(content.size, offset + length)
    if end <= offset:
        return b""
    found = bytearray(end - offset)
    row = max(0, bisect_right(content.ranges, (offset, content.size + 1)) - 1)
    for first, last in itertools.islice(content.ranges, row, None):
        if first >= end:
            break
        begin, until = max(first, offset), min(last, end)
        if begin < until:
            content.stream.seek(begin)
            chunk = content.stream.read(until - begin)
            if len(chunk) != until - begin:
                raise Unreadable(tr("a part of it is missing"))
            found[begin - offset : until - offset] = chunk
    return bytes(found)


_ACL_ENTRY = struct.Struct("<HHI")
_NOBODY = 0xFFFF_FFFF
"""What stands for the user or group of an entry that names none (linux/posix_acl_xattr.h)."""


def posix_acl(entries: Iterable[tuple[int, int, int | None]]) -> bytes:
    """An access control list as the attribute system.posix_acl_access has it.

    Args:
        entries: tag, permissions, and the user or group, which only named ones have.
    """
    packed = (_ACL_ENTRY.pack(tag, allowed, _NOBODY if who is None else who)
              for tag, allowed, who in entries)  # fmt: skip
    return struct.pack("<I", 2) + b"".join(packed)


_FIRST = int(datetime(1600, 1, 1, tzinfo=UTC).timestamp()) * 10**9
_LAST = int(datetime(9000, 1, 1, tzinfo=UTC).timestamp()) * 10**9


def plausible(moment: int) -> int | None:
    """A time in ns since 1970, or None if it is one that no clock of a computer has shown."""
    return moment if _FIRST < moment < _LAST else None


def runs_of(extents: Iterable[tuple[int, int | None, int]], blocks: int) -> list[Run]:
    """Runs without gaps from extents: first block in the file, first on the disk, number of them.

    Raises:
        Unreadable: they are not in ascending order, or overlap. Besides being wrong, a tree of
            extents that refers to one leaf in many places would never come to an end.
    """
    runs: list[Run] = []
    position = 0
    for first, start, count in extents:
        if first < position or count <= 0:
            raise Unreadable(tr("its map of blocks is damaged"))
        if first > position:
            runs.append((None, first - position))
        runs.append((start, count))
        position = first + count
        if position >= blocks:
            break
    if position < blocks:
        runs.append((None, blocks - position))
    return runs


def merged(runs: Iterable[Run], blocks: int) -> list[Run]:
    """The runs that make up the first `blocks` blocks, neighbours in one."""
    found: list[Run] = []
    position = 0
    for start, count in runs:
        if position >= blocks:
            break
        position += count
        if found:
            before, length = found[-1]
            if start == (None if before is None else before + length):
                found[-1] = (before, length + count)
                continue
        found.append((start, count))
    return found


def blocks_of(runs: Iterable[Run], block_size: int, base: int = 0) -> list[Range]:
    """Where runs of blocks lie that are counted from byte `base` on."""
    return [
        (base + start * block_size, base + (start + count) * block_size)
        for start, count in runs
        if start is not None
    ]


def data_ranges(runs: Iterable[Run], block_size: int, size: int) -> list[Range]:
    """Where in the first `size` bytes of a file lie bytes that are not in a hole."""
    ranges: list[Range] = []
    position = 0
    for start, count in runs:
        end = min(size, position + count * block_size)
        if start is not None and end > position:
            if ranges and ranges[-1][1] == position:
                ranges[-1] = (ranges[-1][0], end)
            else:
                ranges.append((position, end))
        position += count * block_size
    return ranges
