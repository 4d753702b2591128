"""Reading back asks the storage: what is in the page cache alone is no proof."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from tests.backup.lab import Lab
from tests.crash.storage import storage
from tests.noise import noise
from vdbackup.backup.readback import check_layer
from vdbackup.errors import Damaged
from vdbackup.jobs import Task
from vdbackup.repository.digests import BLOCK, DigestFold, digest_blocks
from vdbackup.repository.draft import Draft
from vdbackup.repository.naming import PointType


def read_back(lab: Lab, layer: Path) -> None:
    with DigestFold([layer.with_suffix(".digests")], lab.size) as digests:
        check_layer(layer, lab.disk_format, digests, "Check", Task())


@pytest.mark.usefixtures("as_root")
def test_what_the_storage_lost_is_noticed_although_the_page_cache_has_it(tmp_path, disk_format):
    with storage(tmp_path / "small", "ext4") as small:
        lab = Lab(tmp_path, repository=small.folder / "repository", disk_format=disk_format)
        lab.poke(0, noise(5 * BLOCK, 1))
        layer = lab.layer(lab.backup())
        read_back(lab, layer)
        cached = layer.read_bytes()
        data = noise(5 * BLOCK, 1)[3 * BLOCK :][:4096]
        device = tmp_path / "small.img"
        at = device.read_bytes().index(data)
        with device.open("r+b") as file:
            file.seek(at)
            file.write(bytes(4096))
        assert layer.read_bytes() == cached
        with pytest.raises(Damaged, match=f"at byte {3 * BLOCK} of the disk"):
            read_back(lab, layer)


def test_each_block_is_compared_with_its_own_digest_however_they_lie_in_the_file(
    tmp_path, disk_format
):
    """Those of a capture lie as its threads came to them; the disk's last block is a short one."""
    lab = Lab(tmp_path, disk_format=disk_format)
    parent = lab.backup()
    order = [20, 3, 17, 0, 9, 4, 18, 1]  # blocks; all have another length than the last
    data = {block: noise(BLOCK, block)[: lab.size - block * BLOCK] for block in order}
    with Draft(lab.set, PointType.INCREMENTAL, parent, lab.size, 512) as draft:
        for block, held in data.items():
            draft.disk.write(block * BLOCK, memoryview(held))
            draft.digests.add(np.array([block]), digest_blocks(memoryview(held)))
        draft.complete(())
        point = draft.publish()
    layer = lab.layer(point)
    read_back(lab, layer)
    at = layer.read_bytes().index(data[20][:4096])
    layer.chmod(0o600)
    with layer.open("r+b") as file:
        file.seek(at + 4000)
        file.write(b"another")
        os.fsync(file.fileno())
    with pytest.raises(Damaged, match=f"at byte {20 * BLOCK} of the disk"):
        read_back(lab, layer)


@pytest.mark.usefixtures("as_root")
def test_storage_that_cannot_be_read_past_the_page_cache_is_read_back_with_a_word(
    tmp_path, caplog, monkeypatch
):
    lab = Lab(tmp_path)
    lab.poke(0, noise(2 * BLOCK, 1))
    layer = lab.layer(lab.backup())

    def refused(path: Path, _size: int) -> None:
        raise OSError(22, "Invalid argument", str(path))

    monkeypatch.setattr("vdbackup.disks.host_file.DeviceReads", refused)
    read_back(lab, layer)
    assert "is read back as the page cache has it" in caplog.text


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS])
def test_storage_that_refuses_direct_reads_only_when_read_is_read_back_with_a_word(
    tmp_path, caplog, monkeypatch, number
):
    lab = Lab(tmp_path)
    lab.poke(0, noise(2 * BLOCK, 1))
    layer = lab.layer(lab.backup())

    def refused(*_: object) -> int:
        raise OSError(number, "refused")

    monkeypatch.setattr("vdbackup.disks.device_reads.DeviceReads.readinto", refused)
    read_back(lab, layer)
    assert "is read back as the page cache has it" in caplog.text
