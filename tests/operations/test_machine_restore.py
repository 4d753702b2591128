"""A machine's disks go back to disks: all or none is begun, and what was cut off goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.backup.machines import SIZE, Disks
from tests.sources.loops import add_partition, delete_partition, loop, mounted, run
from vdbackup.errors import Cancelled, TargetExists, TargetInUse, UnfitTarget
from vdbackup.jobs import CancelToken, Progress, Task
from vdbackup.operations import machine_restore
from vdbackup.operations.machine_restore import MachineRestorePlan, MachineRestoreRequest
from vdbackup.recovery import in_place
from vdbackup.repository.machine import find_moment

pytestmark = pytest.mark.usefixtures("as_root")
FULL_OF_SOMETHING = b"\x55" * (SIZE + (1 << 20))


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    disks = Disks(tmp_path)
    disks.back_up()
    return disks


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[list[Path]]:
    """Two disks that are larger than those of the machine."""
    with ExitStack() as stack:
        made = []
        for name in ("new-root", "new-home"):
            image = tmp_path / f"{name}.img"
            image.write_bytes(FULL_OF_SOMETHING)
            made.append(stack.enter_context(loop(image)))
        yield made


def planned(disks: Disks, targets: list[Path], **wanted: object) -> MachineRestorePlan:
    moment = find_moment(disks.repository, disks.machine, "latest")
    found = machine_restore.targets_for(moment, targets, "raw")
    asked = {"overwrite": True, "journals": disks.folder / "restores", **wanted}
    return machine_restore.plan(MachineRestoreRequest(disks.repository, moment, found, **asked))


def holds(device: Path, wanted: bytes) -> bool:
    """Read past the cache of the device, by somebody else."""
    command = ["cmp", "-n", str(len(wanted)), device, "-"]
    return subprocess.run(command, input=wanted, check=False, capture_output=True).returncode == 0


def test_each_disk_goes_to_a_device_of_its_own_and_the_plan_names_all(disks, devices):
    plan = planned(disks, devices)
    for device in devices:
        assert str(device) in plan.summary
    assert plan.replaces == tuple(map(str, devices))
    machine_restore.run(plan, Task())
    for device, held in zip(devices, disks.held[1], strict=True):
        assert holds(device, held)
    assert not list((disks.folder / "restores").iterdir())


def test_nothing_is_written_over_that_nobody_said_may_be(disks, devices):
    with pytest.raises(TargetExists):
        planned(disks, devices, overwrite=False)


def test_no_disk_is_begun_with_while_the_last_one_cannot_be(disks, devices, tmp_path):
    """It is mounted between plan and run: the first one is as it was."""
    run("mkfs.ext4", "-q", "-F", devices[1])
    plan = planned(disks, devices)
    with mounted(devices[1], tmp_path / "mount"), pytest.raises(TargetInUse, match="is mounted"):
        machine_restore.run(plan, Task())
    assert holds(devices[0], FULL_OF_SOMETHING)


def test_no_disk_is_begun_with_while_another_program_has_the_last_one(disks, devices):
    plan = planned(disks, devices)
    fd = os.open(devices[1], os.O_RDWR | os.O_EXCL)
    try:
        with pytest.raises(UnfitTarget, match="cannot be written"):
            machine_restore.run(plan, Task())
    finally:
        os.close(fd)
    assert holds(devices[0], FULL_OF_SOMETHING)


def test_a_restore_that_was_cut_off_goes_on_at_the_disk_where_it_was(disks, devices, monkeypatch):
    cancel = CancelToken()
    verified = 0

    def report(progress: Progress) -> None:
        nonlocal verified
        verified += progress.phase == "Verify"
        if verified and progress.phase == "Restore":  # the second disk has begun
            cancel.cancel()

    with pytest.raises(Cancelled):
        machine_restore.run(planned(disks, devices), Task(report, cancel))
    assert holds(devices[0], disks.held[1][0])
    plan = planned(disks, devices)
    assert next(each.resumed for each in plan.disks) == SIZE
    assert "An earlier restore was interrupted, and is gone on with" in plan.summary
    written = []
    copy = in_place.copy
    monkeypatch.setattr(
        in_place, "copy", lambda *given, **more: (written.append(given[3]), copy(*given, **more))
    )
    machine_restore.run(plan, Task())
    for device, held in zip(devices, disks.held[1], strict=True):
        assert holds(device, held)
    assert not written[0].size  # of the first disk
    assert not list((disks.folder / "restores").iterdir())


def test_what_differs_alone_is_written_where_the_disks_hold_an_older_moment(disks, devices):
    machine_restore.run(planned(disks, devices), Task())
    disks.back_up()
    machine_restore.run(planned(disks, devices, delta=True), Task())
    for device, held in zip(devices, disks.held[2], strict=True):
        assert holds(device, held)


def test_one_disk_is_no_target_for_two_whatever_it_is_called(disks, devices, tmp_path):
    status = devices[0].stat()
    other_name = tmp_path / "other-name"
    os.mknod(other_name, status.st_mode, status.st_rdev)
    with pytest.raises(UnfitTarget, match="are one disk"):
        planned(disks, [devices[0], other_name])
    with pytest.raises(UnfitTarget, match="are one disk"):
        planned(disks, [tmp_path / "new-root.img", devices[0]], delta=True)
    add_partition(devices[0], 1, 0, SIZE)
    try:
        with pytest.raises(UnfitTarget, match="or one lies on the other"):
            planned(disks, [devices[0], Path(f"{devices[0]}p1")])
    finally:
        delete_partition(devices[0], 1)
