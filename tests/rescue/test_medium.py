"""A computer without a system is started from a medium, restored to another disk, and starts.

What it is restored to is other hardware than what was backed up, which knew AHCI alone, and of
another size, to which its partitions are fitted once. The medium's Debian stays in the tests'
cache, as it takes ten minutes: the program of today is laid over it as live-boot lays one file
system over another.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guests import cache, debian
from tests.guests.cache import run
from tests.recovery.test_resize import places
from tests.rescue import console
from vdbackup import cli
from vdbackup.jobs import Task, readable_size
from vdbackup.rescue import making, program, running
from vdbackup.rescue.contents import resource

pytestmark = [pytest.mark.long, pytest.mark.timeout(14_400)]

START, RESTORE, END = 1200, 900, 300
"""Seconds (of a `Clock`) that each may take where the processor is translated."""


@dataclass(frozen=True)
class Computer:
    """What is restored, and to what.

    Attributes:
        system: that was backed up: it knows AHCI alone, and calls its root /dev/sda1.
        uefi: whether medium and system start by UEFI, the medium from a stick; else by BIOS and
            from a CD.
        size: MiB of the disk that it is restored to.
        disk: on what that hangs.
        node: what Linux calls that.
        root: what it calls its root there.
    """

    system: debian.Debian
    uefi: bool
    size: int
    disk: Callable[[Path, str], list[str]]
    node: str
    root: str


BIOS = Computer(debian.Debian(), False, 900, console.disk, "/dev/vdb", "/dev/vdb1")
UEFI = Computer(
    debian.Debian(boot="grub-uefi"), True, 1000, console.nvme_disk, "/dev/nvme0n1", "/dev/nvme0n1p1"
)


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that asks in text, made by the program itself out of what Debian has today."""
    lists = [resource(name).read_bytes() for name in ("packages", "prepare", "grub.cfg", "efi.cfg")]
    code = cache.recipe(*lists, Path(making.__file__).read_bytes())
    with cache.locked("rescue"):
        kept = cache.folder() / f"rescue-{code}.iso"
        if not kept.exists():
            assert cli.main(["make-rescue", str(kept), "--text"]) == 0
    return with_the_program_of_today(kept, tmp_path_factory.mktemp("medium"))


def with_the_program_of_today(kept: Path, folder: Path) -> Path:
    """The same medium, with the program as it is now over that which it was made with."""
    archive, medium, image = (folder / each for each in ("tar", "medium", "rescue.iso"))
    medium.mkdir()
    run("xorriso", "-osirrox", "on", "-indev", kept,
        *("-extract", "/live", medium / "live"), *("-extract", "/EFI", medium / "EFI"))  # fmt: skip
    (medium / "live").chmod(0o755)
    program.pack(program.collect(window=False), archive, Task())
    above = making.squashing(medium / "live" / "program.squashfs")
    running.run([["cat", str(archive)], above], Task(), folder)
    archive.unlink()
    making.write_image(medium, image, Task())
    shutil.rmtree(medium)
    return image


@pytest.mark.parametrize("computer", [BIOS, UEFI], ids=["BIOS, a CD", "UEFI, a stick"])
def test_a_restored_computer_starts(computer: Computer, medium: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "disk.img", tmp_path / "target.img"
    run("cp", "--sparse=always", debian.image(computer.system), source)
    source.chmod(0o644)
    if computer.uefi:  # as an installed one has it: nothing where any firmware looks
        esp = f"{source}@@1M"
        run("mmd", "-i", esp, "::/EFI/debian")
        run("mmove", "-i", esp, "::/EFI/BOOT/BOOTX64.EFI", "::/EFI/debian/grubx64.efi")
    repository = disk_with_backup(source, tmp_path)
    target.touch()
    os.truncate(target, computer.size << 20)
    restore(computer, medium, repository, target, tmp_path)
    end = max(start + size for start, size in places(target))
    fitted = end > computer.size - 4
    assert fitted == computer.uefi  # there that was wanted
    alive = f"{debian.ALIVE} count={{}} root={computer.root.replace('vdb', 'vda')}"
    disk = computer.disk(target, "NEW")
    # by its entry, where there is one
    with console.machine(tmp_path, *disk, uefi=computer.uefi, memory=512) as screen:
        screen.wait_for(alive.format(1), START)
        screen.wait_for_end(END)
    if computer.uefi:  # and by the name that a firmware looks for that knows of no entry
        (tmp_path / "variables.fd").unlink()
        with console.machine(tmp_path, *disk, uefi=True, memory=512) as screen:
            screen.wait_for(alive.format(2), START)
            screen.wait_for_end(END)


def test_it_starts_where_only_what_is_signed_does(medium: Path, tmp_path: Path) -> None:
    with console.machine(tmp_path, *console.stick(medium), secure=True) as screen:
        screen.wait_for("Secure Boot is enabled", START)
        screen.wait_for("No backups were found", START)
        screen.wait_for(r"Restore which\?")
        screen.type("p")
        screen.wait_for_end(END)


def test_the_firmware_of_that_test_refuses_what_is_not_signed(tmp_path: Path) -> None:
    config = tmp_path / "medium" / "boot" / "grub" / "grub.cfg"
    config.parent.mkdir(parents=True)
    config.write_text("serial\nterminal_output serial\necho unsigned, and started\nsleep 5\nhalt\n")
    unsigned = tmp_path / "unsigned.iso"
    run("grub-mkrescue", "-d", "/usr/lib/grub/x86_64-efi", "-o", unsigned, tmp_path / "medium")
    with console.machine(tmp_path, *console.stick(unsigned), uefi=True) as screen:
        screen.wait_for("unsigned, and started")
    (tmp_path / "variables.fd").unlink()
    with console.machine(tmp_path, *console.stick(unsigned), secure=True) as screen:
        screen.wait_for("Access Denied")
    assert b"unsigned, and started" not in screen.said


def disk_with_backup(source: Path, tmp_path: Path) -> Path:
    """The image of a disk with a backup of the source, two folders deep."""
    folder = tmp_path / "content" / "my backups"
    folder.parent.mkdir()
    assert cli.main(["backup", str(source), "-r", str(folder)]) == 0
    image = tmp_path / "backups.img"
    run("mke2fs", "-q", "-t", "ext4", "-d", folder.parent, image, "800M")
    shutil.rmtree(folder.parent)
    return image


def restore(computer: Computer, medium: Path, repository: Path, target: Path, folder: Path) -> None:
    """Start from the medium, and answer its questions."""
    from_medium = console.stick(medium) if computer.uefi else console.cd(medium)
    disks = [*console.disk(repository, "BACKUPS"), *computer.disk(target, "NEW")]
    with console.machine(folder, *from_medium, *disks, uefi=computer.uefi) as screen:
        found = "1 +disk +768 MiB +1 .*/run/vdbackup-rescue/vda/my backups"
        screen.wait_for(found, START)
        screen.wait_for(r"Restore which\?")
        screen.type("1")
        screen.wait_for(r"Which point\?")
        screen.type("")
        row = rf"(\d+) +{computer.node} .*{readable_size(computer.size << 20)}"
        number = screen.wait_for(row)[1].decode()
        screen.wait_for(r"Onto which disk\?")
        screen.type(number)
        screen.wait_for("That disk is larger")
        screen.type("yes" if computer.uefi else "")
        screen.wait_for(f"Everything on {computer.node} will be lost")
        screen.type("yes")
        screen.wait_for(f"{computer.node} holds point 1 of disk, checked", RESTORE)
        screen.wait_for(rf"on {computer.node} is made to start on this computer")
        screen.wait_for(r"Type yes to have that done")
        screen.type("yes")
        screen.wait_for(r"/etc/fstab was changed")
        screen.wait_for(r"bytes behind it: the drivers")
        if computer.uefi:
            screen.wait_for(r"The firmware has a boot entry now: .*(?i:/EFI/debian/grubx64.efi)")
        screen.wait_for(r"Type r to restart")
        screen.wait_for(r"Restore which\?", START)
        screen.type("p")
        screen.wait_for_end(END)
