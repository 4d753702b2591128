"""Names that are not ours: shown in the window as they are, and never obeyed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, takewhile
from pathlib import Path

import pytest
from PySide6.QtCore import QModelIndex, Qt
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QApplication,
    QDialog,
    QFileDialog,
    QLabel,
    QMenu,
    QTreeWidget,
    QWidget,
)

from tests.gui.user import User
from vdbackup.errors import RepositoryError
from vdbackup.gui import parts
from vdbackup.gui.browse_dialog import BrowseDialog
from vdbackup.gui.jobs.outcome import Told
from vdbackup.gui.menus import MENUS
from vdbackup.gui.plan_dialog import PlanDialog
from vdbackup.jobs import Plan, Progress
from vdbackup.repository.model import BootTest, Promotion
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr

NAME = "<b>bold & <img src=x> [*]\x1b[31m\u202egpj\nline"
SEEN = r"<b>bold & <img src=x> [*]\x1b[31m\u202egpj\nline"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An ext4 file system with a file of that name, in a file of that name."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / NAME).write_bytes(b"what was in it")
    image = tmp_path / f"{NAME}.img"
    with image.open("wb") as file:
        file.truncate(4 << 20)
    command = ["mkfs.ext4", "-q", "-F", "-d", str(tmp_path / "tree"), str(image)]
    subprocess.run(command, check=True, capture_output=True)
    return image


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder for backups with that name in its own."""
    return tmp_path / f"to {NAME}"


def texts(widget: QWidget) -> Iterator[str]:
    """All that a widget shows or tells a screen reader, but for its tool tip."""
    yield widget.accessibleName()
    yield widget.windowTitle().replace("[*][*]", "[*]")
    if isinstance(widget, QLabel):
        assert "<" not in widget.text() or widget.textFormat() is Qt.TextFormat.PlainText
        yield widget.text()
    if isinstance(widget, QAbstractButton):
        assert "&" not in widget.text()
        yield widget.text()
    if isinstance(widget, QMenu):
        for action in widget.actions():
            ours = action.text() in map(tr, MENUS)  # the ampersands of those are ours
            text = action.text()[ours:]
            assert "&" not in text.replace("&&", "")
            yield text.replace("&&", "&")
    if isinstance(widget, QAbstractItemView) and widget.model():
        yield from items(widget, QModelIndex())


def items(view: QAbstractItemView, parent: QModelIndex) -> Iterator[str]:
    model = view.model()
    for row in range(model.rowCount(parent)):
        of_row = (model.index(row, column, parent) for column in count())
        for index in takewhile(QModelIndex.isValid, of_row):
            assert harmless(str(index.data(Qt.ItemDataRole.ToolTipRole) or ""))
            yield str(index.data() or "")
        yield from items(view, model.index(row, 0, parent))


def harmless(tip: str) -> bool:
    """Whether a tool tip shows markup and does not obey it."""
    return "<" not in tip or tip.startswith('<p style="white-space: pre-wrap">')


def look(*, at: type[QWidget] | None = None) -> str:
    """All that the open windows say; nothing in it can mislead."""
    windows = [each for each in QApplication.topLevelWidgets() if each.isVisible()]
    ours = [each for each in windows if not isinstance(each, QFileDialog)]
    assert ours
    said = []
    for widget in (child for each in ours for child in (each, *each.findChildren(QWidget))):
        assert harmless(widget.toolTip())
        for text in texts(widget):
            unbroken = text.replace("\u200b", "")
            assert unbroken.replace("\n", "").isprintable(), (widget, text)
            said.append(unbroken)
    assert at is None or any(isinstance(each, at) for each in ours)
    return "\n".join(said)


def test_a_source_is_shown_by_its_name_everywhere(
    with_source: User, disk: Path, repository: Path
) -> None:
    window = with_source.window
    said = look()
    tip = window.sources.item(0).toolTip()
    assert "&lt;b&gt;bold &amp; &lt;img src=x&gt;" in tip
    assert "line" in said
    window.menus.show_source(window.pos())
    assert SEEN in look(at=QMenu)
    window.menus.source.close()


def test_what_a_plan_names_is_shown_and_not_obeyed(with_source: User) -> None:
    plan = Plan(f"{NAME} goes.", 1, (NAME,), (NAME,), tuple([NAME] * 9), NAME)
    dialog = PlanDialog(f"Delete {NAME}?", "Delete", plan, with_source.window)
    dialog.open()
    assert f"{SEEN} goes." in look(at=PlanDialog)
    dialog.close()


def test_what_a_manifest_says_is_shown_and_not_obeyed(with_source: User, repository: Path) -> None:
    opened = Repository.open(repository)
    (backup_set,) = opened.sets()
    (point,) = backup_set.points
    with opened.lock("a test"):
        test = BootTest(point.created, ok=False, seconds=1.0, sentence=NAME)
        promotion = Promotion("20260301-120000-abcdef", NAME, point.created)
        opened.save_point(
            backup_set.name,
            replace(point, warnings=(NAME,), boot_tested=test, promoted_from=promotion),
        )
    with_source.window.catalogue.refresh()
    with_source.waits_until(lambda: with_source.window.details.fact("promoted"))
    assert SEEN in with_source.window.details.boot_test.sentence
    assert look().count(SEEN) >= 3


def test_what_jobs_and_errors_name_is_shown_and_not_obeyed(with_source: User) -> None:
    jobs = with_source.window.jobs
    jobs.refuse(f"Back up {NAME}", RepositoryError(f"{NAME} is full.", f"Clear {NAME}."))
    jobs.tell(NAME, Told(f"{NAME} is done.", (NAME,), (NAME,)))
    row = jobs.rows[1]
    row._cancel.show()  # as if it ran
    row.follow(Progress(NAME, 1, 2))
    assert f"{SEEN} 50%" in look()


def test_files_in_a_point_are_shown_by_their_names(with_source: User) -> None:
    with_source.asks_for("actionBrowse")
    dialog = with_source.sees(QDialog, "browseDialog")
    assert isinstance(dialog, BrowseDialog)
    tree = with_source.sees(QTreeWidget, "filesTree")
    top = tree.invisibleRootItem()
    with_source.waits_until(lambda: top.childCount() and top.child(0).text(1) is not None)
    with_source.waits_until(lambda: "Reading" not in top.child(0).text(0))
    if "ext4" in top.child(0).text(0):
        top.child(0).setExpanded(True)
    with_source.waits_until(lambda: SEEN in look(at=BrowseDialog))
    dialog.close()


def test_settings_and_the_question_where_to_restore_name_the_source(with_source: User) -> None:
    with_source.asks_for("actionSettings")
    with_source.sees(QDialog, "settingsDialog")
    look()
    with_source.sees(QDialog, "settingsDialog").close()
    with_source.asks_for("actionRestore")
    dialog = with_source.sees(QDialog, "restoreDialog")
    look()
    dialog.close()


def test_a_tool_tip_shows_markup_as_it_is() -> None:
    assert parts.hint("a & b") == "a & b"
    assert parts.hint("<b>&\u202e") == (
        '<p style="white-space: pre-wrap">&lt;b&gt;&amp;\\u202e</p>'
    )
