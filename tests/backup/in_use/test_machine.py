"""Several disks that are one machine are backed up as of one moment: real file systems and writers.

The oracle is a program that writes numbered records to the disks in turn, each of them durable
before the next: of one moment, no disk is more than one record behind the one before it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.agent.mounts import image
from tests.backup.in_use.devices import use
from tests.sources.loops import loop, mounted, run
from tests.sources.opened import open_path
from vdbackup.agent import freezing
from vdbackup.backup import machine_capture
from vdbackup.backup.machine_capture import MachineResult
from vdbackup.consistency import How
from vdbackup.errors import NotFrozen, NotOneMachine
from vdbackup.jobs import Task
from vdbackup.recovery import restore
from vdbackup.repository.machine import KnownMachines, moments_of
from vdbackup.repository.model import ChangesFrom, RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.sources import hooks
from vdbackup.sources.moment import Wanted

pytestmark = pytest.mark.usefixtures("as_root")

WRITER = """
import os, sys
files = [open(f"{folder}/records", "ab", buffering=0) for folder in sys.argv[1:]]
number = 0
while True:
    number += 1
    for file in files:
        file.write(b"%015d\\n" % number)
        os.fsync(file.fileno())
    if number == 3:
        print("writes", flush=True)
"""


@contextmanager
def in_turn(*folders: Path) -> Iterator[None]:
    """A program that writes one record after the other to each of them."""
    command = [sys.executable, "-c", WRITER, *map(str, folders)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writes\n"
            yield
        finally:
            writer.kill()


def last_record(folder: Path) -> int:
    """The number of the last record there; all before it have to be there, too."""
    records = (folder / "records").read_bytes()
    numbers = [int(each) for each in records.split()]
    assert numbers == list(range(1, len(numbers) + 1))
    return numbers[-1]


def back_up(
    repository: Repository, devices: Sequence[Path], name: str = "web", **wanted: Any
) -> MachineResult:
    with ExitStack() as stack:
        sources = [stack.enter_context(open_path(each)) for each in devices]
        plan = machine_capture.plan(repository, sources, name, **wanted)
        return machine_capture.run(plan, Task())


def restored(repository: Repository, name: str, point: RecoveryPoint, raw: Path) -> Path:
    restore.run(restore.plan(restore.RestoreRequest(repository, name, point.id, raw)), Task())
    return raw


@pytest.fixture
def disks(stack: ExitStack, tmp_path: Path) -> list[Path]:
    """Two disks with a file system each."""
    names = ("root", "home")
    return [
        stack.enter_context(loop(image(tmp_path / f"{each}.img", 64, "ext4"))) for each in names
    ]


@pytest.fixture
def folders(stack: ExitStack, disks: list[Path], tmp_path: Path) -> list[Path]:
    """Where they are mounted."""
    for each in disks:
        use(stack, each, tmp_path / each.name, "-o", "nodiscard")
    return [tmp_path / each.name for each in disks]


def unfreezable(stack: ExitStack, disk: Path, folder: Path) -> Path:
    """A disk with a file system that cannot be frozen (FUSE), mounted; vfat is as one."""
    device = stack.enter_context(loop(image(disk, 16)))
    run("mkfs.ntfs", "--quick", "--quiet", "--force", device)
    stack.enter_context(mounted(device, folder, "-t", "ntfs-3g"))
    return device


def test_what_is_written_to_two_disks_in_turn_is_of_one_moment_in_their_points(
    disks, folders, repository, tmp_path
):
    with in_turn(*folders):
        made = [back_up(repository, disks, consistency=Wanted.FROZEN) for _ in range(3)]
    for number, each in enumerate(made, start=1):
        assert each.moment.moment.number == number
        assert not each.moment.missing
        first, second = each.moment.points.values()
        assert first.reading.consistency.how is How.FROZEN
        assert first.reading.consistency.at == second.reading.consistency.at
        last = []
        for name, point in each.moment.points.items():
            raw = restored(repository, name, point, tmp_path / f"{name}{number}.raw")
            run("e2fsck", "-fn", raw)
            with mounted(raw, tmp_path / "restored", "-o", "loop,ro") as folder:
                last.append(last_record(folder))
        assert last[1] in (last[0] - 1, last[0])
    assert [each.moment for each in moments_of(repository, made[0].machine)] == [
        each.moment.moment for each in made
    ]


def test_disks_that_are_tracked_are_read_only_where_they_have_changed(
    disks, folders, repository, tmp_path
):
    from vdbackup.agent import client

    for each in disks:
        client.track(each)
    with in_turn(*folders):
        back_up(repository, disks)
        made = back_up(repository, disks)
    for point in made.moment.points.values():
        assert point.reading.changes_from is ChangesFrom.TRACKER
        assert point.reading.read_bytes < 32 << 20
    for name, point in made.moment.points.items():
        raw = restored(repository, name, point, tmp_path / f"{name}.raw")
        run("e2fsck", "-fn", raw)


def test_a_disk_with_nothing_that_can_be_frozen_is_of_the_machine_too(
    stack, disks, folders, repository, tmp_path
):
    esp = unfreezable(stack, tmp_path / "esp.img", tmp_path / "esp")
    (tmp_path / "esp/loader").write_bytes(os.urandom(5000))
    with in_turn(*folders):
        made = back_up(repository, [esp, *disks], consistency=Wanted.FROZEN)
    names = list(made.moment.points)
    point = made.moment.points[names[0]]
    assert point.reading.consistency.how is How.FROZEN
    assert "copied until it was quiet" in point.reading.consistency.left_out[0]
    raw = restored(repository, names[0], point, tmp_path / "again.raw")
    with (
        loop(raw) as device,
        mounted(device, tmp_path / "restored", "-t", "ntfs-3g", "-o", "ro") as folder,
    ):
        assert (folder / "loader").read_bytes() == (tmp_path / "esp/loader").read_bytes()


def test_disks_of_which_none_can_be_frozen_are_of_no_moment(stack, repository, tmp_path):
    devices = [unfreezable(stack, tmp_path / f"{n}.img", tmp_path / f"{n}") for n in range(2)]
    with pytest.raises(NotFrozen, match="Nothing that can be frozen"):
        back_up(repository, devices, consistency=Wanted.FROZEN)
    assert all(not each.points for each in repository.sets())
    made = back_up(repository, devices)
    for each in made.disks:
        assert each.point.reading.consistency.how is How.AS_IS
        assert any("Nothing that can be frozen" in warning for warning in each.warnings)


def test_a_disk_that_nobody_uses_is_as_it_was_in_the_moment_of_the_others(
    stack, disks, folders, repository, tmp_path
):
    idle = image(tmp_path / "idle.img", 16, "ext4")
    with in_turn(*folders):
        made = back_up(repository, [*disks, idle], consistency=Wanted.FROZEN)
    hows = [point.reading.consistency.how for point in made.moment.points.values()]
    assert hows == [How.FROZEN, How.FROZEN, How.UNMOUNTED]
    raw = restored(repository, "idle", made.moment.points["idle"], tmp_path / "idle.raw")
    run("e2fsck", "-fn", raw)


def test_a_btrfs_that_lies_on_both_disks_is_frozen_once(stack, repository, tmp_path, monkeypatch):
    devices = [
        stack.enter_context(loop(image(tmp_path / f"{number}.img", 128))) for number in range(2)
    ]
    run("mkfs.btrfs", "-q", "-d", "raid1", "-m", "raid1", *devices)
    run("btrfs", "device", "scan", *devices)
    stack.callback(run, "btrfs", "device", "scan", "--forget")
    seen = []
    frozen = freezing.frozen

    def noted(file_systems, *rest):
        seen.append(len(file_systems))
        return frozen(file_systems, *rest)

    monkeypatch.setattr("vdbackup.agent.file_systems.frozen", noted)
    with mounted(devices[0], tmp_path / "mount", "-o", "nodiscard") as folder:
        (folder / "file").write_bytes(os.urandom(1 << 20))
        made = back_up(repository, devices, consistency=Wanted.FROZEN)
    assert set(seen) == {1}
    raws = [
        restored(repository, name, point, tmp_path / f"{name}.raw")
        for name, point in made.moment.points.items()
    ]
    run("btrfs", "device", "scan", "--forget")  # these are the same two for it
    with loop(raws[0]) as first, loop(raws[1]) as second:
        run("btrfs", "device", "scan", first, second)
        run("btrfs", "check", "--readonly", first)
        run("btrfs", "device", "scan", "--forget")


def test_a_disk_is_no_second_one_by_another_name(disks, repository, tmp_path):
    status = disks[0].stat()
    other_name = tmp_path / "other-name"
    os.mknod(other_name, status.st_mode, status.st_rdev)
    with pytest.raises(NotOneMachine, match="is named twice, or another name of it is"):
        back_up(repository, [disks[0], other_name])
    assert not repository.names()


def test_a_failure_at_the_last_disk_leaves_no_point_of_any(
    disks, folders, repository, tmp_path, monkeypatch
):
    back_up(repository, disks)
    before = [each.points for each in repository.sets()]

    def fails(drafts):
        raise OSError(5, "it broke")

    monkeypatch.setattr(machine_capture, "publish_together", fails)
    with pytest.raises(OSError, match="it broke"):
        back_up(repository, disks)
    assert [each.points for each in repository.sets()] == before
    for each in repository.sets():
        assert not list(each.folder.glob("*.partial"))


def test_programs_are_told_of_each_freeze_once_for_all_disks(
    disks, folders, repository, tmp_path, monkeypatch
):
    hook_folder = tmp_path / "freeze.d"
    hook_folder.mkdir(mode=0o755)
    hook = hook_folder / "note"
    hook.write_text(f"#!/bin/sh\necho $1 >> {tmp_path}/told\n")
    hook.chmod(0o755)
    monkeypatch.setattr(hooks, "FOLDER", hook_folder)
    made = back_up(repository, disks)
    rounds = {point.reading.consistency.rounds for point in made.moment.points.values()}
    (count,) = rounds
    told = (tmp_path / "told").read_text().split()
    assert told == ["freeze", "thaw"] * count


def test_the_machine_is_known_by_its_name_and_its_disks_by_their_sets(disks, folders, repository):
    made = back_up(repository, disks)
    (machine,) = KnownMachines.of(repository).all
    assert (machine.name, machine.last_number) == ("web", 1)
    assert machine.sets == tuple(made.moment.points)
