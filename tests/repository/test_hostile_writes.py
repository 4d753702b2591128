"""Logs beside a set that are damaged, or somebody's trap: they cost their own moments alone."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.backup.lab import Lab
from tests.disks.write_log import logs
from tests.disks.write_log.logs import Entry
from tests.repository.kept import (
    BEGAN,
    FLUSH,
    SECOND,
    SESSION,
    SINCE,
    as_folder,
    as_link,
    as_pipe,
    emptied,
    keep,
)
from vdbackup.disks.write_log.index import IndexWriter
from vdbackup.disks.write_log.log import WriteLog
from vdbackup.durable import PARTIAL
from vdbackup.errors import PointNotFound, VdbackupError
from vdbackup.operations import protection
from vdbackup.repository.kept_logs import KeptLog, Protection, UnreadLog, kept_logs, survey
from vdbackup.repository.written import WrittenPoint

SIZE = 8 << 20
OTHER = "20261130-071500-abcdef"
WRITE = Entry(1, 1, 0, b"a" * 512)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, SIZE)
    lab.backup()
    return lab


def kept(lab: Lab, session: str = SESSION, noted: int = 4, **more: Any) -> KeptLog:
    """A log of two writes, each with a flush behind it, of which so many entries are noted."""
    (point,) = lab.set.points
    entries = [WRITE, FLUSH, Entry(2, 1, 0, b"b" * 512), FLUSH]
    return keep(lab, point, entries, session, noted, **more)


def at(lab: Lab, reference: str) -> WrittenPoint:
    found = lab.repository.find_state(reference)[1]
    assert isinstance(found, WrittenPoint)
    return found


def offered(lab: Lab) -> dict[str, list[int]]:
    found = protection.moments(lab.repository, None, None, None)
    return {each.kept.session: [moment.write for moment in each.moments] for each in found}


# --------------------------------------------------------------------------------- not proven


def test_a_flush_that_may_not_be_on_the_storage_is_not_offered(lab: Lab) -> None:
    """Nobody noted it before this computer's power was cut: its data may be anything."""
    kept(lab, noted=2)
    assert offered(lab) == {SESSION: [0, 1]}
    assert (at(lab, "1@w1").flushed, at(lab, "1@w2").flushed) == (True, False)
    assert at(lab, "1@2030-01-01").write == 1


def test_a_log_that_nobody_noted_anything_of_begins_with_its_point(lab: Lab) -> None:
    kept(lab, noted=4).index.unlink()
    assert offered(lab) == {SESSION: [0]}
    assert not at(lab, "1@w2").flushed


def deaf(command: str, **arguments: object) -> None:
    """A machine that has ended."""
    raise AssertionError(f"{command} {arguments}")


def test_what_is_noted_has_reached_the_storage(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from vdbackup.recovery.sessions.going_on import this_boot
    from vdbackup.recovery.sessions.writes_watch import WritesWatch

    log = kept(lab, noted=0, boot=this_boot())
    synced: list[tuple[str, int]] = []
    real = os.fdatasync

    def note(fd: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{fd}"), log.index.stat().st_size))
        real(fd)

    empty = log.index.stat().st_size
    monkeypatch.setattr(os, "fdatasync", note)
    watch = WritesWatch(SESSION, lab.set.folder, deaf)
    watch.finish()
    assert synced[0] == (str(log.path), empty), "the log, and only then the notes"
    assert offered(lab) == {SESSION: [0, 1, 2]}


# ------------------------------------------------------------------------------------ damaged


def test_a_log_whose_record_gets_its_name_while_one_looks_is_no_lost_one(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = kept(lab)
    log.record.rename(log.record.with_name(log.record.name + PARTIAL))
    there = os.path.lexists

    def begun_meanwhile(path: Path) -> bool:
        """Between the look for the record and that for the one in flight."""
        if there(path) and str(path).endswith(PARTIAL):
            os.replace(path, log.record)
        return there(path)

    monkeypatch.setattr(os.path, "lexists", begun_meanwhile)
    assert [each.session for each in kept_logs(lab.set.folder)] == [SESSION]


def test_notes_of_another_log_are_not_believed(lab: Lab) -> None:
    log = kept(lab)
    other = logs.make(lab.set.folder / "other", [Entry(8, 2, 0, bytes(1024)), WRITE, FLUSH])
    headers = WriteLog.read(other, SIZE).entries.headers
    log.index.unlink()
    with closing(IndexWriter(log.index)) as writer:
        writer.note(headers.tobytes(), BEGAN * SECOND, (BEGAN + 1) * SECOND)
    assert log.read().writes == 2
    assert offered(lab) == {SESSION: [0]}


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("suffix", "spoil"),
    [
        (".log", as_pipe), (".log", as_link), (".log", as_folder), (".log", emptied),
        (".log", Path.unlink),
        (".index", as_pipe), (".index", as_link), (".index", as_folder),
    ],
)  # fmt: skip
def test_a_log_that_cannot_be_read_costs_its_own_moments(
    lab: Lab, suffix: str, spoil: Callable[[Path], None]
) -> None:
    spoilt = kept(lab)
    kept(lab, OTHER)
    spoil(spoilt.record.with_suffix(suffix))
    found = list(protection.moments(lab.repository, None, None, None))
    assert [each.kept.session for each in found] == [SESSION, OTHER]
    assert [len(each.moments) for each in found] == [0, 3]
    assert [bool(each.trouble) for each in found] == [True, False]
    with pytest.raises((VdbackupError, OSError)):
        lab.repository.find_state(f"1@{SESSION}.w1")
    assert at(lab, "1@2030-01-01").log == OTHER


@pytest.mark.parametrize("wrong", [{"before": 1 << 62}, {"disk_size": SIZE * 2}, {"disk_size": 0}])
def test_a_record_that_does_not_fit_is_no_moment(lab: Lab, wrong: dict[str, int]) -> None:
    log = kept(lab)
    log.record.write_text(json.dumps(json.loads(log.record.read_text()) | wrong))
    with pytest.raises(VdbackupError):
        at(lab, "1@w1")


RECORD = """\
{
  "session": "20261130-061500-abcdef",
  "point": "695e7aeb-caa2-4836-a2f4-a5261a47a3c8",
  "title": "web",
  "since": "2026-11-30T06:15:00.000+00:00",
  "disk_size": 8388608,
  "overlay_contents": "",
  "before": 0,
  "limit": 68719476736,
  "ended": null,
  "why": "",
  "layout": 1,
  "cause": "",
  "boot": "5d41402a-bc4b-4a76-b971-9d911017c592",
  "source": "",
  "machine": "",
  "guest": ""
}
"""


def test_a_record_is_written_letter_by_letter_and_an_older_one_is_read(tmp_path: Path) -> None:
    written = Protection(
        SESSION, "695e7aeb-caa2-4836-a2f4-a5261a47a3c8", "web", SINCE, SIZE, limit=64 << 30,
        boot="5d41402a-bc4b-4a76-b971-9d911017c592",
    )  # fmt: skip
    kept = KeptLog.of(tmp_path, written)
    kept.save()
    assert kept.record.read_text() == RECORD
    assert kept_logs(tmp_path) == [kept]
    later = ("layout", "cause", "boot", "source", "machine")
    older = {k: v for k, v in json.loads(RECORD).items() if k not in later}
    kept.record.write_text(json.dumps(older))
    (found,) = kept_logs(tmp_path)
    assert found.protection == replace(written, boot="")


def test_a_time_before_the_first_moment_is_none(lab: Lab) -> None:
    kept(lab)
    with pytest.raises(PointNotFound, match="as early"):
        at(lab, "1@2020-01-01")


def test_a_log_is_taken_out_though_nothing_can_be_noted_on_full_storage(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine would stay paused for as long; what came is noted once there is space."""
    from vdbackup.recovery.sessions import writes_watch
    from vdbackup.recovery.sessions.going_on import this_boot

    log = kept(lab, noted=0, boot=this_boot(), limit=1 << 30)
    told: list[str] = []
    real = os.pwrite

    def tell(command: str, **_: object) -> Any:
        told.append(command)
        return [{"inserted": {"node-name": "writes"}, "qdev": "/disk"}]

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    watch = writes_watch.WritesWatch(SESSION, lab.set.folder, tell)
    monkeypatch.setattr(writes_watch, "free_space", lambda _: 0)
    monkeypatch.setattr(os, "pwrite", full)
    watch.look()
    assert told == ["query-block", "qom-set", "blockdev-del"]
    watch.look()
    assert len(told) == 3, "once is enough"
    monkeypatch.setattr(os, "pwrite", real)
    watch.look()
    (ended,) = kept_logs(lab.set.folder)
    assert ended.protection.cause == "storage"
    assert offered(lab) == {SESSION: [0, 1, 2]}
    watch.finish()
    assert log.index.exists()


def test_whoever_looks_while_a_log_is_begun_with_never_finds_one_that_is_anybodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KeptLog.of(tmp_path, Protection(SESSION, "1", "web", SINCE, SIZE, limit=64 << 30))
    kept.announce()
    kept.path.touch()
    found: list[KeptLog | UnreadLog] = []
    looking: list[bool] = []

    def before(name: str) -> None:
        """Look each time before the system is asked for something."""
        usual = getattr(os, name)

        def asked(*arguments: Any, **more: Any) -> Any:
            if not looking:
                looking.append(True)
                found.extend(survey(tmp_path))
                looking.clear()
            return usual(*arguments, **more)

        monkeypatch.setattr(os, name, asked)

    for name in ("unlink", "open", "fsync", "rename", "replace"):
        before(name)
    kept.save()
    monkeypatch.undo()
    assert len(found) > 4
    assert all(isinstance(each, KeptLog) or each.left for each in found)
    assert list(survey(tmp_path)) == [kept]
    assert {each.name for each in tmp_path.iterdir()} == {kept.path.name, kept.record.name}
