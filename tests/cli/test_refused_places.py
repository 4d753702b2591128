"""Places that an ordinary user may not use, and devices where a small file of ours belongs."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup
from tests.cli.test_damage_table import FILES, check_each_command
from tests.cli.test_damaged_records import two_sets
from tests.sources.loops import loop
from tests.sources.ordinary_user import NOBODY, as_an_ordinary_user, open_folder

__all__ = ["two_sets"]


@pytest.fixture
def ordinary(as_root: None, vdbackup: Vdbackup, two_sets: Path) -> Iterator[Path]:
    """Two sets that belong to an ordinary user, in a folder of that user's."""
    with open_folder() as folder:
        # what is imported late may lie where only root may read
        first = ("latest", folder / "first.raw", "-r", two_sets / "backups", "--set", "other")
        assert vdbackup("restore", *first).status == 0
        mine = Path(shutil.copytree(two_sets, folder / "mine"))
        for path in (mine, *mine.rglob("*")):
            os.lchown(path, NOBODY, NOBODY)
        yield mine


def restored(vdbackup: Vdbackup, mine: Path, target: Path) -> str:
    """What a restore says that is refused."""
    with as_an_ordinary_user():
        said = vdbackup("restore", "latest", target, "-r", mine / "backups", "--set", "other")
    assert said.status == 1, said
    assert "Traceback" not in said.err
    assert "unexpected" not in said.err
    return said.err


def everything(folder: Path) -> dict[Path, tuple[int, int, bytes]]:
    return {
        path: (
            path.lstat().st_mode,
            path.lstat().st_ino,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in folder.rglob("*")
        if ".lock" not in path.name and "reading-" not in path.name
    }


def test_a_file_of_ones_own_that_nobody_may_read_is_replaced_only_where_that_is_said(
    vdbackup: Vdbackup, ordinary: Path
):
    target = ordinary / "there.raw"
    target.write_bytes(b"mine")
    os.chown(target, NOBODY, NOBODY)
    target.chmod(0)
    before = everything(ordinary)
    assert str(target) in restored(vdbackup, ordinary, target)
    assert everything(ordinary) == before
    with as_an_ordinary_user():
        source = ("-r", ordinary / "backups", "--set", "other")
        assert vdbackup("restore", "latest", target, *source, "--overwrite").status == 0
    assert target.read_bytes() == (ordinary / "other.img").read_bytes()


@pytest.mark.parametrize("mode", [0, 0o500, 0o600])
def test_into_a_folder_that_nobody_may_write_to_nothing_is_restored(
    vdbackup: Vdbackup, ordinary: Path, mode: int
):
    closed = ordinary / "closed"
    closed.mkdir()
    os.chown(closed, NOBODY, NOBODY)
    closed.chmod(mode)
    before = everything(ordinary)
    assert str(closed) in restored(vdbackup, ordinary, closed / "new.raw")
    assert everything(ordinary) == before


@pytest.mark.parametrize(
    "name",
    ["vdbackup.json", "other/set.json", "other/0001-full.json", "other/0001-full.vmdk", "other"],
)
def test_a_file_of_the_repository_that_may_not_be_read_is_named(
    vdbackup: Vdbackup, ordinary: Path, name: str
):
    refused = ordinary / "backups" / name
    refused.chmod(0)
    before = everything(ordinary)
    assert refused.name in restored(vdbackup, ordinary, ordinary / "new.raw")
    assert everything(ordinary) == before


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("name", FILES)
def test_a_device_is_none_of_our_files(
    vdbackup: Vdbackup, two_sets: Path, tmp_path: Path, name: str
):
    """Nobody reads it, and above all nobody writes to it."""
    work = Path(shutil.copytree(two_sets, tmp_path / "work"))
    image = tmp_path / "disk.img"
    image.write_bytes(b"{}" + bytes((1 << 20) - 2))
    before = image.read_bytes()
    with loop(image) as device:
        path = work / "backups" / name
        path.unlink(missing_ok=True)
        os.mknod(path, stat.S_IFBLK | 0o600, device.stat().st_rdev)
        check_each_command(vdbackup, work, "a device", alone=name.startswith("damaged/"))
        assert device.read_bytes() == before
    assert image.read_bytes() == before
