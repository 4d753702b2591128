"""What was done stays known after a restart, and a damaged record of it stops nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from tests.gui.user import LONG, User
from vdbackup.gui.history_dialog import HistoryDialog
from vdbackup.gui.jobs import record
from vdbackup.gui.jobs.record import DamagedHistory, End, EndedJob, JobFile, Step
from vdbackup.gui.main_window import MainWindow
from vdbackup.gui.store import Store
from vdbackup.jobs import Job, Task
from vdbackup.locations import Locations
from vdbackup.settings import Settings

AT = "2026-11-30T06:00:00+00:00"
BACKUP = EndedJob(
    "Back up a",
    AT,
    "2026-11-30T06:01:05+00:00",
    End.WARNED,
    "Point #1 made.",
    ("1 GiB in a.vmdk",),
    (Step(AT, "Backup", 1 << 30),),
)
TEXT = """\
{
 "jobs": [
  {
   "title": "Back up a",
   "began": "2026-11-30T06:00:00+00:00",
   "ended": "2026-11-30T06:01:05+00:00",
   "end": "done, with warnings",
   "sentence": "Point #1 made.",
   "details": [
    "1 GiB in a.vmdk"
   ],
   "steps": [
    {
     "at": "2026-11-30T06:00:00+00:00",
     "phase": "Backup",
     "done": 1073741824
    }
   ]
  }
 ]
}
"""


def test_the_record_is_as_it_always_was(tmp_path: Path) -> None:
    file = JobFile(tmp_path / "jobs.json")
    file.save([BACKUP])
    assert file.path.read_text() == TEXT
    assert file.load() == (BACKUP,)


def test_only_the_newest_jobs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MAX_JOBS", 2)
    file = JobFile(tmp_path / "jobs.json")
    jobs = [EndedJob(str(number), AT, AT, End.DONE) for number in range(4)]
    file.save(jobs)
    assert [job.title for job in file.load()] == ["2", "3"]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        TEXT.replace('"done, with warnings"', '"so so"').encode(),
        TEXT.replace("1073741824", "-1").encode(),
        TEXT.replace("2026-11-30T06:01:05+00:00", "tomorrow").encode(),
    ],
    ids=["empty", "no text", "deep", "unknown end", "negative", "no time"],
)
def test_a_damaged_record_is_said_put_aside_and_begun_anew(tmp_path: Path, damage: bytes) -> None:
    file = JobFile(tmp_path / "jobs.json")
    file.path.write_bytes(damage)
    with pytest.raises(DamagedHistory, match="makes no sense") as refusal:
        file.load()
    aside = tmp_path / "jobs.unreadable.json"
    assert str(aside) in refusal.value.advice
    assert aside.read_bytes() == damage
    assert file.load() == ()
    file.save([BACKUP])
    assert file.load() == (BACKUP,)


def test_a_link_in_place_of_the_record_is_not_followed(tmp_path: Path) -> None:
    other, file = tmp_path / "other", JobFile(tmp_path / "jobs.json")
    other.write_text(TEXT)
    os.symlink(other, file.path)
    with pytest.raises(DamagedHistory):
        file.load()
    file.save([BACKUP])
    assert not file.path.is_symlink()


def open_window(locations: Locations, qtbot: QtBot) -> MainWindow:
    window = MainWindow(Store(Settings(), locations))
    window.show()
    qtbot.waitUntil(lambda: window.history._loaded, timeout=LONG)
    return window


def close(window: MainWindow, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: not window.busy, timeout=LONG)
    window.close()
    with qtbot.waitSignal(window.destroyed, timeout=LONG):
        window.deleteLater()


def test_what_was_done_is_listed_after_a_restart_with_its_phases_to_unfold(
    locations: Locations, qtbot: QtBot, repository: Path
) -> None:
    def work(task: Task) -> None:
        task.phase("Count", 5 << 30, 5 << 30)
        task.phase("Write", 1 << 20, 1 << 20)

    first = open_window(locations, qtbot)
    first.workers.writer(repository).submit(Job("Back up b", work))
    qtbot.waitUntil(lambda: len(first.history.jobs) == 1, timeout=LONG)
    close(first, qtbot)  # at once: what is not written yet is written now
    second = open_window(locations, qtbot)
    second.actions_["actionHistory"].trigger()
    user = User(second, qtbot)
    dialog = user.sees(HistoryDialog, "historyDialog")
    item = dialog.list.topLevelItem(0)
    assert item is not None
    assert (item.text(1), item.text(2)) == ("Back up b", "Done.")
    lines = [item.child(row).text(0) for row in range(item.childCount())]
    assert lines[0].endswith(": done")
    assert lines[2].endswith("Count, 5 GiB")
    assert lines[3].endswith("Write, 1 MiB")
    close(second, qtbot)


def test_a_damaged_history_is_said_in_the_window_and_jobs_go_on(
    locations: Locations, qtbot: QtBot, repository: Path
) -> None:
    locations.data.mkdir(parents=True)
    (locations.data / "jobs.json").write_text("{")
    window = open_window(locations, qtbot)
    user = User(window, qtbot)
    user.reads("What was kept of earlier jobs makes no sense")
    window.workers.writer(repository).submit(Job("Back up b", lambda _task: None))
    user.sees_job_end("Back up b")
    close(window, qtbot)
    assert [job.title for job in JobFile(locations.data / "jobs.json").load()] == ["Back up b"]
