"""What is fuzzed: small sound disks of every kind, and how a lie in one is sealed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.disks.seals import Seal, no_checksums, seal_vhd, seal_vhdx
from tests.disks.shelf import GRAIN, Shelf
from tests.noise import noise
from tests.oracles import qemu

SIZE = 3 * (1 << 20) + 512


@dataclass(frozen=True)
class Target:
    """A disk to damage.

    Attributes:
        disk: the sound file, in a folder with its parents and extents.
        disk_format: that it is opened in.
        seal: makes the checksums right again, so that what is behind them is reached.
    """

    disk: Path
    disk_format: str
    seal: Seal


def _chain(folder: Path, disk_format: str, seal: Seal) -> Target:
    """A child of ours over a base of ours."""
    shelf = Shelf(folder, SIZE, disk_format)
    shelf.add("base", (0, noise(3 * GRAIN, 1)))
    child = shelf.add("child", (GRAIN, noise(GRAIN, 2)), (2 * GRAIN, GRAIN))
    return Target(child, disk_format, seal)


def _converted(folder: Path, disk_format: str, *options: str) -> Target:
    """What qemu-img makes of a raw disk."""
    raw = folder / "raw"
    raw.write_bytes(noise(5000, 1) + bytes(SIZE - 10000) + noise(5000, 2))
    convert = ["qemu-img", "convert", "-f", "raw", "-O", disk_format, *options, str(raw)]
    subprocess.run([*convert, str(folder / "disk")], check=True)
    return Target(folder / "disk", disk_format, no_checksums)


def _dirty_qcow2(folder: Path) -> Target:
    """What QEMU leaves of a child with small clusters, an internal snapshot among it."""
    raw = folder / "base.raw"
    raw.write_bytes(noise(SIZE, 3))
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "-b", "base.raw"]
    subprocess.run([*create, "-F", "raw", "disk"], cwd=folder, check=True)
    qemu.io(folder / "disk", "write -P 7 100k 3k", "write -z 1M 64k", disk_format="qcow2")
    subprocess.run(["qemu-img", "snapshot", "-c", "s", str(folder / "disk")], check=True)
    return Target(folder / "disk", "qcow2", no_checksums)


TARGETS: dict[str, Callable[[Path], Target]] = {
    "vmdk": lambda folder: _chain(folder, "vmdk", no_checksums),
    "vmdk-text": lambda folder: _converted(folder, "vmdk", "-o", "subformat=twoGbMaxExtentSparse"),
    "vmdk-stream": lambda folder: _converted(folder, "vmdk", "-o", "subformat=streamOptimized"),
    "vhd": lambda folder: _chain(folder, "vhd", seal_vhd),
    "vhdx": lambda folder: _chain(folder, "vhdx", seal_vhdx),
    "qcow2": lambda folder: _chain(folder, "qcow2", no_checksums),
    "qcow2-compressed": lambda folder: _converted(folder, "qcow2", "-c"),
    "qcow2-extended": lambda folder: _converted(folder, "qcow2", "-o", "extended_l2=on"),
    "qcow2-foreign": _dirty_qcow2,
}
