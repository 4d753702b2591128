"""A disk that is changed by the kernel, backed up in between, and a raw copy of each moment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.recovery.trees import Entry, entries
from tests.sources.loops import loop, mounted, run
from tests.sources.opened import open_path
from tests.volumes import volumes
from tests.volumes.volumes import MIB
from vdbackup.backup import capture, merge
from vdbackup.disks.names import DiskFormat
from vdbackup.jobs import Task
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository

MAKERS = {
    "ext4": (32, ("mkfs.ext4", "-q")),
    "xfs": (304, ("mkfs.xfs", "-q")),
    "btrfs": (128, ("mkfs.btrfs", "-q", "--mixed")),
}
SET = "disk"


class Story:
    """What is done to a disk, and what the kernel showed of it at each point.

    Attributes:
        repository: where the points are.
        shown: of each point, by id, all entries of the disk, by path.
    """

    def __init__(self, folder: Path, kind: str, disk_format: str = "qcow2") -> None:
        self._folder = folder
        self._format = DiskFormat(disk_format)
        self.image = folder / "disk.img"
        size, maker = MAKERS[kind]
        volumes.blank(self.image, size * MIB)
        run(*maker, self.image)
        self.repository = Repository.create(folder / "backups")
        self.shown: dict[str, dict[str, Entry]] = {}

    @contextmanager
    def changing(self) -> Iterator[Path]:
        """The file system, to be written to."""
        with loop(self.image) as device, mounted(device, self._folder / "mounted") as top:
            yield top

    def point(self, kind: str = "auto") -> RecoveryPoint:
        """Back the disk up, and look at it as the kernel shows it."""
        with open_path(self.image) as source:
            plan = capture.plan(
                self.repository, source, set_name=SET, kind=kind, disk_format=self._format
            )
            point = capture.run(plan, Task()).point
        copy = self._folder / "copy.img"
        shutil.copyfile(self.image, copy)
        with loop(copy) as device, mounted(device, self._folder / "mounted", "-o", "ro") as top:
            found = entries(top)
        self.shown[point.id] = {os.fsdecode(path): each for path, each in found.items()}
        copy.unlink()
        return point

    def merge(self, point: RecoveryPoint) -> None:
        """Roll a point into its parent."""
        merge.run(merge.plan(self.repository, SET, point.id), Task())

    @property
    def points(self) -> tuple[RecoveryPoint, ...]:
        """As they are now."""
        return self.repository.set(SET).points

    def states(self, path: str) -> list[tuple[list[int], tuple[object, ...] | None]]:
        """Of a path: numbers of neighbouring points, and what the kernel showed in them."""
        found: list[tuple[list[int], tuple[object, ...] | None]] = []
        for point in self.points:
            entry = self.shown[point.id].get(path)
            state: tuple[object, ...] | None = None
            if entry is not None:
                state = entry.size, entry.modified, entry.mode, entry.content
            if found and found[-1][1] == state:
                found[-1][0].append(point.sequence)
            else:
                found.append(([point.sequence], state))
        return found


def rewrite(path: Path, data: bytes) -> None:
    """Other bytes of the same length in a file, whose time stays as it is."""
    times = path.stat()
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def told(folder: Path, kind: str, disk_format: str = "qcow2") -> Story:
    """A story of eight points, in which each way to change a file occurs."""
    story = Story(folder, kind, disk_format)
    steps: list[tuple[Callable[[Path], object], str]] = [
        (_begin, "auto"),
        (lambda top: None, "auto"),
        (lambda top: (top / "letters" / "one").write_bytes(b"other" * 5000), "auto"),
        (lambda top: rewrite(top / "letters" / "two", b"Z" * 30_000), "auto"),
        (_move, "differential"),
        (lambda top: (top / "letters" / "three").unlink(), "auto"),
        (lambda top: (top / "letters" / "three").write_bytes(b"3" * 30_000), "full"),
        (lambda top: (top / "large").write_bytes(os.urandom(2 << 20)), "auto"),
    ]
    for change, how in steps:
        with story.changing() as top:
            change(top)
        story.point(how)
    return story


def _begin(top: Path) -> None:
    (top / "letters").mkdir()
    for name in ("one", "two", "three"):
        (top / "letters" / name).write_bytes(name.encode() * 10_000)
    (top / "letters" / "caf\udce9").write_bytes(b"not UTF-8")
    (top / "large").write_bytes(os.urandom(2 << 20))
    (top / "link").symlink_to("letters")
    os.link(top / "letters" / "one", top / "first")


def _move(top: Path) -> None:
    (top / "letters").rename(top / "post")
    (top / "letters").symlink_to("post")
    (top / "post" / "two").chmod(0o600)
    (top / "letters").unlink()
    (top / "letters").mkdir()
    (top / "post" / "three").rename(top / "letters" / "three")
    (top / "link").unlink()
    (top / "link").symlink_to("post")
