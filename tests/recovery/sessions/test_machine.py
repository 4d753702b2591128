"""A machine of two disks boots with both: the loader and the kernel on one, the root on the other.

Each session is a boot of a kernel, 4 seconds of a processor where there is no KVM.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.guests import tiny_linux as builder
from tests.sources.opened import open_path
from vdbackup.backup import machine_capture
from vdbackup.errors import CannotBoot, NotPromotable, NotWhole, PointInUse
from vdbackup.guest.hardware import Controller, HardwareRequest
from vdbackup.jobs import Task
from vdbackup.operations import delete, promote
from vdbackup.recovery.boot_test import boot_test
from vdbackup.recovery.boot_test.boot_test import BootTestOptions
from vdbackup.recovery.other_programs.machine import write_machine
from vdbackup.recovery.sessions import sessions as all_sessions
from vdbackup.recovery.sessions import vm
from vdbackup.recovery.sessions.elsewhere import Program
from vdbackup.recovery.sessions.session import Session
from vdbackup.repository import publication
from vdbackup.repository.machine import MomentPoints
from vdbackup.repository.repository import Repository

LIMIT = 240.0
"""Seconds for a boot on a busy machine."""
ROOT = builder.ROOT_START * builder.SECTOR


@pytest.fixture
def disks(tiny_linux: Path, tmp_path: Path) -> list[Path]:
    """That which starts the system, without its root; and another one, which is its root."""
    whole = tiny_linux.read_bytes()
    start, root = tmp_path / "start.img", tmp_path / "root.img"
    start.write_bytes(whole[:ROOT] + bytes(len(whole) - ROOT))
    root.write_bytes(whole[ROOT:])
    return [start, root]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "repository")


def back_up(
    repository: Repository, disks: Sequence[Path], disk_format: str = "vmdk"
) -> MomentPoints:
    with ExitStack() as stack:
        sources = [stack.enter_context(open_path(each)) for each in disks]
        plan = machine_capture.plan(repository, sources, "tiny", disk_format=disk_format)
        return machine_capture.run(plan, Task()).moment


def booted(
    repository: Repository,
    moment: MomentPoints,
    name: str,
    folder: Path,
    controller: Controller = Controller.VIRTIO,
) -> Session:
    return vm.start_from_point(
        repository,
        repository.set(name),
        moment.points[name],
        sessions_folder=folder,
        request=HardwareRequest(controller=controller),
    )


def digests(repository: Repository) -> dict[str, str]:
    """SHA-256 of all layers and overlays."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(repository.path.glob("*/*.v*"))
    }


@pytest.mark.parametrize(
    ("controller", "disk_format", "root"),
    [
        (Controller.VIRTIO, "vmdk", "/dev/vdb"),
        pytest.param(Controller.NVME, "vhd", "/dev/nvme1n1", marks=pytest.mark.long),
        # which of two disks is found first is Linux's to say, and no name is relied on
        pytest.param(Controller.IDE, "qcow2", "/dev/sd", marks=pytest.mark.long),
    ],
)
def test_a_moment_of_two_disks_boots_with_both_and_writes_to_neither(
    disks, repository, tmp_path, controller, disk_format, root
):
    moment = back_up(repository, disks, disk_format)
    before = digests(repository)
    with booted(repository, moment, "root", tmp_path / "sessions", controller) as session:
        assert session.title == "tiny #1"
        assert session.wait_for_text(" count=1", LIMIT), session.console_text()
        assert f"root={root}" in session.console_text()
        assert session.wait(LIMIT)
    assert digests(repository) == before
    assert not list((tmp_path / "sessions").iterdir())


def test_a_kept_session_goes_on_with_what_it_wrote_to_its_second_disk(disks, repository, tmp_path):
    moment = back_up(repository, disks)
    folder = tmp_path / "sessions"
    with booted(repository, moment, "start", folder) as session:
        assert session.wait_for_text("count=1", LIMIT), session.console_text()
        assert session.wait(LIMIT)
        session.keep()
    saved = all_sessions.find(folder, session.id)
    plan = delete.plan(repository, "root", moment.points["root"].id)
    with pytest.raises(PointInUse, match="session"):
        delete.run(plan, folder, Task())
    assert len(repository.set("start").points) == 1
    with vm.reopen_session(saved) as session:
        assert session.wait_for_text("count=2", LIMIT), session.console_text()
        assert session.wait(LIMIT)


def test_a_machine_whose_second_disk_lacks_the_moment_does_not_start(disks, repository, tmp_path):
    moment = back_up(repository, disks)
    with repository.lock("a test"):
        publication.withdraw(repository.path / "root", moment.points["root"])
    with pytest.raises(NotWhole, match="root has no point of it"):
        booted(repository, moment, "start", tmp_path / "sessions")


def test_a_boot_test_of_a_moment_has_all_disks_and_is_noted_of_the_first(
    disks, repository, tmp_path
):
    moment = back_up(repository, disks)
    request = BootTestOptions(tmp_path / "sessions", f"text:{builder.ALIVE} root=/dev/vdb")
    request = replace(request, hardware=HardwareRequest(controller=Controller.VIRTIO))
    test = boot_test.run(repository, "root", moment.points["root"].id, request, Task())
    assert test.ok, test.sentence
    assert repository.set("start").points[0].boot_tested == test
    assert repository.set("root").points[0].boot_tested is None
    assert boot_test.untested(repository.set("root")) == []


def test_neither_a_point_nor_another_programs_machine_is_made_of_one_disk_of_two(
    disks, repository, tmp_path
):
    moment = back_up(repository, disks)
    folder = tmp_path / "sessions"
    with pytest.raises(CannotBoot, match="tiny has 2 disks"):
        write_machine(
            repository,
            repository.set("start"),
            moment.points["start"],
            Program.VIRTUALBOX,
            sessions_folder=folder,
        )
    with booted(repository, moment, "start", folder) as session:
        session.keep()
    saved = all_sessions.find(folder, session.id)
    with pytest.raises(NotPromotable, match="tiny #1 has 2 disks"):
        promote.plan(saved)
    saved.discard()
    delete.run(delete.plan(repository, "root", moment.points["root"].id), folder, Task())
