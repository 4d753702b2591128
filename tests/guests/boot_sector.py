"""Disks of a few sectors that do one thing when they boot, assembled by NASM."""

from __future__ import annotations

import subprocess
from pathlib import Path

SIZE = 8 << 20

CRASH = """
    mov dx, 0x505       ; QEMU's pvpanic device: docs/specs/pvpanic
    mov al, 1
    out dx, al
"""
SWITCH_OFF = """
    mov dx, 0x604       ; ACPI's PM1a_CNT, where QEMU's machines have it: SLP_EN, soft off
    mov ax, 0x2000
    out dx, ax
"""
COUNT = """
    mov ah, 0x42        ; read sector 128
    mov si, packet
    int 0x13
    inc byte [0x7E00]
    mov ah, 0x43        ; and write it back, one more
    mov si, packet
    int 0x13
    mov dx, 0x3F8       ; the number, to the serial port
    mov al, [0x7E00]
    add al, '0'
    out dx, al
    jmp halt
packet: db 16, 0
    dw 1, 0x7E00, 0
    dq 128
"""
"""Counts its boots on the disk, and says on the serial port which one it is, in a digit."""
COUNT_AT = 128 * 512
"""Where, in bytes."""
_SAY = """
    mov si, words
say:
    lodsb
    test al, al
    jz said
    mov ah, al
    mov dx, 0x3FD       ; the first serial port's line status
ready:
    in al, dx
    test al, 0x20       ; it takes a byte
    jz ready
    mov al, ah
    mov dx, 0x3F8
    out dx, al
    jmp say
words: db "WORDS", 13, 10, 0
said:
"""
_WRITE_EVERYWHERE = """
next:
    mov si, packet
    mov ah, 0x43        ; write through the BIOS
    int 0x13
    add dword [packet + 8], 128
    cmp dword [packet + 8], SECTORS
    jb next
    jmp halt
packet: db 16, 0
    dw 1, 0x7C00, 0
    dq 0
"""


_RECORDS = """
    mov di, 0x7E00      ; a sector full of its record's number
    xor ebp, ebp
record:
    inc ebp
    mov eax, ebp
    mov di, 0x7E00
    mov cx, 128
    rep stosd
    mov eax, COUNTER
    call write
    lea eax, [ebp + COUNTER]
    call write
    mov al, 0xE7        ; FLUSH CACHE
    call command
    cmp ebp, RECORDS
    jb record
    jmp done
write:                  ; a sector, to LBA eax, as ATA does it since ever (PIO, 28 bits)
    push eax
    call wait_ready
    mov dx, 0x1F2
    mov al, 1
    out dx, al
    pop eax
    mov cx, 3
lba:
    inc dx
    out dx, al
    shr eax, 8
    loop lba
    inc dx
    mov al, 0xE0
    out dx, al
    inc dx
    mov al, 0x30        ; WRITE SECTORS
    out dx, al
data:
    in al, dx
    test al, 8          ; it takes data
    jz data
    mov dx, 0x1F0
    mov si, 0x7E00
    mov cx, 256
    rep outsw
    jmp wait_ready
command:
    mov dx, 0x1F7
    out dx, al
wait_ready:
    mov dx, 0x1F7
busy:
    in al, dx
    test al, 0x80
    jnz busy
    ret
done:
"""
COUNTER_AT = 128 * 512
"""Where `records` counts, in bytes."""


def records(count: int) -> str:
    """Instructions that write numbered records to an IDE disk, and have each written out.

    Record n is a sector full of its number (32 bits), in the sector n behind the counter; the
    counter, another such sector, is written just before. One flush follows the two.
    """
    return _RECORDS.replace("COUNTER", str(COUNTER_AT // 512)).replace("RECORDS", str(count))


def say(words: str) -> str:
    """Instructions that write a line to the first serial port; to be had once in a disk."""
    return _SAY.replace("WORDS", words)


def write_everywhere(size: int = SIZE) -> str:
    """Instructions that write a sector into each 64 KiB of a disk of `size` bytes."""
    return _WRITE_EVERYWHERE.replace("SECTORS", str(size // 512))


def make(path: Path, instructions: str, size: int = SIZE) -> Path:
    """A raw disk of `size` bytes at `path` whose boot code executes `instructions` and halts."""
    source = path.with_suffix(".asm")
    source.write_text(
        "org 0x7C00\n xor ax, ax\n mov ds, ax\n"
        f"{instructions}\n"
        "halt: hlt\n jmp halt\n times 510 - ($ - $$) db 0\n dw 0xAA55\n"
    )
    subprocess.run(["nasm", "-f", "bin", "-o", path, source], check=True)
    with path.open("rb+") as file:
        file.truncate(size)
    return path
