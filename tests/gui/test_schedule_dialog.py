"""In the window one says when a source is backed up, sees what systemd is told, and how it went."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from PySide6.QtCore import QTime
from PySide6.QtWidgets import QPlainTextEdit

from tests.gui.user import User
from vdbackup.gui import sources_list
from vdbackup.gui.parts import Notice
from vdbackup.gui.schedule_dialog import DAMAGED, RUNS_DAMAGED, ScheduleDialog
from vdbackup.gui.sources_list import status
from vdbackup.operations.health import QUIET, Concern
from vdbackup.operations.schedules import systemd
from vdbackup.operations.schedules.store import Outcome, Run, Schedule
from vdbackup.repository.repository import Repository


@pytest.fixture(autouse=True)
def no_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "_RUNS", tmp_path / "no-systemd")


@pytest.fixture
def by_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of units, of a systemd that takes everything."""
    monkeypatch.setattr(systemd, "_RUNS", tmp_path)
    monkeypatch.setattr(systemd, "folder", lambda: tmp_path / "units")
    monkeypatch.setattr(systemd, "_control", lambda *_: "")
    monkeypatch.setattr(systemd, "linger", lambda: "")
    return tmp_path / "units"


def opened(user: User) -> ScheduleDialog:
    user.asks_for("chooseSchedule")
    return user.sees(ScheduleDialog, "scheduleDialog")


def chooses(user: User, dialog: ScheduleDialog, every: str) -> None:
    dialog.every.setCurrentIndex(dialog.every.findData(every))
    user.waits_until(lambda: dialog.plan is not None)


def test_a_schedule_is_shown_set_and_removed(with_source: User, by_systemd: Path) -> None:
    user = with_source
    dialog = opened(user)
    assert not dialog._save.isEnabled()
    chooses(user, dialog, "daily")
    dialog.at.setTime(QTime(2, 30))
    dialog.on_mains.setChecked(True)
    user.waits_until(lambda: dialog.plan and dialog.plan.schedule.at == "02:30")
    assert dialog.said.text.startswith("laptop is backed up daily at 02:30, automatically")
    text = dialog.findChild(QPlainTextEdit, "scheduleUnits").toPlainText()
    assert "OnCalendar=*-*-* 02:30:00" in text
    assert "ConditionACPower=true" in text
    user.agrees("scheduleDialog", "scheduleSave")
    user.sees_job_end("Schedule of laptop")
    assert len(list(by_systemd.iterdir())) == 2
    (schedule,) = user.window.store.schedules.schedules()
    assert (schedule.every, schedule.at, schedule.on_mains) == ("daily", "02:30", True)
    user.waits_until(lambda: user.window.entry.health.schedule == schedule)
    assert "daily at 02:30, automatically" in sources_list.hint(user.window.entry)
    dialog = opened(user)
    assert (dialog.every.currentData(), dialog.at.time()) == ("daily", QTime(2, 30))
    dialog.every.setCurrentIndex(0)
    user.agrees("scheduleDialog", "scheduleSave")
    user.reads("automatically no more")
    assert user.window.store.schedules.schedules() == []
    assert list(by_systemd.iterdir()) == []


def test_how_many_points_are_verified_each_time_is_chosen_and_stays(
    with_source: User, by_systemd: Path, repository: Path
) -> None:
    user = with_source
    dialog = opened(user)
    assert not dialog.verify.isVisible()
    chooses(user, dialog, "daily")
    dialog.verify.setValue(2)
    user.waits_until(lambda: dialog.plan and dialog.plan.schedule.verify == 2)
    assert "the 2 points are verified whose last verification" in dialog.said.text
    assert dialog.verify.text() == "2 points"
    user.agrees("scheduleDialog", "scheduleSave")
    user.reads("laptop is backed up daily at 12:30")
    known = user.window.store.schedules.get(repository, "laptop")
    assert known.verify == 2
    again = opened(user)
    assert again.verify.value() == 2
    again.close()


def test_merges_get_a_time_of_their_own(
    with_source: User, by_systemd: Path, repository: Path
) -> None:
    user = with_source
    dialog = opened(user)
    chooses(user, dialog, "hourly")
    assert not dialog.merge_at.isEnabled()
    dialog.merges.setChecked(True)
    dialog.merge_at.setTime(QTime(4, 15))
    user.waits_until(lambda: dialog.plan and dialog.plan.schedule.merge_at == "04:15")
    assert "is merged at 04:15, and not after each backup." in dialog.said.text
    text = dialog.findChild(QPlainTextEdit, "scheduleUnits").toPlainText()
    assert "OnCalendar=*-*-* 04:15:00" in text
    user.agrees("scheduleDialog", "scheduleSave")
    user.reads("laptop is backed up hourly")
    assert len(list(by_systemd.glob("vdbackup-merge-*"))) == 2
    again = opened(user)
    assert (again.merges.isChecked(), again.merge_at.text()) == (True, "04:15")
    again.merges.setChecked(False)
    user.waits_until(lambda: again.plan and not again.plan.schedule.merge_at)
    user.agrees("scheduleDialog", "scheduleSave")
    user.waits_until(lambda: not list(by_systemd.glob("vdbackup-merge-*")))


def test_on_which_networks_and_beside_what_it_is_made_is_chosen_and_stays(
    with_source: User, by_systemd: Path, repository: Path
) -> None:
    user = with_source
    dialog = opened(user)
    chooses(user, dialog, "hourly")
    user.waits_until(lambda: "Now: " in dialog.networks.toolTip())
    dialog.networks.setText("Home,  192.168.1.1 ,")
    dialog.not_metered.setChecked(True)
    dialog.not_presenting.setChecked(True)
    user.waits_until(lambda: dialog.plan and dialog.plan.schedule.not_presenting)
    assert "Only on Home, 192.168.1.1. Not on a metered network." in dialog.said.text
    user.agrees("scheduleDialog", "scheduleSave")
    user.reads("laptop is backed up hourly")
    known = user.window.store.schedules.get(repository, "laptop")
    assert known.networks == ("Home", "192.168.1.1")
    assert (known.not_metered, known.not_presenting) == (True, True)
    again = opened(user)
    assert again.networks.text() == "Home, 192.168.1.1"
    again.close()


def test_a_damaged_schedule_is_said_and_can_be_removed(with_source: User, by_systemd: Path) -> None:
    user = with_source
    dialog = opened(user)
    chooses(user, dialog, "daily")
    user.agrees("scheduleDialog", "scheduleSave")
    user.sees_job_end("Schedule of laptop")
    store = user.window.store.schedules
    (record,) = store.records.iterdir()
    record.write_text("{")
    store.history.mkdir(parents=True, exist_ok=True)
    (store.history / record.name).write_text("{")
    dialog = opened(user)
    assert user.sees(Notice, "scheduleDamaged").text == DAMAGED
    assert user.sees(Notice, "scheduleRunsDamaged").text == RUNS_DAMAGED
    assert dialog.every.currentIndex() == 0
    user.agrees("scheduleDialog", "scheduleSave")
    user.reads("automatically no more")
    assert list(store.records.iterdir()) == []
    assert list(by_systemd.iterdir()) == []


def test_without_systemd_the_line_for_cron_is_said(with_source: User) -> None:
    dialog = opened(with_source)
    chooses(with_source, dialog, "15m")
    assert "add this to your crontab" in dialog.said.text.replace("\u200b", "")
    with_source.agrees("scheduleDialog", "scheduleSave")
    with_source.sees_job_end("Schedule of laptop")
    (schedule,) = with_source.window.store.schedules.schedules()
    assert schedule.every == "15m"


def test_what_cannot_be_arranged_cannot_be_saved(with_source: User, repository: Path) -> None:
    dialog = opened(with_source)
    dialog.every.setCurrentIndex(dialog.every.findData("plug"))
    with_source.waits_until(lambda: "no drive that can be plugged in" in dialog.said.text)
    assert not dialog._save.isEnabled()
    dialog.reject()


def test_an_interval_that_the_window_does_not_offer_stays(
    with_source: User, repository: Path
) -> None:
    with_source.window.store.schedules.save(Schedule(repository, "laptop", "20m"))
    dialog = opened(with_source)
    assert dialog.every.currentText() == "Every 20 minutes"
    dialog.reject()


def test_what_needs_somebody_is_seen_in_the_list(with_source: User, repository: Path) -> None:
    user = with_source
    opened_now = Repository.open(repository)
    point = opened_now.set().points[0]
    old = (datetime.now(UTC) - timedelta(days=3)).isoformat()
    opened_now.save_point("laptop", replace(point, created=old))
    schedule = Schedule(repository, "laptop", "monthly")
    schedules = user.window.store.schedules
    schedules.save(schedule)
    schedules.note(schedule.id, Run(old, old, Outcome.FAILED, "The disk is gone.", "x"))
    user.window.catalogue.refresh()
    user.waits_until(lambda: user.window.entry.health.needs_somebody)
    assert status(user.window.entry, 7) == ("1 point", "3 days ago: last failed!", "bad")
    assert "The disk is gone." in sources_list.hint(user.window.entry)
    dialog = opened(user)
    assert "The last backup failed" in dialog.findChild(type(dialog.said), "scheduleLast").text
    dialog.reject()


def test_what_a_schedule_has_done_is_seen_within_a_minute(
    with_source: User, repository: Path
) -> None:
    user = with_source
    schedule = Schedule(repository, "laptop", "monthly")
    schedules = user.window.store.schedules
    schedules.save(schedule)
    user.window._on_minute()
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    schedules.note(schedule.id, Run(moment, moment, Outcome.FAILED, "The disk is gone."))
    user.window._on_minute()
    user.waits_until(lambda: user.window.entry.health.needs_somebody)


def test_each_finding_that_needs_somebody_has_words() -> None:
    assert set(sources_list.NEEDED) == set(Concern) - QUIET
