"""Schedules that the real systemd of a Debian runs (tests/guests/lab.py), by clocks of the test's.

The Debian is switched on at some moment, later than its systemd was made, which takes no clock for
right that says less. From then on the clock is put forward to what a test waits for, as somebody
may do with any computer's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.backup.in_use.running_system import RUNNING, TARGET, USER, allow, built, install_agent
from tests.guests import lab
from tests.guests.lab import Guest
from vdbackup.operations.schedules.store import Outcome, schedule_id
from vdbackup.operations.schedules.units import name_of

pytestmark = [
    pytest.mark.usefixtures("as_root"),
    pytest.mark.long,
    pytest.mark.timeout(14_400),
]

PLACES = {TARGET: "/mnt", lab.PROGRAM: lab.PLACE}
"""What is mounted before a timer elapses, as on a computer that has it installed."""
DISK = f"/home/{USER}/disk.img"
DRIVE, STICK = f"/media/{USER}/BACKUPS", "/dev/disk/by-id/usb-QEMU_QEMU_HARDDISK_stick-0:0"
_OPTIONS = {TARGET: "defaults", lab.PROGRAM: "ro"}
_LOGIN = f"systemd-run -q --collect --unit=session -p PAMName=login -p User={USER} sleep inf"
_LOGOUT = f"systemctl stop session; while loginctl show-user {USER}; do sleep 1; done"
_MANAGER = f"systemctl is-active user@$(id -u {USER}).service"
_RULE = """
polkit.addRule(function(action, subject) {
    if (action.id.indexOf("org.freedesktop.udisks2.filesystem-") == 0)
        return polkit.Result.YES;
});
"""
"""What a desktop's user may do, who sits before it."""


@dataclass(frozen=True)
class Scheduled:
    """A set with a schedule.

    Attributes:
        guest: in which it is run.
        name: of the set.
        every: when it is due, as options.
        repository: the folder that it lies in.
        user: whose schedule it is: root's are the system's.
    """

    guest: Guest
    name: str
    every: str = ""
    repository: str = "/mnt/repository"
    user: str = USER

    def _asked(self, command: str) -> Any:
        line = f"vdbackup {command} -r {self.repository} --set {self.name} --json"
        return as_user(self.guest, self.user, line)

    def set(self) -> None:
        """Have systemd know of it."""
        self._asked(f"schedule set {self.every}")

    def remove(self) -> None:
        """Let it be run no more."""
        self._asked("schedule remove")

    @property
    def _points(self) -> list[dict[str, Any]]:
        listed = as_user(self.guest, self.user, f"vdbackup list -r {self.repository} --json")
        (found,) = (each for each in listed.json["sets"] if each["name"] == self.name)
        points: list[dict[str, Any]] = found["points"]
        return points

    @property
    def points(self) -> list[datetime]:
        """When those of the set were made."""
        return [datetime.fromisoformat(point["created"]) for point in self._points]

    @property
    def newest(self) -> dict[str, Any]:
        """The newest of them."""
        return self._points[-1]

    def last(self) -> Outcome:
        """How the last run ended."""
        return Outcome(json.loads(self.runs())["runs"][-1]["outcome"])

    @property
    def _id(self) -> str:
        return schedule_id(Path(self.repository), self.name)

    def systemctl(self, words: str, kind: str = "service") -> str:
        """What systemd says of its service, or timer."""
        whose = "--system" if self.user == "root" else "--user"
        line = f"systemctl {whose} {words} {name_of(self._id, kind)}"
        return str(as_user(self.guest, self.user, line).said).strip()

    def runs(self) -> str:
        """What is noted of its runs: another text after each."""
        home = "/root" if self.user == "root" else f"/home/{self.user}"
        noted = f"{home}/.local/share/vdbackup/schedules/{self._id}.json"
        return self.guest.run(f"cat {noted}", status=None).said

    @contextmanager
    def run_once(self) -> Iterator[None]:
        """What is done in the block has systemd run it, and it ends well."""
        before = self.runs()
        yield
        self.guest.wait_until(f"a run of {self.name}", lambda: self.runs() != before)
        show = "show --value -p ActiveState"
        self.guest.wait_until("its end", lambda: self.systemctl(show) in {"inactive", "failed"})
        assert self.systemctl(show) == "inactive"


def as_user(guest: Guest, user: str, line: str) -> Any:
    """What comes of a line of the shell, in a user's own folders, by the user's own systemd."""
    home = "/root" if user == "root" else f"/home/{user}"
    return guest.run(f"export HOME={home} XDG_RUNTIME_DIR=/run/user/$(id -u); {line}", user=user)


@contextmanager
def computer(folder: Path, switched_on: str) -> Iterator[Guest]:
    """The same each time, with what was written to its disks; it is switched off at the end."""
    system, target = folder / "system.img", folder / f"{TARGET}.img"
    new = not system.exists()
    if new:
        lab.disk(folder, built(RUNNING))
        lab.empty(target, 2048)
    disks = {TARGET: target}
    with lab.running(folder / "machine", system, disks, clock=switched_on) as guest:
        if new:
            _furnish(guest)
        yield guest
        guest.power_off()


def _furnish(guest: Guest) -> None:
    guest.run(f"useradd --create-home {USER} && mkfs.ext4 -q {lab.device(TARGET)}")
    for name, place in PLACES.items():
        named = f"UUID=$(blkid -s UUID -o value {lab.device(name)})"  # wherever it is plugged in
        guest.run(f"echo {named} {place} ext4 {_OPTIONS[name]} 0 0 >> /etc/fstab")
    guest.run(f"systemctl daemon-reload && mount /mnt && chown {USER} /mnt")
    as_user(guest, USER, f"head -c 4M /dev/urandom > {DISK}")


def put_clock(guest: Guest, moment: str) -> None:
    """To a moment of the local clock, or another one that is named in it.

    A timer elapses within a minute (AccuracySec of systemd.timer(5)), and at once after that.
    """
    guest.run(f"date -s '{moment}'")


def back_up(guest: Guest, source: str, repository: str, *, user: str = USER) -> None:
    """By hand."""
    as_user(guest, user, f"vdbackup backup {source} -r {repository} --json")


def test_each_night_has_one_point_whether_the_user_is_there_or_the_computer_is_on(
    tmp_path: Path,
) -> None:
    with computer(tmp_path, "2035-03-09T12:00:00") as guest:
        disk = Scheduled(guest, "disk", "--every daily --at 02:30")
        back_up(guest, DISK, disk.repository)
        disk.set()
        assert guest.run("ls /var/lib/systemd/linger").said.split() == [USER]
        assert guest.run("loginctl list-sessions --no-legend").said == ""  # nobody is there
        with disk.run_once():
            put_clock(guest, "2035-03-10 02:31:00")
        assert disk.last() is Outcome.DONE
        with disk.run_once():  # for a night that has no 02:30
            put_clock(guest, "2035-03-10 03:31:00")
        assert disk.last() is Outcome.SKIPPED
        assert len(disk.points) == 2

    with computer(tmp_path, "2035-03-13T09:00:00") as guest:
        disk = Scheduled(guest, "disk")
        guest.wait_until("what was missed", lambda: disk.last() is not Outcome.SKIPPED)
        assert disk.last() is Outcome.DONE
        *_, last = disk.points
        assert (len(disk.points), f"{last:%F}") == (3, "2035-03-13")  # one of three nights
        due = disk.systemctl("show --value -p NextElapseUSecRealtime", "timer")
        assert due.startswith("Wed 2035-03-14 02:30:00")
        spend_nights_in_which_clocks_are_changed(guest, disk)
        disk.remove()
        assert "vdbackup" not in as_user(guest, USER, "systemctl --user list-timers --all").said


def spend_nights_in_which_clocks_are_changed(guest: Guest, disk: Scheduled) -> None:
    """One in spring and one in autumn, each of which has its point."""
    zone = ZoneInfo("Europe/Berlin")
    guest.run(f"timedatectl set-timezone {zone}")
    with disk.run_once():  # somebody puts the clock forward by eleven days
        put_clock(guest, "2035-03-24 12:00:00")
    put_clock(guest, "2035-03-25 01:59:55")
    guest.wait_for("an hour that is left out", "test $(date +%H) = 03")
    with disk.run_once():
        put_clock(guest, "2035-03-25 03:31:00")
    *_, day, spring = disk.points
    assert f"{day.astimezone(zone):%F}" == "2035-03-24"
    assert f"{spring.astimezone(zone):%F %H}" == "2035-03-25 03"
    with disk.run_once():
        put_clock(guest, "2035-10-27 12:00:00")
    with disk.run_once():
        put_clock(guest, "2035-10-28 00:31:00 UTC")
    assert disk.last() is Outcome.DONE
    put_clock(guest, "2035-10-28 01:31:00 UTC")  # 02:31 once more
    with disk.run_once():
        put_clock(guest, "2035-10-28 02:31:00 UTC")
    assert disk.last() is Outcome.SKIPPED
    *_, day, autumn = disk.points
    assert f"{day.astimezone(zone):%F}" == "2035-10-27"
    assert f"{autumn.astimezone(zone):%F %H %Z}" == "2035-10-28 02 CEST"


def test_the_system_backs_up_its_own_disk_and_a_user_by_the_agent(tmp_path: Path) -> None:
    with computer(tmp_path, "2035-03-10T10:02:00") as guest:
        install_agent(guest)
        allow(guest)
        own = Scheduled(guest, "sda", "--every 15m", "/mnt/own", "root")
        annas = Scheduled(guest, "sda", "--every 30m")
        for each in (own, annas):
            as_user(guest, each.user, "vdbackup track /dev/sda")
            back_up(guest, "/dev/sda", each.repository, user=each.user)
        put_clock(guest, "2035-03-10 11:00:05")
        own.set()
        annas.set()
        with own.run_once():
            put_clock(guest, "2035-03-10 11:16:00")
        assert own.last() is Outcome.DONE
        with annas.run_once(), own.run_once():  # both are due
            put_clock(guest, "2035-03-10 11:31:00")
        for each in (own, annas):
            assert each.last() is Outcome.DONE
            newest = each.newest
            assert (newest["consistency"]["how"], newest["changes_from"]) == ("frozen", "tracker")


def test_a_login_and_a_drive_that_is_plugged_in_begin_a_backup(tmp_path: Path) -> None:
    drive = lab.empty(tmp_path / "drive.img", 256)
    with computer(tmp_path, "2035-03-10T10:02:00") as guest:
        guest.write("/etc/polkit-1/rules.d/60-drives.rules", _RULE)
        guest.run(_LOGIN)
        guest.wait_for("the user's systemd", _MANAGER)
        at_login = Scheduled(guest, "disk", "--every login")
        back_up(guest, DISK, at_login.repository)
        at_login.set()
        guest.run(_LOGOUT)
        put_clock(guest, "2035-03-10 13:00:00")
        with at_login.run_once():
            guest.run(_LOGIN)
        assert at_login.last() is Outcome.DONE

        guest.plug("stick", drive)
        guest.wait_for("the drive", f"mkfs.ext4 -qF -L BACKUPS {STICK}")
        mount(guest)
        plugged = Scheduled(guest, "disk", "--every plug", f"{DRIVE}/repository")
        guest.run(f"chown {USER} {DRIVE}")
        back_up(guest, DISK, plugged.repository)
        plugged.set()
        unmount(guest)
        put_clock(guest, "2035-03-10 15:00:00")
        guest.plug("stick", drive)
        with plugged.run_once():
            mount(guest)
        assert plugged.last() is Outcome.DONE
        unmount(guest)
        guest.plug("stick", drive)
        with plugged.run_once():  # and so soon again
            mount(guest)
        assert plugged.last() is Outcome.SKIPPED
        assert len(plugged.points) == 2


def mount(guest: Guest) -> None:
    """As a desktop does when a drive is there."""
    guest.wait_for("the drive", f"test -b {STICK}")
    as_user(guest, USER, f"udisksctl mount --no-user-interaction -b {STICK}")


def unmount(guest: Guest) -> None:
    """And pull it out."""
    as_user(guest, USER, f"udisksctl unmount --no-user-interaction -b {STICK}")
    guest.unplug("stick")
    guest.wait_for("no drive", f"! test -e {STICK}")
