"""Chosen files come back as they were, to where they came from or elsewhere, and nowhere else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.backup.lab import Lab
from tests.recovery.chosen import again, as_restored, back_up, not_ones_own, planned, restore
from tests.sources.file_sets.trees import odd
from vdbackup.errors import NotInPoint, UnfitTarget
from vdbackup.repository.repository import Repository


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "chosen"
    folder.mkdir()
    (folder / "letter").write_bytes(b"as it was")
    (folder / "inner").mkdir()
    (folder / "inner" / "large").write_bytes(os.urandom(700_000))
    return folder


def test_all_comes_back_elsewhere(folder: Path, tmp_path: Path):
    before = as_restored(folder)
    assert restore(back_up(folder), tmp_path / "back") == not_ones_own(folder)
    assert as_restored(Path(f"{tmp_path}/back{folder}")) == before


@pytest.mark.usefixtures("as_root")
def test_every_kind_of_file_comes_back_with_all_that_belongs_to_it(folder: Path, tmp_path: Path):
    shutil.rmtree(folder / "inner")
    odd(folder)
    before = as_restored(folder)
    assert restore(back_up(folder), tmp_path / "back") == ()
    back = Path(f"{tmp_path}/back{folder}")
    assert as_restored(back) == before
    assert (back / "nothing but a hole").stat().st_blocks == 0


def damage(repository: Repository, held: bytes) -> None:
    """Change a byte of what a point's layer holds."""
    layer = repository.set().folder / repository.set().points[-1].disk
    stored = bytearray(layer.read_bytes())
    stored[stored.index(held)] ^= 1
    layer.chmod(0o600)
    layer.write_bytes(stored)


def test_what_is_not_as_it_was_captured_replaces_nothing_and_is_named(folder: Path):
    large = (folder / "inner" / "large").read_bytes()
    repository = back_up(folder)
    damage(repository, large[300_000:300_100])
    (folder / "letter").write_bytes(b"newer")
    (said,) = restore(repository, overwrite=True)
    assert said.startswith("These are not in the point as they were captured, and are left out: ")
    assert said.endswith(f": {folder}/inner/large.")
    assert (folder / "inner" / "large").read_bytes() == large
    assert sorted(os.listdir(folder / "inner")) == ["large"]
    assert (folder / "letter").read_bytes() == b"as it was"
    every = restore(repository, folder.parent / "back", ignore_damage=True)
    (said,) = (each for each in every if each not in not_ones_own(folder))
    assert "is damaged: 64 KiB at byte" in said
    with Path(f"{folder.parent}/back{folder}/inner/large").open("rb") as file:
        assert sum(one != other for one, other in zip(file.read(), large, strict=True)) == 1


def test_a_backup_does_not_go_on_from_what_is_damaged(folder: Path, tmp_path: Path):
    for number in range(3000):
        (folder / "inner" / f"{number}-a-name-that-takes-its-room").touch()
    repository = back_up(folder)
    damage(repository, b"1500-a-name-that-takes-its-room")
    (folder / "inner" / "new").write_bytes(b"new")
    before = as_restored(folder)
    (warning,) = again(folder).warnings
    assert warning.startswith("What lies in the point before cannot be gone on from")
    assert restore(Repository.open(repository.path), tmp_path / "back") == not_ones_own(folder)
    assert as_restored(Path(f"{tmp_path}/back{folder}")) == before


def test_a_folder_that_is_not_as_it_was_captured_is_not_made(folder: Path, tmp_path: Path):
    for number in range(3000):  # its entries lie in blocks of their own
        (folder / "inner" / f"{number}-a-name-that-takes-its-room").touch()
    repository = back_up(folder)
    damage(repository, b"1500-a-name-that-takes-its-room")
    said = restore(repository, tmp_path / "back")
    assert said[-1].startswith("These are not in the point as they were captured")
    assert not os.path.lexists(f"{tmp_path}/back{folder}/inner")


def test_what_was_lost_comes_back_where_it_was_and_what_is_there_stays(folder: Path):
    before = as_restored(folder)
    repository = back_up(folder)
    above = folder.parent.stat().st_mtime_ns, folder.parent.stat().st_mode
    shutil.rmtree(folder / "inner")
    (folder / "letter").write_bytes(b"newer")
    (folder / "new").write_bytes(b"nobody knows it")
    assert restore(repository) == (
        f"Something is there already under these names, and stays: {folder}/letter.",
    )
    assert (folder / "letter").read_bytes() == b"newer"
    assert restore(repository, overwrite=True) == ()
    assert (folder / "new").read_bytes() == b"nobody knows it"
    (folder / "new").unlink()
    os.utime(folder, ns=(0, before[0][b""][3]))
    assert as_restored(folder) == before
    assert above == (folder.parent.stat().st_mtime_ns, folder.parent.stat().st_mode)


def test_a_link_in_the_place_of_a_folder_leads_nowhere(folder: Path, tmp_path: Path):
    repository = back_up(folder)
    shutil.rmtree(folder / "inner")
    (tmp_path / "elsewhere").mkdir()
    (folder / "inner").symlink_to(tmp_path / "elsewhere")
    said = restore(repository, overwrite=True)
    assert said == (f"Something is there already under these names, and stays: {folder}/inner.",)
    assert os.listdir(tmp_path / "elsewhere") == []


def test_names_of_one_file_are_of_one_file_again(folder: Path, tmp_path: Path):
    for name in ("second", "inner/third"):
        os.link(folder / "letter", folder / name)
    assert restore(back_up(folder), tmp_path / "back") == not_ones_own(folder)
    back = Path(f"{tmp_path}/back{folder}")
    assert (back / "letter").stat().st_nlink == 3
    assert (back / "letter").samefile(back / "inner" / "third")


def test_what_is_cut_off_leaves_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch):
    repository = back_up(folder)
    (folder / "letter").write_bytes(b"newer")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        restore(repository, overwrite=True)
    monkeypatch.undo()
    assert (folder / "letter").read_bytes() == b"newer"
    left = {each.name for each in folder.rglob("*")}
    assert left == {"letter", "inner", "large"}


def swapped(call: str, monkeypatch: pytest.MonkeyPatch, victim: Path) -> None:
    """Whoever may write there puts a link in the place of a pipe, as soon as `call` is done."""
    real = getattr(os, call)

    def then_swapped(what: Any, *arguments: Any, **named: Any) -> None:
        real(what, *arguments, **named)
        for pipe in victim.parent.rglob(".vdbackup-*"):
            if pipe.is_fifo():
                pipe.unlink()
                pipe.symlink_to(victim)

    monkeypatch.setattr(os, call, then_swapped)


@pytest.mark.parametrize("call", ["mknod", "chown", "chmod"])
def test_what_takes_the_place_of_a_pipe_keeps_its_owner_and_permissions(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
):
    os.mkfifo(folder / "pipe", 0o666)
    os.utime(folder / "pipe", ns=(1, 1))
    repository = back_up(folder)
    victim = tmp_path / "victim"
    victim.write_bytes(b"root's own")
    victim.chmod(0o600)
    before = victim.stat()
    swapped(call, monkeypatch, victim)
    if call == "mknod":  # before anything is known of it
        with pytest.raises(UnfitTarget, match="was changed while files were restored"):
            restore(repository, tmp_path / "back")
    else:
        restore(repository, tmp_path / "back")
    after = victim.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime_ns, after.st_atime_ns) == (
        before.st_mode,
        before.st_uid,
        before.st_mtime_ns,
        before.st_atime_ns,
    )


def test_of_a_disk_there_are_no_chosen_files(tmp_path: Path):
    lab = Lab(tmp_path, disk_format="vmdk")
    lab.backup("full")
    with pytest.raises(NotInPoint, match="is of a disk"):
        planned(lab.repository, tmp_path)
