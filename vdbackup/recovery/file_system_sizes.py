"""Making file systems smaller and larger, by the programs of each, on a partition shown as a file.

e2fsprogs and ntfs-3g do it without root on any file; XFS and Btrfs are changed by the kernel that
has them mounted, which only root may do; a swap space is made anew. The programs' words are read
where they have no other way to answer, in English (LC_ALL): how small a file system can become.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vdbackup.errors import NotResized, ProgramMissing
from vdbackup.recovery import kernel_mount
from vdbackup.recovery.loop_device import loop_device
from vdbackup.translation import tr

_EXT_SUPER, _EXT_BLOCK_SIZE = 1024, 24
"""Where ext's superblock is, and in it the block size (log2 of KiB; kernel, ext4.h)."""
_CHECKED = (0, 1)
"""e2fsck(8): nothing was wrong, or all was mended (a journal that was replayed)."""
_SLACK = 16 << 20
"""Bytes that are left beside what a program calls the least: it is an estimate."""
_BTRFS_SLACK = 64 << 20
"""The same of Btrfs, which moves whole chunks."""
_SWAP_HEAD = 4096
"""Where a swap space describes itself: from byte 1024 on a version, sizes, its UUID and label."""
_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "MTOOLS_SKIP_CHECK": "1"}
_NTFS_LEAST = re.compile(rb"You might resize at (\d+) bytes")


@dataclass(frozen=True)
class FileSystem:
    """How one kind is handled.

    Attributes:
        name: for a person.
        programs: that it takes, each with the Debian package that has it.
        check: has what is in its journal applied, and sees to it that it is whole.
        least: the bytes that it can be made as small as.
        resize: to a size in bytes, on a partition that is as large as the larger of both.
        needs_root: the kernel does it, on what root has mounted.
        only_if_named: it takes what a larger disk has more only where the user says so.
    """

    name: str
    programs: tuple[tuple[str, str], ...]
    check: Callable[[Path], None]
    least: Callable[[Path], int]
    resize: Callable[[Path, int], None]
    needs_root: bool = False
    only_if_named: bool = False

    @property
    def possible(self) -> bool:
        """Whether this user can do it."""
        return not self.needs_root or os.geteuid() == 0

    def check_programs(self) -> None:
        """Raise ProgramMissing where one is not installed."""
        check_programs(self.name, self.programs)


def check_programs(name: str, programs: Sequence[tuple[str, str]]) -> None:
    """Raise ProgramMissing where one is not installed that changes a kind of file system."""
    for program, package in programs:
        if _find(program) is None:
            raise ProgramMissing(
                tr(
                    "{name} cannot be made another size: {program} is not installed.",
                    name=name,
                    program=program,
                ),
                tr("Install it with: sudo apt install {package}", package=package),
            )


def _find(program: str) -> str | None:
    """Debian has these in a folder that an ordinary user's PATH need not name."""
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def run(
    *command: str | Path,
    allowed: tuple[int, ...] = (0,),
    more: Mapping[str, str] | None = None,
) -> bytes:
    """What a program says, with so much more in its environment; raises NotResized if it fails."""
    found = _find(str(command[0]))
    done = subprocess.run(
        [found or str(command[0]), *map(str, command[1:])],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        env={**os.environ, **_ENVIRONMENT, **(more or {})},
        process_group=0,  # Ctrl-C in our terminal is not for it: half of a change is worse
    )
    if done.returncode not in allowed:
        lines = [line for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]
        raise NotResized(
            tr("{command} could not make a file system another size.", command=command[0]),
            tr("It says: {line}", line=lines[-1].strip()) if lines else "",
        )
    return done.stdout


def _check_ext(file: Path) -> None:
    run("e2fsck", "-f", "-p", file, allowed=_CHECKED)


def _least_of_ext(file: Path) -> int:
    blocks = re.search(rb": (\d+)\s*$", run("resize2fs", "-P", file))
    with file.open("rb") as opened:
        opened.seek(_EXT_SUPER + _EXT_BLOCK_SIZE)
        shift = int.from_bytes(opened.read(4), "little")
    if blocks is None or shift > 6:
        raise NotResized(tr("How small the file system can become cannot be told."), "")
    return (int(blocks[1]) << (10 + shift)) + _SLACK


def _resize_ext(file: Path, size: int) -> None:
    run("resize2fs", file, f"{size // 1024}K")
    run("e2fsck", "-f", "-n", file)


def _check_ntfs(file: Path) -> None:
    """A Windows that hibernates, or was not shut down, is refused by the program."""
    run("ntfsresize", "--info", "--force", "--no-progress-bar", file)


def _least_of_ntfs(file: Path) -> int:
    said = run("ntfsresize", "--info", "--force", "--no-progress-bar", file)
    found = _NTFS_LEAST.search(said)
    size = file.stat().st_size
    return min(size, int(found[1]) + _SLACK) if found else size


def _resize_ntfs(file: Path, size: int) -> None:
    # --force twice: asks nothing, also where it is to be checked by Windows at its next start
    run("ntfsresize", "--force", "--force", "--no-progress-bar", "--size", str(size), file)


# ------------------------------------------------------------------------------------ by the kernel


@contextmanager
def _mounted(file: Path) -> Iterator[Path]:
    """Where a file system is mounted meanwhile, as root (kernel_mount)."""
    with (
        loop_device(file) as device,
        kernel_mount.mounted(device, _kind_of(file), run) as folder,
    ):
        yield folder


def _kind_of(file: Path) -> str:
    with file.open("rb") as opened:
        return "xfs" if opened.read(4) == b"XFSB" else "btrfs"


def _check_xfs(file: Path) -> None:
    """The kernel replays the log, and xfs_repair(8) looks whether all is whole."""
    with _mounted(file):
        pass
    run("xfs_repair", "-n", "-f", file)


def _keeps_size(file: Path) -> int:
    return file.stat().st_size


def _resize_xfs(file: Path, size: int) -> None:
    """Only to be made larger: as large as the partition is."""
    with _mounted(file) as folder:
        run("xfs_growfs", "-d", folder)
    run("xfs_repair", "-n", "-f", file)


def _check_btrfs(file: Path) -> None:
    with _mounted(file):
        pass
    run("btrfs", "check", "--readonly", "--force", file)


def _least_of_btrfs(file: Path) -> int:
    with _mounted(file) as folder:
        found = re.match(rb"(\d+) bytes", run("btrfs", "inspect-internal", "min-dev-size", folder))
    if found is None:
        raise NotResized(tr("How small the file system can become cannot be told."), "")
    return int(found[1]) + _BTRFS_SLACK


def _resize_btrfs(file: Path, size: int) -> None:
    with _mounted(file) as folder:
        run("btrfs", "filesystem", "resize", str(size), folder)
    run("btrfs", "check", "--readonly", "--force", file)


# ------------------------------------------------------------------------------------ made anew


def _check_swap(file: Path) -> None:
    """Nothing in it is to be kept: who had hibernated there was refused before."""


def _least_of_swap(file: Path) -> int:
    """Half of it: a smaller one than its owner thought right is better than none, to a point."""
    return file.stat().st_size // 2


def _resize_swap(file: Path, size: int) -> None:
    """A new one with the old one's names, by which fstab and the kernel's command line know it."""
    with file.open("rb") as opened:
        head = opened.read(_SWAP_HEAD)
    identity, label = uuid.UUID(bytes=head[1036:1052]), head[1052:1068].split(b"\0")[0]
    named = ["--label", label.decode(errors="replace")] if label else []
    run("mkswap", "--force", "--uuid", str(identity), *named, file, str(size // 1024))


FILE_SYSTEMS = {
    "ext": FileSystem(
        "ext4",
        (("e2fsck", "e2fsprogs"), ("resize2fs", "e2fsprogs")),
        _check_ext,
        _least_of_ext,
        _resize_ext,
    ),
    "ntfs": FileSystem(
        "NTFS", (("ntfsresize", "ntfs-3g"),), _check_ntfs, _least_of_ntfs, _resize_ntfs
    ),
    "xfs": FileSystem(
        "XFS",
        (("xfs_growfs", "xfsprogs"), ("xfs_repair", "xfsprogs")),
        _check_xfs,
        _keeps_size,  # XFS cannot become smaller (xfs_growfs(8))
        _resize_xfs,
        needs_root=True,
    ),
    "btrfs": FileSystem(
        "Btrfs",
        (("btrfs", "btrfs-progs"),),
        _check_btrfs,
        _least_of_btrfs,
        _resize_btrfs,
        needs_root=True,
    ),
    "swap": FileSystem(
        "swap",
        (("mkswap", "util-linux"),),
        _check_swap,
        _least_of_swap,
        _resize_swap,
        only_if_named=True,
    ),
}
"""By the name that volumes/signatures.py has for each."""


def tell_ntfs_its_place(file: Path, sectors: int) -> None:
    """Note in an NTFS where its partition begins, which its boot code reads from there.

    In the boot sector and in its copy, the last sector of the volume ("hidden sectors").

    Args:
        file: the partition.
        sectors: that lie before it on the disk.
    """
    with file.open("r+b") as opened:
        opened.seek(11)
        (sector_size,) = struct.unpack("<H", opened.read(2))
        opened.seek(40)
        (count,) = struct.unpack("<Q", opened.read(8))
        for at in (0, count * sector_size):
            opened.seek(at + 3)
            if opened.read(8) == b"NTFS    ":
                opened.seek(at + 28)
                opened.write(struct.pack("<I", sectors & 0xFFFFFFFF))
