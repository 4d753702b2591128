"""The log stays small, whoever writes how much to it."""

from __future__ import annotations

import errno
import logging
from io import TextIOWrapper
from pathlib import Path

import pytest

from vdbackup import locations
from vdbackup.locations import Locations


def test_a_log_that_has_grown_enough_goes_on_in_a_new_file_and_one_old_one_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locations, "LOG_SIZE", 2_000)
    log = locations._BoundedLog(tmp_path / "vdbackup.log", encoding="utf-8", delay=True)
    for line in range(100):
        log.handle(logging.makeLogRecord({"msg": f"{line:50}"}))
    log.close()
    found = {path.name: path.read_text().split() for path in tmp_path.iterdir()}
    assert found.keys() == {"vdbackup.log", "vdbackup.log.1"}
    lines = [int(line) for line in found["vdbackup.log.1"] + found["vdbackup.log"]]
    assert lines == list(range(lines[0], 100))
    assert all(path.stat().st_size < 2_100 for path in tmp_path.iterdir())


def test_what_another_run_left_too_long_goes_before_the_first_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locations, "LOG_SIZE", 10)
    places = Locations(tmp_path, tmp_path, tmp_path, tmp_path)
    places.log_file.write_text("of an earlier run\n")
    log = locations._BoundedLog(places.log_file, encoding="utf-8", delay=True)
    log.handle(logging.makeLogRecord({"msg": "of this one"}))
    log.close()
    assert places.log_file.read_text() == "of this one\n"
    assert (tmp_path / "vdbackup.log.1").read_text() == "of an earlier run\n"


class _FullAtTheEnd(TextIOWrapper):
    """Closes, and says that this failed, as close(2) of a file on NFS does."""

    def close(self) -> None:
        if not self.closed:
            super().close()
            raise OSError(errno.EDQUOT, "full")


def test_a_log_that_cannot_be_closed_goes_on_when_it_can_be_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share says only then that it is full; what is logged never stops what is done."""
    monkeypatch.setattr(locations, "LOG_SIZE", 10)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    log = locations._BoundedLog(tmp_path / "vdbackup.log", encoding="utf-8", delay=True)
    log.handle(logging.makeLogRecord({"msg": "long enough"}))
    assert log.stream is not None
    log.stream = _FullAtTheEnd(log.stream.detach(), encoding="utf-8")
    for line in ("may be lost", "written"):
        log.handle(logging.makeLogRecord({"msg": line}))
    log.close()
    assert "written" in (tmp_path / "vdbackup.log").read_text()
