"""A volume as BitLocker of Windows 7 and later encrypts it, with AES-XTS of 128 bits.

No tool of Linux makes one. The layout is libbde's ("BitLocker Drive Encryption (BDE) format
specification"), and libbde reads what this writes: tests/oracles/libbde.py.

    sector 0         where the metadata lie
    the first three of METADATA    three copies of those
    HEADER           what was in the volume's first 8 KiB, encrypted
"""

from __future__ import annotations

import hashlib
import struct
import uuid
import zlib
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

SECTOR = 512
METADATA = (0x2000000, 0x2100000, 0x2200000)
"""Where a volume has them; 64 KiB each, which read as zeros, and so does HEADER."""
HEADER, HEADER_SIZE = 0x2300000, 8192
_METADATA_SIZE = 64 << 10
_ENTRY_KEY, _ENTRY_MASTER, _ENTRY_VOLUME = 0x0000, 0x0002, 0x0003
_KEY, _STRETCH, _ENCRYPTED, _MASTER = 0x0001, 0x0003, 0x0005, 0x0008
_CLEAR, _BY_RECOVERY, _BY_PASSPHRASE = 0x0000, 0x0800, 0x2000
_XTS_128, _CCM_256 = 0x8004, 0x2003
_NOW = 133_000_000_000_000_000
"""In units of 100 ns since 1601."""
_ROUNDS = 1 << 20


def encrypt(
    plain: Path,
    image: Path,
    *,
    passphrase: str = "",
    recovery: str = "",
    suspended: bool = False,
    protectors: int = 1,
) -> None:
    """Write `image`, an encrypted copy of a volume that holds nothing where metadata lie.

    Args:
        plain: the volume.
        image: what is written.
        passphrase, recovery: what opens it; the latter are eight groups of six digits.
        suspended: whether its key lies beside it, as while protection is suspended.
        protectors: how many times the passphrase is said to open it.
    """
    master, volume_key = hashlib.sha256(b"master").digest(), hashlib.sha256(b"volume").digest()
    data = bytearray(plain.read_bytes())
    for at in METADATA:
        assert not any(data[at : at + _METADATA_SIZE]), "something lies where metadata go"
    assert not any(data[HEADER : HEADER + HEADER_SIZE])
    data[HEADER : HEADER + HEADER_SIZE] = data[:HEADER_SIZE]
    with image.open("xb") as file:
        for at in range(0, len(data), SECTOR):
            tweak = modes.XTS((at // SECTOR).to_bytes(16, "little"))
            cipher = Cipher(algorithms.AES(volume_key), tweak).encryptor()
            file.write(cipher.update(data[at : at + SECTOR]) + cipher.finalize())
        file.seek(0)
        file.write(_boot_sector())
        by = _openers(master, passphrase, recovery, suspended, protectors)
        block = _metadata(master, volume_key, len(data), by)
        for at in METADATA:
            file.seek(at)
            file.write(block)


def _boot_sector() -> bytes:
    sector = bytearray(SECTOR)
    sector[:11] = b"\xeb\x58\x90-FVE-FS-"
    struct.pack_into("<HB", sector, 11, SECTOR, 8)
    sector[160:176] = uuid.UUID("4967d63b-2e29-4ad8-8399-f6a339e3d001").bytes_le
    struct.pack_into("<3Q", sector, 176, *METADATA)
    sector[510:] = b"\x55\xaa"
    return bytes(sector)


def _entry(kind: int, value: int, data: bytes) -> bytes:
    return struct.pack("<HHHH", 8 + len(data), kind, value, 1) + data


def _boxed(kind: int, with_key: bytes, method: int, key: bytes, number: int) -> bytes:
    """A key, encrypted with another one."""
    inner = _entry(_ENTRY_KEY, _KEY, struct.pack("<I", method) + key)
    nonce = struct.pack("<QI", _NOW, number)
    sealed = AESCCM(with_key, tag_length=16).encrypt(nonce, inner, None)
    return _entry(kind, _ENCRYPTED, nonce + sealed[-16:] + sealed[:-16])


def _master(protection: int, master: bytes, key: bytes, number: int, more: bytes) -> bytes:
    """The volume's master key, as whoever has `key` gets at it."""
    head = uuid.UUID(int=number).bytes_le + struct.pack("<QHH", _NOW, 0, protection)
    boxed = _boxed(_ENTRY_KEY, key, _CCM_256, master, number)
    return _entry(_ENTRY_MASTER, _MASTER, head + more + boxed)


def _stretched(first: bytes, salt: bytes) -> bytes:
    last, head = bytes(32), first + salt
    for count in range(_ROUNDS):
        last = hashlib.sha256(last + head + count.to_bytes(8, "little")).digest()
    return last


def _by(protection: int, master: bytes, hashed: bytes, number: int) -> bytes:
    salt = hashlib.sha256(bytes([number])).digest()[:16]
    key = _stretched(hashed, salt)
    more = _entry(_ENTRY_KEY, _STRETCH, struct.pack("<I", 0x1000) + salt)
    return _master(protection, master, key, number, more)


def _sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _openers(
    master: bytes, passphrase: str, recovery: str, suspended: bool, protectors: int
) -> bytes:
    """An entry for each that opens the volume."""
    entries = b""
    if passphrase:
        hashed = _sha(_sha(passphrase.encode("utf-16-le")))
        entries += _by(_BY_PASSPHRASE, master, hashed, 1) * protectors
    if recovery:
        digits = b"".join(struct.pack("<H", int(group) // 11) for group in recovery.split("-"))
        entries += _by(_BY_RECOVERY, master, _sha(digits), 2)
    if suspended:
        key = _sha(b"clear")
        more = _entry(_ENTRY_KEY, _KEY, struct.pack("<I", _CCM_256) + key)
        entries += _master(_CLEAR, master, key, 3, more)
    return entries


def _metadata(master: bytes, volume_key: bytes, size: int, openers: bytes) -> bytes:
    entries = openers
    entries += _boxed(_ENTRY_VOLUME, master, _XTS_128, volume_key, 4)
    length = 48 + len(entries)
    header = struct.pack("<IIII", length, 1, 48, length) + uuid.UUID(int=9).bytes_le
    header += struct.pack("<IIQ", 5, _XTS_128, _NOW)
    blocks = -(-(64 + length) // 16)
    head = b"-FVE-FS-" + struct.pack("<HHHH", blocks, 2, 4, 4)
    head += struct.pack("<QII", size, 0, HEADER_SIZE // SECTOR)
    head += struct.pack("<4Q", *METADATA, HEADER)
    block = (head + header + entries).ljust(blocks * 16, b"\0")
    # what proves it: a checksum, and its digest, which only who has the key can read
    inner = _entry(_ENTRY_KEY, _KEY, struct.pack("<I", 0x2005) + _sha(block))
    nonce = struct.pack("<QI", _NOW, 6)
    sealed = AESCCM(master, tag_length=16).encrypt(nonce, inner, None)
    proof = _entry(0, _ENCRYPTED, nonce + sealed[-16:] + sealed[:-16])
    return block + struct.pack("<HHI", 8 + len(proof), 2, zlib.crc32(block)) + proof
