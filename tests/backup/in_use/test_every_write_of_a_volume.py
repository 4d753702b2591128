"""Every write to a logical volume of a Debian is kept while it is written to, and none is lost.

By the kernel's dm-log-writes, in a virtual machine. What a moment has to hold is said by dmsetup: a
writer, each of whose records is flushed, has it put a mark into the log behind some of them.
"""

from __future__ import annotations

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
    built,
    install_agent,
    last_record_in,
    repository_of,
)
from tests.guests import lab
from tests.guests.lab import Guest
from tests.sources.loops import mounted
from vdbackup.repository.kept_logs import Cause, KeptLog, kept_logs
from vdbackup.repository.repository import Repository

pytestmark = [
    pytest.mark.usefixtures("as_root"),
    pytest.mark.long,
    pytest.mark.timeout(14_400),
]

VOLUME, MOUNT, REPOSITORY = "/dev/lvm/home", "/home", "/mnt/repository"
MAKE = (
    "pvcreate -q {0} && vgcreate -q lvm {0} && lvcreate -q -y -L 64M -n home lvm"
    f" && mkfs.ext4 -q {VOLUME}"
)
SEVERAL = 10
"""Moments of a log that are looked at, of each kind."""
LATE = 60.0
"""Seconds in which a write has been noted, on a computer that only translates."""


@dataclass(frozen=True)
class Protected:
    """`protect` runs in a guest, as a service of systemd's.

    Attributes:
        guest: in which it runs.
        name: of the service.
        user: whose it is.
    """

    guest: Guest
    name: str
    user: str = "root"

    def begin(self, limit: str = "256M") -> None:
        """Return once every write is kept."""
        files = f"-p StandardOutput=file:{self._said} -p StandardError=file:{self._said}"
        start = f"systemd-run -q --unit={self.name} --uid={self.user} -E HOME=/tmp {files}"
        words = f"protect {VOLUME} -r {REPOSITORY} --limit {limit} --json"
        self.guest.run(f"{start} /usr/local/bin/vdbackup {words}")
        self.guest.wait_until("the log", lambda: bool(self._events("protected")))

    @property
    def _said(self) -> str:
        return f"/run/{self.name}.said"

    def _events(self, kind: str) -> list[dict[str, Any]]:
        said = self.guest.run(f"cat {self._said}").said
        lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        found = [each for each in lines if each["event"] == kind]
        assert found or self._runs, said
        return found

    @property
    def _runs(self) -> bool:
        asked = f"systemctl is-active {self.name}"
        return self.guest.run(asked, status=None).said.strip() in {"active", "activating"}

    def kill(self) -> None:
        """Before it can take the log out."""
        self.guest.run(f"systemctl kill -s KILL {self.name}")
        self.guest.wait_until("its end", lambda: not self._runs)

    def end(self) -> dict[str, Any]:
        """What came of it, once it has ended."""
        self.guest.wait_until("its end", lambda: not self._runs)
        return self._events("result")[0]

    def unprotect(self) -> None:
        """By the volume's name."""
        asked = f"vdbackup unprotect {VOLUME} -r {REPOSITORY} --json"
        self.guest.run(asked, user=None if self.user == "root" else self.user)


def is_logged(guest: Guest) -> bool:
    return "log-writes" in guest.run(f"dmsetup table {VOLUME}").said


def assert_as_it_was(guest: Guest) -> None:
    """The volume is what LVM has made of it, and nothing of a log is left."""
    assert guest.run(f"dmsetup table {VOLUME}").said.split()[2] == "linear"
    assert guest.run("dmsetup ls").said.split()[::2] == ["lvm-home"]
    assert "writes-" not in guest.run("losetup --noheadings --list").said


def goes_on(records: Records) -> None:
    """Whoever writes to the volume does not wait for anything."""
    before = records.count()
    records.guest.wait_until("more records", lambda: records.count() > before + 5)


def digest_at_rest(guest: Guest) -> str:
    """Of all that a volume holds that nobody writes to."""
    guest.run("echo 3 > /proc/sys/vm/drop_caches")
    return guest.run(f"sha256sum < {VOLUME}").said.split()[0]


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
        """How many follow on its point."""
        return self.log.read().writes - self.log.protection.before

    def marks(self, name: str) -> dict[int, int]:
        """How many records of a file its marks name, by the number of writes that they follow."""
        begin = f"{name}-"
        found = [each for each in self.log.read().marks() if each[1].startswith(begin)]
        before = self.log.protection.before
        return {
            write - before: int(text.removeprefix(begin))
            for write, text in found
            if write >= before
        }

    def digest(self, moment: str) -> str:
        """Of the volume at a moment of it, by time or by number of writes."""
        return sha256(self._copy(moment).read_bytes()).hexdigest()

    def last_record(self, moment: str, name: str) -> int:
        """Of a file at that moment, which has all those up to there: none is torn, none is more."""
        raw = self._copy(moment)
        with mounted(raw, self.folder / "at", "-o", "loop") as mount:
            last = last_record_in(mount, name)
        found = subprocess.run(["e2fsck", "-fn", raw], check=False, capture_output=True)
        assert found.returncode in (0, 4), found  # 4: files that were deleted, and still open
        return last

    def _copy(self, moment: str) -> Path:
        backup_set = self.repository.set(self.log.folder.name)
        number = backup_set.point(self.log.protection.point).sequence
        backup_set, point = self.repository.find_state(f"{number}@{moment}", backup_set.name)
        raw = self.folder / "moment.raw"
        with backup_set.open_chain(point) as disk:
            data = bytearray(disk.size)
            disk.readinto(0, memoryview(data))
        raw.write_bytes(data)
        return raw


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


@contextmanager
def written(guest: Guest, name: str, user: str = "root") -> Iterator[tuple[Protected, Records]]:
    """Records go into a file of the volume while its writes are kept, and until the block ends.

    Nothing is mounted from it then.
    """
    guest.run(f"mount {VOLUME} {MOUNT}")
    asked, records = Protected(guest, name, user), Records(guest, f"{MOUNT}/{name}", VOLUME)
    with records.written():
        asked.begin()
        guest.run("sleep 45")
        yield asked, records
    guest.run(f"umount {MOUNT}")


def test_every_write_to_a_volume_in_use_is_kept_whoever_is_killed(tmp_path: Path) -> None:
    digests: list[str] = []
    said: dict[str, list[tuple[int, float]]] = {}
    with at_work(tmp_path, built(RUNNING), spare=lab.empty(tmp_path / "spare.img", 200)) as guest:
        guest.run(MAKE.format(lab.device("spare")))
        with written(guest, "asked") as (asked, records):
            goes_on(records)
        digests.append(until_unprotected(guest, asked))
        said["asked"] = records.said()
        assert asked.end()["why"] == "That was asked for."

        with written(guest, "killed") as (asked, records):
            asked.kill()
            goes_on(records)
        digests.append(until_unprotected(guest, asked))
        said["killed"] = records.said()

        with written(guest, "full") as (asked, records):
            head = f"head -c 24M /dev/urandom > {MOUNT}/much"
            guest.run(f"{head} && sync")
            goes_on(records)
            assert "its limit" in asked.end()["why"]
            assert_as_it_was(guest)
        said["full"] = records.said()

        install_agent(guest)
        allow(guest)
        guest.run(f"chown -R {USER} /mnt")
        with written(guest, "client", USER) as (asked, records):
            asked.kill()
            guest.wait_until("the agent's end of the log", lambda: not is_logged(guest))
            goes_on(records)
            asked.unprotect()
            assert_as_it_was(guest)
        said["client"] = records.said()

        with written(guest, "agent", USER) as (asked, records):
            guest.run("systemctl kill -s KILL 'vdbackup-agent@*'")
            goes_on(records)
            asked.kill()
        digests.append(until_unprotected(guest, asked))
        said["agent"] = records.said()
    with repository_of(tmp_path) as repository:
        (backup_set,) = repository.sets()
        logs = [Kept(repository, log, tmp_path) for log in kept_logs(backup_set.folder)]
        found = dict(zip(said, logs, strict=True))
        causes = {name: each.log.protection.cause for name, each in found.items()}
        assert causes.pop("full") == Cause.LIMIT
        assert set(causes.values()) == {Cause.ASKED}
        for name, digest in zip(("asked", "killed", "agent"), digests, strict=True):
            assert found[name].digest(f"w{found[name].writes}") == digest
        for name, kept in found.items():
            assert_exact(kept, name, said[name])


def until_unprotected(guest: Guest, asked: Protected) -> str:
    """The digest of a volume whose log is taken out, and which is as it was then."""
    assert is_logged(guest)
    asked.unprotect()
    assert_as_it_was(guest)
    return digest_at_rest(guest)
