"""How a UEFI finds the boot loader of a disk: an entry in its memory, or a name that it looks for.

A restored disk in another computer has no entry there: a firmware then starts EFI/BOOT/BOOTX64.EFI
and nothing else (UEFI 2.10, 3.5.1.1). So the system's own loader gets both: an entry, first in the
order, by efibootmgr(8), and a copy under that name where there is none yet.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vdbackup.errors import NotRetargeted, ProgramMissing
from vdbackup.guest.disk import Disk
from vdbackup.guest.model import FileSystem, Firmware, Guest, Loader
from vdbackup.recovery.retarget.linux.appliance import Write
from vdbackup.sources.devices import facts_of_device
from vdbackup.sources.inventory import partition_node
from vdbackup.text import printable
from vdbackup.translation import tr

log = logging.getLogger(__name__)

_FALLBACK = PurePosixPath("/EFI/BOOT")
_BESIDE_SHIM = ("grubx64.efi", "mmx64.efi")
"""What a shim starts from its own folder."""
_MAX_PROGRAM = 64 << 20
_PATIENCE = 60.0


def own_loader(guest: Guest) -> Loader | None:
    """The loader that an entry has to name; None where a firmware finds all there is by itself."""
    return next((each for each in _of_uefi(guest) if each.program and not each.fallback), None)


def fallback(disk: Disk, guest: Guest) -> Iterator[Write]:
    """Copies of the loader where a firmware looks for one; nothing where it finds one already."""
    loader = own_loader(guest)
    if loader is None or loader.program is None or any(x.fallback for x in _of_uefi(guest)):
        return
    tree, path = disk.trees[loader.program.volume], PurePosixPath(loader.program.path)
    names = {path.name: "BOOTX64.EFI"}
    if path.name.lower().startswith("shim"):
        names |= {name: name for name in _BESIDE_SHIM}
    volume = disk.file_systems[loader.program.volume]
    for name, new in names.items():
        content = tree.read(str(path.parent / name), _MAX_PROGRAM)
        if content is not None:
            yield Write(volume, str(_FALLBACK / new), content)


def add_entry(disk: Path, volume: FileSystem, loader: Loader, name: str) -> bool:
    """Let this computer's firmware start a loader first.

    Args:
        disk: the device.
        volume: of it, that the loader lies on.
        loader: of UEFI.
        name: what the entry is called in the firmware's menu.

    Returns:
        Whether there was none: one that names the same program of the same partition is left.

    Raises ProgramMissing, NotRetargeted.
    """
    if loader.program is None:
        raise ValueError(tr("the firmware finds that loader by itself"))
    number = int(volume.volume.removeprefix("p") or 0)
    program = loader.program.path.replace("/", "\\")
    node = partition_node(disk, number)
    identity = facts_of_device(node).partition.lower() if node else ""
    for line in _efibootmgr("--verbose").lower().splitlines():
        if identity and identity in line and f"file({program.lower()})" in line:
            return False
    _efibootmgr(
        *("--create", "--disk", str(disk), "--part", str(number)),
        *("--loader", program, "--label", printable(name)[:60] or "Linux"),
    )
    return True


def _of_uefi(guest: Guest) -> list[Loader]:
    return [each for each in guest.loaders if each.firmware is Firmware.UEFI]


def _efibootmgr(*arguments: str) -> str:
    """What it says; raises NotRetargeted where the firmware does not take it."""
    try:
        done = subprocess.run(
            ["efibootmgr", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
        )
    except FileNotFoundError:
        raise ProgramMissing(
            tr("The firmware gets no boot entry: efibootmgr is not installed."),
            tr("Install it with: sudo apt install efibootmgr"),
        ) from None
    except subprocess.TimeoutExpired:
        raise NotRetargeted(tr("The firmware does not answer efibootmgr.")) from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        log.warning("efibootmgr %s: %s", arguments, said)
        raise NotRetargeted(
            tr("The firmware has not taken a boot entry."),
            tr("efibootmgr says: {said}", said=printable(said[-1])) if said else "",
        )
    return done.stdout.decode(errors="replace")
