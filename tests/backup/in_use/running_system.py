"""A Debian that backs up the disk it runs from (tests/guests/lab.py), and what is left of that."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.guests import lab
from tests.guests.cache import NotBuilt
from tests.guests.debian import SECTOR, Debian, KernelNotServed
from tests.guests.lab import Guest, device
from tests.sources.loops import mounted, run
from vdbackup.jobs import Task
from vdbackup.operations import restore
from vdbackup.recovery import verify
from vdbackup.repository.repository import Repository

RUNNING = Debian(init="systemd", stay=True, lab=True)
USER = "anna"
TARGET = "target"
_RULE = """
polkit.addRule(function(action, subject) {
    if (action.id.indexOf("org.vdbackup.vdbackup.") == 0 && subject.user == "%s")
        return polkit.Result.YES;
});
"""
_WRITER = """
import os, random, subprocess, sys, time, zlib
file = open(sys.argv[1], "ab", buffering=0)
said = open(sys.argv[2], "a", buffering=1)
number = 0
while True:
    number += 1
    record = b"%d %s" % (number, os.urandom(900).hex().encode())
    file.write(b"%s %08x\\n" % (record, zlib.crc32(record)))
    os.fsync(file.fileno())
    said.write(f"{number} {time.time()}\\n")
    if sys.argv[3:] and random.random() < 0.1:
        mark = [*sys.argv[3:], "0", "mark", f"{os.path.basename(sys.argv[1])}-{number}"]
        subprocess.run(["dmsetup", "message", *mark], stderr=subprocess.DEVNULL)
    time.sleep(0.01)
"""
"""Appends numbered records, and says of each when it was surely on the disk: in memory (tmpfs).

Behind some it has a mark put into the log of a volume's writes, where there is one.
"""
_READER = """
import sys, zlib
last = 0
for number, line in enumerate(open(sys.argv[1], "rb"), 1):
    record, _, code = line[:-1].rpartition(b" ")
    assert line.endswith(b"\\n") and int(code, 16) == zlib.crc32(record), number
    assert int(record.split()[0]) == number
    last = number
print(last)
"""


@dataclass(frozen=True)
class Records:
    """What a writer in the guest writes.

    Attributes:
        place: the file, in the guest.
        volume: whose writes may be logged.
    """

    guest: Guest
    place: str
    volume: str = ""

    @property
    def _said(self) -> str:
        return f"/run/{self.place.replace('/', '-')}"

    @property
    def _writer(self) -> str:
        return f"writer{self.place.replace('/', '-')}"

    def begin(self) -> None:
        """Have them written, one after the other."""
        self.guest.write("/run/writer.py", _WRITER)
        arguments = f"{self.place} {self._said} {self.volume}"
        self.guest.run(f"systemd-run --unit={self._writer} python3 /run/writer.py {arguments}")
        self.guest.wait_for("the writer's ninth record", f"grep -q '^9 ' {self._said}")

    @contextmanager
    def written(self) -> Iterator[None]:
        """The same until the block ends."""
        self.begin()
        yield
        self.end()

    def end(self) -> None:
        """Have no more written."""
        self.guest.run(f"systemctl stop {self._writer}")

    def count(self) -> int:
        """How many are surely on the disk by now."""
        return int(self.guest.run(f"wc -l < {self._said}").said)

    def safe_at(self, moment: float) -> int:
        """The number of the last one that was surely on the disk then (seconds since 1970)."""
        return max((number for number, at in self.said() if at < moment), default=0)

    def said(self) -> list[tuple[int, float]]:
        """Their numbers, and when each was surely on the disk (seconds since 1970)."""
        lines = self.guest.run(f"cat {self._said}").said.splitlines()
        return [(int(number), float(at)) for number, at in map(str.split, lines)]


def last_record(guest: Guest, place: str) -> int:
    """Of a file in a guest that has started anew: all up to that are there, and none is torn."""
    guest.write("/run/reader.py", _READER)
    return int(guest.run(f"python3 /run/reader.py {place}").said)


def last_record_in(folder: Path, name: str) -> int:
    """The same of a file on a mounted copy."""
    return int(run(sys.executable, "-c", _READER, folder / name))


def built(kind: Debian) -> Debian:
    """A Debian that can be booted; only one whose kernel is not served any more is done without."""
    try:
        lab.image(kind)
    except KernelNotServed as error:
        pytest.skip(str(error))
    except NotBuilt as error:
        pytest.fail(str(error), pytrace=False)
    return kind


@contextmanager
def at_work(folder: Path, kind: Debian, **others: Path) -> Iterator[Guest]:
    """The Debian runs; its repository's disk is mounted at /mnt, and belongs to USER.

    It is switched off at the end, unless it has lost its power.
    """
    target = folder / f"{TARGET}.img"
    disks = {TARGET: lab.empty(target, 2048), **others}
    with lab.running(folder / "machine", lab.disk(folder, kind), disks) as guest:
        guest.run(f"useradd --create-home {USER}")
        guest.run(f"mkfs.ext4 -q {device(TARGET)} && mount {device(TARGET)} /mnt")
        guest.run(f"chown {USER} /mnt")
        yield guest
        if guest.is_on:
            guest.power_off()


@contextmanager
def at_work_again(folder: Path, **others: Path) -> Iterator[Guest]:
    """The same started anew, with what was written to its disks."""
    disks = {TARGET: folder / f"{TARGET}.img", **others}
    with lab.running(folder / "machine", folder / "system.img", disks) as guest:
        guest.run(f"mount {device(TARGET)} /mnt")
        yield guest
        guest.power_off()


def install_agent(guest: Guest) -> None:
    """For whoever connects to its socket."""
    installed = guest.run("vdbackup agent install --json").json
    assert installed["listens"], installed


def allow(guest: Guest) -> None:
    """Let USER do everything that the agent does."""
    guest.write("/etc/polkit-1/rules.d/50-lab.rules", _RULE % USER)


def back_up(guest: Guest, source: str, *options: str, user: str | None = None) -> dict[str, Any]:
    """What `backup` says of the new point, which is as of one moment."""
    words = " ".join(options)
    command = f"vdbackup backup {source} -r /mnt/repository --consistency frozen --json {words}"
    point: dict[str, Any] = guest.run(command, user=user).json
    assert point["event"] == "result"
    assert point["warnings"] == []
    return point


def missed(guest: Guest, name: str, *, user: str | None = None) -> int:
    """How many bytes of a set's source differ from its newest point that are not marked so."""
    command = f"vdbackup verify -r /mnt/repository --set {name} --against-source --json"
    found = guest.run(command, user=user).json
    assert found["ok"]
    assert found["differing_bytes"] > 0
    return int(found["missed_bytes"])


@contextmanager
def repository_of(folder: Path) -> Iterator[Repository]:
    """What the Debian has left on its second disk."""
    with mounted(folder / f"{TARGET}.img", folder / "mnt", "-o", "loop") as mount:
        yield Repository.open(mount / "repository")


def restored(folder: Path, name: str) -> Path:
    """The newest point of a set, all points of which are sound, as a raw disk."""
    raw = folder / f"{name}.raw"
    with repository_of(folder) as repository:
        assert all(each.ok for each in verify.run(verify.plan(repository, name), Task()))
        newest = repository.set(name).points[-1].id
        restore.run(restore.plan(restore.RestoreRequest(repository, name, newest, raw)), Task())
    return raw


def part(raw: Path, start: int, folder: Path) -> Path:
    """What begins at a sector of a disk, up to its end, as a file."""
    file = folder / "part.raw"
    options = ("bs=1M", "iflag=skip_bytes", "conv=sparse", "status=none")
    run("dd", f"if={raw}", f"of={file}", f"skip={start * SECTOR}", *options)
    return file


def status(guest: Guest, *, user: str | None = None) -> list[dict[str, Any]]:
    """What is tracked."""
    found: list[dict[str, Any]] = json.loads(guest.run("vdbackup status --json", user=user).said)[
        "tracked"
    ]
    return found
