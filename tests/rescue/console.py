"""A machine that is used over its serial console, as a person would."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vdbackup.qemu import accelerator, firmware, qemu

_AT_ONCE = 1 << 16


class Console:
    """The first serial port of a running machine.

    Attributes:
        said: all that came from it so far.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._from = 0
        self.said = b""

    def wait_for(self, pattern: str, seconds: float) -> re.Match[bytes]:
        """What matches of what comes next; raises AssertionError where it does not come."""
        until = time.monotonic() + seconds
        while not (found := re.compile(pattern.encode()).search(self.said, self._from)):
            left = until - time.monotonic()
            assert left > 0, f"{pattern!r} did not come: ...{self.said[-3000:]!r}"
            assert self._read(left), f"the machine has ended before {pattern!r}: {self.said!r}"
        self._from = found.end()
        return found

    def type(self, line: str) -> None:
        """Type a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\r")
        self._process.stdin.flush()

    def wait_for_end(self, seconds: float) -> None:
        """Until the machine has switched itself off."""
        until = time.monotonic() + seconds
        while self._read(until - time.monotonic()):
            assert time.monotonic() < until, f"it does not end: ...{self.said[-3000:]!r}"
        assert self._process.wait(60) == 0

    def _read(self, seconds: float) -> bool:
        """Take what comes within that time; False once the machine has ended."""
        assert self._process.stdout is not None
        number = self._process.stdout.fileno()
        if not select.select([number], [], [], max(seconds, 0))[0]:
            return True
        came = os.read(number, _AT_ONCE)
        self.said += came
        return bool(came)


@contextmanager
def machine(*devices: str, uefi: Path | None = None, memory: int = 2048) -> Iterator[Console]:
    """A machine without a screen; it is ended with its block, if it has not ended by then.

    Args:
        devices: QEMU's options for what it has.
        uefi: a folder for the variables of a UEFI; without one it starts by BIOS.
        memory: MiB.
    """
    command = [
        *("qemu-system-x86_64", "-nodefaults", "-no-reboot", "-machine", "q35"),
        *_processor(),
        *("-m", str(memory), "-smp", "2", "-display", "none", "-vga", "std", "-serial", "stdio"),
        *(_uefi(uefi) if uefi else ()),
        *devices,
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield Console(process)
    finally:
        process.kill()
        process.communicate()


def _processor() -> list[str]:
    """What numpy wants (x86-64-v2), and no more where it is translated.

    On all that QEMU 7.2 can translate (`max`, with AVX2) a table of 24 digests that is whole "makes
    no sense" to the program on the medium.
    """
    chosen = accelerator.choose().accelerator
    if chosen is qemu.Accelerator.TCG:
        return ["-accel", chosen, "-cpu", "Nehalem"]
    return qemu.processor(chosen)


def _uefi(folder: Path) -> list[str]:
    """Flash chips with a UEFI, and its variables in a folder."""
    found = firmware.find()
    own = folder / "variables.fd"  # what one start has written, the next one finds
    if not own.exists():
        shutil.copyfile(found.variables, own)
    return [
        *("-drive", f"if=pflash,format=raw,readonly=on,file={found.code}"),
        *("-drive", f"if=pflash,format=raw,file={own}"),
    ]


def disk(image: Path, name: str) -> list[str]:
    """A virtio disk."""
    drive = f"if=none,id={name},format=raw,file={image}"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive={name},serial={name}"]


def nvme_disk(image: Path, name: str) -> list[str]:
    """An NVMe disk."""
    drive = f"if=none,id={name},format=raw,file={image}"
    return ["-drive", drive, "-device", f"nvme,drive={name},serial={name}"]


def cd(image: Path) -> list[str]:
    """A CD that the machine starts from."""
    drive = f"if=none,id=cd,format=raw,readonly=on,media=cdrom,file={image}"
    return ["-drive", drive, "-device", "ide-cd,drive=cd,bootindex=0"]


def stick(image: Path) -> list[str]:
    """A USB stick that the machine starts from."""
    drive = f"if=none,id=stick,format=raw,readonly=on,file={image}"
    usb = ["-device", "qemu-xhci", "-device", "usb-storage,drive=stick,bootindex=0"]
    return ["-drive", drive, *usb]
