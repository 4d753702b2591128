"""A real Linux of 64 MiB, built from Debian packages without root, mounts or loop devices.

    sector 2,048     FAT16, active: SYSLINUX, a kernel, an initramfs with the drivers for
                     virtio, NVMe and IDE disks
    sector 63,488    ext4, label "root": holds the file `bootcount`

Booted, it adds one to `bootcount` on its root, says so on the first serial port in a line such as
`VDBACKUP-BOOT-OK root=/dev/vda2 count=1`, and powers off.

What takes long is kept in the tests' cache (tests/guests/cache.py).
"""

from __future__ import annotations

import functools
import gzip
import lzma
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.guests import cache
from tests.guests.cache import NotBuilt, run

SIZE = 64 << 20
SECTOR = 512
BOOT_START, ROOT_START, END = 2048, 63_488, SIZE // SECTOR
ALIVE = "VDBACKUP-BOOT-OK"

_KERNEL = "linux-image-cloud-amd64"
_DRIVERS = ("virtio_pci", "virtio_blk", "nvme", "ata_piix", "sd_mod", "ext4", "crc32c_generic")
_COMMANDS = ("sh", "mount", "umount", "insmod", "findfs", "cat", "echo", "sleep", "poweroff")
_TOOLS = ("apt-get", "apt-cache", "dpkg-deb", "depmod", "mkfs.fat", "mcopy", "syslinux", "mke2fs")
_MASTER_BOOT_CODE = Path("/usr/lib/syslinux/mbr/mbr.bin")
# no_timer_check: a busy computer translates too slowly for what Linux wants of a timer
_SYSLINUX_CFG = """\
SERIAL 0 115200
DEFAULT tiny
LABEL tiny
  KERNEL vmlinuz
  INITRD initrd.gz
  APPEND console=ttyS0 quiet panic=-1 no_timer_check
"""
_INIT = """\
#!/bin/sh
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
while read -r driver; do insmod "/drivers/$driver"; done < /drivers/order
for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  root=$(findfs LABEL=root) && break
  sleep 0.2
done
if mount -t ext4 "$root" /sysroot; then
  count=$(($(cat /sysroot/bootcount) + 1))
  echo $count > /sysroot/bootcount
  umount /sysroot
  echo "VDBACKUP-BOOT-OK root=$root count=$count"
else
  echo "VDBACKUP-BOOT-FAILED no root among: $(echo /sys/class/block/*)"
fi
poweroff -f
"""


@functools.cache  # apt-cache(8) takes a second to say which kernel that is
def image() -> Path:
    """The image, built if it is not in the cache. Copy it before you change it."""
    _check_tools()
    kernel = _newest_kernel()
    packages = [kernel, *_parts(kernel), "busybox-static"]
    code = cache.recipe(Path(__file__).read_bytes())
    built = cache.folder() / f"{kernel}-{code}.img"
    with cache.locked("tiny-linux"):
        if not built.exists():
            with tempfile.TemporaryDirectory(dir=cache.folder()) as folder:
                system = Path(folder, "system")
                _unpack(packages, system)
                disk = _disk(system, Path(folder))
                disk.chmod(0o444)
                disk.replace(built)
    return built


def set_boot_count(disk: Path, count: int) -> None:
    """Write `count` into the file on the root of `disk`, a raw image, as an earlier boot would."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(f"{count}\n")
        file.flush()
        commands = f"rm bootcount\nwrite {file.name} bootcount\n"
        where = f"{disk}?offset={ROOT_START * SECTOR}"
        run("debugfs", "-w", "-f", "-", where, text=commands)


def _check_tools() -> None:
    missing = [tool for tool in _TOOLS if shutil.which(tool, path=cache.path()) is None]
    if missing or not _MASTER_BOOT_CODE.exists():
        raise NotBuilt(
            f"The test guest needs Debian, and {', '.join(missing) or _MASTER_BOOT_CODE}. Install "
            "with: sudo apt-get install apt dpkg kmod dosfstools mtools syslinux e2fsprogs"
        )


def _newest_kernel() -> str:
    """The package that the metapackage stands for now, such as linux-image-6.1.0-49-cloud-amd64."""
    for attempt in range(2):
        if names := _depends(_KERNEL, "image"):
            return names[0]
        if attempt == 0 and os.getuid() == 0:
            run("apt-get", "update")
    raise NotBuilt(
        f"apt does not know the package {_KERNEL}, which the test guest is built from. "
        "Run: sudo apt-get update"
    )


def _parts(kernel: str) -> list[str]:
    """What holds its kernel, its drivers and their lists where Debian packs those on their own."""
    return _depends(kernel, "base|binary|modules")


def _depends(package: str, kinds: str) -> list[str]:
    """The packages of one version of Linux that a package depends on; `kinds` as a pattern."""
    said = subprocess.run(
        ["apt-cache", "depends", package], capture_output=True, text=True, check=False
    ).stdout
    return re.findall(rf"Depends: (linux-(?:{kinds})-\d\S+)", said)


def _unpack(packages: list[str], target: Path) -> None:
    """Download Debian packages and unpack them into `target`, without installing them."""
    target.mkdir()
    try:
        run("apt-get", "-qq", "download", *packages, folder=target)
    except NotBuilt:
        if os.getuid() != 0:
            raise
        run("apt-get", "update")  # the lists may be older than the archive
        run("apt-get", "-qq", "download", *packages, folder=target)
    for package in target.glob("*.deb"):
        run("dpkg-deb", "-x", package, target)
        package.unlink()
    for name in ("bin", "lib"):  # from Debian 13 on packages hold only what these links lead to
        if not (target / name).exists():
            (target / name).symlink_to(f"usr/{name}")


def _disk(system: Path, folder: Path) -> Path:
    """Put the disk together from the unpacked packages in `system`; made in `folder`."""
    # beside its drivers where Debian packs it on its own
    (kernel,) = (*system.glob("boot/vmlinuz-*"), *system.glob("usr/lib/modules/*/vmlinuz"))
    initramfs, configuration = folder / "initrd.gz", folder / "syslinux.cfg"
    initramfs.write_bytes(gzip.compress(_initramfs(system), compresslevel=1))
    configuration.write_text(_SYSLINUX_CFG)
    boot = _sparse(folder / "boot", ROOT_START - BOOT_START)
    run("mkfs.fat", "-F", "16", "-h", str(BOOT_START), "-n", "BOOT", boot)
    run("mcopy", "-i", boot, kernel, "::vmlinuz")
    run("mcopy", "-i", boot, initramfs, configuration, "::")
    run("syslinux", "--install", boot)

    content = folder / "content"
    content.mkdir()
    (content / "bootcount").write_text("0\n")
    root = _sparse(folder / "root", END - ROOT_START)
    run("mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", content, root)

    disk = _sparse(folder / "disk", END)
    with disk.open("rb+") as file:
        file.write(_master_boot_record())
        for part, start in ((boot, BOOT_START), (root, ROOT_START)):
            for offset, block in _blocks(part):
                file.seek(start * SECTOR + offset)
                file.write(block)
    return disk


def _sparse(path: Path, sectors: int) -> Path:
    with path.open("wb") as file:
        file.truncate(sectors * SECTOR)
    return path


def _blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """The blocks of a file that are not zero, each with its offset."""
    size = 4096
    with path.open("rb") as file:
        for offset in range(0, path.stat().st_size, size):
            if any(block := file.read(size)):
                yield offset, block


def _master_boot_record() -> bytes:
    entry = struct.Struct("<B3sB3sII")
    beyond_chs = b"\xfe\xff\xff"
    table = b"".join(
        entry.pack(active, beyond_chs, kind, beyond_chs, start, end - start)
        for active, kind, start, end in (
            (0x80, 0x0E, BOOT_START, ROOT_START),
            (0, 0x83, ROOT_START, END),
        )
    )
    code = _MASTER_BOOT_CODE.read_bytes()
    return code.ljust(440, b"\0") + b"tiny" + bytes(2) + table.ljust(64, b"\0") + b"\x55\xaa"


def _initramfs(system: Path) -> bytes:
    """The archive that the kernel unpacks into its first root: busybox, drivers, `init`."""
    drivers = _drivers(system)
    (modules,) = (system / "lib" / "modules").glob("*")
    archive = b"".join(
        [
            *(
                _member(name, 0o040755)
                for name in (
                    *("bin", "dev", "drivers", "proc", "sysroot", "sys"),
                    *("lib", "lib/modules", f"lib/modules/{modules.name}"),
                )
            ),
            # As initramfs-tools do: from Debian 13 on this kernel has virtio_pci and NVMe built in,
            # and nothing else tells who looks at the disk.
            _member(
                f"lib/modules/{modules.name}/modules.builtin",
                0o100644,
                (modules / "modules.builtin").read_bytes(),
            ),
            _member("init", 0o100755, _INIT.encode()),
            _member("bin/busybox", 0o100755, (system / "bin" / "busybox").read_bytes()),
            *(_member(f"bin/{name}", 0o120777, b"busybox") for name in _COMMANDS),
            *(_member(f"drivers/{name}", 0o100644, code) for name, code in drivers.items()),
            _member("drivers/order", 0o100644, "".join(f"{name}\n" for name in drivers).encode()),
        ]
    )
    return archive + _member("TRAILER!!!", 0)


def _member(name: str, mode: int, content: bytes = b"") -> bytes:
    """A member of a cpio archive of the kind "newc" (the kernel's buffer-format.rst)."""
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = "070701" + "".join(f"{field:08X}" for field in fields) + name + "\0"
    return _filled(head.encode()) + _filled(content)


def _filled(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _drivers(system: Path) -> dict[str, bytes]:
    """The drivers and what they depend on, in the order in which they can be loaded."""
    (modules,) = (system / "lib" / "modules").glob("*")
    run("depmod", "-b", system, modules.name)
    needs: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    paths = {Path(path).name.partition(".ko")[0].replace("-", "_"): path for path in needs}
    ordered: dict[str, bytes] = {}
    for driver in _DRIVERS:
        if driver not in paths:  # built into this kernel
            continue
        # depmod lists what a module needs last first: depmod(8)
        for path in [*reversed(needs[paths[driver]]), paths[driver]]:
            code = (modules / path).read_bytes()
            ordered[Path(path).name.removesuffix(".xz")] = (
                lzma.decompress(code) if path.endswith(".xz") else code
            )
    return ordered
