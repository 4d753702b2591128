"""A computer without a system is started from a medium, restored to another disk, and starts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.guests import tiny_linux
from tests.guests.cache import run
from tests.rescue import console
from vdbackup import cli

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200)]

TARGET = 100 << 20
"""Bytes of the disk that is restored to, which is another one than was backed up."""
START, RESTORE, END = 900, 600, 300
"""Seconds that each may take where the processor is translated and others want it, too."""


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that asks in text, made by the program itself out of what Debian has today."""
    image = tmp_path_factory.mktemp("medium") / "rescue.iso"
    assert cli.main(["make-rescue", str(image), "--text"]) == 0
    return image


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The image of a disk with a backup of a small Linux, two folders deep."""
    source, folder = tmp_path / "disk.img", tmp_path / "content" / "my backups"
    shutil.copyfile(tiny_linux.image(), source)
    folder.parent.mkdir()
    assert cli.main(["backup", str(source), "-r", str(folder)]) == 0
    image = tmp_path / "backups.img"
    run("mke2fs", "-q", "-t", "ext4", "-d", tmp_path / "content", image, "400M")
    return image


@pytest.mark.parametrize("start", ["BIOS, from a CD", "UEFI, from a stick"])
def test_a_restored_computer_starts(start: str, medium: Path, repository: Path, tmp_path: Path):
    target = tmp_path / "target.img"
    target.touch()
    os.truncate(target, TARGET)
    uefi = tmp_path if start.startswith("UEFI") else None
    from_medium = console.stick(medium) if uefi else console.cd(medium)
    disks = [*console.disk(repository, "BACKUPS"), *console.disk(target, "TARGET")]
    with console.machine(*from_medium, *disks, uefi=uefi) as screen:
        screen.wait_for(r"1 +disk +64 MiB +1 .*/run/vdbackup-rescue/vda/my backups", START)
        screen.wait_for(r"Restore which\?", 60)
        screen.type("1")
        screen.wait_for(r"Which point\?", 60)
        screen.type("")
        number = screen.wait_for(r"(\d+) +/dev/vdb .*100 MiB", 60)[1].decode()
        screen.wait_for(r"Onto which disk\?", 60)
        screen.type(number)
        screen.wait_for(r"Everything on /dev/vdb will be lost", 60)
        screen.type("yes")
        screen.wait_for(r"/dev/vdb holds point 1 of disk, checked", RESTORE)
        screen.type("p")
        screen.wait_for_end(END)
    source = (tmp_path / "disk.img").read_bytes()
    assert target.read_bytes()[: len(source)] == source
    with console.machine(*console.disk(target, "TARGET"), memory=256) as screen:
        screen.wait_for(rf"{tiny_linux.ALIVE} root=/dev/vda2 count=1", 120)
        screen.wait_for_end(60)
