"""A FAT made anew, with other sectors or of another size, with the same files.

No program changes one in its place that takes a file (fatresize 1.1 wants a partition table):
mkfs.fat makes it anew, and mtools copies what was in it out and in again, without root. So all
files lie in the folder for temporary files meanwhile. Names, times of change and attributes are
kept, and the volume's number and label; times of creation and of reading are not.
"""

from __future__ import annotations

import re
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vdbackup.errors import NotResized
from vdbackup.jobs import readable_size
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
_SHOWN = re.compile(r"([ADHRS]+) ::(/.+)")
_KEPT = "HRS"
"""Attributes that mcopy does not set: hidden, read-only, system (mattrib(1))."""
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


def _make_anew(file: Path, shape: tuple[str, ...], size: int | None = None) -> None:
    """With options of mkfs.fat, and a size in bytes if it is not all of the partition."""
    with file.open("rb") as opened:
        head = opened.read(512)
    at = 67 if is_fat32(head) else 39
    number, label = struct.unpack_from("<I", head, at)[0], head[at + 4 : at + 15].rstrip(b" \0")
    named = ["-n", label.decode("ascii", "replace")] if label not in (b"", b"NO NAME") else []
    blocks = [] if size is None else [str(size // 1024)]
    with _room_for(file) as folder:
        before, after = Path(folder, "before"), Path(folder, "after")
        _copy_out(file, before)
        attributes = _attributes(file)
        run("mkfs.fat", *shape, "-i", f"{number:08x}", *named, file, *blocks)
        if top := sorted(before.iterdir()):
            run("mcopy", "-s", "-Q", "-m", "-i", file, *top, "::/")
        _set_attributes(file, attributes)
        run("fsck.fat", "-n", file)
        _copy_out(file, after)
        run("diff", "--recursive", before, after)
        if _attributes(file) != attributes:
            raise NotResized(tr("Not all attributes of files in a FAT could be kept."), "")


@contextmanager
def _room_for(file: Path) -> Iterator[str]:
    """A folder that has room for all files of a FAT, twice."""
    _check_room(_used(file)[0])
    with tempfile.TemporaryDirectory(prefix="vdbackup-") as folder:
        yield folder


def _check_room(used: int) -> None:
    """Raise NotResized where files of so many bytes have no room twice."""
    free, needed = shutil.disk_usage(tempfile.gettempdir()).free, 2 * used
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


def _copy_out(file: Path, folder: Path) -> None:
    """Copy all files of a FAT to a new folder."""
    folder.mkdir()
    if run("mdir", "-b", "-a", "-i", file, "::/").strip():
        run("mcopy", "-s", "-Q", "-n", "-m", "-i", file, "::/*", folder)


def _attributes(file: Path) -> dict[str, str]:
    """Which of _KEPT files have that have any, by path."""
    found = {}
    for line in run("mattrib", "-/", "-X", "-i", file, "::/").decode(errors="replace").splitlines():
        shown = _SHOWN.fullmatch(line.strip())
        if shown and (kept := "".join(each for each in _KEPT if each in shown[1])):
            found[shown[2]] = kept
    return found


def _set_attributes(file: Path, wanted: dict[str, str]) -> None:
    for kept in sorted(set(wanted.values())):
        # a bracket would be a pattern; deeper ones first: what is hidden is found all the same
        paths = [path.replace("[", "[[]") for path, each in wanted.items() if each == kept]
        switches = [f"+{each.lower()}" for each in kept]
        for at in range(0, len(paths), _AT_ONCE):
            named = [f"::{path}" for path in paths[at : at + _AT_ONCE]]
            run("mattrib", *switches, "-i", file, *named)


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
    run("fsck.fat", "-a", file, allowed=_CHECKED)


def _least(file: Path) -> int:
    """What is in it, the tables for it, and no fewer clusters than a FAT32 has."""
    used, _ = _used(file)
    _check_room(used)
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
