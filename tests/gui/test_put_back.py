"""Files are put back from the files' window to where they came from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import Qt

from tests.agent.mounts import image
from tests.gui.user import User
from tests.sources.loops import loop, mounted
from vdbackup.gui.browse_dialog import BrowseDialog


@pytest.fixture
def folder(as_root: None, tmp_path: Path) -> Path:
    """Where the file system is mounted."""
    return tmp_path / "mount"


@pytest.fixture
def disk(folder: Path, tmp_path: Path) -> Iterator[Path]:
    """A file system that is in use."""
    made = image(tmp_path / "disk.img", 32, "ext4")
    with loop(made) as device, mounted(device, folder):
        (folder / "letter").write_text("as it was")
        (folder / "gone").write_text("gone")
        yield device


def test_files_are_put_back_once_it_was_shown_what_is_replaced(
    with_source: User, folder: Path
) -> None:
    (folder / "letter").write_text("as it is now")
    (folder / "gone").unlink()
    with_source.asks_for("actionBrowse")
    dialog = with_source.sees(BrowseDialog, "browseDialog")
    with_source.waits_until(lambda: dialog.tree.topLevelItemCount() == 3)
    for name in ("letter", "gone"):
        (item,) = dialog.tree.findItems(name, Qt.MatchFlag.MatchExactly)
        item.setSelected(True)
    stays, replaces = dialog.put_back_button.menu().actions()
    stays.trigger()
    with_source.agrees()
    row = with_source.sees_job_end("Put back")
    assert row.sentence.startswith("1 file put back.")
    assert (folder / "gone").read_text() == "gone"
    assert (folder / "letter").read_text() == "as it is now"
    replaces.trigger()
    with_source.agrees()
    with_source.waits_until(lambda: (folder / "letter").read_text() == "as it was")
