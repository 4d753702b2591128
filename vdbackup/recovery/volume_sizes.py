"""What can be made another size on a partition: a file system, or LVM with file systems in it.

LVM's own program changes nothing but its metadata here: it is told that there is no device-mapper,
so that no volume of a backup appears on this computer, however it is called, and is shown one
device alone. What lies in a logical volume is changed by the program of its kind, on the volume as
a file that QEMU puts together from its stretches.

Room that is new goes to the largest logical volume with an ext4. Extents stay where they are: what
can be given up is what is free behind the last of them, and what the ext4 that lies last can spare.
Sources: lvm(8), pvresize(8), lvreduce(8); lvmcmdline.c for --driverloaded.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdbackup.errors import NotResized
from vdbackup.qemu.concatenation import flat_space
from vdbackup.recovery.exporting import exported
from vdbackup.recovery.fat_sizes import FAT, is_fat32
from vdbackup.recovery.file_system_sizes import FILE_SYSTEMS, FileSystem, run
from vdbackup.recovery.loop_device import loop_device
from vdbackup.translation import tr
from vdbackup.volumes import lvm, signatures
from vdbackup.volumes.lvm import LogicalVolume
from vdbackup.volumes.partitions import Partition

_LVM = "LVM"
_EXT = FILE_SYSTEMS["ext"]
_EFI_SYSTEM = ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "ef")
"""As a GPT and an MBR have its type."""
_ALIGNED = 1 << 20
"""Bytes at whose multiples LVM lets what it places begin, at most."""
_KNOWS_FS = (2, 3, 17)
"""The first LVM that reduces no volume that is not active unless told to mind no file system
(WHATS_NEW): none is ever active here. Earlier ones do not know the option."""
_NAME = re.compile(r"[a-zA-Z0-9+_.][a-zA-Z0-9+_.-]*")
"""What LVM allows: no option begins so (lvm(8), "Valid names")."""
_CONFIG = (
    'global { use_lvmpolld=0 locking_type=1 } devices { use_devicesfile=0 hints="none" } '
    "activation { udev_sync=0 udev_rules=0 monitoring=0 } backup { backup=0 archive=0 }"
)


@dataclass(frozen=True)
class _Piece:
    """A stretch of a physical volume that a logical one has.

    Attributes:
        start, count: in extents.
        volume: its name; in brackets where it is a part of another one.
    """

    start: int
    count: int
    volume: str


@dataclass(frozen=True)
class _Group:
    """A volume group that lies in one partition alone.

    Attributes:
        name: of it.
        extent: bytes of one.
        first: where the first one begins, in bytes.
        pieces: those that are taken, by where they begin.
        free: how many are not taken.
        behind: bytes that it takes behind the last one: a second copy of its metadata.
    """

    name: str
    extent: int
    first: int
    pieces: tuple[_Piece, ...]
    free: int
    behind: int

    def end(self, extents: int) -> int:
        """Bytes of a physical volume with so many."""
        return self.first + extents * self.extent + self.behind

    @property
    def used(self) -> int:
        """Extents up to the end of the last that is taken."""
        return max((piece.start + piece.count for piece in self.pieces), default=0)

    def beyond(self, size: int) -> int:
        """How many of the last extents up to there do not fit on a volume of so many bytes."""
        return max(0, self.used - (size - self.end(0)) // self.extent)

    def spare(self, size: int, least: int) -> int:
        """How many of the last extents that are taken a volume can give up that has them.

        Args:
            size: the volume's, in bytes.
            least: what it can be made as small as, likewise.
        """
        return min(self.pieces[-1].count, max(0, (size - least) // self.extent))


def _lvm(device: str, command: str, *words: str) -> bytes:
    only = ("--driverloaded", "n", "--devices", device, "--config", _CONFIG)
    return run("lvm", command, *only, *words)


def _group(device: str) -> _Group:
    said = _lvm(
        device, "pvs", "--segments", "--reportformat", "json", "--units", "b", "--nosuffix",
        "-o", "vg_name,vg_missing_pv_count,pv_count,vg_extent_size,pe_start,"
        "pvseg_start,pvseg_size,lv_name,vg_free_count,pv_mda_count,pv_mda_size",
    ).decode(errors="replace")  # fmt: skip
    report, _ = json.JSONDecoder().raw_decode(said[said.index("{") :])
    rows: list[dict[str, Any]] = report["report"][0]["pvseg"]
    if not rows or not rows[0]["vg_name"]:
        raise NotResized(tr("No volume group of LVM is on it."), "")
    if rows[0]["pv_count"] != "1" or rows[0]["vg_missing_pv_count"] != "0":
        raise NotResized(tr("Its volume group of LVM lies on other disks, too."), "")
    pieces = [
        _Piece(int(row["pvseg_start"]), int(row["pvseg_size"]), row["lv_name"])
        for row in rows
        if row["lv_name"]
    ]
    return _Group(
        rows[0]["vg_name"],
        int(rows[0]["vg_extent_size"]),
        int(rows[0]["pe_start"]),
        tuple(sorted(pieces, key=lambda piece: piece.start)),
        int(rows[0]["vg_free_count"]),
        int(rows[0]["pv_mda_size"]) + _ALIGNED if int(rows[0]["pv_mda_count"]) > 1 else 0,
    )


def _with_ext(file: Path) -> list[LogicalVolume]:
    """Logical volumes that ext4's programs can change: whole ones, of which is no snapshot."""
    found = []
    with file.open("rb") as disk:
        for each in lvm.logical_volumes(disk, [0]):
            named = _NAME.fullmatch(each.group) and _NAME.fullmatch(each.name)
            if each.problem or each.has_snapshot or not each.is_writable or not named:
                continue
            disk.seek(each.runs[0][0])
            if signatures.readable(disk.read(signatures.HEAD)) == "ext":
                found.append(each)
    return found


@contextmanager
def _as_file(file: Path, volume: LogicalVolume) -> Iterator[Path]:
    """A logical volume as a file; what is written to that is in the partition at the end.

    QEMU puts its stretches together; it locks what it opens, and so each is a file of its own.
    """
    with ExitStack() as stack:
        own = stack.enter_context(tempfile.TemporaryDirectory(prefix="vdbackup-"))
        text = Path(own) / "volume.vmdk"
        pieces = [
            (stack.enter_context(loop_device(file, at, length)), length)
            for at, length in volume.runs
        ]
        text.write_text(flat_space(pieces))
        inner = {"driver": "file", "filename": str(text)}
        nodes = ({"driver": "vmdk", "node-name": "volume", "file": inner},)
        with exported(nodes, 0, _size(volume), Path(own)) as shown:
            yield shown


def _size(volume: LogicalVolume) -> int:
    return sum(length for _, length in volume.runs)


def _last(group: _Group, volumes: Sequence[LogicalVolume]) -> LogicalVolume | None:
    """The volume that can give up the last extents that are taken, if one can."""
    if not group.pieces:
        return None
    place = group.first + group.pieces[-1].start * group.extent
    for each in volumes:
        if each.name == group.pieces[-1].volume and each.runs[-1][0] <= place < sum(each.runs[-1]):
            return each
    return None


def _check(file: Path) -> None:
    with loop_device(file) as device:
        group = _group(device)
    last = _last(group, _with_ext(file))
    if last is not None:
        with _as_file(file, last) as volume:
            _EXT.check(volume)


def _spare(file: Path, group: _Group, last: LogicalVolume | None) -> int:
    """How many of the last extents that are taken can be given up."""
    if last is None:
        return 0
    with _as_file(file, last) as volume:
        least = _EXT.least(volume)
    return group.spare(_size(last), least)


def _least(file: Path) -> int:
    with loop_device(file) as device:
        group = _group(device)
    return group.end(group.used - _spare(file, group, _last(group, _with_ext(file))))


def _resize(file: Path, size: int) -> None:
    with loop_device(file) as device:
        group = _group(device)
    volumes = _with_ext(file)
    if size < group.end(group.used):
        _give_up(file, group, _last(group, volumes), size)
    with loop_device(file) as device:
        _lvm(device, "pvresize", "--yes", "--setphysicalvolumesize", f"{size}b", device)
        more = _group(device).free - group.free
    if size >= file.stat().st_size and volumes and more > 0:
        _take(file, more, max(volumes, key=_size))


def _give_up(file: Path, group: _Group, last: LogicalVolume | None, size: int) -> None:
    """Make what lies last smaller, so that no extent lies beyond `size`."""
    missing = group.beyond(size)
    if last is None or missing > group.pieces[-1].count:
        raise NotResized(tr("What lies last in LVM cannot be made smaller."), "")
    left = _size(last) - missing * group.extent
    with _as_file(file, last) as volume:
        _EXT.check(volume)
        _EXT.resize(volume, left)
    with loop_device(file) as device:
        name = f"{last.group}/{last.name}"
        _lvm(device, "lvreduce", "--force", "--yes", *_mind_no_fs(), "--size", f"{left}b", name)


def _mind_no_fs() -> tuple[str, ...]:
    said = re.search(rb"LVM version:\s+(\d+)\.(\d+)\.(\d+)", run("lvm", "version"))
    return ("--fs", "ignore") if said and tuple(map(int, said.groups())) >= _KNOWS_FS else ()


def _take(file: Path, more: int, volume: LogicalVolume) -> None:
    """Have a volume take so many extents: what was free before stays so, for snapshots perhaps."""
    name = f"{volume.group}/{volume.name}"
    with loop_device(file) as device:
        _lvm(device, "lvextend", "--alloc", "anywhere", "--extents", f"+{more}", name)
    larger = next(each for each in _with_ext(file) if each.name == volume.name)
    with _as_file(file, larger) as shown:
        _EXT.check(shown)
        _EXT.resize(shown, _size(larger))


KINDS = {
    **FILE_SYSTEMS,
    "fat": FAT,
    _LVM: FileSystem(
        _LVM,
        (("lvm", "lvm2"), *_EXT.programs),
        _check,
        _least,
        _resize,
        needs_root=True,
    ),
}
"""By the name that volumes/signatures.py has for each."""


def may_change(kind: str, part: Partition, window: io.BufferedReader) -> bool:
    """Whether what lies on a partition is of those of its kind that are made another size.

    Firmware reads an EFI system partition, and so it stays; FATs of other kinds than FAT32 are too
    small for it to matter.

    Args:
        kind: one of KINDS.
        part: the partition.
        window: what lies on it.
    """
    if kind == "fat":
        head = window.read(512)
        return part.kind.lower() not in _EFI_SYSTEM and is_fat32(head)
    return kind != _LVM or lvm.members(window, 0) == 1
