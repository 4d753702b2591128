"""What LILO has in a disk's first sector, and in /etc.

The first bytes of its first.S as LILO 24 writes them: cli, a jump, the stage, its size, its name at
byte 6, the version. Version 21 has its name there, too.
"""

from __future__ import annotations

from pathlib import Path

LILO = bytes.fromhex("fa eb 21 01 b4 01") + b"LILO" + bytes.fromhex("18 00")
CONFIGURATION = """\
# as liloconfig writes it
boot = /dev/sda
lba32
default = newer
append="quiet splash"

image = /boot/vmlinuz-6.0
    label = older
    root = /dev/sda1
image = /boot/vmlinuz-6.1
    label = newer
    root = ROOT
    initrd = /boot/initrd.img-6.1
    read-only
other = /dev/sda2
    label = windows
"""


def configure(tree: Path, version: str, root: str) -> None:
    """Let a Linux in a folder be started by LILO alone: its file in /etc, and no menu of GRUB's."""
    (tree / "boot/grub/grub.cfg").unlink()
    text = CONFIGURATION.replace("6.1", version).replace("ROOT", root)
    (tree / "etc/lilo.conf").write_text(text)
