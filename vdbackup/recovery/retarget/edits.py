"""What has to be changed on a Linux disk for the hardware it is to get: found out, not yet done."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vdbackup.errors import GuestUnreadable, NoDriver, NotRetargeted, RecoveryError, Remedy
from vdbackup.guest.disk import Disk, disk_of, partition_of
from vdbackup.guest.hardware import Hardware
from vdbackup.guest.linux import initramfs
from vdbackup.guest.linux.boot_menu import environment_blocks
from vdbackup.guest.linux.presence import Known, Presence
from vdbackup.guest.model import File, FileSystem, Guest, Kernel
from vdbackup.guest.tree import Tree
from vdbackup.recovery.retarget import identity
from vdbackup.recovery.retarget.linux import appliance, fstab, loaders
from vdbackup.recovery.retarget.linux.cpio import padded
from vdbackup.recovery.retarget.linux.drivers import INDEXES, Modules, driver_archive
from vdbackup.recovery.retarget.linux.names import Names, Use
from vdbackup.recovery.retarget.refusals import refuse_cloned_root, refuse_hibernated
from vdbackup.recovery.retarget.report import FileChange
from vdbackup.recovery.retarget.windows.edits import WindowsEdits
from vdbackup.text import printable
from vdbackup.translation import tr

_MAX_TEXT = 1 << 20
"""Bytes of a configuration file that is edited."""
_MAX_KERNEL = 256 << 20
_COMMAND_LINE_FILES = (
    "/etc/default/grub",
    "/etc/kernel/cmdline",
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/boot/extlinux/extlinux.conf",
    "/boot/syslinux/syslinux.cfg",
)
"""Where a Linux keeps command lines, besides what its boot loader was found to use."""
_ENTRY_FOLDERS = ("/boot/loader/entries", "/loader/entries")
_CARD_RULES = "/etc/udev/rules.d/70-persistent-net.rules"
_CARD_FOLDERS = (
    "/etc/sysconfig/network-scripts",
    "/etc/netplan",
    "/etc/NetworkManager/system-connections",
    "/etc/systemd/network",
)
_CARD = re.compile(
    r"^\s*(?:HWADDR|macaddress|mac-address|MACAddress|PermanentMACAddress)\s*[=:]", re.MULTILINE
)


@dataclass(frozen=True)
class Edits:
    """What is to be done.

    Attributes:
        errand: for the appliance; None where no file is to be changed.
        changes: the same for a person.
        windows: of a Windows, instead of an errand.
        new_identity: the disk may get another identity.
        notes: what is done besides, or left as it is, a sentence each.
    """

    errand: appliance.Errand | None = None
    changes: tuple[FileChange, ...] = ()
    windows: WindowsEdits | None = None
    new_identity: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rewriting:
    """The files of a system that are to be changed, however that is done.

    Attributes:
        writes: in this order.
        changes: the same for a person.
        notes: what is left as it is, a sentence each.
    """

    writes: tuple[appliance.Write, ...] = ()
    changes: tuple[FileChange, ...] = ()
    notes: tuple[str, ...] = ()


Wanted = Callable[[Kernel, Tree], tuple[str, ...]]
"""The drivers that have to be there early, of a kernel whose modules lie in that tree's /lib."""


def find(disk: Disk, guest: Guest, hardware: Hardware, sources: Sequence[str] = ()) -> Edits:
    """What has to be changed for `hardware`.

    Args:
        disk: with the machine's other disks.
        guest: what lies there.
        hardware: what the machine gets.
        sources: what each of its disks was called when it was backed up, where that is known.

    Raises RecoveryError where it cannot be done: a driver is nowhere, or a file cannot be read.
    """
    system = _System(disk, guest, sources)
    if not hardware.edit.needed:
        return _waiting_no_more(system)
    refuse_cloned_root(system.names, hardware)
    found = _rewriting(system, lambda *_: hardware.edit.drivers)
    if not found.writes:
        return Edits()
    keep = _uses_signature(system)
    notes = [*found.notes, *_waits_no_more(guest)]
    if keep:
        notes.append(tr("The disk keeps its signature, which PARTUUID= names."))
    errand = _errand(system, list(found.writes))
    return Edits(errand, found.changes, new_identity=not keep, notes=tuple(notes))


def _waiting_no_more(system: _System) -> Edits:
    """What keeps a system from waiting for what none of its disks has, and nothing else."""
    texts = list(_texts(system, _calm_texts(system)))
    if not texts:
        return Edits()
    refuse_hibernated(system.disk)
    writes = [_write(system, file, after) for file, _, after in texts]
    changes = tuple(FileChange(file.volume, file.path, old, new).cut() for file, old, new in texts)
    return Edits(_errand(system, writes), changes, notes=tuple(_waits_no_more(system.guest)))


def _waits_no_more(guest: Guest) -> Iterator[str]:
    for path in dict.fromkeys(each.file.path for each in guest.absent):
        names = [each.name for each in guest.absent if each.file.path == path]
        yield tr(
            "What {path} names, and none of the disks in this backup has, is not waited for: "
            "{names}.",
            path=printable(path),
            names=printable(", ".join(dict.fromkeys(names))),
        )


def rewriting(disk: Disk, guest: Guest, wanted: Wanted, beside: Callable[[str], bool]) -> Rewriting:
    """What of a system's files has to be changed for a computer that wants such drivers.

    Args:
        disk: the system's.
        guest: what lies there.
        wanted: the drivers.
        beside: whether a name of fstab means what is on another disk of that computer.

    Raises as `find` does.
    """
    return _rewriting(_System(disk, guest, beside=beside), wanted)


def _rewriting(system: _System, wanted: Wanted) -> Rewriting:
    guest = system.guest
    texts = list(_texts(system, _stable_texts(system)))
    writes = [_write(system, file, after) for file, _, after in texts]
    changes = [FileChange(file.volume, file.path, old, new) for file, old, new in texts]
    notes = list(_card_notes(system))
    for kernel in guest.kernels:
        try:
            added = _drivers(system, kernel, wanted)
        except RecoveryError as error:
            if kernel is guest.kernel:
                raise
            notes.append(
                tr(
                    "Linux {version}, which does not start automatically, may not boot: {error}",
                    version=kernel.version,
                    error=error.title,
                )
            )
            continue
        if added is not None:
            writes.append(added[0])
            changes.append(added[1])
    if writes:
        refuse_hibernated(system.disk)
    return Rewriting(tuple(writes), tuple(each.cut() for each in changes), tuple(notes))


class _System:
    """The guest's files by where they lie.

    Attributes:
        names: what its names of devices mean here.
    """

    def __init__(
        self,
        disk: Disk,
        guest: Guest,
        sources: Sequence[str] = (),
        beside: Callable[[str], bool] = lambda _: False,
    ) -> None:
        if guest.root is None or guest.kernel is None:
            raise NotRetargeted(tr("This recovery point holds no Linux that could be changed."))
        self.disk, self.guest, self.root = disk, guest, guest.root
        top = disk.trees[guest.root.volume]
        tree = top.below(guest.root.subvolume) if guest.root.subvolume else top
        if tree is None:
            raise GuestUnreadable(
                tr("The root of the system in this recovery point cannot be read.")
            )
        self.tree: Tree = tree
        presence = Presence.on(disk, tree.text("/etc/crypttab"), beside)
        self.names = self._names(sources, presence)

    def file_system(self, volume: str) -> FileSystem:
        return self.disk.file_systems[volume]

    def text(self, file: File) -> str:
        """Bytes that are no UTF-8 come back when it is written again; "" if it is not there."""
        data = self.disk.trees[file.volume].read(file.path, _MAX_TEXT)
        return (data or b"").decode(errors="surrogateescape")

    def in_root(self, path: str) -> File | None:
        """A file of the root by its path in the running system, if it lies on the root's volume."""
        real = self.tree.real_path(path) if self.tree.is_file(path) else None
        return File(self.root.volume, real) if real else None

    def command_line_files(self) -> Iterator[File]:
        named = [name.file for name in (*self.guest.device_names, *self.guest.absent)]
        configured = [loader.configuration for loader in self.guest.loaders if loader.configuration]
        yield from (
            f for f in (*named, *configured) if not f.path.endswith(("/fstab", "/crypttab"))
        )
        yield from (file for path in _COMMAND_LINE_FILES if (file := self.in_root(path)))
        mounted = [each.volume for each in (self.guest.boot, self.guest.efi) if each]
        places = [(self.root.volume, self.tree)]
        places += [(name, self.disk.trees[name]) for name in mounted if name in self.disk.trees]
        for volume, tree in places:
            for path in environment_blocks(tree):
                if real := tree.real_path(path):
                    yield File(volume, real)
            for folder in _ENTRY_FOLDERS:
                for name in tree.names(folder):
                    real = tree.real_path(f"{folder}/{name}")
                    if name.endswith(".conf") and real:
                        yield File(volume, real)
        for volume, tree in places[1:]:
            for path in _COMMAND_LINE_FILES:
                real = tree.real_path(path.removeprefix("/boot"))
                if path.startswith("/boot") and real and tree.is_file(path.removeprefix("/boot")):
                    yield File(volume, real)

    def _names(self, sources: Sequence[str], presence: Presence) -> Names:
        disks: list[dict[int, Known]] = [{} for _ in range(self.disk.count)]
        logical = []
        for name, each in self.disk.file_systems.items():
            known = Known(each.kind.lower(), each.uuid, each.label)
            if each.logical:
                logical.append(known)
            else:
                disks[disk_of(name)][partition_of(name)] = known
        root = None
        if not self.root.logical:
            root = disk_of(self.root.volume), partition_of(self.root.volume)
        file = self.in_root("/etc/fstab")
        by_uuid = fstab.by_uuid(self.text(file)) if file else frozenset()
        return Names.told_from(
            self._uses(), disks, root, tuple(logical), sources, by_uuid, presence
        )

    def _uses(self) -> Iterator[Use]:
        if file := self.in_root("/etc/fstab"):
            yield from fstab.uses(self.text(file))
        for kernel in self.guest.kernels:
            yield from loaders.uses(kernel.command_line)


Change = Callable[[str, Names], str]


def _calm_texts(system: _System) -> dict[File, Change]:
    """What is done to each text file so that nobody waits in vain."""
    changes: dict[File, Change] = {
        file: lambda text, names: loaders.without_vain_resume(text, names.presence.lacks)
        for file in system.command_line_files()
    }
    if file := system.in_root("/etc/fstab"):
        changes[file] = lambda text, names: fstab.calm_fstab(text, names.presence.lacks)
    if file := system.in_root("/etc/crypttab"):
        changes[file] = lambda text, names: fstab.calm_crypttab(text, names.presence.lacks)
    return changes


def _stable_texts(system: _System) -> dict[File, Change]:
    """What is done to each so that all names in it hold on other hardware."""
    candidates: dict[File, Change] = {}
    for path, change in (
        ("/etc/fstab", fstab.stable_fstab),
        ("/etc/crypttab", fstab.stable_crypttab),
        (_CARD_RULES, lambda text, _: identity.without_card_rules(text)),
    ):
        if file := system.in_root(path):
            candidates[file] = change
    for file in system.command_line_files():
        candidates.setdefault(file, loaders.stable_command_lines)
    return candidates


def _texts(system: _System, changes: Mapping[File, Change]) -> Iterator[tuple[File, str, str]]:
    """Each text file that changes: where, before, after."""
    for file, change in changes.items():
        before = system.text(file)
        after = change(before, system.names)
        if after != before:
            yield file, before, after


def _write(system: _System, file: File, after: str) -> appliance.Write:
    content = after.encode(errors="surrogateescape")
    return appliance.Write(system.file_system(file.volume), file.path, content)


# ---------------------------------------------------------------------------------- drivers


def _drivers(
    system: _System, kernel: Kernel, wanted: Wanted
) -> tuple[appliance.Write, FileChange] | None:
    """What is put behind a kernel's initramfs; None where nothing is missing, or it has none."""
    if not kernel.initramfs:
        return None
    names = wanted(kernel, system.tree)
    if not names:
        return None
    packed = _Initramfs(system, kernel)
    data, added = packed.with_drivers(names)
    if not added:
        return None
    file = kernel.initramfs[-1]
    before = len(packed.last)
    write = appliance.Write(
        system.file_system(file.volume), file.path, bytes(-before % 512) + data, append=True
    )
    change = tr(
        "{count} bytes behind it: the drivers {added}, and indexes that name them",
        count=len(data),
        added=", ".join(added),
    )
    return write, FileChange(file.volume, file.path, tr("{before} bytes", before=before), change)


def system_modules(tree: Tree, kernel: Kernel) -> Modules:
    """All modules that a system has for a kernel."""
    folder = f"/lib/modules/{kernel.version}"
    return Modules.parse({name: tree.text(f"{folder}/{name}") for name in INDEXES})


class _Initramfs:
    """A kernel's initramfs, and the modules that could be added to it.

    Attributes:
        last: the last of its files; what is added goes behind it.
    """

    def __init__(self, system: _System, kernel: Kernel) -> None:
        parts = [_read(system, file, initramfs.MAX_PACKED) for file in kernel.initramfs]
        self.last = parts[-1]
        self.whole = b"".join(padded(part) for part in parts)
        self._kernel = kernel
        self._tree = system.tree
        indexes: dict[str, bytes] = {}
        for part in parts:
            indexes |= initramfs.read(part).indexes
        found = {name for name in indexes if name.endswith(f"/{kernel.version}/modules.dep")}
        self._folder = min(found, default="").removesuffix("/modules.dep")
        self._there = Modules.parse(
            {name: _decoded(indexes.get(f"{self._folder}/{name}", b"")) for name in INDEXES}
        )

    def with_drivers(self, wanted: tuple[str, ...]) -> tuple[bytes, tuple[str, ...]]:
        """The archive that adds them, as `driver_archive` returns it."""
        modules = system_modules(self._tree, self._kernel)
        missing = [
            name for name in wanted if name not in {*self._there.files, *self._kernel.built_in}
        ]
        if not missing:
            return b"", ()
        if not self._folder:
            raise NoDriver(
                tr(
                    "The initramfs of Linux {version} does not say which drivers it has, so none "
                    "can be added to it.",
                    version=self._kernel.version,
                ),
                tr("Choose hardware that needs no other driver."),
                remedy=Remedy.CHOOSE_HARDWARE,
            )
        return driver_archive(self._folder, self._there, modules, missing, self._module)

    def _module(self, path: str) -> bytes:
        name = f"/lib/modules/{self._kernel.version}/{path}"
        data = self._tree.read(name, _MAX_KERNEL)
        if data is None:
            raise GuestUnreadable(
                tr("The driver {name} in this recovery point cannot be read.", name=name)
            )
        return data


def _errand(system: _System, writes: list[appliance.Write]) -> appliance.Errand:
    """What the appliance does, and the first kernel with the drivers that it needs for that."""
    kernel = system.guest.kernels[0]
    if not kernel.initramfs:  # it has none, or both lie in one program
        raise NotRetargeted(
            tr(
                "Linux {version} in this recovery point has no initramfs in a file of its own, "
                "which is needed to change its files.",
                version=kernel.version,
            ),
            tr("Choose hardware that needs no changes."),
            remedy=Remedy.CHOOSE_HARDWARE,
        )
    packed = _Initramfs(system, kernel)
    has = kernel.early | set(kernel.modules)
    volumes = [write.volume for write in writes]
    for controller, drivers in appliance.controllers().items():
        if has.issuperset(drivers):
            wanted = (*drivers, *appliance.file_system_drivers(volumes))
            data, _ = packed.with_drivers(wanted)
            image = _read(system, kernel.image, _MAX_KERNEL)
            return appliance.Errand(image, packed.whole + data, controller, writes)
    raise NoDriver(
        tr(
            "Linux {version} in this recovery point has no driver for any disk that it could be "
            "given to change its files.",
            version=kernel.version,
        ),
        tr("Choose hardware that needs no changes."),
    )


def _read(system: _System, file: File, most: int) -> bytes:
    data = system.disk.trees[file.volume].read(file.path, most)
    if data is None:
        raise GuestUnreadable(
            tr("The file {file} in this recovery point cannot be read.", file=file.path),
            tr("Choose hardware that needs no changes, or use another recovery point."),
        )
    return data


def _decoded(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


# --------------------------------------------------------------------------------- identity


def _uses_signature(system: _System) -> bool:
    """Whether PARTUUID= names a partition of an MBR, which is called by the disk's signature."""
    files = [
        file for file in (system.in_root("/etc/fstab"), system.in_root("/etc/crypttab")) if file
    ]
    files += system.command_line_files()
    short = re.compile(r"PARTUUID=\"?[0-9a-fA-F]{8}-")
    return any(short.search(system.text(file)) for file in files)


def _card_notes(system: _System) -> Iterator[str]:
    for folder in _CARD_FOLDERS:
        for name in system.tree.names(folder):
            if _CARD.search(system.tree.text(f"{folder}/{name}")):
                yield (
                    tr(
                        "{folder}/{name} asks for a network card with the original's address; the "
                        "machine has another one.",
                        folder=folder,
                        name=name,
                    )
                )
