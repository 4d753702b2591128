"""Every write to a volume of a Debian is kept while it is written to, and none is lost.

By the kernel's dm-log-writes, in a virtual machine. What a moment has to hold is said by dmsetup: a
writer, each of whose records is flushed, has it put a mark into the log behind some of them.
"""

from __future__ import annotations

import base64
import json
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.backup.in_use.running_system import (
    RUNNING,
    USER,
    Records,
    allow,
    at_work,
    at_work_again,
    built,
    install_agent,
    last_record_in,
    repository_of,
)
from tests.guests import boot_sector, lab
from tests.guests.lab import Guest
from tests.sources.loops import mounted
from vdbackup.guest.hardware import Controller, HardwareRequest
from vdbackup.jobs import Task
from vdbackup.operations import protection
from vdbackup.recovery.sessions import vm
from vdbackup.repository.kept_logs import Cause, KeptLog, kept_logs
from vdbackup.repository.repository import Repository

pytestmark = [
    pytest.mark.usefixtures("as_root"),
    pytest.mark.long,
    pytest.mark.timeout(14_400),
]

REPOSITORY, FAILING = "/mnt/repository", "/away/repository"
SEVERAL = 10
"""Moments of a log that are looked at, of each kind."""
LATE = 60.0
"""Seconds in which a write has been noted, on a computer that only translates."""
BOOTS_WITHIN = 300.0
ALIVE = "the volume has been started"


@dataclass(frozen=True)
class Volume:
    """One of device-mapper's, in a guest.

    Attributes:
        path: its name.
        kind: the target that it is made of.
        make: lines of the shell that make it, of two disks.
    """

    path: str
    kind: str
    make: str

    @property
    def name(self) -> str:
        """In a word: the set's, too."""
        return Path(self.path).name

    @property
    def mount(self) -> str:
        """Where its file system is mounted."""
        return f"/{self.name}"

    def made(self, guest: Guest) -> None:
        """Have it, with a file system."""
        spare = [lab.device(name) for name in ("spare", "more")]
        guest.run(self.make.format(*spare))
        guest.run(f"mkfs.ext4 -q {self.path} && mkdir -p {self.mount}")


HOME = Volume(
    "/dev/lvm/home",
    "linear",
    "pvcreate -q {0} && vgcreate -q lvm {0} && lvcreate -q -y -L 64M -n home lvm",
)
STRIPED = Volume(
    "/dev/lvm/striped",
    "striped",
    "pvcreate -q {0} {1} && vgcreate -q lvm {0} {1} && lvcreate -q -y -i 2 -L 64M -n striped lvm",
)
# LUKS1: its key stands in its table, where it can be had. What is free of it is zeros: a point does
# not have what is left there of before.
CRYPT = Volume(
    "/dev/mapper/crypt",
    "crypt",
    "lvcreate -q -y -L 64M -n box lvm && echo secret > /run/key"
    " && cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000 /dev/lvm/box /run/key"
    " && cryptsetup open -d /run/key /dev/lvm/box crypt"
    " && head -c $(blockdev --getsize64 /dev/mapper/crypt) /dev/zero > /dev/mapper/crypt",
)
AWAY = (
    "lvcreate -q -y -L 480M -n away lvm"
    " && mkfs.ext4 -q /dev/lvm/away && mkdir /away && mount /dev/lvm/away /away"
)
FAIL = (
    "size=$(blockdev --getsz /dev/lvm/away) && dmsetup suspend --noflush --nolockfs lvm-away"
    ' && dmsetup load lvm-away --table "0 $size error" && dmsetup resume lvm-away'
)
WORK_AGAIN = "lvchange --refresh lvm/away; umount /away && mount /dev/lvm/away /away"


@dataclass(frozen=True)
class Protected:
    """`protect` runs in a guest, as a service of systemd's.

    Attributes:
        guest: in which it runs.
        name: of the service.
        volume: whose writes are kept.
        user: whose it is.
        repository: in which they are.
        limit: what they may take.
    """

    guest: Guest
    name: str
    volume: Volume
    user: str = "root"
    repository: str = REPOSITORY
    limit: str = "256M"

    def begin(self) -> None:
        """Return once every write is kept."""
        files = f"-p StandardOutput=file:{self._said} -p StandardError=file:{self._said}"
        start = f"systemd-run -q --unit={self.name} --uid={self.user} -E HOME=/tmp {files}"
        words = f"protect {self.volume.path} -r {self.repository} --limit {self.limit} --json"
        self.guest.run(f"{start} /usr/local/bin/vdbackup {words}")
        self.guest.wait_until("the log", lambda: bool(self._events("protected")))

    @property
    def _said(self) -> str:
        return f"/run/{self.name}.said"

    def _events(self, kind: str) -> list[dict[str, Any]]:
        said = self.guest.run(f"cat {self._said}").said
        lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        found = [each for each in lines if each["event"] == kind]
        assert found or self.runs, said
        return found

    @property
    def runs(self) -> bool:
        """Whether it has not ended yet."""
        asked = f"systemctl is-active {self.name}"
        return self.guest.run(asked, status=None).said.strip() in {"active", "activating"}

    def kill(self) -> None:
        """Before it can take the log out."""
        self.guest.run(f"systemctl kill -s KILL {self.name}")
        self.guest.wait_until("its end", lambda: not self.runs)

    def end(self, kind: str = "result") -> dict[str, Any]:
        """What came of it, once it has ended; `kind`: "error" where that is one."""
        self.guest.wait_until("its end", lambda: not self.runs)
        return self._events(kind)[0]

    def unprotect(self) -> None:
        """By the volume's name."""
        asked = f"vdbackup unprotect {self.volume.path} -r {self.repository} --json"
        self.guest.run(asked, user=None if self.user == "root" else self.user)


def is_logged(guest: Guest, volume: Volume) -> bool:
    return "log-writes" in guest.run(f"dmsetup table {volume.path}").said


def assert_as_it_was(guest: Guest, volume: Volume) -> None:
    """The volume is what it was made of, and nothing of a log is left."""
    assert guest.run(f"dmsetup table {volume.path}").said.split()[2] == volume.kind
    assert "vdbackup" not in guest.run("dmsetup ls").said
    assert "writes-" not in guest.run("losetup --noheadings --list").said


def goes_on(records: Records) -> None:
    """Whoever writes to the volume does not wait for anything."""
    before = records.count()
    records.guest.wait_until("more records", lambda: records.count() > before + 5)


def digest_at_rest(guest: Guest, volume: Volume) -> str:
    """Of all that a volume holds that nobody writes to."""
    guest.run("echo 3 > /proc/sys/vm/drop_caches")
    return guest.run(f"sha256sum < {volume.path}").said.split()[0]


# ------------------------------------------------------------------------ what the log holds


@dataclass(frozen=True)
class Kept:
    """A log, as the guest has left it.

    Attributes:
        repository: in which it lies.
        log: of the volume's writes.
        folder: for copies.
    """

    repository: Repository
    log: KeptLog
    folder: Path

    @property
    def writes(self) -> int:
        """How many follow on its point, of which it is sure that they are there."""
        return self.log.read().sound_writes - self.log.protection.before

    def marks(self, name: str) -> dict[int, int]:
        """How many records of a file its marks name, by the number of writes that they follow."""
        begin, before, last = f"{name}-", self.log.protection.before, self.writes
        return {
            write - before: int(text.removeprefix(begin))
            for write, text in self.log.read().marks()
            if text.startswith(begin) and 0 <= write - before <= last
        }

    def digest(self, moment: str) -> str:
        """Of the volume at a moment of it, by time or by number of writes."""
        return sha256(self.copy(self.moment(moment)).read_bytes()).hexdigest()

    def last_record(self, moment: str, name: str) -> int:
        """Of a file at that moment, which has all those up to there: none is torn, none is more."""
        raw = self.copy(self.moment(moment))
        with mounted(raw, self.folder / "at", "-o", "loop") as mount:
            last = last_record_in(mount, name)
        found = subprocess.run(["e2fsck", "-fn", raw], check=False, capture_output=True)
        assert found.returncode in (0, 4), found  # 4: files that were deleted, and still open
        return last

    def moment(self, moment: str) -> str:
        """As everybody names it, by the point."""
        backup_set = self.repository.set(self.log.folder.name)
        return f"{backup_set.point(self.log.protection.point).sequence}@{moment}"

    def copy(self, reference: str) -> Path:
        """A disk of what a point, or a moment, holds."""
        backup_set, point = self.repository.find_state(reference, self.log.folder.name)
        raw = self.folder / "moment.raw"
        raw.unlink(missing_ok=True)  # a loop device may still hold what the last one was
        with backup_set.open_chain(point) as disk:
            data = bytearray(disk.size)
            disk.readinto(0, memoryview(data))
        raw.write_bytes(data)
        return raw


def kept_of(repository: Repository, name: str, folder: Path) -> list[Kept]:
    """The logs of a volume's set, oldest first."""
    found = kept_logs(repository.set(name).folder)
    return [Kept(repository, each, folder) for each in found]


def assert_exact(kept: Kept, name: str, said: list[tuple[int, float]]) -> None:
    """At random moments the volume holds exactly the records that were flushed by then."""
    marks = kept.marks(name)
    assert len(marks) > SEVERAL
    for write in random.sample(sorted(marks), SEVERAL):
        assert kept.last_record(f"w{write}", name) == marks[write]
    since = datetime.fromisoformat(kept.log.protection.since).timestamp()
    times = [at for _, at in said if since + LATE / 2 < at < said[-1][1]]
    for at in random.sample(times, min(SEVERAL, len(times))):
        last = kept.last_record(f"{datetime.fromtimestamp(at).astimezone().isoformat()}", name)
        by_then = [number for number, then in said if then <= at]
        in_time = [number for number, then in said if then <= at - LATE]
        assert max(in_time, default=0) <= last <= by_then[-1] + 1


def assert_boots_and_becomes_a_point(kept: Kept, write: int) -> None:
    """A moment, by itself."""
    backup_set, point = kept.repository.find_state(kept.moment(f"w{write}"), kept.log.folder.name)
    asked = {"sessions_folder": kept.folder / "sessions"}
    hardware = HardwareRequest(controller=Controller.IDE)
    with vm.start_from_point(
        kept.repository, backup_set, point, request=hardware, **asked
    ) as session:
        assert session.wait_for_text(ALIVE, BOOTS_WITHIN)
    moment = f"{kept.log.protection.point}@w{write}"
    plan = protection.plan_point(kept.repository, backup_set.name, moment)
    made = protection.make_point(plan, kept.folder / "none", Task())
    copied = kept.copy(str(made.point.sequence))
    assert sha256(copied.read_bytes()).hexdigest() == kept.digest(f"w{write}")


@contextmanager
def written(asked: Protected) -> Iterator[Records]:
    """Records go into a file of the volume while its writes are kept, and until the block ends.

    Nothing is mounted from it then.
    """
    records = begun(asked)
    yield records
    records.end()
    asked.guest.run(f"umount {asked.volume.mount}")


def begun(asked: Protected) -> Records:
    """The same for one that loses its power."""
    volume, guest = asked.volume, asked.guest
    guest.run(f"mount {volume.path} {volume.mount}")
    records = Records(guest, f"{volume.mount}/{asked.name}", volume.path)
    records.begin()
    asked.begin()
    guest.run("sleep 45")
    return records


def test_every_write_to_a_volume_in_use_is_kept_whoever_is_killed(tmp_path: Path) -> None:
    digests: list[str] = []
    said: dict[str, list[tuple[int, float]]] = {}
    spare = lab.empty(tmp_path / "spare.img", 200)
    starts = boot_sector.make(tmp_path / "starts.img", boot_sector.say(ALIVE), 512).read_bytes()
    with at_work(tmp_path, built(RUNNING), spare=spare) as guest:
        HOME.made(guest)
        encoded = base64.b64encode(starts).decode()  # ext4 leaves it free
        guest.run(f"echo {encoded} | base64 -d | dd of={HOME.path} conv=notrunc,fsync")
        with written(asked := Protected(guest, "asked", HOME)) as records:
            goes_on(records)
        digests.append(until_unprotected(asked))
        said["asked"] = records.said()
        assert asked.end()["why"] == "That was asked for."

        with written(asked := Protected(guest, "killed", HOME)) as records:
            asked.kill()
            goes_on(records)
        digests.append(until_unprotected(asked))
        said["killed"] = records.said()

        with written(asked := Protected(guest, "full", HOME, limit="40M")) as records:
            # over itself: nothing becomes free, which points do not have as it is
            much = f"dd if=/dev/urandom of={HOME.mount}/much bs=1M count=12 conv=notrunc,fsync"
            guest.wait_until("the limit", lambda: bool(guest.run(much)) and not asked.runs)
            goes_on(records)
            assert "its limit" in asked.end()["why"]
            assert_as_it_was(guest, HOME)
        said["full"] = records.said()

        install_agent(guest)
        allow(guest)
        guest.run(f"chown -R {USER} /mnt")
        with written(asked := Protected(guest, "client", HOME, USER)) as records:
            asked.kill()
            guest.wait_until("the agent's end of the log", lambda: not is_logged(guest, HOME))
            goes_on(records)
            asked.unprotect()
            assert_as_it_was(guest, HOME)
        said["client"] = records.said()

        with written(asked := Protected(guest, "agent", HOME, USER)) as records:
            guest.run("systemctl kill -s KILL 'vdbackup-agent@*'")
            goes_on(records)
            asked.kill()
        digests.append(until_unprotected(asked))
        said["agent"] = records.said()
    with repository_of(tmp_path) as repository:
        found = dict(zip(said, kept_of(repository, HOME.name, tmp_path), strict=True))
        causes = {name: each.log.protection.cause for name, each in found.items()}
        assert causes.pop("full") == Cause.LIMIT
        assert set(causes.values()) == {Cause.ASKED}
        for name, digest in zip(("asked", "killed", "agent"), digests, strict=True):
            assert found[name].digest(f"w{found[name].writes}") == digest
        for name, kept in found.items():
            assert_exact(kept, name, said[name])
        assert_boots_and_becomes_a_point(found["asked"], max(found["asked"].marks("asked")))


def until_unprotected(asked: Protected) -> str:
    """The digest of a volume whose log is taken out, and which is as it was then."""
    assert is_logged(asked.guest, asked.volume)
    asked.unprotect()
    assert_as_it_was(asked.guest, asked.volume)
    return digest_at_rest(asked.guest, asked.volume)


def test_stripes_ciphers_failing_storage_and_a_loss_of_power_cost_no_write_that_was_noted(
    tmp_path: Path,
) -> None:
    digests: dict[str, str] = {}
    said: dict[str, list[tuple[int, float]]] = {}
    disks = {name: lab.empty(tmp_path / f"{name}.img", 400) for name in ("spare", "more")}
    with at_work(tmp_path, built(RUNNING), **disks) as guest:
        for volume in (STRIPED, CRYPT):
            volume.made(guest)
            with written(asked := Protected(guest, volume.name, volume)) as records:
                goes_on(records)
            digests[volume.name] = until_unprotected(asked)
            said[volume.name] = records.said()

        guest.run(AWAY)
        with written(asked := Protected(guest, "fails", STRIPED, repository=FAILING)) as records:
            guest.run(FAIL)
            assert asked.end("error")["title"]
            assert_as_it_was(guest, STRIPED)
            goes_on(records)
        said["fails"] = records.said()
        guest.run(WORK_AGAIN)
        asked.unprotect()
        guest.run(f"cp -a {FAILING} /mnt/away")

        records = begun(Protected(guest, "power", STRIPED))
        goes_on(records)
        said["power"] = records.said()
        guest.lose_power()
    with at_work_again(tmp_path, **disks) as guest:
        assert_as_it_was(guest, STRIPED)
        _, lost = guest.run(f"vdbackup moments -r {REPOSITORY} --set striped --json", status=3).json
        assert lost["trouble"].endswith("are kept since this computer was started anew.")
        guest.run(f"mkdir -p {STRIPED.mount}")
        with written(asked := Protected(guest, "again", STRIPED)) as records:
            goes_on(records)
        until_unprotected(asked)
        said["again"] = records.said()
    with repository_of(tmp_path) as repository:
        away = Repository.open(repository.path.parent / "away")
        of_striped = kept_of(repository, "striped", tmp_path)
        places = {
            **dict(zip(("striped", "power", "again"), of_striped, strict=True)),
            "crypt": kept_of(repository, "crypt", tmp_path)[0],
            "fails": kept_of(away, "striped", tmp_path)[0],
        }
        causes = {name: each.log.protection.cause for name, each in places.items()}
        assert causes.pop("power") == Cause.RESTART
        assert set(causes.values()) == {Cause.ASKED}
        for name, digest in digests.items():
            assert places[name].digest(f"w{places[name].writes}") == digest
        for name, kept in places.items():
            assert_exact(kept, name, said[name])
