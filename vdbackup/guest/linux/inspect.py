"""A Linux on a disk: its root, its kernels and their drivers, and the devices it relies on.

Sources: os-release(5), fstab(5), crypttab(5); the header of a kernel image:
https://docs.kernel.org/arch/x86/boot.html; modules.builtin: modules.builtin(5) of kmod.
"""

from __future__ import annotations

import logging
import re
import shlex
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from vdbackup.guest.disk import Disk
from vdbackup.guest.drivers import KNOWN
from vdbackup.guest.linux import initramfs, menus, unified
from vdbackup.guest.model import (
    DeviceName,
    File,
    FileSystem,
    Generator,
    Kernel,
    LoaderKind,
)
from vdbackup.guest.tree import Tree
from vdbackup.text import printable
from vdbackup.translation import tr

log = logging.getLogger(__name__)

MAX_KERNELS = 50
_MAX_IMAGE_HEAD = 64 << 10
_MAX_COMMAND_LINE = 4096
_SUBVOLUMES = ("", "@", "root", "@rootfs", "@root", "@/.snapshots/1/snapshot")
"""Where in a Btrfs distributions put their root."""
_MAX_SUBVOLUMES = 50
"""Folders at a Btrfs' top that are looked into for a root."""
_UNSTABLE = re.compile(
    r"/dev/(?:(?:[shv]|xv)d[a-z]+\d*|nvme\d+n\d+(?:p\d+)?|mmcblk\d+(?:p\d+)?|disk/by-(?:id|path)/\S+)"
)
"""Names that depend on what a disk is connected to. LVM's are read from the disk itself."""
_UNSTABLE_OPTION = re.compile(rf"(?:^|\s)(root|resume)=({_UNSTABLE.pattern})(?=\s|$)")
_ELF_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 21: "ppc64", 243: "riscv64"}
_CONFIGURATIONS = (
    ("/boot/grub/grub.cfg", LoaderKind.GRUB),
    ("/boot/grub2/grub.cfg", LoaderKind.GRUB),
    ("/grub/grub.cfg", LoaderKind.GRUB),
    ("/grub2/grub.cfg", LoaderKind.GRUB),
    ("/boot/syslinux/syslinux.cfg", LoaderKind.SYSLINUX),
    ("/boot/extlinux/extlinux.conf", LoaderKind.SYSLINUX),
    ("/boot/extlinux.conf", LoaderKind.SYSLINUX),
    ("/syslinux/syslinux.cfg", LoaderKind.SYSLINUX),
    ("/extlinux/extlinux.conf", LoaderKind.SYSLINUX),
    ("/extlinux.conf", LoaderKind.SYSLINUX),
    ("/syslinux.cfg", LoaderKind.SYSLINUX),
)
_OTHER_CONFIGURATIONS: tuple[
    tuple[str, LoaderKind, Callable[[str], list[menus.Entry]]], ...
] = (
    *(
        (f"{folder}/{name}", LoaderKind.GRUB, menus.grub_legacy)
        for folder in ("/boot/grub", "/grub")
        for name in ("menu.lst", "grub.conf")
    ),
    *(
        (f"{folder}/limine.{suffix}", LoaderKind.LIMINE, menus.limine)
        for folder in (
            "", "/boot", "/limine", "/boot/limine", "/EFI/limine", "/EFI/BOOT", "/EFI/arch-limine"
        )
        for suffix in ("conf", "cfg")
    ),
    ("/boot/refind_linux.conf", LoaderKind.REFIND, menus.refind_linux),
    ("/refind_linux.conf", LoaderKind.REFIND, menus.refind_linux),
    ("/EFI/refind/refind.conf", LoaderKind.REFIND, menus.refind),
    ("/EFI/BOOT/refind.conf", LoaderKind.REFIND, menus.refind),
)  # fmt: skip
"""Looked at where there is none of the others, and no entries of systemd-boot."""
_LILO = "/etc/lilo.conf"
_ENTRIES = ("/boot/loader/entries", "/loader/entries")
_ENVIRONMENTS = ("/boot/grub2/grubenv", "/grub2/grubenv", "/boot/grub/grubenv", "/grub/grubenv")
_GRAPHICAL = (
    "/etc/systemd/system/display-manager.service",
    "/etc/X11/default-display-manager",
)


@dataclass(frozen=True)
class Root:
    """A volume, or a Btrfs subvolume of it, that a Linux has as its root."""

    file_system: FileSystem
    tree: Tree


@dataclass(frozen=True)
class Menu:
    """What a boot loader's configuration starts, from which file on which volume."""

    kind: LoaderKind
    file: File
    entries: tuple[menus.Entry, ...]


# ------------------------------------------------------------------------------------- the root


def roots(disk: Disk) -> Iterator[Root]:
    """The volumes on which a Linux has its root."""
    for name, tree in disk.trees.items():
        system = disk.file_systems[name]
        for subvolume in _subvolumes(tree) if system.kind == "Btrfs" else ("",):
            below = tree.below(subvolume) if subvolume else tree
            if below is not None and is_root(below):
                yield Root(replace(system, subvolume=subvolume), below)


def _subvolumes(tree: Tree) -> list[str]:
    """Where in a Btrfs a root may be, the likeliest first: what is mounted where nobody names any.

    Going back to a snapshot makes that another one (snapper) or leaves the former root beside it
    (Timeshift), and an installer may be told any name.
    """
    first = tree.default_path()
    return list(dict.fromkeys((first, *_SUBVOLUMES, *tree.names("/")[:_MAX_SUBVOLUMES])))


def is_root(tree: Tree) -> bool:
    """Whether a Linux has its root there."""
    release = tree.is_file("/etc/os-release") or tree.is_file("/usr/lib/os-release")
    return release or (tree.is_file("/etc/fstab") and tree.is_file("/sbin/init"))


def release(tree: Tree) -> tuple[str, str]:
    """Name and version of the distribution."""
    text = tree.text("/etc/os-release") or tree.text("/usr/lib/os-release")
    values = dict(_assignments(text))
    return printable(values.get("PRETTY_NAME") or values.get("NAME") or "Linux")[:200], printable(
        values.get("VERSION_ID", "")
    )[:50]


def architecture(tree: Tree) -> str:
    """By what its programs are made for; "" if it is not known."""
    for path in ("/bin/sh", "/usr/bin/sh", "/sbin/init", "/usr/bin/env"):
        head = tree.read(path, 64, whole=False)
        if head and head.startswith(b"\x7fELF") and len(head) >= 20:
            order = ">" if head[5] == 2 else "<"
            (machine,) = struct.unpack_from(f"{order}H", head, 18)
            return _ELF_MACHINES.get(machine, tr("ELF machine {machine}", machine=machine))
    return ""


def is_graphical(tree: Tree) -> bool:
    """Whether it starts a desktop."""
    return any(tree.find(path) is not None for path in _GRAPHICAL)


# ----------------------------------------------------------------------- the boot loader's menu


def menu(tree: Tree, efi: Tree | None = None) -> Menu | None:
    """What the boot loader whose configuration lies on a volume starts.

    Args:
        tree: of the volume.
        efi: the EFI system partition, on which GRUB may keep its variables.
    """
    listed = _listed_entries(tree, efi)
    for path, kind in _CONFIGURATIONS:
        text = tree.text(path)
        if not text:
            continue
        entries = menus.grub(text) if kind is LoaderKind.GRUB else menus.syslinux(text)
        if listed and kind is LoaderKind.GRUB and not entries:  # its command blscfg
            return Menu(kind, listed.file, listed.entries)
        if entries:
            return Menu(kind, _file(tree, path), tuple(entries))
    return listed or _other_menu(tree)


def _other_menu(tree: Tree) -> Menu | None:
    for path, kind, read in _OTHER_CONFIGURATIONS:
        if (text := tree.text(path)) and (entries := read(text)):
            return Menu(kind, _file(tree, path), tuple(entries))
    return None


def lilo_menu(tree: Tree) -> Menu | None:
    """What LILO was installed to start, as its configuration says it: it lies in /etc."""
    text = tree.text(_LILO)
    if entries := menus.lilo(text):
        return Menu(LoaderKind.LILO, _file(tree, _LILO), tuple(entries))
    return None


def vendors_menu(tree: Tree) -> Menu | None:
    """GRUB's on an EFI system partition, where Red Hat's systems had all of it until 2020.

    Others have a few lines there that read the menu elsewhere. It may be an earlier system's, so it
    is looked at last.
    """
    for vendor in tree.names("/EFI"):
        path = f"/EFI/{vendor}/grub.cfg"
        if entries := menus.grub(tree.text(path)):
            return Menu(LoaderKind.GRUB, _file(tree, path), tuple(entries))
    return None


def environment_blocks(tree: Tree) -> list[str]:
    """Where on a volume GRUB keeps its variables.

    Red Hat's systems with UEFI have them in the vendor's folder of the EFI system partition, with
    a link in /boot that leads there, to another volume.
    """
    vendors = (f"/EFI/{vendor}/grubenv" for vendor in tree.names("/EFI"))
    return [path for path in (*_ENVIRONMENTS, *vendors) if tree.is_file(path)]


def _listed_entries(tree: Tree, efi: Tree | None) -> Menu | None:
    for folder in _ENTRIES:
        names = [name for name in tree.names(folder) if name.endswith(".conf")]
        if not names:
            continue
        variables: dict[str, str] = {}
        for place in filter(None, (efi, tree)):
            for path in environment_blocks(place):
                variables |= menus.environment_block(place.text(path))
        top = folder.removesuffix("/entries")
        ordered = menus.preferred(names, tree.text(f"{top}/loader.conf"))[:MAX_KERNELS]
        entries = [menus.loader_entry(tree.text(f"{folder}/{name}"), variables) for name in ordered]
        if any(entry.image for entry in entries):
            file = _file(tree, f"{folder}/{ordered[0]}")
            entries = [entry for entry in entries if entry.image]
            return Menu(LoaderKind.SYSTEMD_BOOT, file, tuple(entries))
    return None


# ------------------------------------------------------------------------------------- kernels


def kernels(
    disk: Disk, menu: Menu | None, places: Sequence[Tree], root: Tree | None
) -> tuple[Kernel, ...]:
    """What can be started, the boot loader's own choice first; that one's drivers are read.

    Args:
        disk: that they lie on.
        menu: of the boot loader; None if it has none that is known.
        places: where its paths may begin: what holds /boot.
        root: where /lib/modules is.
    """
    found = list(_of_menu(menu, places)) if menu else []
    known = {kernel.image for kernel in found}
    rest = [kernel for kernel in _of_folders(places) if kernel.image not in known]
    rest.sort(key=lambda kernel: menus.version_key(kernel.version), reverse=True)
    every = [*found, *rest][:MAX_KERNELS]
    return tuple(
        _with_drivers(kernel, disk.trees, root) if number == 0 else kernel
        for number, kernel in enumerate(every)
    )


def _of_menu(menu: Menu, places: Sequence[Tree]) -> Iterator[Kernel]:
    seen = set()
    for entry in menu.entries:
        for tree in sorted(places, key=lambda tree: tree.volume != menu.file.volume):
            path = _of_boot(tree, entry.image, menu)
            if not tree.is_file(path):
                continue
            image = _file(tree, path)
            others = (_of_boot(tree, each, menu) for each in entry.initramfs)
            files = tuple(_file(tree, each) for each in others if tree.is_file(each))
            if image not in seen:
                seen.add(image)
                version, machine = _image(tree, path)
                yield Kernel(
                    version,
                    image,
                    files,
                    entry.command_line[:_MAX_COMMAND_LINE],
                    architecture=machine,
                )
            break


def _of_boot(tree: Tree, path: str, menu: Menu) -> str:
    """A path on a volume: LILO's are those of the running system, with /boot in them."""
    if menu.kind is LoaderKind.LILO and tree.volume != menu.file.volume:
        return path.removeprefix("/boot")
    return path


def of_unified(tree: Tree, path: str, root: Tree | None) -> Kernel | None:
    """The kernel in a unified kernel image; None if it is none.

    Its initramfs and its command line lie in one signed file with it: neither can be changed, so
    none of the modules of /lib/modules can be put there.
    """
    data = tree.read(path, initramfs.MAX_PACKED)
    parts = unified.read(data) if data else None
    if parts is None:
        return None
    version, machine = _image_of(parts.kernel[:_MAX_IMAGE_HEAD])
    content = initramfs.read(parts.initramfs) if parts.initramfs else initramfs.Initramfs()
    version = parts.version or version
    built_in = content.built_in
    if root is not None and version:
        built_in = built_in | _modules(root.text(f"/lib/modules/{version}/modules.builtin"))
    return Kernel(
        version,
        _file(tree, path),
        (),
        parts.command_line,
        content.generator,
        tuple(sorted(content.drivers)),
        tuple(sorted(built_in)),
        architecture=machine,
    )


def _of_folders(places: Sequence[Tree]) -> Iterator[Kernel]:
    for tree in places:
        for folder in ("/boot", "/"):
            names = tree.names(folder)
            for name in names:
                if not re.match(r"(vmlinuz|bzImage|linux)(-|$)", name):
                    continue
                path = f"{folder.rstrip('/')}/{name}"
                if tree.is_file(path):
                    version, machine = _image(tree, path)
                    suffix = name.partition("-")[2]
                    initrds = _initramfs_names(suffix)
                    files = [f"{folder.rstrip('/')}/{each}" for each in initrds if each in names]
                    yield Kernel(
                        version or suffix,
                        _file(tree, path),
                        tuple(_file(tree, each) for each in files[:1]),
                        architecture=machine,
                    )


def _initramfs_names(suffix: str) -> tuple[str, ...]:
    """How distributions call the initramfs of the kernel vmlinuz-`suffix`."""
    if not suffix:
        return ("initrd.img", "initramfs.img", "initrd")
    return (
        f"initrd.img-{suffix}",
        f"initramfs-{suffix}.img",
        f"initrd-{suffix}",
        f"initramfs-{suffix}",
    )


def _image(tree: Tree, path: str) -> tuple[str, str]:
    """Version and architecture that a kernel image says it has; "" where it does not."""
    return _image_of(tree.read(path, _MAX_IMAGE_HEAD, whole=False) or b"")


def _image_of(head: bytes) -> tuple[str, str]:
    if head[0x202:0x206] == b"HdrS":
        (version_at,) = struct.unpack_from("<H", head, 0x20E)
        (flags,) = struct.unpack_from("<H", head, 0x236)
        text = head[version_at + 0x200 : version_at + 0x300].partition(b"\0")[0]
        words = text.decode(errors="replace").split()
        return printable(words[0])[:100] if words else "", "x86_64" if flags & 1 else "i386"
    if head[56:60] == b"ARM\x64":
        return "", "aarch64"
    return "", ""


def _with_drivers(kernel: Kernel, trees: Mapping[str, Tree], root: Tree | None) -> Kernel:
    """The same kernel with what is known of its drivers.

    Paths are those in the volume, so they begin at its top, whatever subvolume the root lies in.
    """
    content = initramfs.Initramfs()
    for file in kernel.initramfs:
        data = trees[file.volume].read(file.path, initramfs.MAX_PACKED)
        one = initramfs.read(data) if data else initramfs.Initramfs(whole=False)
        content.drivers |= one.drivers
        content.built_in |= one.built_in
        if one.generator is not Generator.UNKNOWN:
            content.generator = one.generator
    built_in, modules = content.built_in, set[str]()
    if root is not None and kernel.version:
        folder = f"/lib/modules/{kernel.version}"
        built_in = built_in | _modules(root.text(f"{folder}/modules.builtin"))
        modules = _modules(root.text(f"{folder}/modules.dep")) & KNOWN
    return replace(
        kernel,
        generator=content.generator,
        initramfs_drivers=tuple(sorted(content.drivers)),
        built_in=tuple(sorted(built_in)),
        modules=tuple(sorted(modules)),
    )


def _modules(text: str) -> set[str]:
    """The modules that the lines of modules.builtin or modules.dep begin with."""
    return {
        printable(initramfs.module_name(line.partition(":")[0]))
        for line in text.splitlines()
        if line
    }


# ----------------------------------------------------------------------- the names of devices


@dataclass(frozen=True)
class Mount:
    """A line of fstab."""

    device: str
    point: str
    kind: str
    options: tuple[str, ...]
    line: int


def mounts(tree: Tree) -> list[Mount]:
    """The lines of fstab."""
    found = []
    for number, line in enumerate(tree.text("/etc/fstab").splitlines(), 1):
        words = line.split()
        if len(words) >= 3 and not words[0].startswith("#"):
            options = tuple(words[3].split(",")) if len(words) > 3 else ()
            found.append(Mount(words[0], words[1], words[2], options, number))
    return found


def device_names(tree: Tree | None, menu: Menu | None, kernel: Kernel | None) -> list[DeviceName]:
    """The devices that the system calls by names that depend on the disk's controller."""
    found: list[DeviceName] = []
    if tree is not None:
        found += _in_fstab(tree)
        found += _in_crypttab(tree)
    if menu is not None:
        found += _in_menu(menu, kernel)
    told = [entry.command_line[:_MAX_COMMAND_LINE] for entry in menu.entries] if menu else []
    if kernel is not None and kernel.command_line not in told:
        found += _in_unified(kernel)
    return _each_once(found)


def _each_once(found: list[DeviceName]) -> list[DeviceName]:
    """What an entry of a menu and those below it have in common stands there once."""
    once: dict[tuple[str, File, int], DeviceName] = {}
    for each in found:
        place = each.name, each.file, each.line
        if each.essential or place not in once:
            once[place] = each
    return list(once.values())


def _in_fstab(tree: Tree) -> Iterator[DeviceName]:
    file = _file(tree, "/etc/fstab")
    for mount in mounts(tree):
        if _UNSTABLE.fullmatch(mount.device):
            lenient = mount.kind == "swap" or {"nofail", "noauto"} & set(mount.options)
            yield DeviceName(mount.device, file, mount.line, essential=not lenient)


def _in_crypttab(tree: Tree) -> Iterator[DeviceName]:
    file = _file(tree, "/etc/crypttab")
    for number, line in enumerate(tree.text("/etc/crypttab").splitlines(), 1):
        words = line.split()
        if len(words) >= 2 and not words[0].startswith("#") and _UNSTABLE.fullmatch(words[1]):
            yield DeviceName(words[1], file, number, essential="nofail" not in line)


def _in_menu(menu: Menu, kernel: Kernel | None) -> Iterator[DeviceName]:
    """Essential only in what starts automatically; a resume= that fails is passed over.

    LILO has copied all of it to where it reads it: the file changes nothing any more.
    """
    fixed = menu.kind is LoaderKind.LILO
    for number, entry in enumerate(menu.entries):
        # rEFInd's options name no kernel: its first start one that has none in itself
        if kernel is not None and (entry.image or kernel.command_line):
            ours = entry.command_line == kernel.command_line
        else:
            ours = not number
        for match in _UNSTABLE_OPTION.finditer(entry.command_line):
            essential = ours and match[1] == "root"
            yield DeviceName(match[2], menu.file, entry.line, essential, fixed=fixed)


def _in_unified(kernel: Kernel) -> Iterator[DeviceName]:
    """A kernel has a command line that no menu gives it only where both are in one program."""
    for match in _UNSTABLE_OPTION.finditer(kernel.command_line):
        yield DeviceName(match[2], kernel.image, 0, match[1] == "root", fixed=True)


# ------------------------------------------------------------------------------------- helpers


def _file(tree: Tree, path: str) -> File:
    """Where it really lies in its volume."""
    return File(tree.volume, tree.real_path(path) or f"{tree.path}{path}")


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#") and len(value) <= menus.MAX_QUOTED:
            try:
                yield name.strip(), " ".join(shlex.split(value))
            except ValueError:  # a quotation that does not end
                continue
