"""VMDK as others write it: what qemu-img and qemu-io made, read by us."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.disks.shelf import GRAIN, MIB, contents, noise
from tests.oracles import qemu
from vdbackup.disks.chain import Chain
from vdbackup.disks.vmdk import VmdkDisk
from vdbackup.errors import DiskError, DiskFormatError, ParentError

TABLE = 32 * MIB


def converted(disk: Path) -> bytes:
    """What QEMU reads, as raw bytes."""
    raw = disk.with_suffix(".raw")
    command = ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", str(disk), str(raw)]
    subprocess.run(command, check=True)
    return raw.read_bytes()


def made(path: Path, size: int, *options: str) -> Path:
    arguments = [part for option in options for part in ("-o", option)]
    command = ["qemu-img", "create", "-q", "-f", "vmdk", *arguments, str(path), str(size)]
    subprocess.run(command, check=True)
    return path


@pytest.mark.parametrize("size", [512, GRAIN - 512, 3 * MIB + 512, 2 * TABLE + GRAIN + 512])
def test_a_disk_that_qemu_wrote_is_read_as_qemu_reads_it(tmp_path, size):
    disk = made(tmp_path / "disk.vmdk", size)
    end = f"write -P 2 {size - 512} 512"
    middle = f"write -P 3 {size // 2 // 512 * 512} 512"
    qemu.io(disk, "write -P 1 0 512", end, middle)
    assert contents(disk) == converted(disk)
    assert len(contents(disk)) == size


def test_a_chain_that_qemu_wrote_is_read_as_qemu_reads_it(tmp_path):
    size = TABLE + 5 * GRAIN
    qemu.create(tmp_path / "a.vmdk", size)
    qemu.io(tmp_path / "a.vmdk", "write -P 1 0 3M", f"write -P 2 {TABLE - GRAIN} 128k")
    for number, (name, parent) in enumerate([("b.vmdk", "a.vmdk"), ("c.vmdk", "b.vmdk")], 3):
        qemu.create(tmp_path / name, size, parent)
        qemu.io(tmp_path / name, f"write -P {number} {number * 100}k 70k")
    top = tmp_path / "c.vmdk"
    assert contents(top) == converted(top)
    with Chain.open(top) as chain:
        assert [layer.path.name for layer in chain.layers] == ["a.vmdk", "b.vmdk", "c.vmdk"]


def test_zero_grains_that_qemu_wrote_hide_the_parents_data(tmp_path):
    base = made(tmp_path / "a.vmdk", MIB, "zeroed_grain=on")
    qemu.io(base, "write -P 1 0 1M")
    child = made(
        tmp_path / "b.vmdk", MIB, "zeroed_grain=on", "backing_file=a.vmdk,backing_fmt=vmdk"
    )
    qemu.io(child, "write -z 128k 256k", "write -P 2 512k 64k")
    wanted = bytearray(b"\1" * MIB)
    wanted[128 << 10 : 384 << 10] = bytes(256 << 10)
    wanted[512 << 10 : 576 << 10] = b"\2" * (64 << 10)
    assert converted(child) == wanted
    assert contents(child) == wanted


def test_a_disk_that_qemu_converted_is_read(tmp_path):
    (tmp_path / "disk.raw").write_bytes(noise(2 * MIB, 1) + bytes(MIB) + noise(MIB, 2))
    command = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk"]
    subprocess.run([*command, tmp_path / "disk.raw", tmp_path / "disk.vmdk"], check=True)
    assert contents(tmp_path / "disk.vmdk") == (tmp_path / "disk.raw").read_bytes()


def test_a_parent_that_qemu_wrote_to_since_is_refused(tmp_path):
    """QEMU itself opens such a child, and fails where it needs the parent."""
    qemu.create(tmp_path / "a.vmdk", MIB)
    qemu.create(tmp_path / "b.vmdk", MIB, "a.vmdk")
    qemu.io(tmp_path / "a.vmdk", "write -P 1 0 64k")
    with pytest.raises(ParentError, match="no longer the disk") as refusal:
        Chain.open(tmp_path / "b.vmdk")
    assert "a.vmdk" in refusal.value.title
    assert refusal.value.advice


@pytest.mark.parametrize(
    "subformat",
    ["streamOptimized", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"],
)
def test_other_kinds_of_vmdk_are_refused_by_a_sentence(tmp_path, subformat):
    disk = made(tmp_path / "disk.vmdk", 3 * MIB, f"subformat={subformat}")
    with pytest.raises(DiskFormatError) as refusal:
        Chain.open(disk)
    assert refusal.value.advice


def test_a_disk_of_another_programs_layout_is_never_written_to(tmp_path):
    disk = made(tmp_path / "disk.vmdk", MIB, "zeroed_grain=on")
    before = disk.read_bytes()
    with pytest.raises(DiskError, match="only read"):
        VmdkDisk.open(disk, writable=True)
    assert disk.read_bytes() == before
