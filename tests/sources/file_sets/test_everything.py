"""What is kept of chosen files is all that the kernel says of them, and the kernel reads it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.sources.file_sets.kept import Kept
from tests.sources.file_sets.trees import odd, same, settled

pytestmark = pytest.mark.usefixtures("as_root")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "chosen"
    folder.mkdir()
    return folder


@pytest.fixture
def kept(tmp_path: Path, folder: Path) -> Kept:
    return Kept(tmp_path / "files.img", folder)


def is_kept(kept: Kept, folder: Path) -> None:
    with kept.mounted() as there:
        same(there, folder)


def test_every_kind_of_file_is_kept_with_all_that_belongs_to_it(kept: Kept, folder: Path):
    odd(folder)
    kept.keep()
    assert kept.trouble == ()
    is_kept(kept, folder)


def test_holes_stay_holes(kept: Kept, folder: Path):
    odd(folder)
    kept.keep()
    with kept.mounted() as there:
        for name in ("sparse", "nothing but a hole"):
            now, then = (there / name).stat(), (folder / name).stat()
            assert now.st_size == then.st_size
            assert now.st_blocks <= then.st_blocks + 8
    assert kept.written < 8 << 20


def test_what_lies_above_what_was_chosen_is_there_with_its_owner_and_nothing_else(
    kept: Kept, folder: Path
):
    (folder.parent / "beside").touch()
    os.chown(folder.parent, 1234, 5678)
    kept.keep()
    with kept.mounted() as there:
        assert there.parent.stat().st_uid == 1234
        assert os.listdir(there.parent) == [folder.name]


def test_a_folder_under_another_name_is_moved_and_its_files_are_not_copied(
    kept: Kept, folder: Path
):
    (folder / "before" / "inner").mkdir(parents=True)
    for number in range(30):
        (folder / f"before/inner/{number}").write_bytes(os.urandom(200_000))
    settled(folder)
    kept.keep()
    (folder / "else").mkdir()
    os.rename(folder / "before", folder / "else" / "after")
    kept.keep()
    assert kept.written < 1 << 20
    is_kept(kept, folder)


def test_two_folders_that_change_places_are_both_kept(kept: Kept, folder: Path):
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "of a").touch()
    (folder / "a" / "b" / "of b").touch()
    kept.keep()
    os.rename(folder / "a" / "b", folder / "b")
    os.rename(folder / "a", folder / "b" / "a")
    kept.keep()
    is_kept(kept, folder)


def test_names_of_one_file_that_part_and_meet_are_as_they_are(kept: Kept, folder: Path):
    for name in "abc":
        (folder / name).write_bytes(name.encode())
    os.link(folder / "a", folder / "d")
    kept.keep()
    (folder / "d").unlink()
    (folder / "d").write_bytes(b"by itself")
    (folder / "b").unlink()
    os.link(folder / "c", folder / "b")
    kept.keep()
    is_kept(kept, folder)
    for name in "bc":
        (folder / name).unlink()
    kept.keep()
    is_kept(kept, folder)


def test_a_name_that_means_another_kind_of_file_than_before_is_as_it_is(kept: Kept, folder: Path):
    (folder / "a").mkdir()
    (folder / "a" / "inner").write_bytes(b"i" * 10_000)
    (folder / "b").write_bytes(b"b" * 10_000)
    (folder / "link").symlink_to("one place")
    kept.keep()
    shutil.rmtree(folder / "a")
    (folder / "a").write_bytes(b"a file")
    (folder / "b").unlink()
    (folder / "b").mkdir()
    (folder / "link").unlink()
    (folder / "link").symlink_to("another place" * 10)
    kept.keep()
    is_kept(kept, folder)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 100_000, 300_000, 3_000_001])
def test_a_file_that_grows_and_is_cut_is_as_it_is(kept: Kept, folder: Path, size: int):
    path = folder / "file"
    path.write_bytes(os.urandom(1_000_000))
    kept.keep()
    os.truncate(path, size)
    kept.keep()
    is_kept(kept, folder)


def test_of_a_large_file_only_what_has_changed_is_written(kept: Kept, folder: Path):
    path = folder / "machine.img"
    path.write_bytes(os.urandom(20 << 20))
    kept.keep()
    with path.open("r+b") as file:
        file.seek(10 << 20)
        file.write(b"a little")
    kept.keep()
    assert kept.written < 512 << 10
    is_kept(kept, folder)


def test_extended_attributes_that_have_gone_are_gone(kept: Kept, folder: Path):
    path = folder / "file"
    path.write_bytes(b"")
    for number in range(4):
        os.setxattr(path, f"user.{number}", b"v" * 600)
    kept.keep()
    for number in (0, 1, 3):
        os.removexattr(path, f"user.{number}")
    kept.keep()
    is_kept(kept, folder)


def test_an_attribute_that_there_is_no_room_for_is_named(
    kept: Kept, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    (folder / "file").touch()
    (folder / "other").touch()
    monkeypatch.setattr(
        "vdbackup.sources.file_sets.sync.attributes_of",
        lambda fd: (
            {"user.large": b"x" * 20_000}
            if os.readlink(f"/proc/self/fd/{fd}").endswith("file")
            else {}
        ),
    )
    kept.keep()
    assert len(kept.trouble) == 1
    assert kept.trouble[0].endswith(f"no room: {folder}/file.")
