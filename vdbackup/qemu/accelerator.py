"""Whether this computer's processor can run a guest itself (KVM), found out by running one.

`/dev/kvm` that opens says little. Where a computer is itself a virtual machine without nested
virtualization (kvm_pvm), KVM emulates a guest's start instruction by instruction: the BIOS still
runs, and a boot loader stops at an instruction that the emulator does not know. QEMU then pauses
the guest with the state `internal-error` and never ends. So the guest that is run here, a firmware
of 64 KiB, goes the way of an operating system: 16 bits, 32 bits with an interrupt return, paging,
64 bits. Instructions and tables: AMD64 Architecture Programmer's Manual, volume 2; the device that
ends QEMU: `isa-debug-exit` in its source, hw/misc/debugexit.c.
"""

from __future__ import annotations

import functools
import getpass
import json
import logging
import os
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vdbackup.qemu.qemu import SYSTEM, Accelerator, find, processor
from vdbackup.translation import tr

log = logging.getLogger(__name__)

_KVM = Path("/dev/kvm")
_TIME_LIMIT = 10.0
"""Seconds; QEMU takes 0.1 to say yes or no, and longer only while its files are read from disk."""
_ALIVE = 2 * 0x2A + 1
"""QEMU's exit status when the guest has got to its end."""

# Assembled by NASM 2.16; the instructions beside the bytes, put together under `org 0xFE00`, are
# its source: tests/qemu/test_accelerator.py assembles them again and compares. They run at
# F000:FE00, where the last 64 KiB of the firmware are found below 1 MiB.
# fmt: off
_GUEST = bytes.fromhex(
    "FA"                          # start:     cli
    "2E 0F 01 16 9C FE"           #            lgdt [cs:pointer]
    "0F 20 C0"                    #            mov eax, cr0
    "0C 01"                       #            or al, 1
    "0F 22 C0"                    #            mov cr0, eax
    "66 EA 17 FE 0F 00 08 00"     #            jmp dword 0x08:protected + 0xF0000
    ""                            #            bits 32
    "66 B8 10 00"                 # protected: mov ax, 0x10
    "8E D8"                       #            mov ds, ax
    "8E D0"                       #            mov ss, ax
    "BC 00 70 00 00"              #            mov esp, 0x7000
    "9C"                          #            pushfd
    "0E"                          #            push cs
    "68 2C FE 0F 00"              #            push dword returned + 0xF0000
    "CF"                          #            iretd                    ; emulation ends here
    "66 C7 05 00 10 00 00 03 20"  # returned:  mov word [0x1000], 0x2003 ; page tables: 2 MiB
    "66 C7 05 00 20 00 00 03 30"  #            mov word [0x2000], 0x3003
    "66 C7 05 00 30 00 00 83 00"  #            mov word [0x3000], 0x0083
    "B8 00 10 00 00"              #            mov eax, 0x1000
    "0F 22 D8"                    #            mov cr3, eax
    "0F 20 E0"                    #            mov eax, cr4
    "0C 20"                       #            or al, 0x20              ; PAE
    "0F 22 E0"                    #            mov cr4, eax
    "B9 80 00 00 C0"              #            mov ecx, 0xC0000080
    "0F 32"                       #            rdmsr                    ; EFER.LME
    "80 CC 01"                    #            or ah, 1
    "0F 30"                       #            wrmsr
    "0F 20 C0"                    #            mov eax, cr0
    "0D 00 00 00 80"              #            or eax, 0x80000000
    "0F 22 C0"                    #            mov cr0, eax
    "EA 75 FE 0F 00 18 00"        #            jmp dword 0x18:wide + 0xF0000
    ""                            #            bits 64
    "B0 2A"                       # wide:      mov al, 0x2A
    "E6 F4"                       #            out 0xF4, al             ; QEMU ends: 2 * al + 1
    "F4"                          # stop:      hlt
    "EB FD"                       #            jmp stop
    "00 00 00 00 00 00 00 00"     # gdt:       dq 0
    "FF FF 00 00 00 9B CF 00"     #            dq 0x00CF9B000000FFFF    ; 0x08: code, 32 bits
    "FF FF 00 00 00 93 CF 00"     #            dq 0x00CF93000000FFFF    ; 0x10: data
    "FF FF 00 00 00 9B AF 00"     #            dq 0x00AF9B000000FFFF    ; 0x18: code, 64 bits
    "1F 00"                       # pointer:   dw 31
    "7C FE 0F 00"                 #            dd gdt + 0xF0000
)
# fmt: on
_RESET = bytes.fromhex("EA 00 FE 00 F0")  # jmp 0xF000:0xFE00, what the processor does first
FIRMWARE = (bytes(0xFE00) + _GUEST).ljust(0xFFF0, b"\0") + _RESET.ljust(16, b"\0")
"""A guest that ends QEMU with a certain exit status once it has got to 64 bits."""


@dataclass(frozen=True)
class Choice:
    """What virtual machines run by on this computer.

    Attributes:
        notice: why it is not KVM, in a sentence for the user; empty where it is.
    """

    accelerator: Accelerator
    notice: str


@functools.cache
def choose() -> Choice:
    """KVM if it runs a guest, else TCG; found out once for the process.

    Raises:
        RecoveryError: QEMU is not installed.
    """
    find(SYSTEM)
    reason = _why_not_kvm()
    if not reason:
        return Choice(Accelerator.KVM, "")
    log.info("no KVM: %s", reason)
    return Choice(
        Accelerator.TCG, tr("The virtual machine runs slowly, in software: {reason}", reason=reason)
    )


def _why_not_kvm() -> str:
    if not _KVM.exists():
        return tr("this computer offers no hardware virtualization (there is no /dev/kvm).")
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return tr(
            "you may not use /dev/kvm. To change that: sudo adduser {getuser} kvm, then log "
            "in again.",
            getuser=getpass.getuser(),
        )
    if not runs(Accelerator.KVM):
        return tr(
            "hardware virtualization (KVM) is there, but cannot run a guest on this computer."
        )
    return ""


def runs(
    accelerator: Accelerator, firmware: bytes = FIRMWARE, time_limit: float = _TIME_LIMIT
) -> bool:
    """Whether QEMU by this accelerator gets to the end of `firmware` in `time_limit` seconds."""
    ours, theirs = socket.socketpair()
    with ours, theirs, tempfile.TemporaryDirectory(prefix="vdbackup-") as folder:
        ours.settimeout(time_limit)
        ours.sendall(b'{"execute": "qmp_capabilities"} {"execute": "cont"}')
        image = Path(folder, "firmware.bin")
        image.write_bytes(firmware)
        command = [find(SYSTEM), *("-S", "-nodefaults", "-no-user-config", "-display", "none")]
        command += [*processor(accelerator), "-machine", "q35", "-m", "16", "-bios", str(image)]
        command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-qmp", "stdio"]
        with subprocess.Popen(
            command, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.DEVNULL
        ) as process:
            theirs.close()
            try:
                if _hangs(ours):
                    process.kill()
                process.wait(time_limit)
            finally:
                process.kill()
    return process.returncode == _ALIVE


def _hangs(monitor: socket.socket) -> bool:
    """Whether QEMU pauses the guest or says nothing any more; False once it has ended."""
    with monitor.makefile() as lines:
        try:
            return any(json.loads(line).get("event") == "STOP" for line in lines)
        except TimeoutError:
            return True
        except ConnectionResetError:  # it ended before it read what we sent
            return False
