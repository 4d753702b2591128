"""Every write of a machine, in the window: kept, seen as a band, gone back to, kept as a point."""

from __future__ import annotations

import subprocess
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QCheckBox, QComboBox, QLabel, QPushButton, QSpinBox
from pytestqt.qtbot import QtBot

from tests.disks.write_log import logs
from tests.guests import boot_sector
from tests.gui.logs import make_log
from tests.gui.user import LONG, User
from vdbackup.disks.write_log.index import IndexWriter
from vdbackup.guest.hardware import Controller
from vdbackup.gui import written_words
from vdbackup.gui.boot_dialog import BootDialog
from vdbackup.gui.browse_dialog import BrowseDialog
from vdbackup.gui.help_dialogs import ShortcutsDialog
from vdbackup.gui.plan_dialog import PlanDialog
from vdbackup.gui.restore_dialog import RestoreDialog
from vdbackup.gui.thin_dialog import ThinDialog
from vdbackup.gui.timeline.bands import Spot
from vdbackup.jobs import Task
from vdbackup.operations import thinning
from vdbackup.recovery.sessions.session import Session
from vdbackup.repository import overlays
from vdbackup.repository.kept_logs import Cause, KeptLog, Protection
from vdbackup.repository.near_continuous import NearContinuous
from vdbackup.repository.policy import Policy
from vdbackup.repository.repository import Repository

RECORDS = 6
ALT = Qt.KeyboardModifier.AltModifier
SHIFT = Qt.KeyboardModifier.ShiftModifier


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk whose machine writes records, and has each written out."""
    instructions = boot_sector.records(RECORDS) + boot_sector.say("all written")
    return boot_sector.make(tmp_path / "laptop.img", instructions)


def starts(user: User, *, every_write: bool = False) -> Session:
    """Boot what is chosen on IDE, whatever system it has."""
    user.asks_for("actionBootWith")
    dialog = user.sees(BootDialog, "bootDialog")
    user.sees(QComboBox, "bootController").setCurrentText(Controller.IDE.value)
    user.sees(QCheckBox, "bootEveryWrite").setChecked(every_write)
    user.agrees("bootDialog", "bootAccept")
    assert dialog.every_write.isEnabled() or not every_write
    (thread,) = user.window.sessions.running
    user.waits_until(lambda: thread.session is not None or thread.problem)
    assert thread.problem is None
    assert thread.session is not None
    return thread.session


def boots(user: User, *, every_write: bool) -> None:
    """The same, and wait until its guest has written everything."""
    session = starts(user, every_write=every_write)
    assert session.wait_for_text("all written", timeout=LONG / 1000)


def ends(user: User) -> None:
    user.clicks("killButton")
    user.waits_until(lambda: not user.window.sessions.running)


def sees_band(user: User, writes: int) -> None:
    """Wait until the timeline has a band of so many writes, to which no more are added."""

    def there() -> bool:
        bands = user.window.panel.timeline.facts.bands
        return [(each.log.writes, each.log.goes_on) for each in bands] == [(writes, False)]

    user.waits_until(there)


@pytest.fixture
def protected(with_source: User) -> User:
    """Somebody who had every write of a machine kept, which has ended."""
    boots(with_source, every_write=True)
    ends(with_source)
    sees_band(with_source, 2 * RECORDS)
    return with_source


def expected(disk: Path, write: int) -> bytes:
    """The disk after a write: the counter, and the records that it counts."""
    after = bytearray(disk.read_bytes())
    for number in range(1, write + 1):
        record, is_record = (number + 1) // 2, number % 2 == 0
        at = boot_sector.COUNTER_AT + (512 * record if is_record else 0)
        after[at : at + 512] = record.to_bytes(4, "little") * 128
    return bytes(after)


def restores(user: User, target: Path) -> bytes:
    """Restore what is chosen to a file by the dialog; what is in it then."""
    user.asks_for("actionRestore")
    dialog = user.sees(RestoreDialog, "restoreDialog")
    dialog.target_edit.setText(str(target))
    user.agrees("restoreDialog", "restoreAccept")
    user.agrees()
    user.waits_until(target.exists)
    user.sees_job_end("Restore")
    return target.read_bytes()


def goes_to(user: User, qtbot: QtBot, write: int) -> None:
    """Go to the moment after a write by the keyboard, in the timeline."""
    timeline = user.window.panel.timeline
    qtbot.keyClick(timeline, Qt.Key.Key_Home, ALT)
    for _ in range(write):
        qtbot.keyClick(timeline, Qt.Key.Key_Right, ALT | SHIFT)
    assert timeline.selected.endswith(f".w{write}")


# ----------------------------------------------------------------------------- while it runs


def test_every_write_is_kept_from_the_start_and_no_more_when_that_is_asked_for(
    with_source: User,
) -> None:
    boots(with_source, every_write=True)
    (thread,) = with_source.window.sessions.running
    with_source.waits_until(lambda: thread.protected)
    with_source.clicks("unprotectButton")
    with_source.reads("No more writes are kept")
    with_source.waits_until(lambda: not thread.protected)
    button = with_source.window.findChild(QPushButton, "unprotectButton")
    with_source.waits_until(lambda: not button.isVisible())
    states = [each.text() for each in with_source.window.findChildren(QLabel)]
    assert [each for each in states if "writes are kept until" in each]
    sees_band(with_source, 2 * RECORDS)
    ends(with_source)


def test_a_machine_that_runs_is_protected_from_then_on(with_source: User) -> None:
    boots(with_source, every_write=False)
    assert with_source.window.panel.moments.isHidden()
    with_source.clicks("protectButton")
    with_source.reads("Every write is kept from now on")
    (thread,) = with_source.window.sessions.running
    with_source.waits_until(lambda: thread.protected)
    timeline = with_source.window.panel.timeline
    with_source.waits_until(lambda: timeline.facts.bands)
    assert timeline.facts.bands[0].log.goes_on
    assert "is kept: 0 writes until now" in with_source.window.panel.moments.state.text()
    ends(with_source)
    sees_band(with_source, 0)


# -------------------------------------------------------------------------- at a chosen moment


def test_a_moment_is_restored_as_it_was_after_each_write(
    protected: User, qtbot: QtBot, disk: Path, tmp_path: Path
) -> None:
    for write in (0, 5, 8):
        goes_to(protected, qtbot, write)
        state = protected.window.details.fact("state")
        assert state.startswith("like a power cut" if write % 2 else "consistent")
        assert restores(protected, tmp_path / f"{write}.raw") == expected(disk, write)


def test_a_moment_is_kept_as_a_point_and_its_writes_are_forgotten(
    protected: User, qtbot: QtBot, disk: Path, tmp_path: Path
) -> None:
    goes_to(protected, qtbot, 6)
    protected.asks_for("actionKeepMoment")
    protected.agrees()
    protected.sees_points(2)
    protected.asks_for("actionForgetWrites")
    protected.agrees()
    protected.waits_until(lambda: not protected.window.panel.timeline.facts.bands)
    assert protected.window.panel.moments.isHidden()
    assert "@" not in protected.window.panel.selected
    assert not list(Repository.open(tmp_path / "backups").set().folder.glob("writes-*"))
    protected.presses(Qt.Key.Key_End)
    assert protected.window.panel.selected == protected.window.panel.timeline.points[1].id
    assert restores(protected, tmp_path / "kept.raw") == expected(disk, 6)


def test_a_machine_boots_from_a_moment_and_cannot_be_protected_itself(
    protected: User, qtbot: QtBot
) -> None:
    goes_to(protected, qtbot, 6)
    boots(protected, every_write=False)
    (thread,) = protected.window.sessions.running
    assert thread.boot.title == "laptop #1@w6"
    assert not thread.can_be_protected
    timeline = protected.window.panel.timeline
    assert timeline.facts.sessions == {timeline.points[0].id}
    ends(protected)


def test_what_can_only_be_done_to_a_point_is_not_offered_for_a_moment(
    protected: User, qtbot: QtBot
) -> None:
    actions = protected.window.actions_
    of_points = ("actionDelete", "actionVerify", "actionPin", "actionBootTest", "actionRetarget")
    of_both = ("actionBootInVm", "actionBrowse", "actionRestore", "actionForgetWrites")
    assert all(actions[name].isEnabled() for name in (*of_points, *of_both))
    assert not actions["actionKeepMoment"].isVisible()
    goes_to(protected, qtbot, 3)
    assert not any(actions[name].isEnabled() for name in of_points)
    assert all(actions[name].isEnabled() for name in (*of_both, "actionKeepMoment"))
    protected.asks_for("actionCopyId")
    qtbot.keyClick(protected.window.panel.timeline, Qt.Key.Key_Left)
    assert actions["actionDelete"].isEnabled()


def test_the_bar_below_goes_to_any_moment_also_from_the_table(
    protected: User, qtbot: QtBot
) -> None:
    panel = protected.window.panel
    panel.show_table()
    assert "is kept: 12 writes. Its machine has ended." in panel.moments.state.text()
    assert panel.moments.moment.text() == "6 moments in it are consistent"
    protected.clicks("momentAfter")
    assert panel.selected.endswith(".w2")
    assert panel.moments.moment.text().endswith(", consistent")
    protected.sees(QSpinBox, "momentWrite").setValue(7)
    assert panel.selected.endswith(".w7")
    assert panel.moments.moment.text().endswith(", like a power cut")
    protected.clicks("momentBefore")
    assert panel.selected.endswith(".w6")
    assert panel.table.currentIndex().row() == 0


# ------------------------------------------------------------------ a log of a disk with files

UUID = "01234567-89ab-cdef-0123-456789abcdef"


def file_system(folder: Path, *names: str) -> bytes:
    """An ext4 with these files, the same in all else."""
    inside, image = folder / "inside", folder / "made.img"
    inside.mkdir(exist_ok=True)
    for name in names:
        (inside / name).write_text(f"this is {name}\n")
    with image.open("wb") as file:
        file.truncate(8 << 20)
    options = ("-q", "-F", "-t", "ext4", "-U", UUID, "-E", f"hash_seed={UUID}")
    subprocess.run(["mke2fs", *options, "-d", inside, image], check=True)
    return image.read_bytes()


def written(before: bytes, after: bytes) -> list[logs.Entry]:
    """Writes that make one disk of another, sector by sector, and a flush."""
    places = range(0, len(after), 512)
    changed = [at for at in places if before[at : at + 512] != after[at : at + 512]]
    writes = [logs.Entry(at // 512, 1, 0, after[at : at + 512]) for at in changed]
    return [*writes, logs.Entry(flags=1)]


def keep(repository: Path, entries: list[logs.Entry]) -> KeptLog:
    """A log of these behind the only point."""
    backup_set = Repository.open(repository).set()
    (point,) = backup_set.points
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    held = overlays.contents(backup_set.overlay_path(point), backup_set.settings.format)
    whose = Protection(
        "20260101-000000-abcdef", point.id, "laptop #1", now, point.virtual_size, held
    )
    kept = KeptLog.of(
        backup_set.folder,
        replace(whose, ended=now, why="Its storage is full.", cause=Cause.STORAGE),
    )
    logs.make(kept.path, entries)
    raw, at, headers = kept.path.read_bytes(), 512, []
    for each in entries:
        headers.append(raw[at : at + 32])
        at += 512 + len(each.data)
    with closing(IndexWriter(kept.index)) as index:
        index.note(b"".join(headers), time.time_ns(), time.time_ns())
    kept.save()
    return kept


def test_the_files_of_a_moment_are_browsed(
    user: User, repository: Path, tmp_path: Path, qtbot: QtBot
) -> None:
    states = [file_system(tmp_path, *names) for names in (("one",), ("two",), ("three",))]
    disk = tmp_path / "laptop.img"
    disk.write_bytes(states[0])
    user.window.first_run.form.source_edit.setText(str(disk))
    user.window.first_run.form.repository_edit.setText(str(repository))
    user.clicks("startButton")
    user.agrees()
    user.sees_points(1)
    first = written(states[0], states[1])
    entries = [*first, *written(states[1], states[2])]
    keep(repository, entries)
    user.asks_for("actionRefresh")
    sees_band(user, len(entries) - 2)
    assert "Its storage is full." in user.window.panel.moments.state.text()
    for names in ({"one", "two"}, {"one", "two", "three"}):
        qtbot.keyClick(user.window.panel.timeline, Qt.Key.Key_Right, ALT)
        assert browses(user, tmp_path / f"out-{len(names)}") == {*names, "lost+found"}


def browses(user: User, copied_to: Path) -> set[str]:
    """The names of all files, which are then copied out."""
    user.asks_for("actionBrowse")
    dialog = user.sees(BrowseDialog, "browseDialog")
    tree = dialog.tree
    user.waits_until(lambda: tree.topLevelItemCount() > 1)
    items = [tree.topLevelItem(row) for row in range(tree.topLevelItemCount())]
    items[-1].setSelected(True)
    dialog.extract(copied_to)
    user.sees_job_end("Extract")
    assert list(copied_to.iterdir())
    dialog.close()
    user.waits_until(lambda: not dialog.isVisible())
    return {each.text(0) for each in items}


def test_a_log_that_is_damaged_is_seen_and_costs_no_point(
    with_source: User, repository: Path
) -> None:
    backup_set = Repository.open(repository).set()
    kept = make_log(backup_set.folder, backup_set.points[0], 10)
    kept.path.write_bytes(b"nothing that makes sense" * 100)
    with_source.asks_for("actionRefresh")
    panel = with_source.window.panel
    with_source.waits_until(lambda: panel.timeline.facts.bands)
    assert panel.timeline.facts.bands[0].log.problem is not None
    assert "cannot be read" in panel.moments.state.text()
    assert "does not begin as a log of writes does" in panel.moments.state.text()
    assert panel.selected == backup_set.points[0].id
    with_source.asks_for("actionForgetWrites")
    with_source.agrees()
    with_source.waits_until(lambda: not panel.timeline.facts.bands)


def test_a_log_of_which_nobody_can_tell_whose_it_is_is_seen(
    with_source: User, repository: Path
) -> None:
    backup_set = Repository.open(repository).set()
    make_log(backup_set.folder, backup_set.points[0], 10).record.unlink()
    with_source.asks_for("actionRefresh")
    bar = with_source.window.panel.moments
    with_source.waits_until(bar.isVisible)
    assert "is missing, so nobody knows whose writes these are" in bar.state.text()
    assert not bar.write.isVisible()


def test_a_log_whose_end_is_lost_says_so_and_offers_what_is_sound(
    with_source: User, repository: Path
) -> None:
    backup_set = Repository.open(repository).set()
    kept = make_log(backup_set.folder, backup_set.points[0], 10)
    with kept.path.open("r+b") as file:
        file.truncate(kept.path.stat().st_size // 2)
    with_source.asks_for("actionRefresh")
    panel = with_source.window.panel
    with_source.waits_until(lambda: panel.timeline.facts.bands)
    log = panel.timeline.facts.bands[0].log
    assert 0 < log.writes < 10
    assert log.moments[-1] <= log.writes
    assert f"is damaged behind write {log.writes}" in panel.moments.state.text()
    with_source.window.panel.timeline.select_moment(log.session, log.writes)
    assert panel.selected.endswith(f".w{log.writes}")


def test_the_keys_are_in_the_list_of_keys(user: User) -> None:
    user.asks_for("actionShortcuts")
    dialog = user.sees(ShortcutsDialog, "shortcutsDialog")
    said = [each.text() for each in dialog.findChildren(QLabel)]
    assert "Alt+Left, Alt+Right" in said
    assert "Boot, and keep every write" in said


def test_a_near_continuous_set_says_that_it_is_no_log_of_every_write(
    with_source: User, repository: Path
) -> None:
    here = Repository.open(repository)
    backup_set = here.set()
    near = NearContinuous(30, "2026-03-01T12:00:00+00:00")
    here.save_settings(backup_set.name, replace(backup_set.settings, near=near))
    with_source.asks_for("actionRefresh")
    bar = with_source.window.panel.moments
    with_source.waits_until(bar.isVisible)
    assert "a point every 30 s where something has changed (not every write)" in bar.state.text()
    assert not bar.write.isVisible()
    ended = replace(near, ended="2026-03-01T13:00:00+00:00", why="Its time was over.")
    here.save_settings(backup_set.name, replace(backup_set.settings, near=ended))
    with_source.asks_for("actionRefresh")
    with_source.waits_until(lambda: "Its time was over." in bar.state.text())


# ------------------------------------------------------------------------- logs that were thinned


@pytest.fixture
def timed(user: User, repository: Path, tmp_path: Path) -> tuple[User, list[int], list[bytes]]:
    """Somebody with a log of ten moments, 90 s apart; after how many writes, and each state."""
    states = [file_system(tmp_path, f"f{number}") for number in range(11)]
    disk = tmp_path / "laptop.img"
    disk.write_bytes(states[0])
    user.window.first_run.form.source_edit.setText(str(disk))
    user.window.first_run.form.repository_edit.setText(str(repository))
    user.clicks("startButton")
    user.agrees()
    user.sees_points(1)
    parts = [written(a, b) for a, b in pairwise(states)]
    kept = keep(repository, [each for part in parts for each in part])
    kept.index.unlink()
    raw, at = kept.path.read_bytes(), 512
    begin = time.time_ns() - 1000 * 10**9
    with closing(IndexWriter(kept.index)) as index:
        for turn, part in enumerate(parts):
            headers = b""
            for each in part:
                headers += raw[at : at + 32]
                at += 512 + len(each.data)
            now = begin + turn * 90 * 10**9
            index.note(headers, now - 10**9, now)
    user.asks_for("actionRefresh")
    ends = [sum(len(part) - 1 for part in parts[: n + 1]) for n in range(len(parts))]
    user.waits_until(lambda: user.window.panel.timeline.facts.bands)
    return user, ends, states


@pytest.fixture
def thinned(
    timed: tuple[User, list[int], list[bytes]], repository: Path, tmp_path: Path
) -> tuple[User, int, list[bytes]]:
    """The same, thinned to a few; how many writes, and each state."""
    user, ends, states = timed
    here = Repository.open(repository)
    backup_set = here.set()
    sessions, session = tmp_path / "sessions", user.window.kept_logs.logs[0].session
    plan = thinning.plan(here, backup_set.name, session, sessions, within=200, every=300)
    assert thinning.run(plan, sessions, Task()) > 0
    user.asks_for("actionRefresh")
    user.waits_until(lambda: user.window.kept_logs.logs[0].thinned_until)
    return user, ends[-1], states


def test_a_log_is_thinned_by_two_times_once_it_was_shown_what_goes(
    timed: tuple[User, list[int], list[bytes]], tmp_path: Path
) -> None:
    user, ends, states = timed
    user.asks_for("actionThinWrites")
    dialog = user.sees(ThinDialog, "thinDialog")
    dialog.within.setValue(3)
    dialog.every.setValue(5)
    user.agrees("thinDialog", "thinAccept")
    plan = user.sees(PlanDialog, "planDialog")
    assert "consistent moments" in plan.plan.summary
    user.agrees()
    assert user.sees_job_end("Thin the writes of").sentence.startswith("The log takes ")
    user.waits_until(lambda: user.window.kept_logs.logs[0].thinned_until)
    (log,) = user.window.kept_logs.logs
    assert 0 < len(log.moments) - 1 < len(ends)
    user.window.panel.timeline.select_moment(log.session, ends[-1])
    assert restores(user, tmp_path / "last.img") == states[-1]


def test_a_moment_is_kept_as_a_point_and_what_led_there_is_thinned(
    timed: tuple[User, list[int], list[bytes]], tmp_path: Path
) -> None:
    user, ends, states = timed
    (before,) = user.window.kept_logs.logs
    here = Repository.open(tmp_path / "backups")
    with here.lock("a test"):
        here.set_policy("laptop", Policy(moments_every=300))
    user.window.panel.timeline.select_moment(before.session, ends[7])
    user.asks_for("actionFoldMoment")
    user.agrees()
    user.sees_points(2)
    assert "The log takes" in user.sees_job_end("Keep ").sentence
    user.waits_until(lambda: user.window.kept_logs.logs[0].thinned_until)
    (log,) = user.window.kept_logs.logs
    assert set(ends[7:]) <= set(log.moments.tolist())  # what came behind it stays
    assert len(log.moments) < len(before.moments)
    user.presses(Qt.Key.Key_End)
    assert restores(user, tmp_path / "kept.img") == states[8]


def test_of_a_thinned_log_only_what_is_kept_is_gone_to(
    thinned: tuple[User, int, list[bytes]], qtbot: QtBot, tmp_path: Path
) -> None:
    user, writes, states = thinned
    panel = user.window.panel
    (band,) = panel.timeline.facts.bands
    log = band.log
    assert 0 < log.thinned_until < log.writes == writes
    assert panel.moments.state.text().startswith("Its storage is full. Thinned: ")
    x = [float(each) for each in band.ticks]
    assert x == sorted(x)
    assert len(set(x)) == len(x)  # each moment has a place of its own, by its time
    seen = set()
    for write in range(1, writes + 1, writes // 6):
        panel.timeline.select_moment(log.session, write)
        seen.add(panel.selected)
        panel.moments.write.setValue(write + 1)  # as its arrows do
        assert written_words.hint(log, Spot.nearest(band, write).moment)
    assert len(seen) > 2
    for by_write in (ALT, ALT | SHIFT):
        qtbot.keyClick(panel.timeline, Qt.Key.Key_Home, ALT)
        for wanted in log.moments[1:3].tolist():
            qtbot.keyClick(panel.timeline, Qt.Key.Key_Right, by_write)
            assert panel.selected.endswith(f".w{wanted}")
        qtbot.keyClick(panel.timeline, Qt.Key.Key_Left, by_write)
        assert panel.selected.endswith(f".w{log.moments[1]}")
    for step in range(60):
        write = band.write_at(band.left + step * (band.right - band.left) / 60, 0.0)
        assert log.held(write) == write
    moment = int(log.moments[1])
    panel.timeline.select_moment(log.session, moment)
    assert panel.selected.endswith(f".w{moment}")
    restored = restores(user, tmp_path / "restored.img")
    assert restored in states[1:]
    assert browses(user, tmp_path / "out") >= {"f0", "f1", "lost+found"}
    starts(user)
    ends(user)
