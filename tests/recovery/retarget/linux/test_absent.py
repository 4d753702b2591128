"""A system does not wait for a disk that is in no backup: the one that holds the backups, say."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.guests import systems
from tests.guests.cache import run
from tests.guests.debian import ALIVE, BIOS_ROOT_START, SECTOR, Debian
from tests.recovery.retarget.test_machines import LIMIT, Machine, assert_nothing_is_left
from tests.recovery.retarget.test_several_disks import HOME, ROOT, back_up, changed, machine
from tests.volumes import volumes
from vdbackup.errors import NotRetargeted
from vdbackup.guest.hardware import Controller
from vdbackup.qemu import qemu
from vdbackup.recovery.retarget import retarget
from vdbackup.recovery.retarget.report import load
from vdbackup.recovery.sessions import vm
from vdbackup.repository.repository import Repository

FAR = "0a0b0c0d-0000-4000-8000-0000000000ff"
OWN, ELSEWHERE = f"UUID={ROOT} / ext4 defaults 0 1\n", f"UUID={HOME} /home ext4 defaults 0 2\n"
DRIVE = f"UUID={FAR} /mnt/backup ext4 defaults 0 2\n"
CALM = DRIVE.replace("defaults", "defaults,nofail")
WAITS_NO_MORE = (
    "What /etc/fstab names, and none of the disks in this backup has, is not waited for:"
)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "repository")


def test_what_is_not_in_the_backup_is_not_waited_for_and_what_is_stays_as_it_is(
    repository: Repository, tmp_path: Path
) -> None:
    disks = machine(tmp_path, OWN + ELSEWHERE + DRIVE, f"UUID={ROOT}")
    together = back_up(repository, disks)
    assert changed(repository, together, "root", retarget.AUTO) == {
        "p1:/etc/fstab": OWN + ELSEWHERE + CALM
    }
    alone = back_up(Repository.create(tmp_path / "alone"), disks[:1])
    point = alone.points["root"].id
    plan = retarget.plan(Repository.open(tmp_path / "alone"), "root", point)
    (change,) = plan.edits.changes
    assert change.after == OWN + ELSEWHERE.replace("defaults", "defaults,nofail") + CALM
    assert plan.edits.notes == (f"{WAITS_NO_MORE} UUID={HOME}, UUID={FAR}.",)


def test_names_that_hold_on_its_hardware_stay_and_so_does_its_disks_identity(
    repository: Repository, tmp_path: Path
) -> None:
    own = "/dev/vda1 / ext4 defaults 0 1\n"
    disk, _ = machine(tmp_path, own + DRIVE, "/dev/vda1")
    plan = retarget.plan(repository, "root", back_up(repository, [disk]).points["root"].id)
    assert [change.after for change in plan.edits.changes] == [own + CALM]
    assert not plan.edits.new_identity


def test_of_a_system_that_waits_for_nothing_nothing_is_changed(
    repository: Repository, tmp_path: Path
) -> None:
    disks = machine(tmp_path, OWN + ELSEWHERE + CALM, f"UUID={ROOT}")
    assert changed(repository, back_up(repository, disks), "root", retarget.AUTO) == {}


@pytest.mark.parametrize(
    ("line", "starts"),
    [(DRIVE, False), (f"UUID={FAR} none swap sw 0 0\n", True)],
    ids=["file system", "swap"],
)
def test_where_nothing_can_be_changed_it_is_said_and_fails_only_what_would_not_start(
    repository: Repository, tmp_path: Path, line: str, starts: bool
) -> None:
    disk, _ = machine(tmp_path, OWN + line, f"UUID={ROOT}")
    for name in run("debugfs", "-R", "ls -p /boot", f"{disk}?offset={1 << 20}").splitlines():
        if "initrd" in name:
            path = f"/boot/{name.split('/')[5]}"
            run("debugfs", "-w", "-R", f"rm {path}", f"{disk}?offset={1 << 20}")
    point = back_up(repository, [disk]).points["root"].id
    if starts:
        edits = retarget.plan(repository, "root", point).edits
        assert edits.changes == ()
        assert [note.partition(" Linux")[0] for note in edits.notes] == ["Nothing was changed."]
    else:
        with pytest.raises(NotRetargeted, match="no initramfs"):
            retarget.plan(repository, "root", point)


def test_where_no_qemu_is_installed_nobody_is_warned_at_each_backup(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, _ = machine(tmp_path, OWN + DRIVE, f"UUID={ROOT}")
    point = back_up(repository, [disk]).points["root"].id
    monkeypatch.setattr(qemu, "SYSTEM", "no-such-qemu")
    edits = retarget.plan(repository, "root", point).edits
    assert edits.changes == ()
    assert edits.notes == ("Nothing was changed. QEMU is not installed: there is no no-such-qemu.",)


def test_a_root_that_cannot_start_for_other_reasons_is_left_as_it_is(
    repository: Repository, tmp_path: Path
) -> None:
    """Its /boot is on a partition that is not backed up with it: there is no kernel."""
    boot = f"UUID={HOME} /boot ext4 defaults 0 2\n"
    tree = systems.linux(tmp_path / "tree", fstab=OWN + boot, boot=tmp_path / "boot")
    root = tmp_path / "root.img"
    volumes.ext("ext4", "-U", ROOT)(tree, root)
    plan = retarget.plan(repository, "root", back_up(repository, [root]).points["root"].id)
    assert plan.edits.changes == ()
    assert plan.hardware is not None
    assert not plan.hardware.boots


def waiting(folder: Path, kind: Debian, lines: str) -> Machine:
    """A Debian with more lines in its fstab."""
    found = Machine(folder, kind)
    place = f"{found.image}?offset={BIOS_ROOT_START * SECTOR}"
    fstab = folder / "fstab"
    fstab.write_text(run("debugfs", "-R", "cat /etc/fstab", place) + lines)
    subprocess.run(
        ["debugfs", "-w", "-f", "-", place],
        input=f"rm /etc/fstab\nwrite {fstab} /etc/fstab\nmkdir /mnt/backup\n",
        text=True,
        check=True,
        capture_output=True,
    )
    return found


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_debian_that_waits_for_the_drive_of_its_backups_comes_up_without_it(
    tmp_path: Path,
) -> None:
    """Unchanged it ends in systemd's emergency mode, which its console says."""
    more = f"/mnt/backup/images /srv none bind 0 0\nUUID={FAR[::-1]} none swap sw 0 0\n"
    calm_more = more.replace("bind", "bind,nofail").replace("sw ", "sw,nofail ")
    found = waiting(tmp_path, Debian(init="systemd"), DRIVE + more)
    point = found.backup()
    layers = found.layers()
    with vm.start_session(
        found.overlay(point),
        sessions_folder=found.sessions,
        title="machine",
        disk_format=found.disk_format,
    ) as session:
        assert "/etc/fstab wants" in session.hardware.problems[0].sentence
        assert session.wait_for_text("emergency mode", LIMIT), session.console_text()
        assert ALIVE not in session.console_text()
    report = found.retarget(point, retarget.AUTO)
    assert report is not None
    assert report == load(found.set, point)
    (change,) = report.changes
    assert change.path == "/etc/fstab"
    assert change.after == change.before.replace(DRIVE + more, CALM + calm_more)
    assert report.hardware.controller is Controller.AHCI
    assert report.hardware.problems == ()
    assert report.notes[0].startswith(WAITS_NO_MORE)
    assert found.boot(point) == f"{ALIVE} count=1 root=/dev/sda1"
    assert found.layers() == layers
    assert_nothing_is_left(found)
