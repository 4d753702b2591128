"""A machine that is used over its serial console, as a person would."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.guests.patience import Clock, Patience
from vdbackup.qemu import accelerator, firmware, qemu

ANSWER = 300.0
"""Seconds (of a `Clock`) for what comes without much work."""
_AT_ONCE, _MOMENT = 1 << 16, 1.0
_LAST_WORDS = 3000
_MONITOR, _LOG = "monitor", "console"
_OF_THE_KERNEL = re.compile(rb"\s*\[ *[0-9]+\.[0-9]+\]")
"""Its complaints of processors that are stuck are no sign of life."""


class Console:
    """The first serial port of a running machine.

    Attributes:
        said: all that came from it so far.
    """

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self._process, self._monitor = process, folder / _MONITOR
        self._log = (folder / _LOG).open("a", encoding="utf-8", errors="replace", buffering=1)
        self._clock = Clock(process.pid)
        self._from = 0
        self.said = b""

    def close(self) -> None:
        """Read from it no more."""
        self._log.close()

    def wait_for(self, pattern: str, limit: float = ANSWER) -> re.Match[bytes]:
        """What matches of what comes next; raises AssertionError where it does not come.

        Args:
            pattern: a regular expression.
            limit: seconds, as a `Clock` counts them.
        """
        patience = Patience(self._process.pid, self._monitor, limit)
        while not (found := re.compile(pattern.encode()).search(self.said, self._from)):
            ended = f"the machine has ended before {pattern!r}: {self._last_words()}"
            assert self._read(patience, pattern), ended
        self._from = found.end()
        self._note(f"{pattern!r} took {patience.clock}")
        return found

    def type(self, line: str) -> None:
        """Type a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\r")
        self._process.stdin.flush()

    def wait_for_end(self, limit: float) -> None:
        """Until the machine has switched itself off."""
        patience = Patience(self._process.pid, self._monitor, limit)
        while self._read(patience, "its end"):
            pass
        assert self._process.wait(60) == 0
        self._note(f"its end took {patience.clock}")

    def _read(self, patience: Patience, what: str) -> bool:
        """Take what comes within a moment; False once the machine has ended."""
        assert self._process.stdout is not None
        number = self._process.stdout.fileno()
        try:
            patience.check(what)
        except AssertionError as error:
            raise AssertionError(f"{error}\nIts last words: {self._last_words()}") from None
        if not select.select([number], [], [], _MOMENT)[0]:
            return True
        came = os.read(number, _AT_ONCE)
        self.said += came
        self._log.write(came.decode(errors="replace").replace("\r", ""))
        if not _OF_THE_KERNEL.match(came):
            patience.sign_of_life()
        return bool(came)

    def _note(self, what: str) -> None:
        """Into the log, and onto what pytest shows of a test: when it came to what."""
        line = f"[after {self._clock}: {what}]"
        self._log.write(f"\n{line}\n")
        sys.stdout.write(f"{line}\n")

    def _last_words(self) -> str:
        return self.said[-_LAST_WORDS:].decode(errors="replace").replace("\r", "")


@dataclass(frozen=True)
class Secure:
    """OVMF with Secure Boot and Microsoft's keys, as Debian's package ovmf has it."""

    code: Path = Path("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd")
    variables: Path = Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd")


@contextmanager
def machine(
    folder: Path, *devices: str, uefi: bool = False, memory: int = 2048, secure: bool = False
) -> Iterator[Console]:
    """A machine without a screen; it is ended with its block, if it has not ended by then.

    One that is translated has one processor: of two each waits for the other, which a busy computer
    lets wait for half a minute, and Linux takes that for a lockup.

    Args:
        folder: of this computer: what is said lies there, and the variables of its UEFI.
        devices: QEMU's options for what it has.
        uefi: whether it starts by UEFI; else by BIOS.
        memory: MiB.
        secure: whether that UEFI starts only what is signed.
    """
    chosen = accelerator.choose().accelerator
    processors = "1" if chosen is qemu.Accelerator.TCG else "2"
    command = [
        *("qemu-system-x86_64", "-nodefaults", "-no-reboot", "-machine"),
        "q35,smm=on" if secure else "q35",
        *_processor(chosen),
        *("-m", str(memory), "-smp", processors, "-display", "none", "-vga", "std"),
        *("-serial", "stdio", "-qmp", f"unix:{folder / _MONITOR},server=on,wait=off"),
        *(_uefi(folder, secure=secure) if uefi or secure else ()),
        *devices,
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        with closing(Console(process, folder)) as screen:
            yield screen
    finally:
        process.kill()
        process.communicate()


def _processor(chosen: qemu.Accelerator) -> list[str]:
    """What numpy wants (x86-64-v2), and no more where it is translated.

    On all that QEMU 7.2 can translate (`max`, with AVX2) a table of 24 digests that is whole "makes
    no sense" to the program on the medium.
    """
    if chosen is qemu.Accelerator.TCG:
        return ["-accel", chosen, "-cpu", "Nehalem"]
    return qemu.processor(chosen)


def _uefi(folder: Path, *, secure: bool) -> list[str]:
    """Flash chips with a UEFI, and its variables in a folder."""
    found = Secure() if secure else firmware.find()
    own = folder / "variables.fd"  # what one start has written, the next one finds
    if not own.exists():
        shutil.copyfile(found.variables, own)
    only_firmware_writes = ["-global", "driver=cfi.pflash01,property=secure,value=on"]
    return [
        *(only_firmware_writes if secure else ()),
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
