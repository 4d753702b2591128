"""A Debian that was restored to a disk of another size comes up there, by BIOS and by UEFI."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guests import debian
from tests.guests.debian import Debian
from tests.sources.loops import run
from tests.sources.opened import open_path
from vdbackup.backup import capture
from vdbackup.jobs import Task
from vdbackup.recovery import restore
from vdbackup.recovery.sessions import vm
from vdbackup.recovery.sessions.vm import HardwareRequest
from vdbackup.repository.repository import Repository

MIB = 1 << 20
LIMIT = 1800.0
"""Seconds; a Debian takes 30 on a machine that does nothing else."""


@pytest.mark.long
@pytest.mark.timeout(2 * LIMIT)
@pytest.mark.parametrize("size", [640, 1024])
@pytest.mark.parametrize(
    ("kind", "disk_format"),
    [(Debian(), "vmdk"), (Debian(boot="grub-uefi"), "qcow2")],
    ids=["bios", "uefi"],
)
def test_a_debian_boots_from_a_disk_of_another_size(
    tmp_path: Path, kind: Debian, disk_format: str, size: int
) -> None:
    repository, target = Repository.create(tmp_path / "backups"), tmp_path / "target.img"
    with open_path(debian.image(kind)) as source:
        plan = capture.plan(repository, source, set_name="disk", disk_format=disk_format)
        point = capture.run(plan, Task()).point
    with target.open("wb") as file:
        file.truncate(size * MIB)
    request = restore.RestoreRequest(
        repository, "disk", point.id, target, overwrite=True, resize=True
    )
    assert restore.run(restore.plan(request), Task()).warnings == ()
    run("sfdisk", "--verify", target)
    with vm.start_session(
        target,
        sessions_folder=tmp_path / "sessions",
        title="guest",
        request=HardwareRequest(),
        disk_format="raw",
    ) as session:
        said = f"{debian.ALIVE} count=1 root={kind.device}"
        assert session.wait_for_text(said, LIMIT), session.console_text()
