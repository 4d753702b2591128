"""Machines that are shut down lose no disk: VirtualBox's and libvirt's lists are read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup
from vdbackup.gui.jobs.sessions import plan_discard
from vdbackup.recovery.sessions.saved import saved_sessions
from vdbackup.repository import near_paths, registered
from vdbackup.repository.repository import Repository

SPACE = 'xmlns="http://www.virtualbox.org/"'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_tools: None) -> Path:
    """Where this user's programs keep their lists; no tool of theirs answers."""
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.delenv("VBOX_USER_HOME", raising=False)
    (home / "config/VirtualBox").mkdir(parents=True)
    (home / "config/libvirt/qemu").mkdir(parents=True)
    return home


def register(home: Path, settings: Path) -> None:
    """As VirtualBox notes a machine."""
    entry = f'<MachineEntry uuid="{{1}}" src="{settings}"/>'
    text = f"<VirtualBox {SPACE}><Global><MachineRegistry>{entry}</MachineRegistry></Global>"
    (home / "config/VirtualBox/VirtualBox.xml").write_text(f"{text}</VirtualBox>")


def virtualbox(home: Path, *disks: Path) -> Path:
    """A registered machine of the user's own, with a chain of disks."""
    folder = home / "VirtualBox VMs/Büro"
    folder.mkdir(parents=True)
    nested = "".join(f'<HardDisk uuid="{{2}}" location="{disk}">' for disk in disks)
    media = f"<MediaRegistry><HardDisks>{nested}{'</HardDisk>' * len(disks)}</HardDisks>"
    settings = folder / "Büro.vbox"
    settings.write_text(
        f'<VirtualBox {SPACE}><Machine name="Büro">{media}</MediaRegistry></Machine></VirtualBox>'
    )
    register(home, settings)
    return settings


def libvirt(home: Path, *disks: Path) -> Path:
    """A domain as libvirt keeps it."""
    chain = "".join(f"<backingStore><source file='{disk}'/>" for disk in disks[1:])
    source = f"<source file='{disks[0]}'/>{chain}{'</backingStore>' * len(disks[1:])}"
    path = home / "config/libvirt/qemu/büro.xml"
    path.write_text(
        f"<!--\nWARNING: THIS IS AN AUTO-GENERATED FILE.\n-->\n<domain type='kvm'>"
        f"<name>Büro</name><devices><disk type='file'>{source}</disk></devices></domain>\n"
    )
    return path


MAKERS = pytest.mark.parametrize("make", [virtualbox, libvirt])


@MAKERS
@pytest.mark.parametrize(("command", "number"), [("merge", 3), ("delete", 2), ("delete", 3)])
def test_a_plan_says_that_a_registered_machine_is_in_the_way(
    vdbackup: Vdbackup,
    backed_up: list[Path],
    repository: Path,
    home: Path,
    make,
    command: str,
    number: int,
) -> None:
    backup_set = Repository.open(repository).set()
    assert (
        vdbackup(command, number, "-r", repository, "--dry-run", "--json").json["hindrance"] == ""
    )
    make(home, backup_set.disk_path(backup_set.points[number - 1]))
    said = vdbackup(command, number, "-r", repository, "--dry-run", "--json").json["hindrance"]
    assert f"Point {number} is in use: the machine 'Büro' in" in said


@pytest.mark.parametrize("steps", [1, 3])
def test_a_machine_is_noticed_whose_snapshot_lies_outside_above_a_layer(
    vdbackup: Vdbackup,
    backed_up: list[Path],
    repository: Path,
    home: Path,
    tmp_path: Path,
    steps: int,
) -> None:
    """libvirt names only the topmost disk of a machine that is off; QEMU made these."""
    backup_set = Repository.open(repository).set()
    below, kind = backup_set.overlay_path(backup_set.points[1]), backup_set.settings.format
    for step in range(steps):
        above = tmp_path / f"snapshot{step}.qcow2"
        make = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", kind, "-b", str(below), str(above)]
        subprocess.run(make, check=True)
        below, kind = above, "qcow2"
    libvirt(home, below)
    said = vdbackup("merge", 2, "-r", repository)
    assert (said.status, "the machine 'Büro' in libvirt" in said.err) == (1, True), said.err
    assert len(Repository.open(repository).set().points) == 3


def test_disks_that_read_through_each_other_in_a_circle_keep_nobody_waiting(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, home: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one.qcow2", tmp_path / "two.qcow2"
    for path, other in ((one, two), (two, one)):
        make = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", str(other)]
        subprocess.run([*make, str(path), "1M"], check=True)
    libvirt(home, one)
    assert vdbackup("merge", 2, "-r", repository).status == 0


@pytest.fixture
def repository_of_three(backed_up: list[Path], repository: Path) -> Repository:
    return Repository.open(repository)


MINIMAL = "36 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
FAR = MINIMAL + "37 36 0:52 / {} rw - {} {} rw\n"


@MAKERS
@pytest.mark.parametrize(
    ("kind", "source"),
    [("nfs4", "nas:/x"), ("fuse.x", "/dev/fuse")],
)
@pytest.mark.parametrize("by_link", [False, True])
def test_nothing_is_touched_on_a_share_that_may_be_dead(
    repository_of_three: Repository,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make,
    kind: str,
    source: str,
    by_link: bool,
) -> None:
    share = tmp_path / "a share"
    share.mkdir()
    (share / "disk.vmdk").touch()
    link = tmp_path / "link"
    link.symlink_to(share)
    mounts = tmp_path / "mountinfo"
    mounts.write_text(FAR.format(str(share).replace(" ", "\\040"), kind, source))
    monkeypatch.setattr(near_paths, "_MOUNTS", mounts)
    make(home, (link if by_link else share) / "disk.vmdk")
    asked = []
    for name in ("stat", "lstat", "readlink", "open"):
        original = getattr(os, name)

        def note(path, *more, original=original, **named):  # type: ignore[no-untyped-def]
            asked.append(str(path))
            return original(path, *more, **named)

        monkeypatch.setattr(os, name, note)
    backup_set = repository_of_three.set()
    assert registered.machines_on([backup_set.disk_path(backup_set.points[0])]) == []
    assert [each for each in asked if each.startswith((f"{share}", f"{link}/"))] == []


def test_what_lies_on_the_share_of_the_layers_is_looked_at(
    backed_up: list[Path],
    repository: Path,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(FAR.format(repository.resolve(), "nfs4", "nas:/x"))
    monkeypatch.setattr(near_paths, "_MOUNTS", mounts)
    backup_set = Repository.open(repository).set()
    layer = backup_set.disk_path(backup_set.points[0])
    libvirt(home, layer)
    assert [each.name for each in registered.machines_on([layer])] == ["Büro"]


def test_a_working_directory_that_is_gone_hides_no_machine(
    backed_up: list[Path],
    repository: Path,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backup_set = Repository.open(repository).set()
    layer = backup_set.disk_path(backup_set.points[0])
    libvirt(home, layer)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert [each.name for each in registered.machines_on([layer])] == ["Büro"]


@MAKERS
@pytest.mark.parametrize("command", ["merge", "delete"])
def test_a_layer_that_a_registered_machine_is_on_stays(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, home: Path, make, command: str
) -> None:
    backup_set = Repository.open(repository).set()
    first, second, _ = backup_set.points
    made = make(home, home / "own.vmdk", backup_set.disk_path(second), backup_set.disk_path(first))
    said = vdbackup(command, 2, "-r", repository)
    assert (said.status, "the machine 'Büro' in" in said.err) == (1, True), said.err
    assert vdbackup("verify", "-r", repository).status == 0
    assert len(Repository.open(repository).set().points) == 3
    made.unlink()
    assert vdbackup(command, 2, "-r", repository).status == 0


def test_the_last_point_of_a_chain_stays_under_a_machine_that_is_on_its_overlay(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, home: Path
) -> None:
    backup_set = Repository.open(repository).set()
    virtualbox(home, backup_set.overlay_path(backup_set.points[-1]))
    said = vdbackup("delete", 3, "-r", repository)
    assert (said.status, "is in use" in said.err) == (1, True)
    assert backup_set.overlay_path(backup_set.points[-1]).exists()


def test_retention_goes_on_later_and_says_why(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, disk: Path, home: Path
) -> None:
    backup_set = Repository.open(repository).set()
    virtualbox(home, backup_set.disk_path(backup_set.points[0]))
    said = vdbackup("backup", disk, "-r", repository, "--keep", 3)
    assert said.status in (0, 3)
    assert "stays for now" in said.out + said.err
    assert len(Repository.open(repository).set().points) == 4


def test_a_registered_machine_of_a_session_hinders_no_merge_and_goes_along(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, home: Path
) -> None:
    made = vdbackup("open-with", "virtualbox", "latest", "-r", repository, "--json").json
    register(home, Path(made["file"]))
    assert vdbackup("merge", 2, "-r", repository).status == 0
    (machine,) = registered.machines()
    assert all(disk.exists() for disk in machine.disks)


def test_a_session_is_not_discarded_from_under_a_registered_machine(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, home: Path, tmp_path: Path
) -> None:
    """VBoxManage says that it does not run: it would be there without its disk."""
    made = vdbackup("open-with", "virtualbox", "latest", "-r", repository, "--json").json
    register(home, Path(made["file"]))
    (tmp_path / "silent/VBoxManage").write_text("#!/bin/sh\nexit 0\n")
    said = vdbackup("sessions", "discard", made["session"])
    assert (said.status, "has its disk there" in said.err) == (1, True)
    assert Path(made["file"]).exists()
    (saved,) = saved_sessions(Path(made["file"]).parents[1])
    assert "in VirtualBox stays without it" in plan_discard(saved, 0).summary  # the window's words
    assert vdbackup("sessions", "discard", made["session"], "--not-running").status == 0
    assert not Path(made["file"]).exists()


def test_virtualbox_may_have_its_list_elsewhere(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk.vmdk"
    disk.touch()
    virtualbox(home, disk)
    (home / "config/VirtualBox").rename(tmp_path / "own")
    assert registered.machines_on([disk]) == []
    monkeypatch.setenv("VBOX_USER_HOME", str(tmp_path / "own"))
    assert [each.name for each in registered.machines_on([disk])] == ["Büro"]
    link = tmp_path / "link.vmdk"
    link.symlink_to(disk)
    assert len(registered.machines_on([link])) == 1


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<",
        b"\xff\xfe<\0V\0",
        b'<!DOCTYPE V [<!ENTITY a SYSTEM "file:///etc/passwd">]><VirtualBox>&a;</VirtualBox>',
        (
            b'<VirtualBox xmlns="http://www.virtualbox.org/"><Global><MachineRegistry>'
            b'<MachineEntry src=""/><MachineEntry/><MachineEntry src="/dev/zero"/>'
            b'<MachineEntry src="/proc/self/mem"/></MachineRegistry></Global></VirtualBox>'
        ),
        b"<a>" * 2_000_000,
    ],
)
def test_a_list_that_makes_no_sense_says_nothing(home: Path, text: bytes) -> None:
    (home / "config/VirtualBox/VirtualBox.xml").write_bytes(text)
    (home / "config/libvirt/qemu/a.xml").write_bytes(text)
    assert list(registered.machines()) == []


def test_a_pipe_in_a_lists_place_keeps_nobody_waiting(home: Path) -> None:
    os.mkfifo(home / "config/VirtualBox/VirtualBox.xml")
    os.mkfifo(home / "config/libvirt/qemu/a.xml")
    assert list(registered.machines()) == []
