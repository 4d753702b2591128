"""Reading back asks the storage: what is in the page cache alone is no proof."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.backup.lab import Lab, noise
from tests.crash.storage import storage
from vdbackup.backup.readback import check_layer
from vdbackup.errors import Damaged
from vdbackup.jobs import Task
from vdbackup.repository.digests import BLOCK, DigestFold


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
