"""Repositories are found on attached disks; nothing is written there, no other stays mounted."""

from __future__ import annotations

import hashlib
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.sources.loops import loop, unmount
from tests.sources.ordinary_user import as_an_ordinary_user
from vdbackup.errors import NeedsRoot
from vdbackup.jobs import Task
from vdbackup.rescue import finding

needs_root = pytest.mark.usefixtures("as_root")


@pytest.fixture
def backups(tmp_path: Path) -> Path:
    """A folder that holds a repository, two folders below."""
    (tmp_path / "lab").mkdir()
    lab = Lab(tmp_path / "lab")
    lab.backup()
    deep = tmp_path / "content" / "safe" / "of me"
    deep.mkdir(parents=True)
    lab.repository.path.rename(deep / "backups")
    return tmp_path / "content"


def test_a_repository_is_found_in_folders_that_no_link_leads_to(backups: Path):
    (backups / "loop").symlink_to(backups)
    (backups / "fake").mkdir()
    (backups / "fake" / "vdbackup.json").mkdir()
    repository = backups / "safe" / "of me" / "backups"
    assert finding.repositories_below(backups) == [repository]
    assert finding.repositories_below(repository) == [repository]


def test_what_lies_too_deep_is_not_looked_for(backups: Path):
    deeper = backups.parent / "deeper" / "still"
    deeper.mkdir(parents=True)
    backups.rename(deeper / "content")
    assert finding.repositories_below(deeper.parent) == []


def test_an_ordinary_user_is_told_that_root_has_to():
    with as_an_ordinary_user(), pytest.raises(NeedsRoot):
        finding.find(Task())


@needs_root
@pytest.mark.parametrize(
    "kind", ["ext4", *(pytest.param(each, marks=pytest.mark.long) for each in ("xfs", "btrfs"))]
)
def test_a_disk_with_backups_stays_mounted_and_is_not_written_to(
    backups: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
):
    """Its log is not replayed either: it may be the disk that is to be saved."""
    monkeypatch.setattr(finding, "PLACE", tmp_path / "place")
    images = {"with": tmp_path / "with.img", "without": tmp_path / "without.img"}
    with ExitStack() as stack:
        devices = {}
        for name, image in images.items():
            image.touch()
            make(kind, image, backups if name == "with" else None, tmp_path)
            devices[name] = stack.enter_context(loop(image))
        before = {name: digest(image) for name, image in images.items()}
        only = [{"path": str(each), "fstype": kind, "mountpoints": []} for each in devices.values()]
        monkeypatch.setattr(finding, "_devices", lambda: only)
        monkeypatch.setattr(finding, "_shares", lambda: iter(()))
        found = finding.find(Task())
        places = list((tmp_path / "place").iterdir())
        for place in places:
            stack.callback(unmount, place)
        assert [(each.where, each.folder.name) for each in found] == [
            (str(devices["with"]), "backups")
        ]
        assert [place.name for place in places] == [Path(devices["with"]).name]
        assert (found[0].folder / "vdbackup.json").is_file()
        with pytest.raises(OSError, match="Read-only"):
            (found[0].folder / "new").touch()
    assert {name: digest(image) for name, image in images.items()} == before


def make(kind: str, image: Path, content: Path | None, tmp_path: Path) -> None:
    """A file system on an image; one with content was last cut off while it was written to."""
    os.truncate(image, (64 if kind == "ext4" else 320) << 20)
    subprocess.run([f"mkfs.{kind}", image], check=True, capture_output=True)
    if content is None:
        return
    place, used = tmp_path / "made", tmp_path / "used.img"
    place.mkdir()
    image.rename(used)
    with loop(used) as device:
        subprocess.run(["mount", device, place], check=True)
        try:
            subprocess.run(["cp", "-r", *content.iterdir(), place], check=True)
            subprocess.run(["mount", "-o", "remount,ro", place], check=True)
            subprocess.run(["mount", "-o", "remount,rw", place], check=True)
            (place / "later").write_text("in the log alone, perhaps")
            subprocess.run(["sync", place / "later"], check=True)  # fsync(2)
            subprocess.run(["cp", "--sparse=always", used, image], check=True)
        finally:
            unmount(place)


def digest(image: Path) -> str:
    with image.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
