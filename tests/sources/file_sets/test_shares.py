"""Of a network share nothing is taken for unchanged that may have changed; nothing gets lost."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.sources.file_sets.kept import Kept
from tests.sources.file_sets.share import shared
from tests.sources.loops import run, unmount
from vdbackup.sources.file_sets import storages, sync
from vdbackup.sources.file_sets.content import Content
from vdbackup.sources.file_sets.storages import Storage, Storages

pytestmark = pytest.mark.usefixtures("as_root")

LONG_AGO = 1_500_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "on the server"
    folder.mkdir()
    for number in range(20):
        write(folder / f"{number:02}", b"%02d" % number * 1000)
    return folder


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    (tmp_path / "share").mkdir()
    return Kept(tmp_path / "files.img", tmp_path / "share")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []

    def content(folder: object, name: bytes, moved: object) -> Content:
        names.append(os.fsdecode(name))
        return Content(folder, name, moved)  # type: ignore[arg-type]

    monkeypatch.setattr(sync, "Content", content)
    return names


def write(path: Path, data: bytes, moment: int = LONG_AGO) -> None:
    path.write_bytes(data)
    os.utime(path, (moment, moment))


def keep(kept: Kept, folder: Path, *, changes: bool = False) -> None:
    """A backup of the share as it is mounted anew; the point holds what the server has."""
    with shared(folder, Path(kept.choice.paths[0]), changes=changes):
        kept.keep()
    assert kept.trouble == ()
    with kept.mounted() as there:
        assert sorted(os.listdir(there)) == sorted(os.listdir(folder))
        for name in os.listdir(folder):
            assert (there / name).read_bytes() == (folder / name).read_bytes(), name


def test_what_is_old_is_not_read_again_though_its_number_is_another(
    kept: Kept, folder: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Storages, "is_settled", lambda *_: True)  # an hour later
    keep(kept, folder, changes=True)
    read.clear()
    for name in ("03", "07"):
        write(folder / name, b"changed", LONG_AGO + 1)
    (folder / "00").unlink()  # all others are given other numbers
    keep(kept, folder, changes=True)
    assert sorted(read) == ["03", "07"]


def test_what_has_no_time_of_change_of_its_own_is_read_each_time_and_written_once(
    kept: Kept, folder: Path, read: list[str]
):
    """Two of one size and time are exchanged: nothing that is said of them is another."""
    keep(kept, folder)
    read.clear()
    os.rename(folder / "03", folder / "between")
    os.rename(folder / "07", folder / "03")
    os.rename(folder / "between", folder / "07")
    keep(kept, folder)
    assert len(read) == 20
    keep(kept, folder)
    assert kept.written < 256 << 10


def test_another_file_with_the_number_size_and_time_of_one_that_has_gone_is_read(
    kept: Kept, folder: Path
):
    for each in folder.iterdir():
        each.unlink()
    write(folder / "old", b"one record")
    keep(kept, folder)
    (folder / "old").unlink()
    write(folder / "new", b"two record")
    keep(kept, folder)


def test_what_changed_within_the_last_hour_is_read_again_as_the_server_s_clock_may_be_behind(
    kept: Kept, folder: Path
):
    moment = int(time.time()) - 600
    write(folder / "07", b"first", moment)
    keep(kept, folder)
    write(folder / "07", b"later", moment)  # in the same second of the server's
    keep(kept, folder)


def test_names_of_one_file_stay_so_and_no_others_become_it(kept: Kept, folder: Path):
    os.link(folder / "01", folder / "another name")
    write(folder / "other", b"of another one")
    os.link(folder / "other", folder / "other, too")
    keep(kept, folder)
    with kept.mounted() as there:
        assert (there / "01").samefile(there / "another name")
        assert (there / "other").samefile(there / "other, too")
        assert not (there / "01").samefile(there / "other")


@pytest.mark.parametrize("changes", [False, True])
def test_random_changes_of_a_share_that_is_mounted_again_and_again_are_all_kept(
    kept: Kept, folder: Path, changes: bool
):
    """Files are made, changed, renamed, exchanged and deleted; times and sizes are few."""
    dice = random.Random(5)
    for _ in range(6):
        for _ in range(8):
            names = sorted(os.listdir(folder))
            name, other = dice.choice(names), dice.choice(names)
            done = dice.randrange(4)
            if done == 0:
                (folder / name).unlink()
                data = b"%06d" % dice.randrange(1_000_000)
                write(folder / f"new {dice.randrange(100):02}", data)
            elif done == 1:
                moment = int((folder / name).stat().st_mtime) + dice.randrange(1, 3)
                write(folder / name, b"%06d" % dice.randrange(1_000_000), moment)
            elif done == 2:
                os.rename(folder / name, folder / f"renamed {dice.randrange(100):02}")
            elif name != other:
                os.rename(folder / name, folder / "between")
                os.rename(folder / other, folder / name)
                os.rename(folder / "between", folder / other)
        keep(kept, folder, changes=changes)


def test_bindfs_is_read_as_what_it_shows(
    kept: Kept, folder: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
):
    share = Path(kept.choice.paths[0])
    run("bindfs", "-r", "-o", "attr_timeout=0", folder, share)
    try:
        kept.keep()
        assert sorted(read) == sorted(os.listdir(folder))
        read.clear()
        monkeypatch.setattr(storages, "_SKEW", 0)  # an hour later
        kept.keep()
        kept.keep()
        assert len(read) == 20  # in the first of both: they were not believed yet
        write(folder / "05", b"changed")
        read.clear()
        kept.keep()
        assert read == ["05"]
    finally:
        unmount(share)


@pytest.mark.parametrize(
    ("kind", "storage"),
    [
        ("ext4", Storage()),
        ("btrfs", Storage()),
        ("nfs4", Storage(has_our_clock=False)),
        ("cifs", Storage(has_numbers=False, has_our_clock=False)),
        ("fuse.sshfs", Storage(has_numbers=False, has_our_clock=False)),
        ("fuseblk", Storage(has_numbers=False)),
        ("vfat", Storage(has_numbers=False)),
    ],
)
def test_what_is_believed_of_a_storage(
    monkeypatch: pytest.MonkeyPatch, kind: str, storage: Storage
):
    monkeypatch.setattr(storages, "_kinds", lambda: {(8, 1): kind})
    assert Storages().of(os.makedev(8, 1)) == storage
