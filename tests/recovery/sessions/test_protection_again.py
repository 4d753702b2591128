"""A machine whose writes are kept is opened again: its log goes on, and all its moments stay."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tests.backup.lab import Lab
from tests.guests import boot_sector
from tests.oracles import qemu as oracle
from tests.recovery.sessions.test_protection import (
    LIMIT,
    booted,
    everything,
    opened,
    until,
    writer_of,
)
from tests.repository import kept as spoilt
from vdbackup.disks.chain import Chain
from vdbackup.disks.qcow2.disk import Qcow2Disk
from vdbackup.disks.write_log.index import Index, IndexWriter
from vdbackup.disks.write_log.thin import Thinning
from vdbackup.errors import NotProtected
from vdbackup.jobs import Task
from vdbackup.operations import protection
from vdbackup.recovery.sessions import vm
from vdbackup.recovery.sessions.going_on import MARK
from vdbackup.recovery.sessions.saved import SavedSession, saved_sessions
from vdbackup.recovery.sessions.session import Session
from vdbackup.repository.kept_logs import KeptLog, kept_logs

SIZE = 8 << 20
RECORDS = 8


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, SIZE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


def only(lab: Lab) -> KeptLog:
    (kept,) = kept_logs(lab.set.folder)
    return kept


def first_run(lab: Lab, folder: Path, limit: int | None = 1 << 30) -> SavedSession:
    """The session of a machine that has written its records, with every write kept; it is kept."""
    with booted(writer_of(lab, RECORDS), folder, keep_writes=limit) as session:
        assert session.wait_for_text("all written", LIMIT)
        session.keep()
    (saved,) = saved_sessions(folder)
    return saved


def again(saved: SavedSession) -> Session:
    """It has written its records once more, and been kept."""
    with vm.reopen_session(saved) as session:
        assert session.wait_for_text("all written", LIMIT)
        session.keep()
    return session


def states(lab: Lab, writes: list[int]) -> list[str]:
    """SHA-256 of the disk after each."""
    found = []
    for write in writes:
        with opened(lab, f"1@w{write}") as disk:
            found.append(hashlib.sha256(everything(disk)).hexdigest())
    return found


def now(lab: Lab, saved: SavedSession) -> str:
    """SHA-256 of what the machine's disk holds."""
    left = Qcow2Disk.open_knowing_parent(saved.folder / "session.qcow2")
    with Chain.topped(lab.set.open_machine_disk(lab.set.points[0]), left) as machine:
        return hashlib.sha256(everything(machine)).hexdigest()


def test_its_log_goes_on_and_every_moment_stays(lab: Lab, folder: Path) -> None:
    saved = first_run(lab, folder)
    count = only(lab).read().writes
    before = states(lab, list(range(count + 1)))
    assert before[-1] == now(lab, saved)
    session = again(saved)
    assert session.keeps_writes
    assert session.protection == f"Every write is kept again: its log goes on behind write {count}."
    log = only(lab).read()
    assert (only(lab).protection.cause, log.lost) == ("machine", 0)
    assert log.writes == 2 * count, "nothing was missed, and the records were written again"
    assert states(lab, list(range(count + 1))) == before
    assert states(lab, [log.writes])[0] == now(lab, saved)
    assert log.marks() == [(count, MARK.decode())]
    assert (np.diff(log.flushed) >= 0).all()
    assert log.is_proven(log.writes)
    (listed,) = protection.moments(lab.repository, None, None, None)
    assert [each.write for each in listed.moments] == list(range(0, 2 * count + 1, 2))


def test_what_a_machine_wrote_without_its_log_comes_first(lab: Lab, folder: Path) -> None:
    """As QEMU leaves it that is killed between the two writes, and a version that knows no more."""
    saved = first_run(lab, folder)
    count = only(lab).read().writes
    before = states(lab, list(range(count + 1)))
    at = boot_sector.COUNTER_AT
    commands = ["write -P 9 4M 192k", "write -z 5M 64k", f"write -P 7 {at} 512"]
    oracle.io(saved.folder / "session.qcow2", *commands, disk_format="qcow2")
    changed = now(lab, saved)
    again(saved)
    log = only(lab).read()
    ((went_on, _),) = log.marks()
    assert went_on == count
    missed = log.flushes[log.flushes > count][0]
    assert states(lab, list(range(count + 1))) == before
    assert states(lab, [int(missed)])[0] == changed
    assert states(lab, [log.writes])[0] == now(lab, saved)


def alter(kept: KeptLog, **fields: object) -> None:
    record = json.loads(kept.record.read_text())
    kept.record.write_text(json.dumps(record | fields))


def first_note_lost(path: Path) -> None:
    """One of its bytes is another one; those behind are whole."""
    headers = Index.read(path).headers
    path.unlink()
    with closing(IndexWriter(path)) as writer:
        for at in range(0, len(headers), 32):
            writer.note(headers[at : at + 32], 1, 2)
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)


def test_an_end_that_a_power_cut_left_is_cut_off_and_said(lab: Lab, folder: Path) -> None:
    saved = first_run(lab, folder)
    kept = only(lab)
    count = kept.read().writes
    alter(kept, ended=None, why="", cause="", boot="an earlier one")
    os.truncate(kept.index, kept.index.stat().st_size - 5)  # its last note
    proven = kept.read().proven
    noted = int(np.count_nonzero(kept.read().entries.changing[:proven]))
    assert noted < count
    session = again(saved)
    assert f"behind write {noted}." in session.protection
    assert "which nobody had noted before this computer ended" in session.protection
    assert states(lab, [only(lab).read().writes])[0] == now(lab, saved)


def test_an_end_that_nobody_noted_in_the_same_run_of_the_kernel_stays(
    lab: Lab, folder: Path
) -> None:
    """The program that looked after it was killed; QEMU went on writing."""
    saved = first_run(lab, folder)
    kept = only(lab)
    count = kept.read().writes
    before = states(lab, list(range(count + 1)))
    alter(kept, ended=None, why="", cause="")
    kept.index.unlink()
    assert again(saved).keeps_writes
    assert states(lab, list(range(count + 1))) == before
    (listed,) = protection.moments(lab.repository, None, None, None)
    assert count in [each.write for each in listed.moments]


def test_a_log_that_was_ended_on_purpose_stays_at_its_end(lab: Lab, folder: Path) -> None:
    saved = first_run(lab, folder)
    alter(only(lab), cause="asked", why="That was asked for.")
    size = only(lab).path.stat().st_size
    session = again(saved)
    assert not session.keeps_writes
    assert session.protection == "No more writes of it are kept: That was asked for."
    assert only(lab).path.stat().st_size == size


def test_a_log_that_is_damaged_stays_as_it_is_and_the_machine_runs(lab: Lab, folder: Path) -> None:
    saved = first_run(lab, folder)
    kept = only(lab)
    os.truncate(kept.path, int(kept.read().entries.places[6]))
    size = kept.path.stat().st_size
    session = again(saved)
    assert not session.keeps_writes
    assert "is damaged behind write" in session.protection
    assert kept.path.stat().st_size == size


def test_a_running_machine_is_protected_again_where_that_was_ended(lab: Lab, folder: Path) -> None:
    saved = first_run(lab, folder)
    count = only(lab).read().writes
    before = states(lab, list(range(count + 1)))
    with vm.reopen_session(saved) as session:
        assert session.wait_for_text("all written", LIMIT)
        (running,) = saved_sessions(folder)
        protection.unprotect(running)
        kept, said = protection.protect(running)
        assert "goes on" in said
        with pytest.raises(NotProtected, match="are kept already"):
            protection.protect(running)
        until(lambda: kept.read().is_proven(kept.read().writes))
        session.keep()
    assert states(lab, list(range(count + 1))) == before
    assert states(lab, [kept.read().writes])[0] == now(lab, saved)


def test_a_log_that_was_forgotten_and_begun_anew_is_looked_after(lab: Lab, folder: Path) -> None:
    with booted(writer_of(lab, RECORDS), folder, keep_writes=1 << 30) as session:
        assert session.wait_for_text("all written", LIMIT)
        (running,) = saved_sessions(folder)
        until(lambda: only(lab).read().proven > 0)
        protection.unprotect(running)
        protection.forget(lab.repository, "disk", running.id, folder)
        kept, _ = protection.protect(running)
        until(lambda: kept.read().proven == len(kept.read().entries))
        session.keep()
    assert only(lab).protection.ended is not None
    assert kept.read().flushed.min() > 0


def test_notes_that_are_lost_cost_no_moment_of_a_log_that_was_ended(lab: Lab, folder: Path) -> None:
    """All of it had been written out before that was written down, whoever lost the notes."""
    saved = first_run(lab, folder)
    kept = only(lab)
    count = kept.read().writes
    before = states(lab, list(range(count + 1)))
    alter(kept, boot="an earlier one")
    kept.index.unlink()
    (listed,) = protection.moments(lab.repository, None, None, None)
    assert kept.index.name in listed.trouble
    assert again(saved).keeps_writes
    assert states(lab, list(range(count + 1))) == before
    assert states(lab, [only(lab).read().writes])[0] == now(lab, saved)


@pytest.mark.parametrize("damage", [Path.unlink, spoilt.emptied, spoilt.garbled, first_note_lost])
def test_a_log_whose_notes_are_damaged_is_not_cut_off(
    lab: Lab, folder: Path, damage: Callable[[Path], None]
) -> None:
    """What a power cut leaves of notes are those before: here somebody else was at them."""
    saved = first_run(lab, folder)
    kept = only(lab)
    count = kept.read().writes
    before = states(lab, list(range(count + 1)))
    alter(kept, ended=None, why="", cause="", boot="an earlier one")
    damage(kept.index)
    (listed,) = protection.moments(lab.repository, None, None, None)
    assert kept.index.name in listed.trouble
    session = again(saved)
    assert not session.keeps_writes
    assert kept.index.name in session.protection
    assert states(lab, list(range(count + 1))) == before


def test_a_log_goes_on_that_was_cut_off_as_it_was_thinned(lab: Lab, folder: Path) -> None:
    """It has its name, and its notes have theirs not yet."""
    saved = first_run(lab, folder)
    kept = only(lab)
    count = kept.read().writes
    last = states(lab, [count])
    log = kept.read()
    thinning = Thinning.of(log, [0, count])
    thinning.write(kept.new_log, kept.new_index, Task())
    os.replace(kept.new_log, kept.path)
    assert again(saved).keeps_writes
    assert not kept.read().lost
    assert states(lab, [count]) == last
    assert states(lab, [kept.read().writes])[0] == now(lab, saved)
    (listed,) = protection.moments(lab.repository, None, None, None)
    assert listed.moments[-1].write == kept.read().writes
    assert not kept.new_index.exists()


def test_what_a_power_cut_left_is_not_offered_where_its_log_does_not_go_on(
    lab: Lab, folder: Path
) -> None:
    """It is at its limit, so it is nobody's to note when the machine runs again."""
    saved = first_run(lab, folder)
    kept = only(lab)
    alter(kept, ended=None, why="", cause="", boot="an earlier one", limit=1)
    os.truncate(kept.index, kept.index.stat().st_size - 5)  # its last note
    proven, notes = kept.read().proven, kept.index.read_bytes()
    assert proven < len(kept.read().entries)
    session = again(saved)
    assert not session.keeps_writes
    assert "is their limit" in session.protection
    assert only(lab).read().proven == proven
    assert kept.index.read_bytes() == notes
