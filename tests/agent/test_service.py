"""An ordinary user's backups by the agent: real devices, real freezes; polkit alone is a stand-in."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from pathlib import Path

import pytest

from tests.agent.agents import Agents, agents_for
from tests.agent.mounts import MIB, image, opened
from tests.backup.in_use.devices import back_up, restored
from tests.sources.loops import loop, mounted
from tests.sources.opened import open_path
from tests.sources.ordinary_user import as_an_ordinary_user, open_folder
from vdbackup.agent import client
from vdbackup.consistency import How
from vdbackup.errors import Unauthorized
from vdbackup.repository.repository import Repository

pytestmark = pytest.mark.usefixtures("as_root")


@pytest.fixture
def agents(bpffs, stack) -> Agents:
    return stack.enter_context(agents_for(bpffs))


@pytest.fixture
def device(agents: Agents, tmp_path: Path, stack) -> Path:
    """An ext4 of 48 MiB, mounted, that only root may read; every user may use it for backups."""
    disk = image(tmp_path / "disk.img", 48, "ext4")
    device = stack.enter_context(loop(disk))
    stack.enter_context(mounted(device, tmp_path / "mount", "-o", "nodiscard"))
    stack.enter_context(opened(tmp_path / "mount"))
    agents.allow(device)
    return device


def test_an_ordinary_user_backs_up_a_mounted_device_frozen_and_tracked(
    agents, device, tmp_path, stack
):
    folder = stack.enter_context(open_folder())
    (tmp_path / "mount/file").write_bytes(os.urandom(20 * MIB))
    points = []
    with as_an_ordinary_user():
        repository = Repository.create(folder / "repository")
        client.track(device)
        for number in range(3):
            if number == 2:
                os.setresuid(0, 0, 0)
                (tmp_path / "mount/later").write_bytes(os.urandom(3 * MIB))
                os.setresuid(65534, 65534, 0)
            made = back_up(repository, device)
            assert made.warnings == ()
            points.append(made.point)
    for number, point in enumerate(points):
        assert point.reading.consistency.how is How.FROZEN
        assert point.reading.changes_from == ("tracker" if number else "scan")
        assert number < 2 or point.reading.read_bytes < 8 * MIB
        raw = restored(repository, point, tmp_path / f"{number}.raw")
        assert hashlib.blake2b(raw.read_bytes()).hexdigest() == agents.frozen[number]
    assert agents.said == ""
