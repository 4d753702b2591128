"""A small disk that boots and says a sentence: something to back up where nothing else is at hand.

The image needs nothing from outside, neither to be made nor to boot on any BIOS. Offsets in bytes,
sectors of 512:

    0           master boot record: the boot code below, one active partition of type 0x0E
    65,536      the message: ASCII, ends with a zero byte, fits in the sector
    1,048,576   the partition, up to the end of the disk: FAT16, volume label VDBACKUP, with files
                for whoever wants to see files come back

The boot code reads the message's sector through the BIOS (IDE, AHCI, NVMe and virtio all answer
there), prints it on the screen and on the first serial port (115,200 baud, 8N1), and halts. The
message lies in another 64 KiB block than the boot code on purpose: after the message has been
changed, an incremental recovery point holds the one and only its parent holds the other, so a
machine prints the new message only if it reads the whole chain.

Specifications: Phoenix, "BIOS Enhanced Disk Drive Specification", 3.0 (reading by sector number);
National Semiconductor, "PC16550D" (the serial port).
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vdbackup.errors import SourceError
from vdbackup.jobs import readable_size
from vdbackup.sources.fat16 import Fat16, UnfitForDemoDisk
from vdbackup.translation import tr


class DemoDiskExists(SourceError):
    """There is a file already where a demo disk should be made."""

    code = "demo-disk-exists"


class DemoDiskNotWritten(SourceError):
    """The operating system does not let a demo disk be made or changed."""

    code = "demo-disk-not-written"


SIZE = 16 << 20
"""Bytes of a demo disk, unless asked otherwise."""

MESSAGE_LIMIT = 500
"""Characters of the longest message."""

_SECTOR = 512
_MESSAGE_OFFSET = 128 * _SECTOR
_PARTITION_OFFSET = 2048 * _SECTOR
_SMALLEST, _LARGEST = 10 << 20, 1 << 30

# Assembled by NASM 2.16; the instructions beside the bytes, put together under `org 0x7C00`, are
# its source: tests/sources/test_demo_disk.py assembles them again and compares.
# fmt: off
_BOOT_CODE = bytes.fromhex(
    "FA"                        # start:   cli
    "31 C0"                     #          xor ax, ax
    "8E D8"                     #          mov ds, ax
    "8E C0"                     #          mov es, ax
    "8E D0"                     #          mov ss, ax
    "BC 00 7C"                  #          mov sp, 0x7C00
    "FB"                        #          sti
    "FC"                        #          cld
    "BE 63 7C"                  #          mov si, packet
    "B4 42"                     #          mov ah, 0x42        ; read from the drive in dl
    "CD 13"                     #          int 0x13
    "BE 00 7E"                  #          mov si, 0x7E00
    "73 03"                     #          jnc serial
    "BE 73 7C"                  #          mov si, failure
    "BA F9 03"                  # serial:  mov dx, 0x3F9       ; no interrupts
    "B0 00"                     #          mov al, 0x00
    "EE"                        #          out dx, al
    "BA FB 03"                  #          mov dx, 0x3FB       ; the divisor: 1
    "B0 80"                     #          mov al, 0x80
    "EE"                        #          out dx, al
    "BA F8 03"                  #          mov dx, 0x3F8
    "B0 01"                     #          mov al, 0x01
    "EE"                        #          out dx, al
    "BA F9 03"                  #          mov dx, 0x3F9
    "B0 00"                     #          mov al, 0x00
    "EE"                        #          out dx, al
    "BA FB 03"                  #          mov dx, 0x3FB       ; 8 data bits, no parity, 1 stop
    "B0 03"                     #          mov al, 0x03
    "EE"                        #          out dx, al
    "B8 03 00"                  #          mov ax, 0x0003      ; text, 80 x 25; clears the screen
    "CD 10"                     #          int 0x10
    "AC"                        # print:   lodsb
    "84 C0"                     #          test al, al
    "74 1B"                     #          jz halt
    "60"                        #          pusha
    "B4 0E"                     #          mov ah, 0x0E
    "BB 07 00"                  #          mov bx, 0x0007
    "CD 10"                     #          int 0x10
    "61"                        #          popa
    "88 C4"                     #          mov ah, al
    "BA FD 03"                  #          mov dx, 0x3FD
    "EC"                        # full:    in al, dx           ; until the transmitter is empty
    "A8 20"                     #          test al, 0x20
    "74 FB"                     #          jz full
    "BA F8 03"                  #          mov dx, 0x3F8
    "88 E0"                     #          mov al, ah
    "EE"                        #          out dx, al
    "EB E0"                     #          jmp print
    "F4"                        # halt:    hlt
    "EB FD"                     #          jmp halt
    "10 00"                     # packet:  db 16, 0
    "01 00"                     #          dw 1                ; sectors
    "00 7E 00 00"               #          dw 0x7E00, 0x0000   ; to 0000:7E00
    "80 00 00 00 00 00 00 00"   #          dq 128              ; from the message's sector
    "54 68 65 20 64 69 73 6B"   # failure: db "The disk"
    "27 73 20 6D 65 73 73 61"   #          db "'s messa"
    "67 65 20 63 6F 75 6C 64"   #          db "ge could"
    "20 6E 6F 74 20 62 65 20"   #          db " not be "
    "72 65 61 64 2E 0D 0A 00"   #          db "read.", 13, 10, 0
)
# fmt: on


def create(path: Path, message: str, size: int = SIZE) -> None:
    """Make a demo disk: a sparse raw image of `size` bytes that prints `message` when it boots.

    Args:
        path: the image; must not exist yet.
        message: ASCII, 1 to MESSAGE_LIMIT characters; may have several lines.
        size: bytes, a multiple of 512 from 10 MiB to 1 GiB.

    Raises:
        SourceError: the image exists, cannot be written, or an argument is out of bounds.
    """
    if size % _SECTOR or not _SMALLEST <= size <= _LARGEST:
        raise UnfitForDemoDisk(
            tr("A demo disk cannot have {size}.", size=readable_size(size)),
            tr("Choose a size from 10 MiB to 1 GiB."),
        )
    sector = _message_sector(message)
    try:
        with ExitStack() as undo, path.open("xb+") as file:
            undo.callback(path.unlink)
            file.truncate(size)
            file.write(_master_boot_record(size))
            _write_at(file, _MESSAGE_OFFSET, sector)
            volume = Fat16.create(file, _PARTITION_OFFSET, size - _PARTITION_OFFSET)
            for name, content in _sample_files().items():
                volume.put(name, content)
            volume.flush()
            undo.pop_all()
    except FileExistsError:
        raise DemoDiskExists(
            tr("{path} exists already.", path=path),
            tr("Choose another name for the demo disk, or delete the file."),
        ) from None
    except OSError as error:
        raise _unwritable(path, error) from error


def change(path: Path, message: str, files: Mapping[str, bytes]) -> None:
    """Give a demo disk another message and other files, in place, as a machine in use would.

    Args:
        path: a disk that `create` made.
        message: as for `create`.
        files: new content by name ("README.TXT", "LETTERS/THIRD.TXT"): what exists is replaced,
            what does not is added, and everything else stays where it is. Names are FAT's: 8.3.

    Raises:
        SourceError: not a demo disk, not writable, full, or an argument is out of bounds.
    """
    sector = _message_sector(message)
    try:
        with path.open("rb+") as file:
            volume = Fat16(file, _PARTITION_OFFSET)
            try:
                for name, content in files.items():
                    volume.put(name, content)
            finally:
                volume.flush()
            _write_at(file, _MESSAGE_OFFSET, sector)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> DemoDiskNotWritten:
    return DemoDiskNotWritten(
        tr("The demo disk {path} cannot be written: {reason}.", path=path, reason=error.strerror),
        tr("Choose a folder that you may write to and that has space."),
    )


def _message_sector(message: str) -> bytes:
    if not message or len(message) > MESSAGE_LIMIT or not message.isascii() or "\0" in message:
        raise UnfitForDemoDisk(
            tr("A demo disk cannot print this message."),
            tr("Choose one of 1 to {message_limit} ASCII characters.", message_limit=MESSAGE_LIMIT),
        )
    lines = "\r\n".join([*message.splitlines(), ""]).encode()
    if len(lines) >= _SECTOR:
        raise UnfitForDemoDisk(
            tr("The demo disk's message has too many lines."), tr("Choose a shorter one.")
        )
    return lines.ljust(_SECTOR, b"\0")


def _master_boot_record(size: int) -> bytes:
    beyond_chs = b"\xfe\xff\xff"
    partition = struct.pack(
        "<B3sB3sII",
        0x80,  # active
        beyond_chs,
        0x0E,  # FAT16, addressed by sector number
        beyond_chs,
        _PARTITION_OFFSET // _SECTOR,
        (size - _PARTITION_OFFSET) // _SECTOR,
    )
    signature = secrets.token_bytes(4)
    return _BOOT_CODE.ljust(440, b"\0") + signature + bytes(2) + partition + bytes(48) + b"\x55\xaa"


def _sample_files() -> dict[str, bytes]:
    return {
        "README.TXT": (
            b"This disk was made by vdbackup to try vdbackup with.\r\n"
            b"It boots, prints one sentence, and holds a few files.\r\n"
        ),
        "LETTERS/FIRST.TXT": b"Dear reader,\r\n\r\nthis letter never changes.\r\n",
        "LETTERS/SECOND.TXT": b"Dear reader,\r\n\r\nthis one might.\r\n",
        "PICTURE.BMP": _picture(),
    }


def _picture() -> bytes:
    """A picture of 320 x 320 pixels as an uncompressed Windows bitmap of 300 KiB."""
    side = 320
    y, x = np.mgrid[0:side, 0:side]
    pixels = np.stack([x ^ y, x * 255 // side, y * 255 // side], axis=-1).astype(np.uint8)
    headers = struct.calcsize("<2sIIIIiiHHIIiiII")
    return (
        struct.pack("<2sIII", b"BM", headers + pixels.nbytes, 0, headers)
        + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, pixels.nbytes, 2835, 2835, 0, 0)
        + pixels.tobytes()
    )


def _write_at(file: BinaryIO, offset: int, data: bytes) -> None:
    file.seek(offset)
    file.write(data)
