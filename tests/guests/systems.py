"""Trees of files that look like an installed system, with an initramfs that holds what one says."""

from __future__ import annotations

import gzip
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

VERSION = "6.1.0-9-amd64"
ELF_X86_64 = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, 62) + bytes(44)
ELF_AARCH64 = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, 183) + bytes(44)
GRUB_CFG = """\
set default="0"
menuentry 'Debian' --class debian {{
  search --no-floppy --fs-uuid --set=root 0
  linux {prefix}/vmlinuz-{version} root={root} ro quiet
  initrd {prefix}/initrd.img-{version}
}}
submenu 'Advanced' {{
  menuentry 'Debian (recovery mode)' {{
    linux {prefix}/vmlinuz-{version} root={root} ro single
    initrd {prefix}/initrd.img-{version}
  }}
}}
"""


def kernel(version: str = VERSION) -> bytes:
    """The head of an image as the kernel's boot protocol describes it; it does not run."""
    head = bytearray(0x1000)
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x20E, 0x600)
    struct.pack_into("<H", head, 0x236, 1)
    text = f"{version} (debian-kernel@lists.debian.org) #1 SMP".encode()
    head[0x800 : 0x800 + len(text)] = text
    return bytes(head)


def archive(files: Mapping[str, bytes]) -> bytes:
    """What the tool cpio packs of some files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        names = [str(path.relative_to(folder)) for path in sorted(Path(folder).rglob("*"))]
        return subprocess.run(
            ["cpio", "--create", "--format=newc", "--quiet"],
            input="\n".join(names).encode(),
            cwd=folder,
            capture_output=True,
            check=True,
        ).stdout


def initramfs(drivers: Iterable[str], version: str = VERSION) -> bytes:
    """An initramfs of initramfs-tools with some modules."""
    modules = f"usr/lib/modules/{version}"
    files = {f"{modules}/kernel/drivers/{name}.ko": b"code" for name in drivers}
    files |= {"scripts/functions": b"", f"{modules}/modules.builtin": b"kernel/lib/crc32.ko\n"}
    return gzip.compress(archive(files), 1)


def linux(
    folder: Path,
    drivers: Iterable[str] = ("virtio_pci", "virtio_blk"),
    *,
    root: str = "/dev/vda1",
    fstab: str = "",
    boot: Path | None = None,
) -> Path:
    """A Linux in `folder`, its /boot in another one if that is named; returns `folder`."""
    modules = folder / "usr/lib/modules" / VERSION
    texts = {
        "usr/lib/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\n',
        "etc/fstab": fstab or f"# <file system>\n{root} / ext4 defaults 0 1\n",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "etc/os-release").symlink_to("../usr/lib/os-release")
    (folder / "lib").symlink_to("usr/lib")
    modules.mkdir(parents=True)
    (modules / "modules.builtin").write_text("kernel/drivers/scsi/sd_mod.ko\n")
    known = [*drivers, "virtio_scsi", "virtio_pci", "virtio_blk", "virtio_net"]
    lines = [f"kernel/drivers/{name.replace('_', '-')}.ko.xz: kernel/x.ko.xz" for name in known]
    (modules / "modules.dep").write_text("\n".join(lines) + "\n")
    (folder / "usr/bin").mkdir(parents=True)
    (folder / "bin").symlink_to("usr/bin")
    (folder / "usr/bin/sh").write_bytes(ELF_X86_64)
    top, prefix = (boot, "") if boot else (folder / "boot", "/boot")
    (top / "grub").mkdir(parents=True)
    (top / f"vmlinuz-{VERSION}").write_bytes(kernel())
    (top / f"initrd.img-{VERSION}").write_bytes(initramfs(drivers))
    text = GRUB_CFG.format(prefix=prefix, root=root, version=VERSION)
    (top / "grub/grub.cfg").write_text(text)
    return folder
