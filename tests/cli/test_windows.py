"""A Windows from the command line: what would be changed, with which drivers, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup
from tests.guests import windows as made


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk with a Windows 10, for UEFI."""
    volume = made.volume(made.files(tmp_path / "files"), tmp_path / "volume.img")
    return made.gpt_disk(volume, tmp_path / "pc.img")


def test_a_windows_is_made_ready_for_other_hardware(
    vdbackup: Vdbackup, disk: Path, repository: Path, tmp_path: Path
):
    vdbackup("backup", disk, "-r", repository)
    virtio = ("retarget", "-r", repository, "1", "--hardware", "virtio")
    refused = vdbackup(*virtio)
    assert refused.status == 1
    assert "Windows 10 Pro has no driver for a disk on virtio" in refused.err
    assert "--drivers DIR" in refused.err
    drivers = made.virtio_win(tmp_path / "virtio-win")
    plan = vdbackup(*virtio, "--drivers", drivers, "--dry-run", "--json").json
    assert [change["path"] for change in plan["changes"]] == [
        "/Windows/System32/config/SYSTEM",
        "/Windows/System32/drivers/viostor.sys",
        "/Windows/INF/viostor.sys",
        "/Windows/INF/viostor.cat",
        "/Windows/INF/viostor.inf",
    ]
    done = vdbackup("retarget", "-r", repository, "1", "--hardware", "ahci")
    assert "+ControlSet002\\Services\\storahci\\Start = 0" in done.out
