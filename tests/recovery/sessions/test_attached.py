"""A machine has the disk of another point beside its own: a real Linux reads chosen files from it.

Each session is a boot of a kernel, 4 seconds of a processor where there is no KVM.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.backup.lab import Lab, fingerprint
from tests.guests import other_init
from tests.guests import tiny_linux as builder
from tests.recovery.chosen import again
from vdbackup.backup import convert
from vdbackup.errors import CannotBoot, PointInUse, RepositoryError
from vdbackup.guest.hardware import Controller, HardwareRequest
from vdbackup.jobs import Task
from vdbackup.operations import merge, promote
from vdbackup.recovery.sessions import sessions as all_sessions
from vdbackup.recovery.sessions import vm
from vdbackup.recovery.sessions.attached import Attachment
from vdbackup.recovery.sessions.saved import SavedSession
from vdbackup.recovery.sessions.session import Session
from vdbackup.repository.repository import Repository

LIMIT = 240.0
"""Seconds for a boot on a busy machine."""
VIRTIO = HardwareRequest(controller=Controller.VIRTIO)
_INIT = """\
#!/bin/sh
mount -t devtmpfs none /dev
mount -t proc none /proc
while read -r driver; do insmod "/drivers/$driver"; done < /drivers/order
for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  mount -t ext4 /dev/vdb1 /sysroot && break
  sleep 0.2
done
if cd /sysroot{folder}; then
  busybox sha256sum *
  echo "from the machine" >> written && busybox sync
else
  cat /proc/partitions
fi
cd / && umount /sysroot
echo THE-END
poweroff -f
"""
Boot = Callable[..., Session]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Chosen files, of which there are two points, and what was in them at the first."""
    folder = tmp_path / "chosen"
    folder.mkdir()
    return folder


def two_points(files: Path, disk_format: str) -> tuple[Repository, list[dict[str, str]]]:
    """What was in the folder at each."""
    wanted = []
    for number in range(2):
        for name in ("kept", f"made {number}", "changes"):
            (files / name).write_bytes(f"{number}, {name}\n".encode() * 3000)
        repository = again(files, disk_format=disk_format).repository
        wanted.append({e.name: hashlib.sha256(e.read_bytes()).hexdigest() for e in files.iterdir()})
    return repository, wanted


@pytest.fixture
def linux(tmp_path: Path, tiny_linux: Path, files: Path, disk_format: str) -> Lab:
    """A point of a Linux that reads, and then writes, what lies on its second disk."""
    (tmp_path / "system").mkdir()
    lab = Lab(tmp_path / "system", builder.SIZE, disk_format=disk_format)
    shutil.copyfile(tiny_linux, lab.image)
    other_init.put(lab.image, _INIT.format(folder=files))
    lab.backup()
    return lab


@pytest.fixture
def boot(linux: Lab, tmp_path: Path) -> Iterator[Boot]:
    """Boot the Linux; what still runs at the end is ended."""
    started: list[Session] = []

    def start(*attach: Attachment) -> Session:
        place = tmp_path / "sessions"
        started.append(
            vm.start_from_point(
                linux.repository, linux.set, linux.set.points[-1],
                sessions_folder=place, request=VIRTIO, attach=attach,
            )
        )  # fmt: skip
        return started[-1]

    yield start
    for session in started:
        session.discard()


def sums(session: Session) -> dict[str, str]:
    assert session.wait_for_text("THE-END", LIMIT), session.console_text()
    lines = (line.split("  ", 1) for line in session.console_text().splitlines())
    return {each[1]: each[0] for each in lines if len(each) == 2 and len(each[0]) == 64}


def test_a_linux_reads_the_files_of_a_point_and_what_it_writes_there_is_the_sessions(
    linux: Lab, boot: Boot, files: Path, disk_format: str, tmp_path: Path
):
    repository, wanted = two_points(files, disk_format)
    name = repository.set().name
    before = fingerprint(repository.path / name)
    session = boot(Attachment(repository.path, name, "1"))
    assert sums(session) == wanted[0]
    session.keep()
    held = fingerprint(repository.path / name)
    holds = [each for each in held if Path(each).name.startswith("hold-")]
    assert len(holds) == 1
    assert {path: each for path, each in held.items() if path not in holds} == before

    saved = all_sessions.find(tmp_path / "sessions", session.id)
    reopened = vm.reopen_session(saved)
    again_there = sums(reopened)
    reopened.keep()
    assert set(again_there) == {*wanted[0], "written"}
    assert again_there["written"] == hashlib.sha256(b"from the machine\n").hexdigest()
    all_sessions.find(tmp_path / "sessions", session.id).discard()
    assert fingerprint(repository.path / name) == before


def test_the_point_stays_until_the_session_is_gone(
    linux: Lab, boot: Boot, files: Path, disk_format: str, tmp_path: Path
):
    repository, _ = two_points(files, disk_format)
    backup_set = repository.set()
    first, second = backup_set.points
    saved = kept(boot(Attachment(repository.path, backup_set.name, first.id)), tmp_path)
    with pytest.raises(PointInUse):
        merge.run(merge.plan(repository, backup_set.name, second.id), tmp_path, Task())
    saved.discard()
    merge.run(merge.plan(repository, backup_set.name, second.id), tmp_path, Task())


def kept(session: Session, tmp_path: Path) -> SavedSession:
    session.keep()
    return all_sessions.find(tmp_path / "sessions", session.id)


def test_of_such_a_session_a_point_is_made_of_its_own_disk_and_it_is_said_what_goes(
    linux: Lab, boot: Boot, files: Path, disk_format: str, tmp_path: Path
):
    repository, _ = two_points(files, disk_format)
    name = repository.set().name
    session = boot(Attachment(repository.path, name, "latest"))
    sums(session)
    plan = promote.plan(kept(session, tmp_path))
    assert f"the disks that were attached to it goes: {name}." in plan.summary
    made = promote.run(plan, Task())
    linux.repository.set().open_chain(made.point).close()
    assert not list((repository.path / name).glob("hold-*"))
    assert [each.sequence for each in repository.set().points] == [1, 2]


def test_a_disk_that_the_machine_would_take_for_its_own_is_refused(
    linux: Lab, boot: Boot, files: Path, disk_format: str, tmp_path: Path
):
    """Its own set, one that is named twice, and a copy of it."""
    repository, _ = two_points(files, disk_format)
    name, own = repository.set().name, linux.set.name
    theirs = Attachment(repository.path, name, "1")
    for attach, why in (
        ([Attachment(linux.repository.path, own, "latest")], f"has a disk of {own} already"),
        ([theirs, replace(theirs, point="2")], f"has a disk of {name} already"),
    ):
        with pytest.raises(CannotBoot, match=why):
            boot(*attach)
    other = "vhd" if disk_format != "vhd" else "vmdk"
    copy = convert.run(convert.plan(linux.repository, own, other), Task())
    with pytest.raises(CannotBoot, match="the same file system"):
        boot(Attachment(linux.repository.path, copy.name, "latest"))
    with pytest.raises(RepositoryError):
        boot(Attachment(repository.path, name, "7"))
    assert not list((tmp_path / "sessions").glob("*"))


def test_no_system_is_looked_for_on_what_is_attached(
    linux: Lab, boot: Boot, files: Path, disk_format: str
):
    """Chosen files may hold a whole /etc, and be no system for that."""
    own = boot().hardware
    for name in ("etc", "bin", "sbin", "usr", "lib", "boot"):
        (files / name).mkdir()
    (files / "etc" / "fstab").write_text("/dev/sda1 / ext4 defaults 0 1\n")
    (files / "etc" / "os-release").write_text('ID=other\nNAME="Another"\n')
    (files / "boot" / "vmlinuz-9.9").write_bytes(b"no kernel")
    repository = again(files, disk_format=disk_format).repository
    assert boot(Attachment(repository.path, repository.set().name, "latest")).hardware == own
