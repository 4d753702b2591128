"""virt-v2v changes a point's machine in our stead: where it is installed, and is asked for."""

from __future__ import annotations

import os
import select
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.guests import cache
from tests.guests.debian import ALIVE, Debian
from tests.noise import noise
from tests.recovery.retarget.test_machines import Machine, assert_nothing_is_left
from vdbackup.errors import Cancelled, RecoveryError
from vdbackup.jobs import CancelToken, Task
from vdbackup.recovery.retarget import retarget
from vdbackup.recovery.retarget.report import load
from vdbackup.recovery.retarget.virt_v2v import PROGRAM, VIRT_V2V
from vdbackup.repository.digests import BLOCK


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path)
    lab.poke(0, noise(3 * BLOCK, 1))
    lab.backup()
    return lab


def retargeted(lab: Lab, cancel: CancelToken | None = None) -> None:
    plan = retarget.plan(lab.repository, "disk", lab.set.points[-1].id, VIRT_V2V)
    retarget.run(plan, lab.folder / "sessions", Task(cancel=cancel or CancelToken()))


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose programs are found before the installed ones, and nbdkit in it."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    script(folder / "nbdkit", "exit 1")
    return folder


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_without_virt_v2v_its_package_is_named_and_nothing_is_done(
    lab: Lab, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(programs))
    before = lab.files
    with pytest.raises(RecoveryError, match=f"{PROGRAM} is not installed") as caught:
        retargeted(lab)
    assert caught.value.advice == "Install it with: sudo apt install virt-v2v nbdkit qemu-utils"
    assert lab.files == before


def test_a_failure_of_virt_v2v_is_passed_on_and_the_overlay_is_as_it_was(
    lab: Lab, programs: Path
) -> None:
    message = '{"message": "no operating system\\u0007 here.", "type": "error"}'
    script(programs / PROGRAM, f"echo '{message}' > \"${{1#*file:}}\"; exit 1")
    before = lab.files
    with pytest.raises(RecoveryError, match=r"by virt-v2v: no operating system\\x07 here\. The"):
        retargeted(lab)
    assert lab.files == before


def test_a_system_that_virt_v2v_leaves_without_virtio_drivers_is_refused(
    lab: Lab, programs: Path
) -> None:
    script(programs / PROGRAM, "exit 0")
    before = lab.files
    with pytest.raises(RecoveryError, match="has not made the system ready"):
        retargeted(lab)
    assert lab.files == before


def test_a_cancel_ends_virt_v2v_with_all_that_it_started(lab: Lab, programs: Path) -> None:
    started = lab.folder / "started"
    script(programs / PROGRAM, f"sleep 600 & echo $! > {started}- && mv {started}- {started}; wait")
    cancel = CancelToken()

    def when_started() -> None:
        if started.exists():
            raise Cancelled

    with pytest.raises(Cancelled), cancel.also(when_started):
        retargeted(lab, cancel)
    assert_ends(int(started.read_text()))


def assert_ends(process: int) -> None:
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(process)
        ended, _, _ = select.select([handle], [], [], 60)
        os.close(handle)
        assert ended


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_virt_v2v_makes_debian_that_knows_ahci_alone_boot_on_virtio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is not installed the sentence of the first test is all there is to prove."""
    monkeypatch.setenv("LIBGUESTFS_CACHEDIR", str(cache.folder()))
    installed = shutil.which(PROGRAM) is not None
    machine = Machine(tmp_path, Debian(grub_tools=installed), "vhdx")
    machine.backup()
    point = machine.capture_again(41)
    if not installed:
        with pytest.raises(RecoveryError, match="is not installed"):
            machine.retarget(point, VIRT_V2V)
        return
    layers = machine.layers()
    report = machine.retarget(point, VIRT_V2V)
    assert report is not None
    assert report == load(machine.set, point)
    assert (report.hardware.controller, report.hardware.boots) == ("virtio", True)
    assert report.notes[0].startswith("virt-v2v has changed the system")
    assert {"/etc/fstab", "/boot/grub/grub.cfg"} <= {change.path for change in report.changes}
    assert machine.boot(point) == f"{ALIVE} count=42 root=/dev/vda1"
    assert machine.layers() == layers
    assert_nothing_is_left(machine)
