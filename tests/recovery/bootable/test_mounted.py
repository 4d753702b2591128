"""Volumes are mounted to be written to: of that disk alone, and nothing of them is ever removed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sources.loops import add_partition, delete_partition, loop, run
from tests.sources.loops import mounted as seen
from vdbackup.agent.stacking import mounts_of
from vdbackup.errors import NotResized, NotRetargeted
from vdbackup.guest.model import FileSystem
from vdbackup.recovery import file_system_sizes
from vdbackup.recovery.bootable import mounted
from vdbackup.recovery.retarget.linux.appliance import Write

MIB = 1 << 20
VOLUME = FileSystem("p1", "ext4")


@pytest.fixture
def disk(tmp_path: Path, as_root: None) -> Iterator[Path]:
    """A disk with an ext4 that holds /etc/fstab, and a link /out to a folder of this computer."""
    files, part, image = tmp_path / "files", tmp_path / "part.img", tmp_path / "disk.img"
    (files / "etc").mkdir(parents=True)
    (files / "etc/fstab").write_text("what was there\n")
    (tmp_path / "host").mkdir()
    (files / "out").symlink_to(tmp_path / "host")
    run("mkfs.ext4", "-q", "-d", files, part, "16M")
    with image.open("wb") as whole:
        whole.truncate(18 * MIB)
        whole.seek(MIB)
        whole.write(part.read_bytes())
    with loop(image) as device:
        add_partition(device, 1, MIB, 16 * MIB)
        try:
            yield device
        finally:
            delete_partition(device, 1)


def holds_its_files(disk: Path, tmp_path: Path) -> bool:
    with seen(Path(f"{disk}p1"), tmp_path / "seen") as folder:
        return (folder / "etc/fstab").is_file()


def test_a_volume_that_cannot_be_unmounted_keeps_its_files(disk: Path, tmp_path: Path):
    with pytest.raises(NotRetargeted, match="umount"), mounted.mounted(disk, [VOLUME]) as folders:
        held = os.open(folders[VOLUME] / "etc/fstab", os.O_RDONLY)
    os.close(held)
    for folder in mounts_of(disk):  # of this test alone
        run("umount", folder)
        Path(folder).rmdir()
    assert holds_its_files(disk, tmp_path)


@pytest.mark.usefixtures("disk")
def test_so_does_one_whose_size_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    part = tmp_path / "part.img"
    monkeypatch.setattr(file_system_sizes, "_kind_of", lambda _: "ext4")  # made in a moment
    with (
        pytest.raises(NotResized, match="umount"),
        file_system_sizes._mounted(part) as folder,
    ):
        held = os.open(folder / "etc/fstab", os.O_RDONLY)
    os.close(held)
    for place in mounts_of(part):  # of this test alone
        run("umount", place)
        Path(place).rmdir()
    with seen(part, tmp_path / "seen", "-o", "loop") as folder:
        assert (folder / "etc/fstab").is_file()


def test_what_is_stopped_when_it_has_just_been_mounted_is_unmounted(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    really = mounted._run

    def stopped(*command: str) -> None:
        really(*command)
        if command[0] == "mount":
            raise KeyboardInterrupt

    monkeypatch.setattr(mounted, "_run", stopped)
    with pytest.raises(KeyboardInterrupt), mounted.mounted(disk, [VOLUME]):
        pass
    assert mounts_of(disk) == ()
    assert holds_its_files(disk, tmp_path)


@pytest.mark.parametrize("path", ["/out/fstab", "/../fstab", "/etc/../../fstab"])
def test_nothing_is_written_outside_of_the_volume(disk: Path, tmp_path: Path, path: str):
    with pytest.raises((NotRetargeted, OSError)):
        mounted.write(disk, [Write(VOLUME, path, b"hostile")])
    assert list((tmp_path / "host").iterdir()) == []
    assert not Path(tempfile.gettempdir(), "fstab").exists()
    assert mounts_of(disk) == ()


@pytest.mark.parametrize("name", ["--config=x/root", "../sda1", "vg/../sda1", "vg", "vg/a b"])
def test_a_logical_volume_that_lvm_would_not_call_so_is_refused(disk: Path, name: str):
    volume = FileSystem("vg-root", "ext4", logical=name)
    with pytest.raises(NotRetargeted, match="no name of a logical volume"):
        mounted.write(disk, [Write(volume, "/etc/fstab", b"")])


@pytest.mark.parametrize(
    ("active", "refused"),
    [("my--vg-root", True), ("my--vg--2-root", False), ("my-vg", False), ("other-root", False)],
)
def test_a_volume_group_that_another_disk_has_active_is_not_taken_for_this_ones(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, active: str, refused: bool
):
    """The disk that was backed up may be there still: its volumes have the same names and ids."""
    asked: list[str] = []

    def run(*command: str) -> None:
        asked.append(command[0])

    (tmp_path / "sys/dm-0/dm").mkdir(parents=True)
    (tmp_path / "sys/dm-0/dm/name").write_text(f"{active}\n")
    monkeypatch.setattr(mounted, "SYS_BLOCK", tmp_path / "sys", raising=False)
    monkeypatch.setattr(mounted, "_run", run)
    with pytest.raises(NotRetargeted) as raised:
        mounted.write(disk, [Write(FileSystem("v", "ext4", logical="my-vg/root"), "/x", b"")])
    assert ("active" in str(raised.value)) is refused
    assert ("vgchange" in asked) is not refused
    assert "mount" not in asked  # there is no such volume on the disk
