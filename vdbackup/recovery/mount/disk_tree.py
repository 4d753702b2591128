"""A point's whole disk as the only file of a folder, for programs that look at disks themselves."""

from __future__ import annotations

from vdbackup.errors import NotInPoint
from vdbackup.repository.checked import CheckedDisk
from vdbackup.text import printable
from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import Content, Kind, Stat, read_at
from vdbackup.volumes.places import Window

NAME = "disk.raw"


class DiskTree:
    """What `Tree` is of files. What no layer holds is a hole.

    All methods raise NotInPoint for a path that leads to nothing, Damaged for what is not as it was
    captured, and OSError where the storage of the backups fails.
    """

    def __init__(self, disk: CheckedDisk) -> None:
        ranges = [(start, start + length) for start, length in disk.held.tolist()]
        window = Window.opened(disk, ((0, disk.size),))
        self._content = Content(window, disk.size, ranges)
        self._stored = sum(end - start for start, end in ranges)

    def stat(self, path: str) -> Stat:
        """The folder's, or the disk's."""
        if path == "/":
            return Stat(Kind.FOLDER, 0, None, 0o555, inode=1, links=2)
        self._check(path)
        size = self._content.size
        return Stat(Kind.FILE, size, None, 0o444, inode=2, stored=self._stored)

    def names(self, path: str) -> list[str]:
        """The disk."""
        if path == "/":
            return [NAME]
        raise _missing(path)

    def target(self, path: str) -> str:
        """There are no links."""
        raise _missing(path)

    def attributes(self, _path: str) -> dict[str, bytes]:
        """None."""
        return {}

    def content(self, path: str) -> Content:
        """The disk's bytes, for `read`."""
        self._check(path)
        return self._content

    def read(self, _path: str, content: Content, offset: int, length: int) -> bytes:
        """Bytes of the disk; fewer at its end."""
        return read_at(content, offset, length)

    def _check(self, path: str) -> None:
        if path != f"/{NAME}":
            raise _missing(path)


def _missing(path: str) -> NotInPoint:
    return NotInPoint(tr("There is no {path} in this recovery point.", path=printable(path)), "")
