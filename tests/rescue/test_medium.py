"""A computer without a system is started from a medium, restored to another disk, and starts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guests import debian, tiny_linux
from tests.guests.cache import run
from tests.rescue import console
from vdbackup import cli

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200)]

START, RESTORE, END = 1200, 900, 300
"""Seconds that each may take where the processor is translated and others want it, too."""


@dataclass(frozen=True)
class Computer:
    """What is restored.

    Attributes:
        image: of the system that was backed up.
        size: how the medium says its bytes.
        target: MiB of the disk that it is restored to, which is larger.
        uefi: whether medium and system start by UEFI, the medium from a stick; else by BIOS and
            from a CD.
        disk: what the system has its disk on.
        alive: what it says once it has started.
    """

    image: Callable[[], Path]
    size: str
    target: int
    uefi: bool
    disk: Callable[[Path, str], list[str]]
    alive: str


SMALL = Computer(
    tiny_linux.image,
    "64 MiB",
    100,
    uefi=False,
    disk=console.disk,
    alive=f"{tiny_linux.ALIVE} root=/dev/vda2 count=1",
)
WHOLE = Computer(
    lambda: debian.image(debian.Debian(boot="grub-uefi")),
    "768 MiB",
    900,
    uefi=True,
    disk=console.sata_disk,
    alive=f"{debian.ALIVE} count=1 root=/dev/sda1",
)


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that asks in text, made by the program itself out of what Debian has today."""
    image = tmp_path_factory.mktemp("medium") / "rescue.iso"
    assert cli.main(["make-rescue", str(image), "--text"]) == 0
    return image


@pytest.mark.parametrize("computer", [SMALL, WHOLE], ids=["BIOS, a CD", "UEFI, a stick"])
def test_a_restored_computer_starts(computer: Computer, medium: Path, tmp_path: Path):
    source, target = tmp_path / "disk.img", tmp_path / "target.img"
    run("cp", "--sparse=always", computer.image(), source)
    repository = disk_with_backup(source, tmp_path)
    target.touch()
    os.truncate(target, computer.target << 20)
    restore(computer, medium, [*console.disk(repository, "BACKUPS"), *console.disk(target, "NEW")])
    if not computer.uefi:  # of a larger disk the second copy of a GPT is moved to its end
        run("cmp", "--bytes", str(source.stat().st_size), source, target)
    uefi = tmp_path if computer.uefi else None
    with console.machine(*computer.disk(target, "NEW"), uefi=uefi, memory=512) as screen:
        screen.wait_for(computer.alive, START)
        screen.wait_for_end(END)


def disk_with_backup(source: Path, tmp_path: Path) -> Path:
    """The image of a disk with a backup of the source, two folders deep."""
    folder = tmp_path / "content" / "my backups"
    folder.parent.mkdir()
    assert cli.main(["backup", str(source), "-r", str(folder)]) == 0
    image = tmp_path / "backups.img"
    run("mke2fs", "-q", "-t", "ext4", "-d", folder.parent, image, "800M")
    shutil.rmtree(folder.parent)
    return image


def restore(computer: Computer, medium: Path, disks: list[str]) -> None:
    """Start from the medium, and answer its questions."""
    from_medium = console.stick(medium) if computer.uefi else console.cd(medium)
    uefi = medium.parent if computer.uefi else None
    with console.machine(*from_medium, *disks, uefi=uefi) as screen:
        found = f"1 +disk +{computer.size} +1 .*/run/vdbackup-rescue/vda/my backups"
        screen.wait_for(found, START)
        screen.wait_for(r"Restore which\?", 60)
        screen.type("1")
        screen.wait_for(r"Which point\?", 60)
        screen.type("")
        number = screen.wait_for(rf"(\d+) +/dev/vdb .*{computer.target} MiB", 60)[1].decode()
        screen.wait_for(r"Onto which disk\?", 60)
        screen.type(number)
        screen.wait_for(r"Everything on /dev/vdb will be lost", 60)
        screen.type("yes")
        screen.wait_for(r"/dev/vdb holds point 1 of disk, checked", RESTORE)
        screen.type("p")
        screen.wait_for_end(END)
