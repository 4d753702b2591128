"""The lease: other computers see that a repository is in use, also where flock does not tell them.

The other computers are processes with another boot, machine and name, on mounts whose flocks are
their own (`computers.py`).
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.backup.lab import Lab
from tests.noise import noise
from tests.repository.computers import held, mounted
from vdbackup.backup import convert, delete, merge, readback, repair
from vdbackup.disks import transfer
from vdbackup.errors import LockLost, RepositoryLocked
from vdbackup.jobs import CancelToken, Progress, Report, Task
from vdbackup.repository import lease, lock, publication
from vdbackup.repository.lease import LEASE_NAME, STALE, Lease
from vdbackup.repository.lock import check_lock, writer_lock


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "storage").mkdir()
    return tmp_path / "storage"


@pytest.fixture
def here(as_root: None, folder: Path, tmp_path: Path) -> Iterator[Path]:
    """The storage as this computer sees it."""
    with mounted(folder, tmp_path / "here") as where:
        yield where


@pytest.fixture
def there(as_root: None, folder: Path, tmp_path: Path) -> Iterator[Path]:
    """The storage as another computer sees it."""
    with mounted(folder, tmp_path / "there") as where:
        yield where


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without flock: ENOLCK is what NFS without a lock daemon says."""

    def refuse(_fd: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


def of_another_computer(**changes: object) -> Lease:
    mine = Lease.of_this_process("backing up elsewhere")
    other = replace(mine, token="other", host="nas", boot="another", machine="m", pid=7, started=7)
    return replace(other, **changes)


def leave(folder: Path, left: Lease, seconds_ago: float = 0.0) -> None:
    """A lease that was last renewed so long ago."""
    (folder / LEASE_NAME).write_bytes(bytes(left))
    then = time.time() - seconds_ago
    os.utime(folder / LEASE_NAME, (then, then))


@contextmanager
def as_old(seconds: dict[Path, float], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Some files as they look so many seconds later: nobody can set when an inode was changed."""
    lstat = os.lstat

    def looked_at(path):
        status = lstat(path)
        then = status.st_mtime - seconds.get(Path(path), 0.0)
        return SimpleNamespace(st_mtime=then, st_ctime=then)

    with monkeypatch.context() as patched:
        patched.setattr(lease.os, "lstat", looked_at)
        yield


def take(folder: Path) -> None:
    with writer_lock(folder, "working"):
        assert (folder / LEASE_NAME).exists()
    assert not (folder / LEASE_NAME).exists()
    assert list(folder.glob("*.partial")) == []


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(RepositoryLocked) as error, writer_lock(folder, "working"):
        pass
    for word in words:
        assert word in error.value.title


# ---------------------------------------------------------------------- who is refused


def test_flock_does_not_see_the_other_computer_and_its_lease_does(here, there):
    with held(there, "backing up sdx", "nas"):
        with (here / ".lock").open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two hold it
        refused(here, "on nas is backing up sdx since ")


def test_what_a_killed_one_on_another_computer_left_is_refused_until_it_is_stale(
    here, there, caplog
):
    with held(there, "backing up sdx", "nas") as process:
        process.kill()
        process.wait()
        refused(here, "on nas is backing up sdx since ")
        then = time.time() - STALE - 1
        os.utime(here / LEASE_NAME, (then, then))
        with caplog.at_level(logging.WARNING):
            take(here)
    assert "taking over" in caplog.text
    assert "nas" in caplog.text


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Lease:
    """A lease of this computer's boot before, or of a clone; this one is up for 100 s."""
    monkeypatch.setattr(lease, "_seconds_up", lambda: 100.0)
    mine = replace(Lease.of_this_process("working"), machine="0123")
    monkeypatch.setattr(Lease, "of_this_process", lambda purpose: replace(mine, purpose=purpose))
    return replace(mine, boot="another", token="old")


def test_a_lease_of_this_computer_from_before_its_restart_is_taken_at_once(folder, before):
    leave(folder, before, seconds_ago=101)
    take(folder)


def test_a_lease_is_taken_over_on_storage_too_full_for_an_empty_file(folder, before, monkeypatch):
    """As XFS and Btrfs can be; the deletion that would free some space needs the lock."""
    leave(folder, before, seconds_ago=101)

    def full(_folder: Path) -> float:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(lease, "_now", full)
    found = lease.look(folder)
    assert found is not None
    assert lease.ended(folder, before, found.modified)
    assert not lease.ended(folder, before, time.time() - 31)


def test_a_clone_of_this_computer_that_renews_a_lease_keeps_it(folder, before):
    """Virtual machines of one template have the same machine-id(5) and name."""
    leave(folder, before, seconds_ago=31)
    refused(folder, "working")


def test_a_computer_that_has_just_started_waits_whether_a_clone_renews_the_lease(
    folder, before, monkeypatch
):
    monkeypatch.setattr(lease, "_seconds_up", lambda: 20.0)
    leave(folder, before, seconds_ago=31)
    refused(folder, "working")


def test_a_computer_without_a_machine_id_cannot_be_told_from_others(folder, before):
    leave(folder, replace(before, machine=""), seconds_ago=101)
    refused(folder, "working")


def test_what_crashes_left_beside_the_lease_goes_when_it_is_old(folder, monkeypatch):
    """One that was made a moment ago may be somebody's who looks how old the lease is."""
    old, young = (folder / f"{LEASE_NAME}.{uuid.uuid4()}.partial" for _ in range(2))
    others = folder / f"{LEASE_NAME}.of-somebody.partial"
    for path in (old, young, others):
        path.touch()
    with as_old({old: STALE + 1, others: STALE + 1}, monkeypatch), writer_lock(folder, "working"):
        pass
    assert {path.name for path in folder.iterdir()} == {".lock", young.name, others.name}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"pid": 1}', b"\xff" * 99])
def test_a_file_that_is_no_lease_keeps_nobody_out(folder, content, monkeypatch):
    monkeypatch.setattr(lock, "_WRITING", 0.05)
    (folder / LEASE_NAME).write_bytes(content)
    take(folder)


@pytest.mark.parametrize(
    "lie", [{"pid": "7"}, {"pid": -1}, {"started": 1.5}, {"host": None}, {"more": 1}, {"boot": []}]
)
def test_a_lease_that_lies_about_its_types_is_none(lie):
    said = json.loads(bytes(of_another_computer())) | lie
    assert Lease.parse(json.dumps(said).encode()) is None


def test_a_lease_that_is_being_written_gets_a_moment(folder, monkeypatch):
    (folder / LEASE_NAME).touch()
    other = of_another_computer()

    def write(_seconds: float) -> None:
        leave(folder, other)

    monkeypatch.setattr(time, "sleep", write)
    refused(folder, "nas")


# ---------------------------------------------------------------------- without any flock


def test_without_flock_the_lease_alone_keeps_others_out(folder, no_flock):
    with held(folder, "backing up sdx") as process:
        refused(folder, f"process {process.pid} on ", "backing up sdx")
        process.kill()
        process.wait()
        take(folder)  # at once
    with writer_lock(folder, "the first"):
        refused(folder, "the first")


def test_without_flock_the_clock_may_be_set_while_somebody_works(folder, no_flock):
    with held(folder, "backing up sdx"):
        for then in (0, time.time() + 1e6):
            os.utime(folder / LEASE_NAME, (then, then))
            refused(folder, "backing up sdx")


@pytest.mark.parametrize("seconds_ago", [0, 1e8, -1e8])
def test_a_killed_process_here_is_no_matter_of_clocks(folder, seconds_ago):
    with held(folder, "backing up sdx") as process:
        process.kill()
        process.wait()
        then = time.time() - seconds_ago
        os.utime(folder / LEASE_NAME, (then, then))
        take(folder)


def test_a_process_number_that_was_used_again_does_not_hold_a_lease(folder, no_flock):
    mine = Lease.of_this_process("gone")
    leave(folder, replace(mine, pid=os.getppid(), started=1, token="old"))
    take(folder)


# ---------------------------------------------------------------------- while it is held


def test_a_lease_is_renewed_while_it_is_held(folder, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.01)
    renewed = threading.Event()
    original = lease.renew

    def renew(where: Path, mine: Lease) -> None:
        original(where, mine)
        renewed.set()

    with writer_lock(folder, "working"):
        leave(folder, Lease.parse((folder / LEASE_NAME).read_bytes()), 1000)
        monkeypatch.setattr(lease, "renew", renew)
        renewed.clear()
        assert renewed.wait(20)
        assert time.time() - (folder / LEASE_NAME).stat().st_mtime < 500


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.ESTALE])
def test_a_storage_that_fails_for_a_moment_fails_no_work(folder, monkeypatch, caplog, number):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.01)
    monkeypatch.setattr(lock, "TRUSTED", 0.0)
    failed = threading.Event()

    def fail(*_: object) -> None:
        failed.set()
        raise OSError(number, os.strerror(number))

    with writer_lock(folder, "working"):
        with monkeypatch.context() as patch:
            patch.setattr(lease, "look", fail)
            assert failed.wait(20)
            check_lock(folder / "disk")
        check_lock(folder / "disk")
    assert not (folder / LEASE_NAME).exists()


def test_a_storage_that_fails_for_so_long_that_others_may_have_it_stops_the_work(
    folder, monkeypatch
):
    now = lock._seconds()
    with writer_lock(folder, "working"), monkeypatch.context() as patch:
        patch.setattr(lock, "_seconds", lambda: now + STALE)
        patch.setattr(lease, "look", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "x")))
        with pytest.raises(OSError, match="x"):
            check_lock(folder / "disk")


def test_a_lease_that_somebody_deleted_is_made_again(folder, monkeypatch):
    monkeypatch.setattr(lock, "TRUSTED", 0.0)
    with writer_lock(folder, "working"):
        (folder / LEASE_NAME).unlink()
        check_lock(folder / "disk")
        assert (folder / LEASE_NAME).exists()


def test_a_lease_that_replaced_a_stale_one_meanwhile_is_put_back(folder):
    stale, other = of_another_computer(), of_another_computer(token="quicker")
    leave(folder, other)
    lease.take_away(folder, stale)
    assert lease.look(folder).lease == other
    assert [each.name for each in folder.iterdir()] == [LEASE_NAME]


def test_a_writer_that_wakes_up_and_finds_another_lease_stops_and_leaves_that_alone(
    here, there, monkeypatch
):
    with writer_lock(here, "dreaming"):
        then = time.time() - STALE - 1
        os.utime(here / LEASE_NAME, (then, then))
        with held(there, "backing up sdx", "nas"):
            check_lock(here / "disk")  # looked a moment ago
            awake = lock._seconds() + 3600
            monkeypatch.setattr(lock, "_seconds", lambda: awake)
            with pytest.raises(LockLost, match="on nas is backing up sdx"):
                check_lock(here / "disk")
    assert lease.look(here).lease.host == "nas"


# ---------------------------------------------------------------------- in the middle of the work


class Overtaken:
    """Another computer takes the repository over at a report, and begins files of the same names.

    Attributes:
        files: what is there then.
    """

    def __init__(self, lab: Lab, at: int) -> None:
        self._lab, self._reports = lab, at
        self.files: dict[str, tuple[str, int]] = {}

    def report(self, _: Progress) -> None:
        self._reports -= 1
        if self._reports == 0:
            folder = self._lab.repository.path
            leave(folder, of_another_computer())
            for partial in folder.rglob("*.partial"):
                if partial.is_file():
                    partial.unlink()
                    partial.write_text("theirs")
            self.files = self._lab.files


def works(lab: Lab) -> dict[str, Callable[[Report], object]]:
    token, first, second = CancelToken(), *lab.set.points[:2]
    return {
        "capture": lambda report: lab.capture("incremental", report=report),
        "full": lambda report: lab.capture("full", report=report),
        "merge": lambda report: merge.run(
            merge.plan(lab.repository, "disk", second.id), Task(report, token)
        ),
        "delete": lambda report: delete.run(
            delete.plan(lab.repository, "disk", first.id), Task(report, token)
        ),
        "convert": lambda report: convert.run(
            convert.plan(lab.repository, "disk", "qcow2"), Task(report, token)
        ),
        "repair": lambda report: repair.run(lab.repository.path, Task(report, token)),
    }


@pytest.mark.parametrize(
    ("name", "at"),
    [
        *((name, 1) for name in ("capture", "full", "merge", "delete", "convert", "repair")),
        *((name, 2) for name in ("capture", "full", "convert", "repair")),
        *(("merge", at) for at in (3, 4, 5, 6)),  # while it copies, and while it checks
    ],
)
def test_a_writer_that_was_overtaken_changes_nothing_more(tmp_path, monkeypatch, name, at):
    monkeypatch.setattr(lock, "TRUSTED", 0.0)
    monkeypatch.setattr(transfer, "THREADS", 1)
    monkeypatch.setattr(transfer, "CHUNK", 1 << 16)
    monkeypatch.setattr(readback, "WIDE", transfer.Width(1 << 16, 1))
    lab = Lab(tmp_path)
    lab.poke(0, noise(6 << 16, 1))
    lab.backup()
    lab.poke(1 << 16, noise(2 << 16, 2))
    lab.backup()
    lab.poke(3 << 16, noise(3 << 16, 3))
    if name == "repair":
        for digests in lab.set_folder.glob("*.digests"):
            digests.unlink()
    overtaken = Overtaken(lab, at)
    with pytest.raises(LockLost, match="on nas is backing up elsewhere"):
        works(lab)[name](overtaken.report)
    # but that it takes back its own word that it changes something
    own = {name for name in overtaken.files if name.startswith("disk/changing-")}
    assert lab.files == {n: what for n, what in overtaken.files.items() if n not in own}
    assert lease.look(lab.repository.path).lease.host == "nas"
    then = time.time() - STALE - 1
    os.utime(lab.repository.path / LEASE_NAME, (then, then))
    repair.run(lab.repository.path, Task())
    for each in lab.set.points:
        lab.moments.setdefault(each.id, lab.image)
        lab.check_ours(each)


def test_a_writer_that_is_overtaken_while_it_deletes_leaves_files_that_were_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storage may be away for as long as its fsync: another one has finished the point since."""
    monkeypatch.setattr(lock, "TRUSTED", 0.0)
    lab = Lab(tmp_path)
    lab.backup()
    plan = delete.plan(lab.repository, "disk", lab.set.points[0].id)
    made_again: dict[str, tuple[str, int]] = {}

    def slowly(folder: Path) -> None:
        if publication.begun(folder) and not made_again:
            (manifest,) = folder.glob("0001-full.json.partial")
            manifest.rename(folder / "0001-full.json")
            leave(lab.repository.path, of_another_computer())
            made_again.update(_points_files(lab))

    monkeypatch.setattr(publication, "sync_folder", slowly)
    with pytest.raises(LockLost):
        delete.run(plan, Task())
    assert made_again
    assert _points_files(lab) == made_again


def _points_files(lab: Lab) -> dict[str, tuple[str, int]]:
    return {name: what for name, what in lab.files.items() if name.startswith("disk/0001-")}
