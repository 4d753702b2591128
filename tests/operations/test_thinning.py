"""Kept writes are thinned: what stays reads as it did, and bears its name."""

from __future__ import annotations

import functools
import hashlib
import os
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.backup.lab import Lab
from tests.disks.write_log import logs
from tests.disks.write_log.logs import Entry, mark
from tests.repository.kept import BEGAN, SECOND, SESSION, expected, keep, some_writes
from vdbackup.disks.write_log import begin
from vdbackup.disks.write_log.index import IndexWriter
from vdbackup.disks.write_log.log import WriteLog
from vdbackup.disks.write_log.thin import Thinning
from vdbackup.errors import (
    Cancelled,
    ChangedWhileRead,
    PlanOutdated,
    PointInUse,
    PointNotFound,
    VdbackupError,
)
from vdbackup.jobs import CancelToken, Progress, Task
from vdbackup.operations import protection, thinning
from vdbackup.operations.written_logs import read_logs
from vdbackup.repository import holds
from vdbackup.repository.kept_logs import KeptLog, kept_log

SIZE = 1 << 20
WRITES = 120
ENDED = "2026-11-30T09:15:00+00:00"
STEP = 20
"""Seconds from one flush to the next."""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, SIZE)
    lab.poke(0, os.urandom(SIZE // 2))
    lab.backup()
    return lab


@functools.cache
def entries() -> list[Entry]:
    made = [Entry(flags=1), *some_writes(WRITES, SIZE)]
    made.insert(70, mark(b"upgrade"))
    return made


def logged(lab: Lab, before: int = 0) -> KeptLog:
    """A log with a flush behind each third write, and a note each time."""
    (point,) = lab.set.points
    kept = keep(lab, point, entries(), ended=ENDED, cause="machine", before=before)
    found = WriteLog.read(kept.path, SIZE).entries
    kept.index.unlink()
    with closing(IndexWriter(kept.index)) as writer:
        ends = [each + 1 for each in range(len(found)) if int(found.headers["flags"][each]) & 1]
        for turn, (begin, end) in enumerate(zip((0, *ends[:-1]), ends, strict=True)):
            now = BEGAN + STEP * turn
            headers = found.headers[begin:end].tobytes()
            writer.note(headers, (now - 1) * SECOND, now * SECOND)
    return kept


def offered(lab: Lab) -> list[tuple[int, int]]:
    (found,) = protection.moments(lab.repository, None, None, None)
    assert not found.trouble
    return [(each.write, each.time) for each in found.moments]


def state(lab: Lab, write: int) -> str:
    backup_set, moment = lab.repository.find_state(f"1@{SESSION}.w{write}")
    with backup_set.open_chain(moment) as disk:
        view = memoryview(bytearray(disk.size))
        disk.readinto(0, view)
        return hashlib.sha256(view).hexdigest()


def truth(lab: Lab, write: int, before: int = 0) -> str:
    point = lab.set.points[0]
    raw = lab.moments[point.id].read_bytes()
    return hashlib.sha256(expected(entries(), raw, write + before)).hexdigest()


def plan(lab: Lab, tmp_path: Path, within: int = 300, every: int = 60) -> thinning.ThinPlan:
    return thinning.plan(lab.repository, "disk", SESSION, tmp_path / "sessions", within, every)


def thin(lab: Lab, tmp_path: Path, within: int = 300, every: int = 60) -> int:
    return thinning.run(plan(lab, tmp_path, within, every), tmp_path / "sessions", Task())


@pytest.mark.parametrize("before", [0, 9])
def test_what_stays_reads_as_it_did_and_has_its_name_and_time(
    lab: Lab, tmp_path: Path, before: int
) -> None:
    kept = logged(lab, before)
    was, length = offered(lab), kept.path.stat().st_size
    freed = thin(lab, tmp_path)
    assert freed == length - kept.path.stat().st_size > 0
    now = offered(lab)
    assert set(now) < set(was)
    end = was[-1][1]
    assert [each for each in was if each[1] > end - 300 * SECOND] == [
        each for each in now if each[1] > end - 300 * SECOND
    ]
    old = [each for each in now[1:] if each[1] <= end - 300 * SECOND]
    periods = [time // (60 * SECOND) for _, time in old]
    assert len(set(periods)) == len(periods), "one of each minute"
    for write, _ in now:
        assert state(lab, write) == truth(lab, write, before), write
    last = WRITES - before
    for write in (last, last - 1, last - 2):
        assert state(lab, write) == truth(lab, write, before), "write by write at the end"
    log = kept_log(lab.set.folder, SESSION).read()
    assert [text for _, text in log.marks()] == (["upgrade"] if log.marks() else [])


def test_what_went_is_refused_and_the_one_before_is_named(lab: Lab, tmp_path: Path) -> None:
    logged(lab)
    was = offered(lab)
    thin(lab, tmp_path)
    there = [write for write, _ in offered(lab)]
    gone = [write for write, _ in was if write not in there]
    assert gone
    for write in gone:
        left = max(each for each in there if each < write)
        with pytest.raises(PointNotFound, match=f"after write {left}"):
            lab.repository.find_state(f"1@w{write}")
    by_then = lab.repository.find_state("1@2030-01-01")[1]
    assert by_then.id.endswith(f".w{was[-1][0]}")


def test_the_plan_says_what_goes_and_nothing_is_done_by_it(lab: Lab, tmp_path: Path) -> None:
    kept = logged(lab)
    before = lab.files
    was = offered(lab)
    planned = plan(lab, tmp_path)
    assert lab.files == before
    thinning.run(planned, tmp_path / "sessions", Task())
    gone = len(was) - len(offered(lab))
    assert f"{gone} of {len(was)} consistent moments" in planned.summary
    assert planned.invalidates
    assert planned.replaces == (kept.path.name, kept.index.name)
    assert kept.path.stat().st_size <= planned.bytes_to_copy


def test_it_is_thinned_again_and_again(lab: Lab, tmp_path: Path) -> None:
    logged(lab)
    for within, every in ((500, 60), (600, 120), (100, 120), (0, 1000)):
        thin(lab, tmp_path, within, every)
        for write, _ in offered(lab):
            assert state(lab, write) == truth(lab, write), (within, every, write)
    assert len(offered(lab)) < 5
    assert not plan(lab, tmp_path, 0, 1000).replaces, "nothing is left to go"


def test_what_is_cut_off_between_two_names_is_whole(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_between_its_names(lab, tmp_path, logged(lab), monkeypatch)
    there = offered(lab)
    assert len(there) > 3
    for write, _ in there:
        assert state(lab, write) == truth(lab, write)
    thin(lab, tmp_path, 0, 1000)
    for write, _ in offered(lab):
        assert state(lab, write) == truth(lab, write)


def test_a_thinned_log_that_is_cut_off_names_no_state_that_never_was(
    lab: Lab, tmp_path: Path
) -> None:
    kept = logged(lab)
    thin(lab, tmp_path)
    whole = kept.path.read_bytes()
    for length in range(512, len(whole), len(whole) // 9):
        kept.path.write_bytes(whole[:length])
        log = WriteLog.read(kept.path, SIZE, kept.index)
        for write in range(0, WRITES + 1, 3):
            if log.holds(write) and write <= log.sound_writes:
                assert state(lab, write) == truth(lab, write)


def test_a_moment_whose_number_is_damaged_is_not_offered_under_another(
    lab: Lab, tmp_path: Path
) -> None:
    """Whether the mark behind it is one of those that are looked at, or its note is gone by."""
    kept = logged(lab)
    thin(lab, tmp_path)
    log, whole = kept.read(), kept.path.read_bytes()
    assert log.stations is not None
    lost = 0
    for _, number in log.stations.found:
        at = int(log.entries.places[log.end_of(number)])
        kept.path.write_bytes(whole[:at] + b"\x50" + whole[at + 1 :])
        damaged = WriteLog.read(kept.path, SIZE, kept.index)
        lost += damaged.lost > 0
        offered_now = [n for n in damaged.flushes.tolist() if damaged.is_proven(n)]
        assert set(offered_now) <= {number for _, number in log.stations.found} | set(
            log.flushes.tolist()
        )
        if damaged.lost:
            assert all(each < number for each in offered_now)
    assert lost, "at least one was looked at"


def test_what_is_read_or_goes_on_or_is_damaged_stays_as_it_is(lab: Lab, tmp_path: Path) -> None:
    kept = logged(lab)
    planned = plan(lab, tmp_path)
    _, moment = lab.repository.find_state("1@w9")
    folder = tmp_path / "20261130-080000-abcdef"
    folder.mkdir()
    holds.place(lab.set, moment, folder.name, "reads", folder)
    before = lab.files
    for do in (lambda: plan(lab, tmp_path), lambda: thinning.run(planned, tmp_path, Task())):
        with pytest.raises(PointInUse, match="runs from a moment"):
            do()
    assert lab.files == before
    holds.release(lab.set.folder, folder.name)
    logs.make(kept.path, entries()[:-1])
    with pytest.raises(VdbackupError, match="damaged"):
        plan(lab, tmp_path)
    with pytest.raises((PlanOutdated, VdbackupError)):
        thinning.run(planned, tmp_path, Task())


# --------------------------------------------------------------- cut off, and two at once


def cut_between_its_names(
    lab: Lab, tmp_path: Path, kept: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut when the thinned log has its name, and its notes do not."""
    real = os.replace

    def cut(source: Path, target: Path) -> None:
        if Path(target) == kept.index:
            raise OSError(5, "power cut")
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", cut)
        with pytest.raises(OSError, match="power cut"):
            thin(lab, tmp_path)


def test_what_was_cut_off_costs_nothing_when_the_next_is_cut_off_early(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = logged(lab)
    cut_between_its_names(lab, tmp_path, kept, monkeypatch)
    there = offered(lab)
    planned = plan(lab, tmp_path, 0, 1000)

    def killed(*_: object) -> None:
        raise OSError(5, "killed")

    with monkeypatch.context() as patched:
        patched.setattr(Thinning, "write", killed)
        with pytest.raises(OSError, match="killed"):
            thinning.run(planned, tmp_path / "sessions", Task())
    assert offered(lab) == there
    for write, _ in there:
        assert state(lab, write) == truth(lab, write)


def test_writes_that_came_while_it_was_thinned_are_not_replaced(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session was opened again meanwhile: QEMU has the old file, and goes on in it."""
    kept = logged(lab)
    planned = plan(lab, tmp_path)
    real = Thinning.is_kept_by

    def opened_again(self: Thinning, *arguments: Any) -> bool:
        same = real(self, *arguments)
        log = WriteLog.read(kept.path, SIZE, kept.index)
        begin.go_on(log, len(log.entries), [(0, b"n" * 512, 512)], b"opened again")
        replace(kept, protection=replace(kept.protection, ended=None, cause="")).save()
        return same

    monkeypatch.setattr(Thinning, "is_kept_by", opened_again)
    was = [write for write, _ in offered(lab)]
    with pytest.raises(PlanOutdated):
        thinning.run(planned, tmp_path / "sessions", Task())
    assert [write for write, _ in offered(lab)] == was
    assert kept.read().writes == WRITES + 1
    assert not list(lab.set.folder.glob("*.partial"))


def test_a_machine_that_boots_from_a_moment_meanwhile_keeps_it(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged(lab)
    planned = plan(lab, tmp_path)
    _, moment = lab.repository.find_state("1@w9")
    folder = tmp_path / "20261130-080000-abcdef"
    folder.mkdir()
    real = Thinning.is_kept_by

    def booted(self: Thinning, *arguments: Any) -> bool:
        same = real(self, *arguments)
        holds.place(lab.set, moment, folder.name, "reads", folder)
        return same

    monkeypatch.setattr(Thinning, "is_kept_by", booted)
    with pytest.raises(PointInUse, match="runs from a moment"):
        thinning.run(planned, tmp_path / "sessions", Task())
    assert state(lab, 9) == truth(lab, 9)


def test_who_has_looked_it_up_before_reads_no_other_log_by_it(lab: Lab, tmp_path: Path) -> None:
    kept = logged(lab)
    log = kept.read()
    thin(lab, tmp_path)
    with pytest.raises(ChangedWhileRead):
        log.disk(9)


def test_a_log_is_not_forgotten_under_a_machine_that_begins_to_read_it(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It puts its hold down, then looks whether the log is there; whoever deletes, the reverse."""
    kept = logged(lab)
    _, moment = lab.repository.find_state("1@w9")
    folder = tmp_path / "20261130-080000-abcdef"
    folder.mkdir()
    real = protection.check_may_go
    calls: list[int] = []

    def looked(*arguments: Any) -> None:
        real(*arguments)
        if not calls:
            holds.place(lab.set, moment, folder.name, "reads", folder)
        calls.append(1)

    monkeypatch.setattr(protection, "check_may_go", looked)
    with pytest.raises(PointInUse, match="runs from a moment"):
        protection.forget(lab.repository, "disk", SESSION, tmp_path / "sessions")
    assert kept.record.exists()
    assert state(lab, 9) == truth(lab, 9)


def stopped_after(last: int | None, lab: Lab, tmp_path: Path) -> list[str]:
    """What a thinning reports that somebody stops after so many reports, or nobody."""
    token, said = CancelToken(), list[str]()

    def told(at: Progress) -> None:
        said.append(at.phase)
        if len(said) == last:
            token.cancel()

    with nullcontext() if last is None else pytest.raises(Cancelled):
        thinning.run(plan(lab, tmp_path), tmp_path / "sessions", Task(told, token))
    return said


def test_it_can_be_stopped_at_each_of_its_steps(lab: Lab, tmp_path: Path) -> None:
    kept = logged(lab)
    before = {each: each.read_bytes() for each in (kept.path, kept.index)}
    steps = stopped_after(None, lab, tmp_path)
    assert set(steps) >= {"Thin", "Check"}
    for path, data in before.items():
        path.write_bytes(data)
    for last in range(1, len(steps), 3):
        assert stopped_after(last, lab, tmp_path) == steps[:last], "it goes on for no further step"
        assert not kept.new_log.exists()
        assert not kept.new_index.exists()
    assert len(offered(lab)) == WRITES // 3 + 1


def test_who_draws_it_is_led_to_what_stays_and_has_its_times(lab: Lab) -> None:
    kept = logged(lab)
    ((before,), _) = read_logs(lab.set)
    plan = thinning.plan(lab.repository, "disk", SESSION, lab.folder, within=200, every=100)
    assert thinning.run(plan, lab.folder, Task()) > 0
    ((log,), _) = read_logs(lab.set)
    (point,) = lab.set.points
    assert (before.thinned_until, log.writes) == (0, before.writes)
    assert 0 < log.thinned_until < log.writes
    for write in range(log.writes + 1):
        assert before.held(write) == write
        earlier, later = log.held(write), log.held(write, later=True)
        assert earlier <= write <= later
        for each in {earlier, later}:
            assert log.moment(point, each).write == each
    writes, times = (each.tolist() for each in log.course)
    assert (writes, times) == (sorted(writes), sorted(times))
    known = dict(zip(*(each.tolist() for each in before.course), strict=True))
    assert writes[-1] == max(known)
    assert times[-1] == max(known.values())
    assert kept.path.exists()
