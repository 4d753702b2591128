"""The oracles are worth something: each notices a wrong byte, in any layer, and a wrong chain."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.oracles import libvmdk, qemu

MIB = 1 << 20
SIZE = 3 * MIB
ASSERTIONS = [qemu.assert_holds, libvmdk.assert_holds]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A chain of two that qemu-img made, nothing of it ours, and the raw disk it stands for."""
    qemu.create(tmp_path / "base.vmdk", SIZE)
    qemu.io(tmp_path / "base.vmdk", f"write -P 1 0 {MIB}", f"write -P 2 {2 * MIB} {MIB}")
    qemu.create(tmp_path / "child.vmdk", SIZE, "base.vmdk")
    qemu.io(tmp_path / "child.vmdk", "write -P 3 512 512")
    raw = bytearray(b"\1" * MIB + bytes(MIB) + b"\2" * MIB)
    raw[512:1024] = b"\3" * 512
    (tmp_path / "disk.raw").write_bytes(raw)
    return tmp_path / "child.vmdk", tmp_path / "disk.raw"


def change(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x40]))


@pytest.mark.parametrize("assert_holds", ASSERTIONS)
def test_accepts_a_chain_that_is_right(pair, assert_holds: Callable[[Path, Path], None]):
    assert_holds(*pair)


@pytest.mark.parametrize("assert_holds", ASSERTIONS)
@pytest.mark.parametrize("offset", [0, 512, MIB, SIZE - 1])
def test_notices_a_wrong_byte_of_the_disk(pair, assert_holds, offset):
    change(pair[1], offset)
    with pytest.raises(AssertionError):
        assert_holds(*pair)


@pytest.mark.parametrize("assert_holds", ASSERTIONS)
@pytest.mark.parametrize("layer", ["base.vmdk", "child.vmdk"])
def test_notices_a_wrong_byte_in_a_layers_file(pair, assert_holds, layer):
    change(pair[0].with_name(layer), (pair[0].with_name(layer)).stat().st_size - 1)
    with pytest.raises(AssertionError):
        assert_holds(*pair)


@pytest.mark.parametrize("assert_holds", ASSERTIONS)
def test_notices_another_size_even_if_the_rest_is_zeros(tmp_path, assert_holds):
    qemu.create(tmp_path / "empty.vmdk", SIZE)
    with (tmp_path / "disk.raw").open("wb") as raw:
        raw.truncate(SIZE + 512)
    with pytest.raises(AssertionError):
        assert_holds(tmp_path / "empty.vmdk", tmp_path / "disk.raw")


def test_qemu_notices_a_parent_that_was_written_to_since(pair):
    qemu.io(pair[0].with_name("base.vmdk"), "write -P 9 1M 64k")
    with pytest.raises(AssertionError):
        qemu.assert_holds(*pair)


def test_check_notices_a_grain_beyond_the_end_of_the_file(pair):
    qemu.assert_sound(pair[0])
    with pair[0].open("r+b") as file:
        file.truncate(pair[0].stat().st_size - (64 << 10))
    with pytest.raises(AssertionError):
        qemu.assert_sound(pair[0])


def test_both_follow_the_chain_by_the_names_inside_it(pair):
    assert qemu.chain_names(pair[0]) == ["child.vmdk", "base.vmdk"]
    assert libvmdk.chain_names(pair[0]) == ["child.vmdk", "base.vmdk"]


def test_a_write_of_qemu_io_that_fails_is_an_error(pair):
    with pytest.raises(subprocess.CalledProcessError):
        qemu.io(pair[0], f"write -P 1 {SIZE} 512")
