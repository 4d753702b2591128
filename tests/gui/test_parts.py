"""The parts of the window: what they say, and that everybody can reach them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QAbstractButton,
    QLabel,
    QLineEdit,
    QPushButton,
    QToolBar,
    QWidget,
)
from pytestqt.qtbot import QtBot

from tests.gui.points import chain, many, point
from tests.gui.user import User
from tests.sources.opened import open_path
from vdbackup.backup import capture
from vdbackup.consistency import Consistency, How
from vdbackup.errors import RepositoryError
from vdbackup.gui import add_source, parts, words
from vdbackup.gui.actions import ACTIONS
from vdbackup.gui.add_source import AddSourceDialog
from vdbackup.gui.catalogue import Entry, Shelf, read
from vdbackup.gui.details import Facts, PointDetails
from vdbackup.gui.machines.session import Boot, SessionThread
from vdbackup.gui.machines.sessions_list import SessionsList
from vdbackup.gui.parts import Notice
from vdbackup.gui.sources_list import status
from vdbackup.gui.theme import LIGHT
from vdbackup.gui.timeline.glyphs import Badge
from vdbackup.gui.timeline.items import trouble
from vdbackup.gui.timeline.panel import TimelinePanel
from vdbackup.jobs import Task
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import (
    BootTest,
    Reading,
    RecoveryPoint,
    SetSettings,
    SourceIdentity,
)
from vdbackup.repository.repository import Repository
from vdbackup.settings import KnownSource, Settings
from vdbackup.sources.devices import Candidate
from vdbackup.sources.reference import SourceRef
from vdbackup.text import printable

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC).astimezone()


SDA = SourceRef.parse("/dev/sda")


def entry(points: Sequence[RecoveryPoint]) -> Entry:
    """A source with these points."""
    settings = SetSettings(SourceIdentity("id", "laptop", "/dev/sda"), 1 << 30, 512, "vmdk")
    backup_set = BackupSet("laptop", Path("/mnt/laptop"), settings, tuple(points))
    return Entry(SDA, Path("/mnt"), backup_set)


@pytest.mark.parametrize(
    ("ago", "said"),
    [
        (timedelta(seconds=5), "just now"),
        (timedelta(minutes=59), "59 min ago"),
        (timedelta(hours=47), "47 h ago"),
        (timedelta(days=9), "9 days ago"),
    ],
)
def test_an_age_is_said_as_a_person_would(ago: timedelta, said: str) -> None:
    assert words.age((NOW - ago).isoformat(), NOW) == said


def test_moments_without_a_zone_are_utc() -> None:
    assert words.local("2026-03-10T12:00:00") == words.local("2026-03-10T12:00:00+00:00")


def test_names_from_a_backup_cannot_break_the_window() -> None:
    assert printable("a\nb\udcffc") == r"a\nb\udcffc"


def test_a_source_that_was_not_backed_up_for_long_is_marked() -> None:
    recent = point(1, hours=(datetime.now(UTC) - datetime(2026, 3, 1, 12, tzinfo=UTC)).days * 24)
    old = chain(3)
    assert status(entry([recent]), 7)[2] == "muted"
    first, second, role = status(entry(old), 7)
    assert first == "3 points"
    assert second.startswith("no backup for")
    assert role == "warning"


def test_a_source_whose_repository_cannot_be_read_says_so() -> None:
    broken = Entry(SDA, Path("/mnt"), problem=RepositoryError("It is broken."))
    assert status(broken, 7) == ("cannot be read", "It is broken.", "bad")


def test_a_known_source_without_a_set_is_listed_until_it_has_one(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    known = KnownSource(SourceRef.of_path(tmp_path / "disk.img"), folder)
    assert [each.points for each in read(Shelf(folder), [known])] == [()]
    Repository.create(folder)
    assert [each.points for each in read(Shelf(folder), [known])] == [()]


def test_a_folder_that_is_no_repository_is_a_problem_of_its_sources(tmp_path: Path) -> None:
    known = KnownSource(SDA, tmp_path, "sda")
    (only,) = read(Shelf(tmp_path), [known])
    assert only.problem is not None
    assert only.source == known.source


def test_the_details_say_what_a_point_reads_through(qtbot: QtBot) -> None:
    details = PointDetails()
    qtbot.addWidget(details)
    points = [*chain(4), point(5, 1, kind="differential")]
    details.show_point(entry(points), points[3])
    assert details.fact("chain") == "4 layers, reads through #3, #2, #1"
    assert details.fact("stored") == "1 MiB of 1 GiB"
    assert details.fact("verified") == "never"
    details.show_point(entry(points), points[0])
    assert details.fact("chain") == "stands alone"


@pytest.mark.parametrize(
    ("consistency", "words"),
    [
        (
            Consistency(How.FROZEN, "2026-03-01T15:04:07+00:00", 41, 3, ("ESP",)),
            "Consistent, all file systems frozen together for 41 ms at ",
        ),
        (Consistency(How.UNMOUNTED), "not in use while it was read"),
        (Consistency(How.AS_IS), "in use while it was read"),
    ],
)
def test_the_details_say_what_makes_a_point_one_moment(
    qtbot: QtBot, consistency: Consistency, words: str
) -> None:
    details = PointDetails()
    qtbot.addWidget(details)
    (captured,) = [replace(each, reading=Reading(consistency)) for each in chain(1)]
    details.show_point(entry([captured]), captured)
    assert details.fact("moment").startswith(words)
    assert all(each in details.fact("moment") for each in consistency.left_out)


def test_the_details_say_of_a_point_without_its_parent_that_its_chain_is_broken(
    qtbot: QtBot,
) -> None:
    details = PointDetails()
    qtbot.addWidget(details)
    first, _gone, third, fourth = chain(4)
    details.show_point(entry([first, third, fourth]), fourth)
    assert details.fact("chain") == "broken: what #3 reads through is missing"
    details.show_point(entry([first, third, fourth]), third)
    assert details.fact("chain") == "broken: what #3 reads through is missing"
    details.show_point(entry([first, third, fourth]), first)
    assert details.fact("chain") == "stands alone"


def test_the_form_warns_while_a_folder_is_chosen(user: User, disk: Path, tmp_path: Path) -> None:
    form = user.window.first_run.form
    form.source_edit.setText(str(disk))
    form.repository_edit.setText(str(tmp_path / "backups"))
    assert "source's own disk" in user.sees(Notice, "placementNotice").text
    form.repository_edit.clear()
    user.waits_until(lambda: not form.notice.isVisible())


def test_backups_from_before_are_shown_when_their_folder_is_opened(
    user: User, disk: Path, repository: Path
) -> None:
    with open_path(disk) as source:
        plan = capture.plan(Repository.create(repository), source)
        capture.run(plan, Task())
    user.window.dialogs.show_backups(repository)
    user.sees_points(1)


def test_a_repository_can_be_removed_from_the_window(with_source: User, repository: Path) -> None:
    with_source.asks_for("leaveRepository")
    with_source.waits_until(with_source.window.first_run.isVisible)
    assert len(Repository.open(repository).set().points) == 1


def test_everything_that_can_be_pressed_has_a_name(with_source: User, repository: Path) -> None:
    with_source.asks_for("actionRestore")
    with_source.asks_for("actionSettings")
    with_source.asks_for("actionAddSource")
    with_source.asks_for("actionBackUp")
    with_source.sees(QWidget, "planDialog")
    for widget in with_source.window.findChildren(QWidget):
        pressable = isinstance(widget, QAbstractButton | QLineEdit)
        if not pressable or not widget.isVisible() or widget.objectName().startswith("qt_"):
            continue
        text = widget.text() if isinstance(widget, QAbstractButton) else ""
        assert widget.accessibleName() or text, (widget, widget.parent())
    for name in ("planDialog", "addSourceDialog", "settingsDialog", "restoreDialog"):
        with_source.sees(QWidget, name).reject()


def test_what_scripts_need_is_there_under_its_name(with_source: User) -> None:
    for name in ("sourcesList", "timeline", "pointsTable", "pointDetails", "jobsPanel"):
        widget = with_source.window.findChild(QWidget, name)
        assert widget is not None
        assert widget.accessibleName()
    for each in ACTIONS:
        assert with_source.window.actions_[each.name].objectName() == each.name
        assert with_source.window.actions_[each.name].shortcut().toString()


def test_the_tab_key_reaches_every_part(with_source: User, qtbot: QtBot) -> None:
    window = with_source.window
    window.activateWindow()
    reached = set()
    for _ in range(60):
        focused = window.focusWidget()
        while focused is not None:
            reached.add(focused.objectName())
            focused = focused.parentWidget()
        qtbot.keyClick(window.focusWidget() or window, Qt.Key.Key_Tab)
    assert {"toolbar", "sourcesList", "timeline", "pointDetails", "jobsPanel"} <= reached


def test_a_source_whose_first_backup_failed_can_be_tried_again(tmp_path: Path) -> None:
    """It was remembered, and its folder is there, but nothing ever came to lie in it."""
    (only,) = read(Shelf(tmp_path), [KnownSource(SDA, tmp_path)])
    assert only.problem is None
    assert only.points == ()


def test_two_sources_of_one_name_tell_where_their_backups_lie(user: User, tmp_path: Path) -> None:
    store = user.window.store
    for name in ("usb", "nas"):
        known = KnownSource(SourceRef.of_path(tmp_path / "raw.img"), tmp_path / name)
        store.update(lambda settings, known=known: settings.with_source(known))
    user.window.catalogue.refresh()
    user.waits_until(lambda: user.window.sources.count() == 2)
    shown = [user.window.sources.item(row).text() for row in range(2)]
    assert all(
        str(tmp_path / name) in text for name, text in zip(("usb", "nas"), shown, strict=True)
    )


# adding and removing sources


def test_nothing_is_chosen_before_the_user_chooses(
    with_source: User, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [Candidate(Path(f"/dev/sd{n}"), f"Disk {n}", 1 << 30, "disk", (), True) for n in "ab"]
    monkeypatch.setattr(add_source, "candidates", lambda: found)
    with_source.asks_for("actionAddSource")
    dialog = with_source.sees(AddSourceDialog, "addSourceDialog")
    form = dialog.form
    form.devices.setFocus()  # as where the list comes late, or Tab passes over it
    with_source.waits_until(lambda: form.devices.count() == 2)
    form.list_devices()
    with_source.waits_until(lambda: form.devices.count() == 2)
    form.source_edit.setFocus()
    form.devices.setFocus()
    assert form.source_edit.text() == ""
    assert not form.devices.selectedItems()
    qtbot.keyClick(form.devices, Qt.Key.Key_Down)
    assert form.source_edit.text().startswith("/dev/sd")
    qtbot.keyClick(form.source_edit, Qt.Key.Key_X)
    assert not form.devices.selectedItems()
    at = form.devices.visualItemRect(form.devices.item(1)).center()
    qtbot.mouseClick(form.devices.viewport(), Qt.MouseButton.LeftButton, pos=at)
    assert form.source_edit.text() == "/dev/sdb"
    dialog.reject()


def test_a_source_that_cannot_be_backed_up_is_said_in_the_form_and_not_remembered(
    user: User, tmp_path: Path, disk: Path, repository: Path
) -> None:
    form = user.window.first_run.form
    form.source_edit.setText(str(tmp_path / "mistyped.img"))
    form.repository_edit.setText(str(repository))
    user.clicks("startButton")
    user.waits_until(form.refusal.isVisible)
    assert "mistyped.img" in form.refusal.text
    assert user.window.store.value.sources == ()
    form.source_edit.setText(str(disk))
    assert not form.refusal.isVisible()
    user.clicks("startButton")
    user.agrees()
    user.sees_points(1)


def test_a_source_can_be_named_by_its_kind(user: User, disk: Path, repository: Path) -> None:
    form = user.window.first_run.form
    for text in ("~", "~nobody-of-that-name", f"file:{disk}"):  # as it is typed
        form.source_edit.setText(text)
    form.repository_edit.setText("~nobody-of-that-name")
    form.repository_edit.setText(str(repository))
    user.waits_until(lambda: "source's own disk" in form.notice.text)
    user.clicks("startButton")
    user.agrees()
    user.sees_points(1)
    assert user.window.entry is not None
    assert user.window.entry.title == "laptop"
    (known,) = Settings.load(user.window.store.locations.settings_file).to_json()["sources"]
    assert known == {"path": str(disk), "repository": str(repository), "set": "laptop"}


def test_a_source_that_was_given_by_a_link_is_listed_once_and_by_it(
    user: User, disk: Path, repository: Path
) -> None:
    link = disk.with_name("current.img")
    link.symlink_to(disk)
    form = user.window.first_run.form
    form.source_edit.setText(str(link))
    form.repository_edit.setText(str(repository))
    user.clicks("startButton")
    user.agrees()
    user.sees_points(1)
    user.waits_until(lambda: not user.window.busy)
    assert user.window.sources.count() == 1
    assert user.window.entry is not None
    assert user.window.entry.source == SourceRef.of_path(link)
    (known,) = user.window.store.value.sources
    assert (known.source, known.set_name) == (SourceRef.of_path(link), "current")


def test_a_set_whose_source_is_of_an_unknown_kind_is_listed_and_its_backup_refused(
    with_source: User, repository: Path
) -> None:
    """A newer version may have made it."""
    opened = Repository.open(repository)
    settings = opened.settings("laptop")
    newer = replace(settings.source, path="lvm:vg/lv")
    opened.save_settings("laptop", replace(settings, source=newer))
    with_source.asks_for("actionRefresh")
    with_source.waits_until(lambda: str(with_source.window.sources.entry.source) == "lvm:vg/lv")
    with_source.asks_for("actionBackUp")
    with_source.reads("no kind of source called lvm (known: file, files)")


def test_a_source_of_an_unknown_kind_is_said_in_the_form(user: User, repository: Path) -> None:
    form = user.window.first_run.form
    form.source_edit.setText("lvm:vg/lv")
    form.repository_edit.setText(str(repository))
    user.clicks("startButton")
    user.waits_until(form.refusal.isVisible)
    assert "no kind of source called lvm (known: file, files)" in form.refusal.text


def test_a_mistyped_source_is_removed_alone(with_source: User, repository: Path) -> None:
    store, sources = with_source.window.store, with_source.window.sources
    mistyped = KnownSource(SourceRef.parse("/dev/sdx"), repository)
    store.update(lambda settings: settings.with_source(mistyped))
    with_source.asks_for("actionRefresh")
    with_source.waits_until(lambda: sources.count() == 2)
    sources.choose((str(repository), "/dev/sdx"))
    with_source.asks_for("forgetSource")
    with_source.waits_until(lambda: sources.count() == 1)
    assert mistyped not in store.value.sources
    assert len(store.value.sources) == 1


def test_other_backups_can_always_be_opened(with_source: User, tmp_path: Path, disk: Path) -> None:
    other = tmp_path / "other"
    with open_path(disk) as source:
        capture.run(capture.plan(Repository.create(other), source), Task())
    assert with_source.sees(QPushButton, "openBackupsButton").isEnabled()
    with_source.window.dialogs.show_backups(other)
    with_source.waits_until(lambda: with_source.window.sources.count() == 2)


def test_a_folder_without_backups_is_not_opened(user: User, tmp_path: Path) -> None:
    user.window.dialogs.show_backups(tmp_path)
    assert user.reads("is not a repository").isVisible()
    assert user.window.store.value.repositories == ()


@pytest.mark.parametrize("width", [1600, 1280, 1024, 800])
def test_everything_in_the_toolbar_is_in_reach(user: User, width: int) -> None:
    user.window.resize(width, 700)
    user.waits_until(lambda: user.window.width() == width)
    bar = user.window.findChild(QToolBar, "toolbar")
    for name in [each.name for each in ACTIONS if each.place]:
        button = bar.widgetForAction(user.window.actions_[name])
        assert button.isVisible()
        assert bar.rect().contains(button.geometry()), name


def test_what_can_be_done_stays_in_sight_below_long_facts(with_source: User) -> None:
    window = with_source.window
    window.resize(800, 600)
    long = "Something wrote to it meanwhile: " + "/a-name-without-a-place-to-break" * 9
    source, (shown,) = window.entry, window.entry.points
    window.details.show_point(source, replace(shown, warnings=(long, long), merged=("a",) * 9))
    with_source.waits_until(lambda: window.width() == 800)
    for name in ("detailsBootInVm", "detailsBrowse", "detailsRestore", "detailsOpenWith"):
        button = with_source.sees(QPushButton, name)
        with_source.waits_until(lambda b=button: b.visibleRegion().boundingRect() == b.rect())
    facts = window.details.findChild(Facts)
    with_source.waits_until(lambda: facts.widget().width() == facts.viewport().width())


def test_ages_grow_while_the_window_is_looked_at(
    with_source: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = with_source.window
    monkeypatch.setattr(words, "age", lambda _moment: "older by now")
    window._clock.timeout.emit()
    role = Qt.ItemDataRole.AccessibleTextRole
    assert window.sources.item(0).data(role).endswith("older by now")
    assert "older by now" in [label.text() for label in window.details.findChildren(QLabel)]


def test_a_drive_that_comes_back_is_seen_without_being_asked_for(
    with_source: User, repository: Path
) -> None:
    window, away = with_source.window, repository.with_name("unplugged")
    repository.rename(away)
    window.catalogue.refresh()
    with_source.waits_until(lambda: window.entry and window.entry.problem)
    away.rename(repository)
    window._clock.timeout.emit()
    with_source.sees_points(1)
    assert window.entry.problem is None


def test_a_failed_boot_is_not_shown_as_damage() -> None:
    whole = point(1, verified=True)
    failed = BootTest(whole.created, ok=False)
    assert trouble(replace(whole, boot_tested=failed)) is Badge.NOT_BOOTED
    assert trouble(replace(point(1, verified=False), boot_tested=failed)) is Badge.DAMAGED
    assert trouble(whole) is None


def test_many_machines_scroll_and_do_not_push_anything_out(user: User, disk: Path) -> None:
    window = user.window
    user.window._pages.setCurrentIndex(1)
    window.resize(1280, 700)
    for number in range(9):
        boot = Boot(f"laptop #{number}", disk, "laptop", "id", disk, display=False)
        window.sessions.running.append(SessionThread(boot, window.sessions))
    window.sessions.changed.emit()
    cards = window.findChild(SessionsList)
    user.waits_until(lambda: cards.verticalScrollBar().maximum() > 0)
    assert window.height() == 700
    assert window.sources.height() >= 100
    window.sessions.running.clear()
    window.sessions.changed.emit()
    assert cards.isHidden()


def test_only_the_graph_offers_a_range_and_says_all_while_it_shows_all(qtbot: QtBot) -> None:
    panel = TimelinePanel(LIGHT)
    qtbot.addWidget(panel)
    panel.show_entry(entry(many(300)))
    all_of_it = next(b for b in panel.findChildren(QPushButton) if b.text() == "all")
    assert all_of_it.isEnabled()
    assert all_of_it.isChecked()
    panel.timeline.zoom(0.2, around=10.0)
    assert not all_of_it.isChecked()
    panel.show_table()
    assert not all_of_it.isEnabled()
    panel.show_table(wanted=False)
    all_of_it.click()
    assert all_of_it.isChecked()


def test_whatever_is_typed_on_the_way_to_a_path_is_one(
    qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    edit = parts.field("edit", "", "A path")
    qtbot.addWidget(edit)
    assert parts.path_in(edit) is None
    here = Path.cwd()
    for text, path in {
        " ": None, "~": Path("/home/me"), "~nobody-of-that-name": here / "~nobody-of-that-name",
        " ~/backups ": Path("/home/me/backups"), "backups": here / "backups", "/mnt": Path("/mnt"),
    }.items():  # fmt: skip
        edit.setText(text)
        assert parts.path_in(edit) == path
