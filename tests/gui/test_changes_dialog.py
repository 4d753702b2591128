"""The window says why a point is large, and what differs between two points."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtWidgets import QTreeWidget, QTreeWidgetItem

from tests.gui.user import User
from vdbackup.gui.changes_dialog import DifferencesDialog, SizeDialog
from vdbackup.gui.parts import Notice
from vdbackup.sources import demo_disk


def rows(tree: QTreeWidget) -> list[list[str]]:
    """What is shown, column by column; what is in a folder after it."""

    def below(item: QTreeWidgetItem) -> list[list[str]]:
        found = []
        for number in range(item.childCount()):
            child = item.child(number)
            found.append([child.text(column) for column in range(tree.columnCount())])
            found += below(child)
        return found

    return below(tree.invisibleRootItem())


def test_why_a_point_is_large_is_said_by_file_the_largest_first(
    with_source: User, disk: Path
) -> None:
    changed = {"LARGE.BIN": bytes(range(256)) * 1200, "SMALL.TXT": b"small"}
    demo_disk.change(disk, "now", changed)
    with_source.backs_up(2)
    with_source.asks_for("actionExplainSize")
    dialog = with_source.sees(SizeDialog, "sizeDialog")
    with_source.waits_until(lambda: rows(dialog.list))
    names = [row[0] for row in rows(dialog.list)]
    assert names.index("LARGE.BIN") < names.index("SMALL.TXT")
    assert dict(rows(dialog.list))["LARGE.BIN"] == "300 KiB"
    assert any("keeps for itself" in name for name in names)
    assert "changed since #1; of that:" in dialog.said.text()
    assert not dialog.needless.isVisible(), "there is nothing that need not be kept"
    dialog.close()


def test_of_a_disk_it_is_said_what_need_not_be_kept_but_not_offered(
    with_source: User, disk: Path
) -> None:
    demo_disk.change(disk, "now", {"PAGEFILE.SYS": bytes(range(256)) * 8192})
    with_source.backs_up(2)
    with_source.asks_for("actionExplainSize")
    dialog = with_source.sees(SizeDialog, "sizeDialog")
    with_source.waits_until(lambda: rows(dialog.needless))
    ((path, changed, what),) = rows(dialog.needless)
    assert (path, changed) == ("/p1/PAGEFILE.SYS", "2 MiB")
    assert what.startswith("memory that was swapped out")
    assert not dialog.leave_out_button.isVisible()
    dialog.close()


def test_what_differs_is_said_of_the_point_before_and_of_any_other(
    with_source: User, disk: Path
) -> None:
    for number in (2, 3):
        demo_disk.change(disk, f"day {number}", {f"DAY{number}.TXT": b"today"})
        with_source.backs_up(number)
    with_source.asks_for("actionCompare")
    dialog = with_source.sees(DifferencesDialog, "differencesDialog")
    with_source.waits_until(lambda: rows(dialog.list))
    assert dialog.said.text().startswith("From #2 to #3: ")
    assert [row[2] for row in rows(dialog.list) if row[0].endswith("DAY3.TXT")] == ["new"]
    assert not any(row[0].endswith("DAY2.TXT") for row in rows(dialog.list))
    dialog.other.setCurrentIndex(dialog.other.count() - 1)
    with_source.waits_until(lambda: dialog.said.text().startswith("From #1 to #3: "))
    assert any(row[0].endswith("DAY2.TXT") for row in rows(dialog.list))
    dialog.close()


def test_a_point_that_cannot_be_read_is_said(with_source: User, repository: Path) -> None:
    (layer,) = (path for path in repository.glob("*/*full*") if path.suffix != ".json"
                and "overlay" not in path.name and path.suffix != ".digests")  # fmt: skip
    layer.rename(layer.with_suffix(".away"))
    with_source.asks_for("actionExplainSize")
    dialog = with_source.sees(SizeDialog, "sizeDialog")
    notice = with_source.sees(Notice, "changesNotice")
    with_source.waits_until(lambda: notice.text)
    assert rows(dialog.list) == []
    dialog.close()
