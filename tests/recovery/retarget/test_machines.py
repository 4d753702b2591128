"""Machines that boot on hardware they have never seen, because their overlay was retargeted.

The guest is a Debian that knows AHCI alone (tests/guests/debian.py). A point is retargeted, its
overlay boots to the line in which the guest says how often it has been booted and what its root is
called, and no byte of a layer has changed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backup.lab import Lab, sha256
from tests.guests import debian
from tests.guests.cache import run
from tests.guests.debian import ALIVE, Debian
from vdbackup.errors import Cancelled, RecoveryError
from vdbackup.jobs import CancelToken, Progress, Task
from vdbackup.recovery.retarget import retarget
from vdbackup.recovery.retarget.linux import appliance
from vdbackup.recovery.retarget.policy import for_new_point
from vdbackup.recovery.retarget.report import RetargetReport, chosen_hardware, load
from vdbackup.recovery.sessions import vm
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.policy import Policy

LIMIT = 600.0  # seconds; the appliance takes 7 of the processor's, a boot 10, alone on a machine

pytestmark = pytest.mark.timeout(2400)

long = pytest.mark.long


class Machine(Lab):
    """A lab whose disk is a Debian's."""

    def __init__(self, folder: Path, guest: Debian, disk_format: str = "vmdk") -> None:
        image = debian.image(guest)
        super().__init__(folder, image.stat().st_size, disk_format=disk_format)
        subprocess.run(["cp", "--sparse=always", image, self.image], check=True)
        self.image.chmod(0o600)
        self.sessions = folder / "sessions"

    def capture_again(self, count: int) -> RecoveryPoint:
        debian.set_boot_count(self.image, count)
        return self.backup()

    def retarget(
        self, point: RecoveryPoint, wish: str, cancel: CancelToken | None = None
    ) -> RetargetReport | None:
        plan = retarget.plan(self.repository, "disk", point.id, wish)
        return retarget.run(plan, self.sessions, Task(cancel=cancel or CancelToken()))

    def boot(self, point: RecoveryPoint) -> str:
        """What the guest says once it is up, on the hardware that the report names."""
        with vm.start_session(
            self.overlay(point),
            sessions_folder=self.sessions,
            title="machine",
            hardware=chosen_hardware(self.set, point),
            disk_format=self.disk_format,
        ) as session:
            assert session.wait_for_text(ALIVE, LIMIT), session.console_text()
            assert session.wait_for_text(f"{ALIVE} count=", LIMIT)
            assert session.wait(LIMIT)
            said = session.console_text()
        return said[said.index(ALIVE) :].splitlines()[0]

    def layers(self) -> list[str]:
        return [sha256(self.layer(point)) for point in self.set.points]


def assert_nothing_is_left(machine: Machine) -> None:
    machine.check_files()
    assert not machine.sessions.exists() or not list(machine.sessions.iterdir())


def retargeted(folder: Path, disk_format: str) -> tuple[Machine, RecoveryPoint]:
    """A Debian that knows AHCI alone, and an incremental of it that boots on virtio."""
    machine = Machine(folder, Debian(), disk_format)
    machine.backup()
    point = machine.capture_again(41)
    layers = machine.layers()
    report = machine.retarget(point, "virtio")
    assert report is not None
    assert report == load(machine.set, point)
    assert {change.path.rpartition("/")[2].partition("-")[0] for change in report.changes} == {
        "fstab", "grub.cfg", "initrd.img",
    }  # fmt: skip
    assert machine.boot(point) == f"{ALIVE} count=42 root=/dev/vda1"
    assert machine.layers() == layers
    assert_nothing_is_left(machine)
    return machine, point


def merged(machine: Machine, point: RecoveryPoint) -> RecoveryPoint:
    """The point with its parent merged into it; what was said of its machine holds of it, too."""
    report, (first, _) = load(machine.set, point), machine.set.points
    result = machine.merge(point)
    assert [each.id for each in machine.set.points] == [result.id] != [first.id]
    assert load(machine.set, result) == report
    return result


def test_debian_that_knows_ahci_alone_boots_on_virtio_and_a_merge_leaves_its_disk_as_it_is(
    tmp_path: Path,
) -> None:
    """As QEMU reads it: what has booted boots again."""
    machine, point = retargeted(tmp_path, "vmdk")
    before, after = tmp_path / "before.raw", tmp_path / "after.raw"
    run("qemu-img", "convert", "-O", "raw", machine.overlay(point), before)
    run("qemu-img", "convert", "-O", "raw", machine.overlay(merged(machine, point)), after)
    run("cmp", before, after)
    assert_nothing_is_left(machine)


@long
@pytest.mark.parametrize("disk_format", ["vmdk", "vhd", "vhdx", "qcow2"])
def test_debian_that_knows_ahci_alone_boots_on_virtio_from_incremental_and_merged_points(
    tmp_path: Path, disk_format: str
) -> None:
    machine, point = retargeted(tmp_path, disk_format)
    assert machine.boot(merged(machine, point)) == f"{ALIVE} count=42 root=/dev/vda1"
    assert_nothing_is_left(machine)


GUESTS = [
    (Debian(root="btrfs"), "vhd", "virtio", "/dev/vda1"),
    (Debian(root="xfs", initramfs="dracut"), "vhdx", "nvme", "/dev/nvme0n1p1"),
    (Debian(lvm=True, initramfs="dracut"), "qcow2", "nvme", "/dev/mapper/debian-root"),
    (Debian(lvm=True), "vmdk", "virtio", "/dev/mapper/debian-root"),
    (Debian(root="btrfs", initramfs="dracut"), "qcow2", "pvscsi", "/dev/sda1"),
    (Debian(boot="grub-uefi"), "vmdk", "virtio", "/dev/vda1"),
    (Debian(boot="systemd-boot"), "qcow2", "virtio", "/dev/vda1"),
    (Debian(), "vhd", "virtio-scsi", "/dev/sda1"),
    (Debian(init="systemd"), "vhdx", "virtio", "/dev/vda1"),
    (Debian(), "qcow2", "sas", "/dev/sda1"),
    (Debian(), "vmdk", "lsi", "/dev/sda1"),
]


@long
@pytest.mark.parametrize(
    ("guest", "disk_format", "wish", "root"),
    GUESTS,
    ids=[f"{guest.name}-{form}-{wish}" for guest, form, wish, _ in GUESTS],
)
def test_every_kind_of_debian_boots_on_other_hardware(
    tmp_path: Path, guest: Debian, disk_format: str, wish: str, root: str
) -> None:
    machine = Machine(tmp_path, guest, disk_format)
    point = machine.backup()
    layers = machine.layers()
    assert machine.retarget(point, wish) is not None
    assert machine.boot(point) == f"{ALIVE} count=1 root={root}"
    assert machine.layers() == layers
    assert_nothing_is_left(machine)


@long
@pytest.mark.parametrize("root", ["ext4", "xfs", "btrfs"])
def test_machine_that_ran_while_it_was_backed_up_is_retargeted(tmp_path: Path, root: str) -> None:
    """Its journal is to be replayed first; the guest's own kernel does that."""
    machine = Machine(tmp_path, Debian(root=root, stay=True))
    with vm.start_session(
        machine.image, sessions_folder=machine.sessions, title="running", disk_format="raw"
    ) as session:
        assert session.wait_for_text(ALIVE, LIMIT)
        session.kill()  # it is up, and its root is mounted for writing
        again = tmp_path / "again"
        subprocess.run(
            [
                "qemu-img",
                "convert",
                "-f",
                "qcow2",
                "-O",
                "raw",
                session.folder / "session.qcow2",
                again,
            ],
            check=True,
        )
        again.replace(machine.image)
    point = machine.backup()
    assert machine.retarget(point, "virtio") is not None
    with vm.start_session(
        machine.overlay(point),
        sessions_folder=machine.sessions,
        title="again",
        hardware=chosen_hardware(machine.set, point),
    ) as session:
        assert session.wait_for_text(f"{ALIVE} count=2 root=/dev/vda1", LIMIT), (
            session.console_text()
        )


@long
def test_new_point_that_no_hardware_boots_as_it_is_is_changed_at_backup_time(
    tmp_path: Path,
) -> None:
    """Its configuration calls the root /dev/hda1, as no controller of today does."""
    guest = Debian()
    machine = Machine(tmp_path, guest)
    for path in ("/etc/fstab", "/boot/grub/grub.cfg"):
        rename_root(machine.image, guest, path)
    point = machine.backup()
    said = for_new_point(machine.repository, "disk", point.id, machine.sessions, Task())
    assert said == ()
    report = load(machine.set, point)
    assert report is not None
    assert [change.path for change in report.changes] == ["/etc/fstab", "/boot/grub/grub.cfg"]
    assert report.hardware.boots
    assert report.hardware.reasons[0] == (
        "AHCI: the system has its driver early; what called its disk /dev/hda1 was changed."
    )
    assert machine.boot(point) == f"{ALIVE} count=1 root=/dev/sda1"


def rename_root(image: Path, guest: Debian, path: str) -> None:
    """Let a file of the guest call its root /dev/hda1."""
    where = f"{image}?offset={guest.root_start * debian.SECTOR}"
    new = image.with_name("new")
    new.write_text(run("debugfs", "-R", f"cat {path}", where).replace("/dev/sda1", "/dev/hda1"))
    run("debugfs", "-w", "-f", "-", where, text=f"rm {path}\nwrite {new} {path}\n")


# ----------------------------------------------------------------------- without any boot


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """One point of a Debian; tests leave its overlay empty."""
    machine = Machine(tmp_path_factory.mktemp("machine"), Debian())
    machine.backup()
    return machine


@pytest.fixture(autouse=True)
def _empty_again(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "machine" in request.fixturenames:
        machine: Machine = request.getfixturevalue("machine")
        machine.retarget(machine.set.points[-1], "none")
        assert_nothing_is_left(machine)


def test_new_point_that_boots_as_it_is_gets_a_report_and_an_empty_overlay(
    machine: Machine,
) -> None:
    point = machine.set.points[-1]
    before = sha256(machine.overlay(point))
    said = for_new_point(machine.repository, "disk", point.id, machine.sessions, Task())
    assert said == ()
    report = load(machine.set, point)
    assert report is not None
    assert (report.hardware.controller, report.changes) == ("ahci", ())
    assert sha256(machine.overlay(point)) == before
    assert chosen_hardware(machine.set, point) == report.hardware


def test_policy_can_say_that_nothing_is_done(machine: Machine) -> None:
    point = machine.set.points[-1]
    machine.repository.set_policy("disk", Policy(retarget=False))
    for_new_point(machine.repository, "disk", point.id, machine.sessions, Task())
    machine.repository.set_policy("disk", Policy())
    assert load(machine.set, point) is None


def test_plan_says_what_would_be_done_and_does_nothing(machine: Machine) -> None:
    before = machine.files
    plan = retarget.plan(machine.repository, "disk", machine.set.points[-1].id, "virtio")
    assert "gets a disk on virtio" in plan.summary
    fstab = next(each for each in plan.edits.changes if each.path == "/etc/fstab")
    assert fstab.before.startswith("/dev/sda1 / ext4")
    assert fstab.after.startswith("UUID=")
    assert machine.files == before


def test_cancel_leaves_the_overlay_as_it_was(machine: Machine) -> None:
    before = machine.files
    cancel = CancelToken()

    def on_start(_: Progress) -> None:
        cancel.cancel()

    with pytest.raises(Cancelled):
        retarget.retarget(
            machine.repository, "disk", machine.set.points[-1].id, "virtio", machine.sessions,
            Task(on_start, cancel),
        )  # fmt: skip
    assert machine.files == before


@long
def test_failure_says_at_which_stage_and_leaves_the_overlay(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = machine.files
    monkeypatch.setitem(appliance._KINDS, "ext", "xfs")
    with pytest.raises(RecoveryError, match="a volume could not be mounted"):
        machine.retarget(machine.set.points[-1], "virtio")
    assert machine.files == before
