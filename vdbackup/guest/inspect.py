"""What system lies on a disk, and what it needs to boot: found out without mounting anything.

    guest = inspect(chain)

reads the partition table, each volume, the configuration of the boot loader, and the initramfs or
the registry of Windows. It takes 0.3 s for a small Debian, and 2 s for a whole Ubuntu.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vdbackup.disks.chain import Chain
from vdbackup.errors import RecoveryError
from vdbackup.guest import loaders
from vdbackup.guest.disk import Disk
from vdbackup.guest.linux import boot_menu, device_names, kernels
from vdbackup.guest.linux import root as linux_root
from vdbackup.guest.linux.absent import absent
from vdbackup.guest.model import (
    FileSystem,
    Guest,
    Kernel,
    Loader,
    LoaderKind,
    Problem,
    System,
)
from vdbackup.guest.tree import Tree
from vdbackup.guest.windows.inspect import inspect_windows
from vdbackup.translation import tr
from vdbackup.volumes.volumes import Volume

_OTHER_DISK = tr("Boot another recovery point, or restore this one to get at its files.")
_SUBVOLUME = re.compile(r"(?:^|\s)rootflags=(?:\S*,)?subvol=([^\s,]+)")
"""The subvolume that a kernel's command line names."""
_RUNS_HERE = ("x86_64", "i386", "")
_NO_SYSTEM = {
    "encrypted": Problem(
        tr("The disk is encrypted with LUKS, and there is nothing on it that could be started."),
        tr("Back up the whole disk that the system starts from."),
    ),
    "data": Problem(
        tr("There is no operating system on this disk: it holds data."),
        tr("Browse its files, or attach the point's disk to another machine."),
    ),
    "unknown": Problem(
        tr(
            "There is nothing on this disk that could be started: no boot loader, and no file "
            "system that vdbackup knows."
        ),
        _OTHER_DISK,
    ),
}


def inspect(chain: Chain, others: Sequence[Chain] = ()) -> Guest:
    """What a disk holds; what cannot be read of it becomes a problem, never an error.

    Args:
        chain: the disk; of a machine that which it starts from.
        others: the machine's other disks.

    Raises:
        DiskError: a file of the chain is damaged.
        OSError: one cannot be read.
    """
    try:
        disk = Disk(chain, others)
    except RecoveryError as error:
        return Guest(
            System.NONE,
            sector_size=chain.sector_size,
            problems=(Problem(error.title, error.advice),),
        )
    found_loaders = loaders.find(disk)
    if guest := _linux(disk, found_loaders):
        return guest
    if guest := _windows(disk, found_loaders):
        return guest
    return _nothing_known(disk, found_loaders)


def has_no_system(guest: Guest) -> bool:
    """Whether there is nothing on the disk to boot; not where its tables are damaged."""
    return guest.system is System.NONE and any(
        problem in _NO_SYSTEM.values() for problem in guest.problems
    )


# --------------------------------------------------------------------------------------- Linux


def _linux(disk: Disk, found: loaders.Found) -> Guest | None:
    start = _started(disk, found)
    chosen, menu = start.root, start.menu
    root = chosen.tree if chosen else None
    bootable = kernels.kernels(disk, menu, start.places, root) or _unified(disk, found, root)
    if root is None and not bootable:
        return None
    kernel = bootable[0] if bootable else None
    found = found.of_linux()
    name, version = linux_root.release(root) if root else ("Linux", "")
    architecture = (linux_root.architecture(root) if root else "") or (
        kernel.architecture if kernel else ""
    )
    described = found.with_menu(menu)
    return Guest(
        System.LINUX,
        name=name,
        version=version,
        architecture=architecture,
        sector_size=disk.sector_size,
        root=chosen.file_system if chosen else None,
        boot=start.boot,
        efi=found.efi,
        loaders=described,
        firmware_reason=found.reason,
        kernels=bootable,
        device_names=tuple(device_names.device_names(root, menu, kernel)),
        graphical=root is not None and linux_root.is_graphical(root),
        alone="" in disk.volumes,
        problems=tuple(_linux_problems(disk, chosen, kernel, described, architecture)),
        absent=tuple(absent(disk, root, menu, kernel)) if root else (),
    )


def _unified(disk: Disk, found: loaders.Found, root: Tree | None) -> tuple[Kernel, ...]:
    """The kernel in what the firmware starts, where that is one with all that belongs to it."""
    for loader in found.loaders:
        if loader.program is not None:
            tree = disk.trees[loader.program.volume]
            if kernel := kernels.of_unified(tree, loader.program.path, root):
                return (kernel,)
    return ()


@dataclass(frozen=True)
class _Start:
    """A root, what is mounted at its /boot, its boot loader's menu, and where that begins paths."""

    root: linux_root.Root | None
    boot: FileSystem | None
    menu: boot_menu.Menu | None
    places: list[Tree]


def _started(disk: Disk, found: loaders.Found) -> _Start:
    """The system that starts automatically; of several, the one that the disk's menu names."""
    starts = [_start(disk, found, root) for root in (*linux_root.roots(disk), None)]
    for start in starts:
        if start.root and start.menu and _names_root(disk, start.menu, start.root):
            return start
    return starts[0]


def _start(disk: Disk, found: loaders.Found, root: linux_root.Root | None) -> _Start:
    tree = root.tree if root else None
    boot = _mounted(disk, tree, "/boot") or _boot_volume(disk, tree)
    places = _places(disk, tree, boot, found.efi)
    efi = disk.trees[found.efi.volume] if found.efi else None
    menu = None
    if tree is not None and any(each.kind is LoaderKind.LILO for each in found.loaders[:1]):
        menu = boot_menu.lilo_menu(tree)
    if menu is None:
        menu = next((each for place in places if (each := boot_menu.menu(place, efi))), None)
    if menu is None and efi is not None:
        menu = boot_menu.vendors_menu(efi)
    return _Start(root, boot, menu, places)


def _names_root(disk: Disk, menu: boot_menu.Menu, root: linux_root.Root) -> bool:
    words = menu.entries[0].command_line.split()
    names = [word.removeprefix("root=") for word in words if word.startswith("root=")]
    system = disk.named(names[-1]) if names else None
    if system is None or system.volume != root.file_system.volume:
        return False
    said = _SUBVOLUME.findall(menu.entries[0].command_line)
    return not said or said[-1].strip("/") == root.file_system.subvolume


def _mounted(disk: Disk, root: Tree | None, point: str) -> FileSystem | None:
    """What fstab mounts at `point`, if that is a volume that can be read."""
    for mount in device_names.mounts(root) if root else ():
        if mount.point.rstrip("/") == point:
            system = disk.named(mount.device)
            return system if system and system.volume in disk.trees else None
    return None


def _boot_volume(disk: Disk, root: Tree | None) -> FileSystem | None:
    """A volume that looks like what is mounted at /boot: kernels at its top."""
    for name, tree in disk.trees.items():
        own = root is not None and tree.volume == root.volume
        if not own and any(file.startswith("vmlinuz") for file in tree.names("/")):
            return disk.file_systems[name]
    return None


def _places(
    disk: Disk, root: Tree | None, boot: FileSystem | None, efi: FileSystem | None
) -> list[Tree]:
    """Where the paths of a boot loader's configuration may begin, the likeliest first."""
    names = [system.volume for system in (boot, efi) if system]
    found = [disk.trees[name] for name in names]
    if root is not None:
        found += [root, disk.trees[root.volume]]
    return list({(tree.volume, tree.path): tree for tree in found}.values())


def _linux_problems(
    disk: Disk,
    root: linux_root.Root | None,
    kernel: Kernel | None,
    found: tuple[Loader, ...],
    architecture: str,
) -> Iterator[Problem]:
    yield from _foreign_architecture(architecture)
    if kernel is None and not found:
        yield Problem(
            tr("There is neither a boot loader nor a kernel on this disk that could be started."),
            _OTHER_DISK,
        )
    encrypted = list(disk.with_kind("LUKS"))
    if encrypted and root is None:
        yield Problem(
            tr(
                "The system is encrypted with LUKS: the machine asks for its passphrase, and what "
                "is inside could not be looked at."
            ),
            tr("Have the passphrase at hand."),
            blocks=False,
        )
    if any(disk.head(volume.name)[4086:4096] == b"S1SUSPEND\0" for volume in _swaps(disk)):
        yield Problem(
            tr(
                "The system was hibernated when it was backed up: it may try to go on where it was."
            ),
            tr("If it hangs, start it with the kernel's option noresume."),
            blocks=False,
        )


def _swaps(disk: Disk) -> Iterator[Volume]:
    return (volume for volume in disk.volumes.values() if volume.filesystem in ("swap", ""))


def _foreign_architecture(architecture: str) -> Iterator[Problem]:
    if architecture not in _RUNS_HERE:
        yield Problem(
            tr(
                "The system on this disk was made for another processor ({architecture}), and "
                "vdbackup starts only PCs.",
                architecture=architecture,
            ),
            tr("Boot it with an emulator of that processor."),
        )


# ------------------------------------------------------------------------------------- Windows


def _windows(disk: Disk, found: loaders.Found) -> Guest | None:
    for name, tree in disk.trees.items():
        if disk.file_systems[name].kind != "NTFS":
            continue
        if windows := inspect_windows(tree):
            return Guest(
                System.WINDOWS,
                name=windows.name,
                version=windows.version,
                architecture=windows.architecture,
                sector_size=disk.sector_size,
                root=disk.file_systems[name],
                efi=found.efi,
                loaders=found.loaders,
                firmware_reason=found.reason,
                services=windows.services,
                inactive_services=windows.inactive_services,
                graphical=True,
                alone="" in disk.volumes,
                problems=(
                    *windows.problems,
                    *_no_loader(found.loaders),
                    *_foreign_architecture(windows.architecture),
                ),
            )
    if any(disk.with_kind("BitLocker")):
        return _bitlocker(disk, found)
    return None


def _bitlocker(disk: Disk, found: loaders.Found) -> Guest:
    return Guest(
        System.WINDOWS,
        name="Windows",
        sector_size=disk.sector_size,
        efi=found.efi,
        loaders=found.loaders,
        firmware_reason=found.reason,
        graphical=True,
        alone="" in disk.volumes,
        problems=(
            Problem(
                tr(
                    "The disk is encrypted with BitLocker: Windows asks for its recovery key on "
                    "any other machine, and what is inside cannot be looked at."
                ),
                tr("Have the recovery key at hand, or turn BitLocker off and back it up again."),
            ),
        ),
    )


def _no_loader(found: tuple[Loader, ...]) -> Iterator[Problem]:
    if not found:
        yield Problem(
            tr(
                "There is no boot loader on this disk: Windows is on it, and what starts it is not."
            ),
            tr("Back up the whole disk that Windows starts from, not a single volume of it."),
        )


# -------------------------------------------------------------------------------- nothing known


def _nothing_known(disk: Disk, found: loaders.Found) -> Guest:
    """A boot loader may know what to start; else it is a volume of data, or an encrypted one."""
    unknown = [loader for loader in found.loaders if loader.kind is not LoaderKind.WINDOWS]
    encrypted = any(disk.with_kind("LUKS"))
    if unknown:
        problem = Problem(
            tr("What its boot loader starts is not known: no system that vdbackup knows is on it."),
            blocks=False,
        )
        return _plain(disk, found, System.OTHER, (problem,))
    kind = "encrypted" if encrypted else "data" if disk.trees else "unknown"
    return _plain(disk, found, System.NONE, (_NO_SYSTEM[kind],))


def _plain(
    disk: Disk, found: loaders.Found, system: System, problems: tuple[Problem, ...]
) -> Guest:
    return Guest(
        system,
        sector_size=disk.sector_size,
        efi=found.efi,
        loaders=found.loaders,
        firmware_reason=found.reason,
        alone="" in disk.volumes,
        problems=problems,
    )
