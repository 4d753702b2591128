"""Every write of a machine is kept: each moment at a flush holds exactly what was written out."""

from __future__ import annotations

import random
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.backup.lab import Lab
from tests.guests import boot_sector
from vdbackup.disks.chain import Chain
from vdbackup.disks.qcow2.disk import Qcow2Disk
from vdbackup.errors import NotProtected
from vdbackup.guest.hardware import Controller, HardwareRequest
from vdbackup.operations import protection
from vdbackup.recovery.sessions import vm
from vdbackup.recovery.sessions.saved import saved_sessions
from vdbackup.recovery.sessions.session import Session
from vdbackup.repository.kept_logs import KeptLog, kept_logs

LIMIT = 120.0
SIZE = 8 << 20
RECORDS = 60
MOMENTS = 200
IDE = HardwareRequest(controller=Controller.IDE)
WORDS = 512 // 4


@pytest.fixture
def lab(tmp_path: Path, disk_format: str) -> Lab:
    return Lab(tmp_path, SIZE, disk_format=disk_format)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


def booted(lab: Lab, folder: Path, reference: str = "latest", **options: Any) -> Session:
    backup_set, point = lab.repository.find_state(reference)
    return vm.start_from_point(
        lab.repository, backup_set, point, sessions_folder=folder, request=IDE, **options
    )


def writer_of(lab: Lab, count: int = RECORDS) -> Lab:
    """A full of a disk whose machine writes records, each followed by a flush."""
    instructions = boot_sector.records(count) + boot_sector.say("all written")
    boot_sector.make(lab.image, instructions, lab.image.stat().st_size)
    lab.backup()
    return lab


def run(lab: Lab, folder: Path, count: int) -> KeptLog:
    """The log of a machine that has written so many records, and been thrown away."""
    with booted(writer_of(lab, count), folder, keep_writes=1 << 30) as session:
        assert session.wait_for_text("all written", LIMIT)
    (kept,) = kept_logs(lab.set.folder)
    return kept


def records_on(disk: Chain, most: int = RECORDS) -> tuple[int, list[int]]:
    """What the counter says, and the records that are there, from the first sector on."""
    view = memoryview(bytearray((most + 1) * 512))
    disk.readinto(boot_sector.COUNTER_AT, view)
    numbers = np.frombuffer(view, "<u4").reshape(-1, WORDS)
    assert (numbers == numbers[:, :1]).all(), "no sector is torn"
    counter, *records = numbers[:, 0].tolist()
    return counter, [each for each in records if each]


def opened(lab: Lab, reference: str) -> Chain:
    backup_set, point = lab.repository.find_state(reference)
    return backup_set.open_chain(point)


# ------------------------------------------------------------------------------------ moments


@pytest.mark.each_format
def test_each_moment_holds_exactly_the_records_that_were_written_by_then(
    lab: Lab, folder: Path
) -> None:
    with booted(writer_of(lab, RECORDS), folder, keep_writes=1 << 30) as session:
        assert session.wait_for_text("all written", LIMIT)
        session.keep()
        left = Qcow2Disk.open_knowing_parent(session.files.disk)
        machine = Chain.topped(lab.set.open_machine_disk(lab.set.points[0]), left)
    (kept,) = kept_logs(lab.set.folder)
    log = kept.read()
    assert log.flushes.tolist() == list(range(0, 2 * RECORDS + 1, 2)), "one after each pair"
    for write in random.Random(1).choices(range(2 * RECORDS + 1), k=MOMENTS):
        with opened(lab, f"1@w{write}") as disk:
            assert records_on(disk) == (-(-write // 2), list(range(1, write // 2 + 1)))
        assert log.is_flushed(write) == (write % 2 == 0)
    with machine, opened(lab, f"1@w{log.writes}") as replayed:
        assert everything(machine) == everything(replayed)
    assert kept.protection.ended is not None
    for each in (kept.path, kept.index):
        assert stat.S_IMODE(each.stat().st_mode) == 0o600


def everything(disk: Chain) -> bytes:
    view = memoryview(bytearray(disk.size))
    disk.readinto(0, view)
    return bytes(view)


@pytest.mark.each_format
def test_a_machine_boots_from_a_moment(lab: Lab, folder: Path) -> None:
    kept = run(lab, folder, 5)
    before = kept.path.read_bytes()
    with booted(lab, folder, "1@w6") as session:
        assert session.title.endswith("#1@w6")
        assert session.wait_for_text("all written", LIMIT)
        session.keep()
    assert kept.path.read_bytes() == before


# ------------------------------------------------------------------------------ while it runs


def test_a_running_machine_is_protected_from_then_on(lab: Lab, folder: Path) -> None:
    """And no more of it from when that is ended; the machine notices neither."""
    count = 20 * RECORDS  # so many that it is not done before it is protected
    with booted(writer_of(lab, count), folder) as session:
        assert session.wait_for_text("all written", 0.7) is False
        (saved,) = saved_sessions(folder)
        kept, _ = protection.protect(saved)
        with pytest.raises(NotProtected, match="are kept already"):
            protection.protect(saved)
        assert session.wait_for_text("all written", LIMIT)
        ended = protection.unprotect(saved)
        assert ended.protection.why == "That was asked for."
        with pytest.raises(NotProtected, match="No more writes"):
            protection.unprotect(saved)
        nodes = [each["inserted"]["node-name"] for each in session.execute("query-block")]
        assert nodes == ["disk"]
        session.keep()
        left = Qcow2Disk.open_knowing_parent(session.files.disk)
        machine = Chain.topped(lab.set.open_machine_disk(lab.set.points[0]), left)
    log, before = kept.read(), kept.protection.before
    assert log.is_flushed(before)
    with machine, opened(lab, f"1@w{log.writes - before}") as replayed:
        assert everything(machine) == everything(replayed)
    flushes = [each - before for each in log.flushes.tolist() if each >= before]
    for write in random.Random(2).sample(flushes, min(len(flushes), RECORDS)):
        with opened(lab, f"1@w{write}") as disk:
            counter, records = records_on(disk, count)
            assert records == list(range(1, len(records) + 1))
            assert counter in (len(records), len(records) + 1)


def test_a_full_log_ends_and_the_machine_goes_on(lab: Lab, folder: Path) -> None:
    with booted(writer_of(lab, 60), folder, keep_writes=4096) as session:
        assert session.wait_for_text("all written", LIMIT)
        until(lambda: kept_logs(lab.set.folder)[0].protection.ended is not None)
        assert session.running
        assert session.error is None
        (kept,) = kept_logs(lab.set.folder)
        assert "its limit" in kept.protection.why
        nodes = [each["inserted"]["node-name"] for each in session.execute("query-block")]
        assert nodes == ["disk"]


def until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(int(LIMIT / 0.05)):
        if condition():
            return
        waiting.wait(0.05)
    pytest.fail("it never came true")
