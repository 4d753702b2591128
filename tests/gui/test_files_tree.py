"""A folder of 100,000 files is shown and sorted while the window goes on; files are looked at."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from PySide6.QtCore import QBuffer, QIODevice, Qt
from PySide6.QtGui import QImage
from pytestqt.qtbot import QtBot

from tests.gui.halts import Halts
from tests.gui.user import LONG, User
from vdbackup.gui import desktop, theme
from vdbackup.gui.browse_dialog import BrowseDialog
from vdbackup.gui.file_preview import MAX_TEXT, look
from vdbackup.gui.files_tree import ENTRY, MODIFIED, NAME, PAGE, SIZE, FilesTree, in_order
from vdbackup.gui.garbage import leave_alone_what_is_there
from vdbackup.gui.jobs.worker import Worker
from vdbackup.recovery.browse import Entry
from vdbackup.sources import demo_disk
from vdbackup.volumes.filesystems.node import Kind

MANY = 100_000
HALT = 0.2
"""Seconds of computing that the window's thread may be busy at once: twice what is wanted,
as others compute here, too."""


def entry(name: str, size: int = 0, *, kind: Kind = Kind.FILE, modified: str = "") -> Entry:
    return Entry(name, f"/{name}", kind, size, modified or None)


@pytest.fixture
def tree(qtbot: QtBot) -> Iterator[FilesTree]:
    worker = Worker("sorts")
    tree = FilesTree("tree", "Files", worker, theme.LIGHT)
    tree.resize(700, 500)
    tree.show()
    qtbot.addWidget(tree)
    yield tree
    worker.stop()
    assert worker.wait(LONG)


def names(tree: FilesTree) -> list[str]:
    return [tree.topLevelItem(row).text(0) for row in range(tree.topLevelItemCount())]


def test_100_000_files_are_shown_and_sorted_without_a_halt(tree: FilesTree, qtbot: QtBot) -> None:
    leave_alone_what_is_there()
    files = [(name, entry(name, (7 * number) % MANY)) for number, name in named(MANY)]
    halts = Halts()
    tree.fill(tree.invisibleRootItem(), files)
    assert tree.topLevelItemCount() > 0  # the first are there at once
    qtbot.waitUntil(lambda: not tree.filling, timeout=LONG)
    assert tree.topLevelItemCount() == PAGE
    tree.header().setSortIndicator(SIZE, Qt.SortOrder.DescendingOrder)
    qtbot.waitUntil(lambda: first_size(tree) == "98 KiB" and shows(tree, PAGE), timeout=20_000)
    assert tree.topLevelItem(0).data(NAME, ENTRY).size == MANY - 1  # of all, and not of the page
    bar = tree.verticalScrollBar()
    for count in (2 * PAGE, 3 * PAGE):
        bar.setValue(bar.maximum())
        qtbot.waitUntil(partial(shows, tree, count), timeout=20_000)
    assert tree.topLevelItem(3 * PAGE - 1).data(NAME, ENTRY).size == MANY - 3 * PAGE
    gc.unfreeze()
    assert halts.longest < HALT


def shows(tree: FilesTree, count: int) -> bool:
    """Whether there are so many, and the scroll bar knows."""
    bar = tree.verticalScrollBar()
    return tree.topLevelItemCount() == count and bar.maximum() + bar.pageStep() >= count


def first_size(tree: FilesTree) -> str:
    item = tree.topLevelItem(0)
    return item.text(SIZE) if item is not None else ""


def named(count: int) -> list[tuple[int, str]]:
    return [(number, f"file {number:06}") for number in range(count)]


def test_files_are_sorted_by_what_they_are_and_folders_stay_first() -> None:
    files = [
        ("b", entry("b", 2000, modified="2026-01-02T00:00:00+00:00")),
        ("C", entry("C", 10_000_000, modified="2026-01-03T00:00:00+00:00")),
        ("a", entry("a", 900_000, modified="2026-01-01T00:00:00+00:00")),
        ("z", entry("z", kind=Kind.FOLDER)),
        ("y", entry("y", kind=Kind.FOLDER)),
    ]
    up, down = Qt.SortOrder.AscendingOrder, Qt.SortOrder.DescendingOrder

    def order(column: int, direction: Qt.SortOrder) -> str:
        return "".join(name for name, _ in in_order(files, column, direction))

    assert order(NAME, up) == "yzabC"
    assert order(NAME, down) == "zyCba"
    assert order(SIZE, up) == "yzbaC"
    assert order(SIZE, down) == "yzCab"
    assert order(MODIFIED, down) == "yzCba"


def test_what_is_listed_anew_in_the_middle_of_filling_is_all_that_is_shown(
    tree: FilesTree, qtbot: QtBot
) -> None:
    root = tree.invisibleRootItem()
    tree.fill(root, [(name, entry(name)) for _, name in named(10_000)])
    tree.begin(root, "Searching …")
    tree.fill(root, [("only", entry("only"))])
    qtbot.waitUntil(lambda: not tree.filling)
    qtbot.wait(20)
    assert names(tree) == ["only"]


def picture(width: int, height: int) -> bytes:
    image = QImage(width, height, QImage.Format.Format_RGB32)
    image.fill(Qt.GlobalColor.red)
    buffer = QBuffer()
    buffer.open(QIODevice.OpenModeFlag.WriteOnly)
    assert image.save(buffer, "PNG")
    return bytes(buffer.data().data())


def test_a_picture_becomes_no_larger_than_a_screen(qapp: object) -> None:
    seen = look(picture(4000, 2000)).picture
    assert seen is not None
    assert (seen.width(), seen.height()) == (1600, 800)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"plain\ntext", "plain\ntext"),
        ("Büro".encode(), "Büro"),
        ("\ufeffwide".encode("utf-16-le"), "wide"),
        (b"\x1b[2J", "\\x1b[2J"),
        (b"x" * (MAX_TEXT + 5), "x" * MAX_TEXT + f"\n… ({MAX_TEXT + 5:,} bytes)"),
        (b"\0\1\2", None),
        (b"\xff\xff", None),
        (b"", None),
        (picture(3, 3)[:40], None),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ],
    ids=["text", "utf-8", "utf-16", "controls", "long", "zeros", "bytes", "empty", "cut", "svg"],
)
def test_a_text_is_shown_as_it_is_and_nothing_else_is_guessed(data: bytes, shown: str) -> None:
    seen = look(data)
    assert (seen.text, seen.picture) == (shown, None)
    assert bool(seen.sentence) is (shown is None)


def test_a_text_that_is_cut_within_a_letter_is_still_one() -> None:
    seen = look("ü".encode() * MAX_TEXT + b"!")
    assert seen.text is not None
    assert seen.text.startswith("üü")


def test_a_file_is_looked_at_and_a_copy_is_opened_that_goes_with_the_window(
    user: User, disk: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo_disk.change(disk, "Day 2", {"NOTE.TXT": b"What I wrote."})
    opened: list[Path] = []
    monkeypatch.setattr(desktop, "open_file", lambda path: opened.append(path) or True)
    user.window.first_run.form.source_edit.setText(str(disk))
    user.window.first_run.form.repository_edit.setText(str(repository))
    user.clicks("startButton")
    user.agrees()
    user.sees_points(1)
    user.asks_for("actionBrowse")
    dialog = user.sees(BrowseDialog, "browseDialog")
    user.waits_until(
        lambda: dialog.tree.topLevelItemCount() and names(dialog.tree) != ["Reading …"]
    )
    top = dialog.tree.topLevelItem(0)
    top.setExpanded(True)
    user.waits_until(lambda: "NOTE.TXT" in [top.child(n).text(0) for n in range(top.childCount())])
    (note,) = dialog.tree.findItems(
        "NOTE.TXT", Qt.MatchFlag.MatchExactly | Qt.MatchFlag.MatchRecursive
    )
    note.setSelected(True)
    user.waits_until(lambda: dialog.preview.text.toPlainText() == "What I wrote.")
    assert dialog.preview.currentWidget() is dialog.preview.text
    user.clicks("openCopyButton")
    user.waits_until(lambda: opened)
    assert opened[0].read_bytes() == b"What I wrote."
    assert opened[0].stat().st_mode & 0o777 == 0o400
    note.setSelected(False)
    top.setSelected(True)
    assert not dialog._open_button.isEnabled()
    dialog.close()
    assert not opened[0].exists()
