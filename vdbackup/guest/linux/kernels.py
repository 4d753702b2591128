"""The kernels of a Linux, and which drivers each has.

Sources: the header of a kernel image: https://docs.kernel.org/arch/x86/boot.html; modules.builtin:
modules.builtin(5) of kmod.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from vdbackup.guest.disk import Disk
from vdbackup.guest.drivers import KNOWN
from vdbackup.guest.linux import initramfs, menus, unified
from vdbackup.guest.linux.boot_menu import MAX_COMMAND_LINE, MAX_KERNELS, Menu
from vdbackup.guest.model import (
    Generator,
    Kernel,
    LoaderKind,
)
from vdbackup.guest.tree import Tree
from vdbackup.text import printable

_MAX_IMAGE_HEAD = 64 << 10


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
            image = tree.file(path)
            others = (_of_boot(tree, each, menu) for each in entry.initramfs)
            files = tuple(tree.file(each) for each in others if tree.is_file(each))
            if image not in seen:
                seen.add(image)
                version, machine = _image(tree, path)
                yield Kernel(
                    version,
                    image,
                    files,
                    entry.command_line[:MAX_COMMAND_LINE],
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
        tree.file(path),
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
                        tree.file(path),
                        tuple(tree.file(each) for each in files[:1]),
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
