"""The tiny Linux with another init: what a test wants it to do and say."""

from __future__ import annotations

import gzip
import subprocess
import tempfile
from pathlib import Path

from tests.guests.tiny_linux import BOOT_START, SECTOR


def put(disk: Path, script: str) -> None:
    """Give a copy of the image another init; the kernel unpacks what is added over what was there.

    Args:
        disk: the copy, which is changed.
        script: of busybox's shell.
    """
    boot = f"{disk}@@{BOOT_START * SECTOR}"
    with tempfile.TemporaryDirectory() as folder:
        initramfs = Path(folder, "initrd.gz")
        subprocess.run(["mcopy", "-i", boot, "::initrd.gz", initramfs], check=True)
        with initramfs.open("ab") as file:
            file.write(packed(script, Path(folder)))
        subprocess.run(["mcopy", "-o", "-i", boot, initramfs, "::initrd.gz"], check=True)


def packed(script: str, folder: Path) -> bytes:
    """An initramfs that holds an init alone; made in a folder."""
    init = folder / "init"
    init.write_text(script)
    init.chmod(0o755)
    archive = subprocess.run(
        ["cpio", "--create", "--format=newc", "--quiet"],
        input=b"init", cwd=folder, capture_output=True, check=True,
    ).stdout  # fmt: skip
    return gzip.compress(archive)
