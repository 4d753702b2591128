"""A point as a folder: what it shows is what the kernel shows of the same disk."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.recovery import chosen, trees
from tests.recovery.mount.points import SET, back_up, kill_all_behind, process_behind, shown
from tests.sources.file_sets.trees import odd
from tests.sources.loops import loop, mounted, run
from tests.volumes import volumes
from tests.volumes.volumes import MIB
from vdbackup.errors import NotMounted, PointInUse, UnfitTarget
from vdbackup.jobs import CancelToken
from vdbackup.processes import start_of
from vdbackup.recovery.mount import background, mounting, table
from vdbackup.repository import claims

pytestmark = pytest.mark.usefixtures("fuse")
PATIENCE = 30.0
POSIX = {
    "ext4": (64, ("mkfs.ext4", "-q", "-I", "512", "-O", "ea_inode")),
    "ext3": (64, ("mkfs.ext3", "-q")),
    "xfs": (304, ("mkfs.xfs", "-q", "-i", "size=2048")),
    "btrfs": (256, ("mkfs.btrfs", "-q")),
}
LARGEST = {"ext3": 1 << 33}
"""Bytes of a file in it, where it holds none of a TiB."""
ATTRIBUTE = {"xfs": 60_000, "ext4": 40_000, "btrfs": 10_000}
"""Bytes of a long attribute, which has blocks or a file of its own."""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A small ext4 with a file."""
    tree = tmp_path / "tree"
    (tree / "folder").mkdir(parents=True)
    (tree / "folder" / "file").write_bytes(b"content")
    image = tmp_path / "disk.img"
    volumes.ext("ext4", size=16 * MIB)(tree, image)
    return image


def in_the_end(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("kind", POSIX)
def test_a_folder_shows_each_entry_as_the_kernel_does(kind: str, tmp_path: Path):
    image = tmp_path / "disk.img"
    size, maker = POSIX[kind]
    volumes.blank(image, size * MIB)
    run(*maker, image)
    with loop(image) as device, mounted(device, tmp_path / "kernel") as top:
        trees.hurt(top, LARGEST.get(kind, 1 << 40), ATTRIBUTE.get(kind, 0))
    repository, point = back_up(image, tmp_path / "backups")
    with (
        loop(image, "--read-only") as device,
        mounted(device, tmp_path / "kernel", "-o", "ro") as kernels,
        shown(repository, point, tmp_path / "ours"),
    ):
        theirs, ours = trees.entries(kernels), trees.entries(tmp_path / "ours")
    assert ours.keys() == theirs.keys()
    assert [(path, ours[path], theirs[path]) for path in ours if ours[path] != theirs[path]] == []
    assert len(ours) > 1500


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("kind", ["ntfs", "fat32"])
def test_a_folder_shows_what_windows_wrote(kind: str, tmp_path: Path):
    tree = tmp_path / "tree"
    tree.mkdir()
    volumes.sample(tree)
    image = tmp_path / "disk.img"
    volumes.MAKERS[kind](tree, image)
    repository, point = back_up(image, tmp_path / "backups")
    with shown(repository, point, tmp_path / "ours"):
        assert volumes.contents(tmp_path / "ours") == volumes.contents(tree)
        times = {path.stat().st_mtime for path in (tmp_path / "ours").rglob("*.txt")}
    assert times == {volumes.MOMENT}


@pytest.mark.parametrize("disk_format", ["vmdk", "vhd", "vhdx", "qcow2"])
def test_a_folder_shows_an_earlier_point_of_a_disk_with_partitions(
    disk_format: str, image: Path, tmp_path: Path
):
    disk = tmp_path / "whole.img"
    volumes.blank(disk, 40 * MIB)
    volumes.partition(disk, "label: gpt\nstart=2048, size=32768\nsize=4096\n")
    with disk.open("r+b") as file:
        file.seek(MIB)
        file.write(image.read_bytes())
    repository, first = back_up(disk, tmp_path / "backups", disk_format)
    run("debugfs", "-w", "-R", "rm /folder/file", f"{disk}?offset={MIB}")
    _, second = back_up(disk, tmp_path / "backups", disk_format)
    with shown(repository, first, tmp_path / "1") as found:
        assert sorted(path.name for path in (tmp_path / "1").iterdir()) == ["p1", "p2"]
        assert (tmp_path / "1" / "p1" / "folder" / "file").read_bytes() == b"content"
        assert found.volumes[0] == "p1: ext4"
        with pytest.raises(OSError, match="Input/output error"):  # not an empty folder
            os.listdir(tmp_path / "1" / "p2")
    with shown(repository, second, tmp_path / "2"):
        assert os.listdir(tmp_path / "2" / "p1" / "folder") == []


@pytest.mark.usefixtures("as_root")
def test_a_folder_shows_chosen_files_as_they_were(tmp_path: Path):
    """All kinds of them, with all that belongs to them, at each of two points."""
    folder, then = tmp_path / "chosen", tmp_path / "then"
    folder.mkdir()
    odd(folder)
    chosen.back_up(folder)
    subprocess.run(["cp", "-a", folder, then], check=True)
    (folder / "plain").write_bytes(b"not as plain")
    (folder / "empty").unlink()
    made = chosen.again(folder)
    first, second = made.repository.set(made.set_name).points
    for point, wanted in ((first, then), (second, folder)):
        where = tmp_path / f"point {point.sequence}"
        with shown(made.repository, point, where, made.set_name):
            found, names = chosen.as_restored(Path(f"{where}/p1{folder}"))
            files, wanted_names = chosen.as_restored(wanted)
            assert found.keys() == files.keys()
            assert [name for name in files if found[name] != files[name]] == []
            assert names == wanted_names


def test_nothing_in_the_folder_can_be_changed(image: Path, tmp_path: Path):
    repository, point = back_up(image, tmp_path / "backups")
    with shown(repository, point, tmp_path / "ours"):
        file = tmp_path / "ours" / "folder" / "file"
        for change in (
            lambda: file.write_bytes(b"other"),
            file.unlink,
            lambda: file.chmod(0o777),
            lambda: os.utime(file),
            lambda: file.rename(file.with_name("new")),
            (file.parent / "new").mkdir,
            lambda: os.setxattr(file, "user.x", b""),
        ):
            with pytest.raises(OSError, match="Read-only") as refused:
                change()
            assert refused.value.errno == errno.EROFS


@pytest.mark.parametrize("ending", ["umount", "SIGTERM", "SIGINT", "SIGHUP"])
def test_the_point_is_claimed_until_the_folder_is_gone(ending: str, image: Path, tmp_path: Path):
    repository, point = back_up(image, tmp_path / "backups")
    where = tmp_path / "ours"

    def claim(patience: float) -> None:
        claims.check_unused(repository.set(SET), [point], CancelToken(), patience)

    with shown(repository, point, where):
        with pytest.raises(PointInUse, match="Point 1 is in use"):
            claim(0)
        process = process_behind(where)
        if ending == "umount":
            mounting.unmount(where)
        else:
            os.kill(process, signal.Signals[ending])
        in_the_end(lambda: start_of(process) is None and not mounting.is_mounted(where))
    claim(PATIENCE)  # its threads may end after it
    assert os.listdir(where) == []


@pytest.mark.parametrize("then", ["umount", "mount"])
def test_a_process_that_is_killed_leaves_no_claim_and_no_folder(
    then: str, image: Path, tmp_path: Path
):
    repository, point = back_up(image, tmp_path / "backups")
    where = tmp_path / "ours"
    with shown(repository, point, where):
        process = process_behind(where)
        os.kill(process, signal.SIGKILL)
        in_the_end(lambda: start_of(process) is None)
        claims.check_unused(repository.set(SET), [point], CancelToken(), PATIENCE)
        if then == "mount":
            background.start(repository.path, SET, point.id, where)
            assert (where / "folder" / "file").read_bytes() == b"content"
        elif mounting.is_mounted(where):  # libfuse's helper has not seen it
            with suppress(NotMounted):  # by now it has
                mounting.unmount(where)
    in_the_end(lambda: not mounting.is_mounted(where))
    assert os.listdir(where) == []


@pytest.mark.parametrize("then", ["umount", "mount"])
def test_a_folder_whose_process_is_gone_is_told_and_cleared(then: str, image: Path, tmp_path: Path):
    repository, point = back_up(image, tmp_path / "backups")
    where = tmp_path / "ours"
    with shown(repository, point, where):
        kill_all_behind(where)
        (found,) = [each for each in table.shown() if each.where == where]
        assert (found.is_dead, found.point) == (True, "disk#1")
        assert not mounting.is_mounted(where)
        if then == "mount":
            background.start(repository.path, SET, point.id, where)
            assert (where / "folder" / "file").read_bytes() == b"content"
        mounting.unmount(where)
        assert os.listdir(where) == []


def test_a_dead_folder_is_cleared_though_somebody_is_in_it(image: Path, tmp_path: Path):
    repository, point = back_up(image, tmp_path / "backups")
    where = tmp_path / "ours"
    with shown(repository, point, where):
        file = os.open(where / "folder" / "file", os.O_RDONLY)
        kill_all_behind(where)
        mounting.unmount(where)
        assert os.listdir(where) == []
        with suppress(OSError):  # nobody answers any more
            os.close(file)


def test_whoever_answers_is_not_dead_though_its_process_is_not_seen(image: Path, tmp_path: Path):
    """As in a container, or where /proc hides others' processes; and a number is given anew."""
    repository, point = back_up(image, tmp_path / "backups")
    where = tmp_path / "ours"
    numbers = (0, os.getpid())  # none, and one who shows nothing
    with shown(repository, point, where):
        assert not any(table.Shown(where, "disk#1", each).is_dead for each in numbers)
        kill_all_behind(where)
        assert all(table.Shown(where, "disk#1", each).is_dead for each in numbers)
        mounting.unmount(where)


def test_a_folder_is_unmounted_by_any_program(image: Path, tmp_path: Path):
    repository, point = back_up(image, tmp_path / "backups")
    with shown(repository, point, tmp_path / "ours"):
        process = process_behind(tmp_path / "ours")
        subprocess.run(["fusermount3", "-u", tmp_path / "ours"], check=True)
        in_the_end(lambda: start_of(process) is None)


@pytest.mark.usefixtures("as_root")
def test_a_point_is_let_go_of_though_a_container_has_a_copy_of_its_mount(
    image: Path, tmp_path: Path
):
    repository, point = back_up(image, tmp_path / "backups")
    with shown(repository, point, tmp_path / "ours"):
        process = process_behind(tmp_path / "ours")
        container = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 60"],
            stdout=subprocess.PIPE,
        )
        with container:
            assert container.stdout is not None
            container.stdout.readline()
            mounting.unmount(tmp_path / "ours")
            assert start_of(process) is None
            assert container.poll() is None
            container.kill()
        claims.check_unused(repository.set(SET), [point], CancelToken(), PATIENCE)


def test_a_folder_in_use_stays_mounted(image: Path, tmp_path: Path):
    repository, point = back_up(image, tmp_path / "backups")
    with (
        shown(repository, point, tmp_path / "ours"),
        (tmp_path / "ours" / "folder" / "file").open("rb") as file,
    ):
        with pytest.raises(UnfitTarget, match="was not unmounted"):
            mounting.unmount(tmp_path / "ours")
        assert file.read() == b"content"


def test_where_nothing_can_be_mounted_nothing_is(image: Path, tmp_path: Path):
    repository, point = back_up(image, tmp_path / "backups")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for where, why in (
        (tmp_path / "nowhere", "does not exist"),
        (tmp_path / "full", "is not empty"),
        (tmp_path / "full" / "file", "is no folder"),
    ):
        with pytest.raises(UnfitTarget, match=why):
            background.start(repository.path, SET, point.id, where)
        with pytest.raises(NotMounted):
            mounting.unmount(where)
    with (
        shown(repository, point, tmp_path / "ours"),
        pytest.raises(UnfitTarget, match="shows a point already"),
    ):
        background.start(repository.path, SET, point.id, tmp_path / "ours")


def test_what_goes_wrong_over_there_is_said_here(image: Path, tmp_path: Path):
    repository, point = back_up(image, tmp_path / "backups")
    (tmp_path / "ours").mkdir()
    shutil.rmtree(repository.path / SET)
    with pytest.raises(NotMounted, match="no backup set 'disk'"):
        background.start(repository.path, SET, point.id, tmp_path / "ours")


@pytest.mark.long
@pytest.mark.usefixtures("as_root")
def test_a_folder_of_a_hundred_thousand_files_is_shown(tmp_path: Path):
    image = tmp_path / "disk.img"
    volumes.blank(image, 300 * MIB)
    run("mkfs.ext4", "-q", "-N", "120000", image)
    with loop(image) as device, mounted(device, tmp_path / "kernel") as top:
        (top / "folder").mkdir()
        for number in range(100_000):
            (top / "folder" / f"file number {number}").touch()
    repository, point = back_up(image, tmp_path / "backups")
    with (
        loop(image, "--read-only") as device,
        mounted(device, tmp_path / "kernel", "-o", "ro") as kernels,
        shown(repository, point, tmp_path / "ours"),
    ):
        theirs, ours = trees.entries(kernels), trees.entries(tmp_path / "ours")
    assert len(theirs) == 100_001
    assert ours == theirs
