"""What is extracted has all that is known of the files, as the kernel shows both."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.recovery import trees
from tests.recovery.trees import Entry
from tests.sources.loops import loop, mounted, run
from tests.sources.ordinary_user import NOBODY, as_an_ordinary_user, open_folder
from tests.volumes import volumes
from tests.volumes.volumes import MIB, browsing
from vdbackup.jobs import Task
from vdbackup.volumes.filesystems import ext  # before an ordinary user cannot read it

assert ext
KINDS = {
    "ext4": (64, ("mkfs.ext4", "-q")),
    "xfs": (304, ("mkfs.xfs", "-q")),
    "btrfs": (256, ("mkfs.btrfs", "-q")),
}


@pytest.fixture(params=KINDS)
def image(request: pytest.FixtureRequest, tmp_path: Path, as_root: None) -> Path:
    """A disk with a tree of everything in it."""
    image = tmp_path / "disk.img"
    size, maker = KINDS[str(request.param)]
    volumes.blank(image, size * MIB)
    run(*maker, image)
    with loop(image) as device, mounted(device, tmp_path / "kernel") as top:
        trees.hurt(top)
    return image


def shown(image: Path, tmp_path: Path) -> dict[bytes, Entry]:
    """What the kernel shows of an image."""
    with (
        loop(image, "--read-only") as device,
        mounted(device, tmp_path / "kernel", "-o", "ro") as top,
    ):
        return trees.entries(top)


def can_be_given(entry: Entry) -> Entry:
    """Without what gives whoever runs a file the rights of others."""
    return replace(
        entry,
        mode=entry.mode & ~(stat.S_ISUID | stat.S_ISGID),
        attributes=tuple(each for each in entry.attributes if each[0] != "security.capability"),
    )


def test_root_gets_everything_but_devices_and_rights(image: Path, tmp_path: Path):
    theirs = {
        path: can_be_given(entry)
        for path, entry in shown(image, tmp_path).items()
        if stat.S_IFMT(entry.mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
    }
    with browsing(image) as browser:
        warnings = browser.extract(["/"], tmp_path / "out", Task())
    ours = trees.entries(tmp_path / "out")
    assert ours.keys() == theirs.keys()
    assert [(path, ours[path], theirs[path]) for path in ours if ours[path] != theirs[path]] == []
    assert sum("is a device, a pipe or a socket" in each for each in warnings) == 3
    assert sum("capabilities) are left out: of /" in each for each in warnings) == 1
    assert len(warnings) == 4
    assert (tmp_path / "out" / "huge").stat().st_blocks < 64
    assert (tmp_path / "out" / "sparse").stat().st_blocks < 64


def test_who_is_not_root_owns_what_is_extracted(image: Path, tmp_path: Path):
    with open_folder() as folder, browsing(image) as browser:
        with as_an_ordinary_user():
            warnings = browser.extract(["/file", "/folder", "/large"], folder, Task())
        file = folder / "file"
        assert (file.stat().st_uid, file.stat().st_mode & 0o7777) == (NOBODY, 0o751)
        assert os.getxattr(file, "user.caf\udce9") == b"\0value\xff"
        assert os.listxattr(file) == ["user.caf\udce9"]
        assert os.getxattr(folder / "folder", "system.posix_acl_default") == trees.ACL
        assert (folder / "folder" / "inner" / "another name").samefile(file)
        assert file.stat().st_mtime_ns == 1_987_654_321_123_456_789
        assert file.stat().st_atime_ns == 1_234_567_890_987_654_321
    assert [each.partition(":")[0] for each in warnings] == [
        "Rights of others (set-user-id, set-group-id, capabilities) are left out"
    ]


def test_what_the_destination_has_no_place_for_is_said_once(image: Path, tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "poor").mkdir()
    with (
        poor(tmp_path / "real", tmp_path / "poor") as top,
        browsing(image) as browser,
    ):
        warnings = browser.extract(["/file", "/folder", "/large"], top / "out", Task())
        assert (top / "out" / "file").read_bytes() == b"a file\n"
        assert (top / "out" / "folder" / "inner" / "another name").read_bytes() == b"a file\n"
    kinds = {each.partition(" left out")[0] for each in warnings}
    assert kinds == {
        "Owners are",
        "Access control lists are",
        "Extended attributes are",
        "Rights of others (set-user-id, set-group-id, capabilities) are",
    }


@contextmanager
def poor(real: Path, where: Path) -> Iterator[Path]:
    """A folder in which nothing can be given to others, or has attributes."""
    run("bindfs", "--chown-deny", "--chgrp-deny", "--xattr-none", real, where)
    try:
        yield where
    finally:
        run("umount", where)


def test_a_second_name_is_not_led_astray(image: Path, tmp_path: Path):
    """The first name is another file by now: then the second one is a copy of its own."""
    from vdbackup.recovery import extract

    out = tmp_path / "out"
    before = extract._Writer._is_second_name

    def replaced(self, name, stat_):  # type: ignore[no-untyped-def]
        if name == "another name":
            (out / "file").unlink()
            (out / "file").symlink_to("/etc/hostname")
        return before(self, name, stat_)

    with pytest.MonkeyPatch.context() as patch, browsing(image) as browser:
        patch.setattr(extract._Writer, "_is_second_name", replaced)
        browser.extract(["/file", "/folder"], out, Task())
    second = out / "folder" / "inner" / "another name"
    assert second.read_bytes() == b"a file\n"
    assert second.stat().st_nlink == 1
