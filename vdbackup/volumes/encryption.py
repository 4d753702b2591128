"""Encrypted volumes, LUKS and BitLocker, as what they hold, for whoever has the key.

dissect.fve reads their headers and decrypts; LUKS of ciphers other than AES it does not. A header
may be hostile: what it has us read at once, hash and allocate is limited here. Nothing is decrypted
that is not asked for, and no key is kept but in memory.

Sources: LUKS1 On-Disk Format Specification 1.2.3; LUKS2 On-Disk Format Specification 1.1.1;
libbde's "BitLocker Drive Encryption (BDE) format specification".
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from vdbackup.errors import ProgramMissing, WrongKey
from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import Unreadable, reading

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import CipherContext
    from dissect.fve.bde import BDE
    from dissect.fve.bde.information import KeyDatum
    from dissect.fve.crypto._pycryptodome import XtsMode
    from dissect.fve.luks import LUKS

LUKS_NAME, BITLOCKER_NAME = "LUKS", "BitLocker"
KINDS = (LUKS_NAME, BITLOCKER_NAME)
"""Of encryption, as signatures.py calls them, that can be read with the key."""
MAX_SECRET = 8 << 20
"""Bytes of a key: as long a file of one as cryptsetup takes."""
_MAX_READ = 16 << 20
"""Bytes at once: LUKS2's header has 4 MiB of JSON at most, the material of a key fewer."""
_MAX_ITERATIONS = 200_000_000
"""Of PBKDF2: some ten times what two seconds of a fast processor allow, which is cryptsetup's."""
_MAX_ARGON_MEMORY = 4 << 30
"""Bytes: what cryptsetup takes, too."""
_MAX_ARGON_WORK = 64 << 30
"""Bytes that Argon2 goes through: some ten times what two seconds of a fast processor allow."""
_MAX_THREADS = 16
"""Of Argon2, each of which is one of this computer's: cryptsetup makes no more than four."""
_SMALLEST_HASH = 20
"""Bytes of the shortest hash: PBKDF2 does all its iterations for so many bytes of what it makes."""
_MAX_KEY = 512
"""Bytes: LUKS has 64, and twice that where it has a key for integrity, too."""
_CHUNK = 1 << 20
"""Bytes that are decrypted at once."""
_SECTOR = 512
_SECOND_HEADERS = tuple(0x4000 << shift for shift in range(9))
"""Where LUKS2 may have its second header: after a first one of 16 KiB to 4 MiB."""
_MAGIC, _SECOND_MAGIC = b"LUKS\xba\xbe", b"SKUL\xba\xbe"
_MAX_PROTECTORS = 16
"""Of BitLocker's key; Windows makes two or three. To try a word at one takes 2^20 hashes, 0.5 s."""
_MASTER_KEY = b"BitLocker's master key "
_RECOVERY_PASSWORD = re.compile(rb"\s*\d{6}(-\d{6}){7}\s*")


class Decrypted:
    """What an encrypted volume holds, as a disk (places.Disk).

    Attributes:
        size: in bytes.
        sector_size: in bytes.
        start: where in the encrypted volume its first byte lies, and the others behind it. Of
            BitLocker the boot sector, and the few behind it, lie elsewhere; they are no file's.
    """

    sector_size = _SECTOR

    def __init__(self, stream: BinaryIO, size: int, start: int = 0) -> None:
        self._stream = stream
        self.size, self.start = size, start

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` from byte `offset` on; raises GuestUnreadable where that cannot be."""
        with reading(tr("An encrypted volume")):
            self._stream.seek(offset)
            for at in range(0, len(view), _CHUNK):
                wanted = min(_CHUNK, len(view) - at)
                chunk = self._stream.read(wanted)
                if len(chunk) != wanted:
                    raise Unreadable(tr("a part of it is missing"))
                view[at : at + wanted] = chunk


class _Xts:
    """AES in XTS by OpenSSL, in the place of dissect's, which computes in Python.

    Measured on one core: 90 MiB/s for sectors of 512 bytes, 500 for 4096; dissect.fve 4.6: 4.
    """

    def __init__(self, slow: XtsMode) -> None:
        # late, as dissect.fve: it takes 0.1 s to import, and few disks are encrypted
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        algorithm = algorithms.AES(slow.key)

        def opened(tweak: bytes) -> CipherContext:
            return Cipher(algorithm, modes.XTS(tweak)).decryptor()

        self._opened = opened
        self._sector_size = slow.sector_size
        self._step = slow.sector_size // slow.iv_sector_size

    def decrypt(
        self, data: bytes | bytearray, sector: int, output: bytearray | None = None
    ) -> bytes | None:
        """Whole sectors, the first of them of this number; into `output` where there is one."""
        found = bytearray(len(data)) if output is None else output
        with memoryview(data) as view:
            for at in range(0, len(data), self._sector_size):
                end = at + self._sector_size
                opened = self._opened(sector.to_bytes(16, "little"))
                found[at:end] = opened.update(view[at:end])
                sector += self._step
        return bytes(found) if output is None else None


def _faster(stream: Any) -> BinaryIO:
    """A stream of dissect's, with OpenSSL's cipher where that is the same."""
    from dissect.fve.crypto import Plain64
    from dissect.fve.crypto._pycryptodome import XtsMode

    if isinstance(stream.cipher, XtsMode) and isinstance(stream.cipher.iv_mode, Plain64):
        stream.cipher = _Xts(stream.cipher)
    return cast("BinaryIO", stream)


class _Bounded:
    """A volume, for a library that reads as many bytes at once as a header says."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self.size = stream.seek(0, io.SEEK_END)
        stream.seek(0)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET:
            offset = min(offset, self.size)  # behind it there is nothing, however far
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _MAX_READ:
            raise Unreadable(tr("its header is damaged"))
        return self._stream.read(count)


def unlock(
    kind: str,
    stream: io.BufferedReader,
    secrets: Sequence[bytes],
    opened: dict[bytes, bytes] | None = None,
) -> Decrypted:
    """What a volume holds; where BitLocker is suspended, no key is needed.

    Args:
        kind: one of KINDS.
        stream: the volume.
        secrets: each of them may be its passphrase, the contents of its key file, BitLocker's
            recovery password of 48 digits, or the contents of its file of a startup key.
        opened: what has opened volumes before (Keys.opened), which is tried first and added to.

    Raises:
        WrongKey: none of them is the key.
        GuestUnreadable: its header is damaged, or it is encrypted in a way that is not read.
        ProgramMissing: the library for it is not installed.
    """
    try:
        from dissect.fve import bde, luks
    except ImportError as error:
        raise ProgramMissing(
            tr("What is encrypted cannot be read: the Python library dissect.fve is missing."),
            tr("Install it, or vdbackup anew."),
        ) from error
    opened = {} if opened is None else opened
    with reading(tr("An encrypted volume")):
        bounded = _Bounded(stream)
        if kind == LUKS_NAME:
            return _luks(luks.LUKS(_checked_luks(bounded)), bounded.size, secrets, opened)
        return _bitlocker(bde.BDE(cast("BinaryIO", bounded)), bounded.size, secrets, opened)


def _wrong_key(kind: str) -> WrongKey:
    return WrongKey(
        tr("The key does not open what is encrypted with {kind}.", kind=kind),
        tr("Check it: whether letters are capital ones, and the layout of the keyboard."),
    )


# ------------------------------------------------------------------------------------- LUKS


def _checked_luks(volume: _Bounded) -> BinaryIO:
    """Have no header say that it is longer than one can be: all of it would be read."""
    for offset, magic in ((0, _MAGIC), *((each, _SECOND_MAGIC) for each in _SECOND_HEADERS)):
        volume.seek(offset)
        head = volume.read(16)
        if len(head) < 16 or not head.startswith(magic):
            continue
        version, length = struct.unpack(">6xHQ", head)
        if version == 2 and not 4096 < length <= _SECOND_HEADERS[-1]:
            raise Unreadable(tr("its header is damaged"))
    volume.seek(0)
    return cast("BinaryIO", volume)


def _luks(
    volume: LUKS, size: int, secrets: Sequence[bytes], opened: dict[bytes, bytes]
) -> Decrypted:
    slots = list(_usable_slots(volume))
    if not slots:
        raise Unreadable(tr("none of its keys is of a kind that vdbackup knows"))
    for slot in slots:
        known = opened.get(_proof(volume, slot))
        if known is not None:
            # what unlock() would compute again, with the same outcome
            volume._active_volume_key, volume._active_keyslot_id = known, slot
            return _opened_luks(volume, slot, size)
    for secret in secrets:
        for slot in slots:
            try:
                volume.unlock_with_passphrase(secret, slot)
            except ValueError:  # it is not this one's
                continue
            opened[_proof(volume, slot)] = volume._active_volume_key
            return _opened_luks(volume, slot, size)
    raise _wrong_key(LUKS_NAME)


def _proof(volume: LUKS, slot: int) -> bytes:
    """What a volume says of its key, by which it is checked: what fits it is the key."""
    found = volume.find_digest(slot)
    parts = (found.type, found.hash, found.iterations, found.salt.hex(), found.digest.hex())
    return repr(parts).encode()


def _usable_slots(volume: LUKS) -> Iterator[int]:
    """The slots of keys that can be tried, and ask for no more than one of cryptsetup's can."""
    for number, slot in volume.keyslots.items():
        kdf, af = slot.kdf, slot.af
        if kdf is None or af is None or slot.type not in ("luks1", "luks2"):
            continue  # what goes with an encryption that is under way
        if not str(slot.area.encryption).startswith("aes-"):
            continue
        if not (0 < slot.key_size <= _MAX_KEY and 0 < slot.key_size * af.stripes <= _MAX_READ):
            continue
        if not _is_checked_soon(volume, number):
            continue
        if kdf.type == "pbkdf2":
            if 0 < kdf.iterations <= _MAX_ITERATIONS:
                yield number
        elif (
            kdf.type in ("argon2i", "argon2id")
            and 0 < kdf.memory << 10 <= min(_MAX_ARGON_MEMORY, _memory() // 2)
            and 0 < kdf.time * kdf.memory << 10 <= _MAX_ARGON_WORK
            and 0 < kdf.cpus <= _MAX_THREADS
        ):
            yield number


def _is_checked_soon(volume: LUKS, slot: int) -> bool:
    """Whether it takes no longer than a key to see whether what a slot gives is the volume's."""
    found = [each for each in volume.metadata.digests.values() if slot in each.keyslots]
    return bool(found) and all(
        0 < each.iterations * -(-len(each.digest) // _SMALLEST_HASH) <= _MAX_ITERATIONS
        for each in found
    )


def _memory() -> int:
    """Of this computer, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _opened_luks(volume: LUKS, slot: int, size: int) -> Decrypted:
    if len(volume.metadata.segments) != 1:  # then each lies under a key of its own, or under none
        raise Unreadable(tr("its encryption was being changed"))
    segment = volume.find_segment(slot)
    if segment.type != "crypt" or segment.integrity:
        raise Unreadable(tr("it is encrypted in a way that vdbackup does not know"))
    stream: Any = _faster(volume.open())
    return Decrypted(stream, max(0, min(stream.size, size - segment.offset)), segment.offset)


# -------------------------------------------------------------------------------- BitLocker


def _bitlocker(
    volume: BDE, size: int, secrets: Sequence[bytes], opened: dict[bytes, bytes]
) -> Decrypted:
    if sum(1 for _ in volume.information.dataset.find_vmk()) > _MAX_PROTECTORS:
        raise Unreadable(tr("its header is damaged"))
    _remember(volume, opened)
    for attempt in _attempts(volume, secrets, opened):
        try:
            attempt()
        except (ValueError, TypeError, EOFError, UnicodeDecodeError):  # it is not this one
            continue
        if volume.eow_information is not None:
            # Encrypted where it was written to: whole, what was not then is free. While that is
            # under way, maps say what is; dissect.fve 4.6 does not end with some parts of them.
            if volume.switching:
                raise Unreadable(tr("its encryption was being changed"))
            volume.eow_information = None
        return Decrypted(_faster(volume.open()), size)
    raise _wrong_key(BITLOCKER_NAME)


def _remember(volume: BDE, opened: dict[bytes, bytes]) -> None:
    """Note the master key that opens a volume; its message code says whether it does."""
    unlock = volume.unlock

    def noting(key: KeyDatum | bytes) -> BDE:
        plain = key if isinstance(key, bytes) else key.data
        found = unlock(plain)
        opened[_MASTER_KEY + hashlib.sha256(plain).digest()] = plain
        return found

    volume.unlock = noting


def _attempts(volume: BDE, secrets: Sequence[bytes], opened: dict[bytes, bytes]) -> Iterator[Any]:
    if not volume.encrypted:
        yield lambda: None
    for proof, key in list(opened.items()):
        if proof.startswith(_MASTER_KEY):
            yield lambda key=key: volume.unlock(key)
    if volume.has_clear_key():  # it is suspended: the key lies beside what it encrypts
        yield volume.unlock_with_clear_key
    for secret in secrets:
        if _RECOVERY_PASSWORD.fullmatch(secret):
            text = secret.decode().strip()
            yield lambda text=text: volume.unlock_with_recovery_password(text)
        if volume.has_passphrase():
            yield lambda secret=secret: volume.unlock_with_passphrase(secret.decode())
        if volume.has_bek():
            yield lambda secret=secret: volume.unlock_with_bek(io.BytesIO(secret))
