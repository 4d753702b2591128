"""QEMU's locks on its images: who has one open, and who may change it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.oracles import qemu
from vdbackup.disks.qemu_locks import is_open, is_open_for_writing

SIZE = 1 << 20


@pytest.fixture(params=["vmdk", "vpc", "vhdx", "qcow2", "raw"])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, str]:
    qemu.make(tmp_path / "disk", SIZE, request.param)
    return tmp_path / "disk", request.param


def test_a_disk_that_nobody_has_open_is_not_locked(disk):
    assert not is_open(disk[0])
    assert not is_open_for_writing(disk[0])


def test_a_disk_that_qemu_may_write_to_is_open_for_writing(disk):
    path, disk_format = disk
    with qemu.opened(path, disk_format=disk_format):
        assert is_open(path)
        assert is_open_for_writing(path)
    assert not is_open(path)


def test_a_disk_that_qemu_only_reads_is_open_and_nothing_more(disk):
    path, disk_format = disk
    with qemu.opened(path, "-r", disk_format=disk_format):
        assert is_open(path)
        assert not is_open_for_writing(path)


def test_the_parent_of_a_disk_that_is_written_is_only_read(tmp_path):
    parent, child = tmp_path / "parent.vmdk", tmp_path / "child.vmdk"
    qemu.create(parent, SIZE)
    qemu.create(child, SIZE, parent.name)
    with qemu.opened(child):
        assert is_open_for_writing(child)
        assert is_open(parent)
        assert not is_open_for_writing(parent)
