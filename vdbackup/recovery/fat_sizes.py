"""A FAT made anew, with other sectors or of another size, with the same files.

No program changes one in its place that takes a file (fatresize 1.1 wants a partition table):
mkfs.fat makes it anew, and mtools copies what was in it from one to the other, without root. The
new FAT lies where temporary files do, in one without a name, which goes with this process however
that ends: only when it was read and is found to hold the same is it written over the old one.
Names, times of change and attributes are kept, and the volume's number and label; times of creation
and of reading are not, nor are the short names beside long ones.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from vdbackup.errors import NotResized
from vdbackup.jobs import readable_size
from vdbackup.recovery.fat_files import (
    Kept,
    check_can_be_carried,
    check_kept,
    check_whole,
    files_of,
    label_of,
)
from vdbackup.recovery.file_system_sizes import FileSystem, check_programs, run
from vdbackup.translation import tr

_PROGRAMS = (("mkfs.fat", "dosfstools"), ("fsck.fat", "dosfstools"), ("mcopy", "mtools"))
_CHECKED = (0, 1)
"""fsck.fat(8): nothing was wrong, or what was could be mended."""
_LEAST_CLUSTERS, _MOST_CLUSTERS = 65_600, 0x0FFFFFF0
"""Of a FAT32 that all systems take for one (Microsoft, "FAT: General Overview of On-Disk Format",
3.5), and some more."""
_SLACK = 8 << 20
"""Bytes that are left free beside what is in it."""
_FLAGS = {"r": 0x01, "h": 0x02, "s": 0x04}
"""What mcopy does not set, as mattrib(1) names it: read-only, hidden, system."""
_BOOT = 512
"""Bytes of a boot sector that say something."""
_FIELDS = ((11, 13), (14, 16), (16, 17))
"""Where it has a sector's bytes, how many come before the tables, and how many tables there are."""
_PIECE = 1 << 20
_ENTRY = 4
"""Bytes of a table for each cluster."""
_AT_ONCE = 100
"""Names that one call is given."""


def is_fat32(head: bytes) -> bool:
    """Whether a volume that begins so is a FAT32: the other FATs say how long their tables are."""
    return head[82:87] == b"FAT32" and not any(head[22:24]) and head[510:512] == b"\x55\xaa"


def check_fat_programs() -> None:
    """Raise ProgramMissing where what makes a FAT is not installed."""
    check_programs("FAT", _PROGRAMS)


def make_fat_anew(file: Path, sector_size: int, hidden: int) -> None:
    """Make a FAT with other sectors that holds the same files, under the same number and label.

    Args:
        file: the partition.
        sector_size: in bytes.
        hidden: sectors before it on the disk.
    """
    _make_anew(file, ("-S", str(sector_size), "-h", str(hidden)))


def check_can_be_made_anew(file: Path) -> None:
    """Raise NotResized where not all that is in a FAT could be kept, or has no room meanwhile.

    What `make_fat_anew` would find out too late: by then it is on its target.
    """
    check_fat_programs()
    check_can_be_carried(files_of(file, read=False), starts=False)
    _check_room(_needed(file))


def _make_anew(file: Path, shape: tuple[str, ...], size: int | None = None) -> None:
    """With options of mkfs.fat, and a size in bytes if it is not all of the partition."""
    before = files_of(file, read=True)
    check_can_be_carried(before, starts=False)
    with file.open("rb") as opened:
        head = opened.read(_BOOT)
    at = _names_at(head)
    number, label = struct.unpack_from("<I", head, at)[0], label_of(file)
    named = ["-n", "LABEL"] if label else []  # a place for it, in which its own bytes are put
    _check_room(_needed(file))
    with _nameless(file.stat().st_size if size is None else size) as new:
        run("mkfs.fat", *shape, "-i", f"{number:08x}", *named, new)
        _copy(file, new)
        _set_flags(new, before)
        run("fsck.fat", "-n", new)
        _name(new, head[at + 4 : at + 15], label)
        check_kept(before, files_of(new, read=True))
        _write_over(file, new)
    check_kept(before, files_of(file, read=True))


def _names_at(head: bytes) -> int:
    """Where a boot sector has the volume's number, and its label behind that."""
    return 67 if is_fat32(head) else 39


def _name(new: Path, in_boot_sector: bytes, in_folder: bytes) -> None:
    """Give a FAT a label byte by byte: in what letters it is written is known to its system alone.

    A system that changes one may do so in the topmost folder alone.
    """
    with new.open("r+b") as opened:
        head = opened.read(_BOOT)
        at = _names_at(head) + 4
        copy = int.from_bytes(head[50:52], "little") if is_fat32(head) else 0
        for sector in {0, copy}:
            opened.seek(sector * _sector(new) + at)
            opened.write(in_boot_sector)
        if in_folder:
            opened.seek(_tables_end(head))
            if opened.read(11).rstrip() != b"LABEL":
                raise NotResized(tr("Not all that is in a FAT could be kept as it was."), "")
            opened.seek(_tables_end(head))
            opened.write(in_folder)


def _tables_end(head: bytes) -> int:
    """Where the topmost folder of a FAT lies that mkfs.fat has made, in bytes."""
    sector, reserved, count = (int.from_bytes(head[a:b], "little") for a, b in _FIELDS)
    length = int.from_bytes(head[22:24], "little") or int.from_bytes(head[36:40], "little")
    return sector * (reserved + count * length)


def _write_over(file: Path, new: Path) -> None:
    """Put a FAT in the place of another: all up to the last cluster that holds something."""
    with new.open("rb") as source, file.open("r+b") as target:
        left = _end(source, new.stat().st_size)
        source.seek(0)
        while left:
            piece = source.read(min(left, _PIECE))
            target.write(piece)
            left -= len(piece)
        target.flush()
        os.fsync(target.fileno())


def _end(opened: BinaryIO, size: int) -> int:
    """Up to where a FAT says something, in bytes; of other kinds than FAT32 all of it."""
    head = opened.read(_BOOT)
    if not is_fat32(head):
        return size
    sector, reserved, _ = (int.from_bytes(head[a:b], "little") for a, b in _FIELDS)
    opened.seek(sector * reserved)
    table = np.frombuffer(opened.read(sector * int.from_bytes(head[36:40], "little")), "<u4")
    last = int(np.flatnonzero(table)[-1])
    return min(size, _tables_end(head) + (last - 1) * head[13] * sector)


@contextmanager
def _nameless(size: int) -> Iterator[Path]:
    """A file without a name, for programs that want one: it goes with this process."""
    with tempfile.TemporaryFile(prefix="vdbackup-") as opened:
        opened.truncate(size)
        yield _path_of(opened)


def _path_of(opened: IO[Any]) -> Path:
    return Path(f"/proc/{os.getpid()}/fd/{opened.fileno()}")


def _check_room(needed: int) -> None:
    """Raise NotResized where so many bytes have no room."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if needed > free:
        raise NotResized(
            tr(
                "To make a FAT anew {needed} are needed in {folder}, where {free} are free.",
                needed=readable_size(needed),
                folder=tempfile.gettempdir(),
                free=readable_size(free),
            ),
            tr("Let TMPDIR name a folder with more room."),
        )


def _copy(file: Path, new: Path) -> None:
    """Copy all that is in a FAT to another one."""
    if not run("mdir", "-b", "-a", "-i", file, "::/").strip():
        return
    with file.open("rb") as source, tempfile.TemporaryFile("w+", prefix="vdbackup-") as drives:
        # by numbers, because a path may hold what such a file has another meaning for
        drives.write(f'drive y: file="{_path_of(source)}"\ndrive z: file="{new}"\n')
        drives.flush()
        with_drives = {"MTOOLSRC": str(_path_of(drives))}
        run("mcopy", "-s", "-Q", "-n", "-m", "y:/*", "z:/", more=with_drives)


def _set_flags(file: Path, wanted: Mapping[str, Kept]) -> None:
    for flags in sorted({kept.attributes for kept in wanted.values() if kept.attributes}):
        # a bracket would be a pattern; what is hidden is found all the same
        paths = [
            path.replace("[", "[[]") for path, kept in wanted.items() if kept.attributes == flags
        ]
        switches = [f"+{name}" for name, flag in _FLAGS.items() if flags & flag]
        for at in range(0, len(paths), _AT_ONCE):
            named = [f"::{path}" for path in paths[at : at + _AT_ONCE]]
            run("mattrib", *switches, "-i", file, *named)


def _needed(file: Path) -> int:
    """Bytes that it takes meanwhile when it is made anew: its files, and two tables."""
    used, cluster = _used(file)
    return used + 2 * _ENTRY * (file.stat().st_size // cluster)


def _used(file: Path) -> tuple[int, int]:
    """Bytes of the clusters that hold something, and of one cluster."""
    said = run("fsck.fat", "-n", file, allowed=_CHECKED)
    found = re.search(rb" (\d+)/(\d+) clusters", said)
    with file.open("rb") as opened:
        head = opened.read(512)
    cluster = int.from_bytes(head[11:13], "little") * head[13]
    if found is None or not cluster:
        raise NotResized(tr("How small the file system can become cannot be told."), "")
    return int(found[1]) * cluster, cluster


def _check(file: Path) -> None:
    """Have it mended where nothing is taken away from what is in it, and see that it is kept."""
    before = files_of(file, read=False)
    run("fsck.fat", "-a", file, allowed=_CHECKED)
    check_whole(before, files_of(file, read=False))
    check_can_be_carried(before, starts=True)
    _check_room(_needed(file))


def _least(file: Path) -> int:
    """What is in it, the tables for it, and no fewer clusters than a FAT32 has."""
    used, _ = _used(file)
    _check_room(2 * _needed(file))  # what is written to the overlay lies there, too
    smallest = _LEAST_CLUSTERS * _sector(file)
    return min(file.stat().st_size, max(used + used // 32, smallest + smallest // 32) + _SLACK)


def _resize(file: Path, size: int) -> None:
    sector = _sector(file)
    cluster = _used(file)[1]
    while size // cluster < _LEAST_CLUSTERS and cluster > sector:
        cluster //= 2
    while size // cluster > _MOST_CLUSTERS and cluster < 32 << 10:
        cluster *= 2
    with file.open("rb") as opened:
        hidden = int.from_bytes(opened.read(32)[28:], "little")
    shape = ("-F", "32", "-S", str(sector), "-s", str(cluster // sector), "-h", str(hidden))
    _make_anew(file, shape, size)


def _sector(file: Path) -> int:
    with file.open("rb") as opened:
        return int.from_bytes(opened.read(13)[11:], "little")


FAT = FileSystem("FAT32", _PROGRAMS, _check, _least, _resize, only_if_named=True)
"""It grows where that is said alone: all its files are copied twice for it."""
