"""An initramfs is listed whatever packs it, and whatever is in it."""

from __future__ import annotations

import functools
import subprocess
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.guests import systems
from vdbackup.guest.linux import initramfs
from vdbackup.guest.model import Generator

MICROCODE = {"kernel/x86/microcode/GenuineIntel.bin": bytes(5000)}
PACKERS = {
    "plain": ["cat"],
    "gzip": ["gzip"],
    "bzip2": ["bzip2"],
    "xz": ["xz", "--check=crc32"],
    "lzma": ["xz", "--format=lzma"],
    "zstd": ["zstd", "-q", "-19"],
    "lz4": ["lz4", "-q", "-l"],
}
FILES = {
    "usr/lib/modules/6.1.0/kernel/drivers/ata/ahci.ko": bytes(100_000),
    "usr/lib/modules/6.1.0/kernel/drivers/block/virtio-blk.ko.xz": b"xz",
    "usr/lib/modules/6.1.0/modules.builtin": b"kernel/drivers/scsi/sd_mod.ko\n",
    "usr/lib/modules/6.1.0/modules.builtin.alias.bin": b"\xff\xfe",
    "usr/lib/dracut/modules.txt": b"",
}


@functools.cache
def specimen(packer: str) -> bytes:
    """What the tools make of the files."""
    return packed(packer, systems.archive(FILES))


def packed(program: str, data: bytes) -> bytes:
    return subprocess.run(PACKERS[program], input=data, capture_output=True, check=True).stdout


@pytest.mark.parametrize("packer", PACKERS)
def test_drivers_are_found_whatever_packs_them(packer: str) -> None:
    found = initramfs.read(specimen(packer))
    assert found.whole
    assert found.drivers == {"ahci", "virtio_blk"}
    assert found.built_in == {"sd_mod"}
    assert found.generator is Generator.DRACUT


@pytest.mark.parametrize("packer", PACKERS)
def test_archives_one_after_the_other_count_together(packer: str) -> None:
    """As the kernel reads them: microcode first, the system's own, what was appended later."""
    appended = systems.archive({"lib/modules/6.1.0/extra/nvme.ko": b"n"})
    whole = systems.archive(MICROCODE) + specimen(packer)
    found = initramfs.read(whole + bytes(-len(whole) % 512) + appended)
    assert found.whole
    assert found.drivers == {"ahci", "virtio_blk", "nvme"}


def test_one_that_breaks_off_says_so_and_keeps_what_was_read() -> None:
    found = initramfs.read(specimen("gzip")[:-20])
    assert not found.whole
    assert "ahci" in found.drivers


def test_what_unpacks_to_more_than_anything_real_is_not_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(initramfs, "MAX_UNPACKED", 1 << 20)
    bomb = zlib.compress(systems.archive({"zeros": bytes(64 << 20)}), wbits=31)
    assert len(bomb) < 1 << 20
    assert not initramfs.read(bomb).whole


@given(st.binary(max_size=300))
def test_no_bytes_do_harm(data: bytes) -> None:
    initramfs.read(data)


@given(
    packer=st.sampled_from(["plain", "gzip", "zstd", "lz4"]),
    place=st.integers(0, 1 << 20),
    new=st.binary(min_size=1, max_size=16),
)
def test_no_damage_does_harm(packer: str, place: int, new: bytes) -> None:
    data = bytearray(specimen(packer))
    place %= len(data)
    data[place : place + len(new)] = new
    initramfs.read(bytes(data))
