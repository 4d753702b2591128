"""libext2fs, called through ctypes: what of it is used, and a disk of ours as what it writes to.

Everything in here is for one thread. Sources: lib/ext2fs/{ext2fs,ext2_io}.h of e2fsprogs 1.47.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_char, c_char_p, c_int, c_long, c_uint, c_void_p
from ctypes import c_ulonglong as u64
from functools import cache
from typing import Any

from vdbackup.errors import FileSystemNotMade, ProgramMissing
from vdbackup.sources.file_sets.delta import Delta
from vdbackup.translation import tr

_LIBRARY = "libext2fs.so.2"
_BASE = 2133571328
_MAGIC_CHANNEL, _MAGIC_MANAGER = _BASE + 5, _BASE + 7
_SHORT_READ, _SHORT_WRITE = _BASE + 36, _BASE + 37
NO_BLOCK, NO_INODE = _BASE + 72, _BASE + 73
NO_NEXT, NO_CURRENT = _BASE + 124, _BASE + 128
EA_NO_SPACE = _BASE + 163
"""Error numbers (ext2_err.h)."""
READ_WRITE, PRIMARY_ONLY, LARGE = 0x1, 0x200, 0x20000
"""Flags for opening: EXT2_FLAG_RW, MASTER_SB_ONLY (its copies need not be rewritten), 64BITS."""

_Open = ctypes.CFUNCTYPE(c_long, c_char_p, c_int, POINTER(c_void_p))
_Channel = ctypes.CFUNCTYPE(c_long, c_void_p)
_SetSize = ctypes.CFUNCTYPE(c_long, c_void_p, c_int)
_Move = ctypes.CFUNCTYPE(c_long, c_void_p, u64, c_int, c_void_p)
_Range = ctypes.CFUNCTYPE(c_long, c_void_p, u64, u64)
_Option = ctypes.CFUNCTYPE(c_long, c_void_p, c_char_p, c_char_p)
Visit = ctypes.CFUNCTYPE(c_int, c_char_p, c_void_p, ctypes.c_size_t, c_void_p)
"""Is shown an extended attribute's name and value (`ext2fs_xattrs_iterate`)."""


class _IoChannel(Structure):
    _fields_ = (
        ("magic", c_long), ("manager", c_void_p), ("name", c_char_p), ("block_size", c_int),
        ("read_error", c_void_p), ("write_error", c_void_p), ("refcount", c_int),
        ("flags", c_int), ("reserved", c_long * 14), ("private_data", c_void_p),
        ("app_data", c_void_p), ("align", c_int),
    )  # fmt: skip


class _IoManager(Structure):
    _fields_ = (
        ("magic", c_long), ("name", c_char_p), ("open", _Open), ("close", _Channel),
        ("set_blksize", _SetSize), ("read_blk", _Move), ("write_blk", _Move), ("flush", _Channel),
        ("write_byte", _Move), ("set_option", _Option), ("get_stats", c_void_p),
        ("read_blk64", _Move), ("write_blk64", _Move), ("discard", _Range),
        ("cache_readahead", _Range), ("zeroout", _Range), ("reserved", c_long * 14),
    )  # fmt: skip


class FileSystem(Structure):
    """struct_ext2_filsys, as far as it is looked at."""

    _fields_ = (
        ("magic", c_long), ("io", c_void_p), ("flags", c_int), ("device_name", c_char_p),
        ("super", c_void_p), ("blocksize", c_uint), ("fragsize", c_int),
        ("group_desc_count", c_uint), ("desc_blocks", ctypes.c_ulong), ("group_desc", c_void_p),
        ("inode_blocks_per_group", c_uint), ("inode_map", c_void_p), ("block_map", c_void_p),
    )  # fmt: skip


class Extent(Structure):
    """struct ext2fs_extent."""

    _fields_ = (("disk", u64), ("file", u64), ("count", c_uint), ("flags", c_uint))


@cache
def library() -> Any:
    """The library, with what is used of it declared; raises ProgramMissing."""
    try:
        lib = ctypes.CDLL(_LIBRARY)
    except OSError:
        raise ProgramMissing(
            tr(
                "Chosen files are kept by the library {library}, which is not installed.",
                library=_LIBRARY,
            ),
            tr("Install it (Debian and Ubuntu: apt install e2fsprogs)."),
        ) from None
    fs, ino, pointer = POINTER(FileSystem), c_uint, c_void_p
    of_calls: dict[str, tuple[Any, ...]] = {
        "open2": (c_char_p, c_char_p, c_int, c_int, c_uint, pointer, POINTER(fs)),
        "close_free": (POINTER(fs),),
        "free": (fs,),
        "read_bitmaps": (fs,),
        "new_inode": (fs, ino, c_int, pointer, POINTER(ino)),
        "inode_alloc_stats2": (fs, ino, c_int, c_int),
        "read_inode_full": (fs, ino, pointer, c_int),
        "write_inode_full": (fs, ino, pointer, c_int),
        "new_range": (fs, c_int, u64, u64, pointer, POINTER(u64), POINTER(u64)),
        "block_alloc_stats_range": (fs, u64, c_uint, c_int),
        "fallocate": (fs, c_int, ino, pointer, u64, u64, u64),
        "punch": (fs, ino, pointer, pointer, u64, u64),
        "extent_open": (fs, ino, POINTER(pointer)),
        "extent_get": (pointer, c_int, POINTER(Extent)),
        "extent_free": (pointer,),
        "write_dir_block4": (fs, u64, pointer, c_int, ino),
        "xattrs_open": (fs, ino, POINTER(pointer)),
        "xattrs_read": (pointer,),
        "xattrs_iterate": (pointer, Visit, pointer),
        "xattr_get": (pointer, c_char_p, POINTER(pointer), POINTER(ctypes.c_size_t)),
        "free_mem": (pointer,),
        "xattr_set": (pointer, c_char_p, pointer, ctypes.c_size_t),
        "xattr_remove": (pointer, c_char_p),
        "xattrs_close": (POINTER(pointer),),
        "free_ext_attr": (fs, ino, pointer),
    }
    for name, arguments in of_calls.items():
        call = getattr(lib, f"ext2fs_{name}")
        call.argtypes, call.restype = arguments, c_long
    for name in ("inode_alloc_stats2", "block_alloc_stats_range", "extent_free", "free"):
        getattr(lib, f"ext2fs_{name}").restype = None
    return lib


class Failed(Exception):
    """A call of the library did not do what it was asked for.

    Attributes:
        number: the error's.
    """

    def __init__(self, call: str, number: int) -> None:
        super().__init__(f"ext2fs_{call}: error {number - _BASE if number > _BASE else number}")
        self.number = number


class Channel:
    """What the library reads and writes: a stretch of a disk in the making.

    No exception passes through the library: the first is kept, and raised by `call`.

    Args:
        delta: the disk.
        offset: where on it the file system begins, in bytes.
        block: of the file system, in bytes.
    """

    def __init__(self, delta: Delta, offset: int, block: int) -> None:
        self._delta, self._offset, self._block = delta, offset, block
        self._error: BaseException | None = None
        self._channel = _IoChannel(magic=_MAGIC_CHANNEL, name=b"", block_size=block, refcount=1)
        read, write = _Move(self._guarded(self._read)), _Move(self._guarded(self._write))
        self._manager = _IoManager(
            magic=_MAGIC_MANAGER,
            name=b"vdbackup",
            open=_Open(self._open),
            close=_Channel(lambda _: 0),
            set_blksize=_SetSize(self._set_size),
            read_blk=read,
            write_blk=write,
            flush=_Channel(lambda _: 0),
            write_byte=_Move(self._guarded(self._write_bytes)),
            set_option=_Option(lambda *_: 0),
            read_blk64=read,
            write_blk64=write,
            discard=_Range(lambda *_: 0),
            cache_readahead=_Range(lambda *_: 0),
            zeroout=_Range(self._zero),
        )
        self._channel.manager = ctypes.cast(byref(self._manager), c_void_p)
        self.lib = library()
        self.fs = POINTER(FileSystem)()

    def open(self) -> None:
        """Open the file system for writing; raises FileSystemNotMade, and what the disk raises."""
        flags = READ_WRITE | PRIMARY_ONLY | LARGE
        try:
            manager = byref(self._manager)
            self.call("open2", b"vdbackup", None, flags, 0, 0, manager, byref(self.fs))
            self.call("read_bitmaps", self.fs)
        except Failed as error:
            self.let_go()
            raise FileSystemNotMade(
                tr(
                    "The file system in the point before cannot be gone on with ({error}).",
                    error=error,
                ),
                tr("Verify that point; a full backup makes a new one."),
            ) from error

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the library; raises Failed, or what the disk raised meanwhile."""
        number = getattr(self.lib, f"ext2fs_{name}")(*arguments)
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if number:
            raise Failed(name, number)

    def finish(self) -> None:
        """Write what is still to be written of the file system itself, and close it."""
        self.call("close_free", byref(self.fs))

    def let_go(self) -> None:
        """Close it as it is; nothing where that was done."""
        if bool(self.fs):
            self.lib.ext2fs_free(self.fs)
            self.fs = POINTER(FileSystem)()

    def _open(self, _name: bytes, _flags: int, channel: Any) -> int:
        channel[0] = ctypes.addressof(self._channel)
        return 0

    def _set_size(self, _channel: int, size: int) -> int:
        self._channel.block_size = size
        self._block = size
        return 0

    def _guarded(
        self, move: Callable[[int, int, int], None]
    ) -> Callable[[int, int, int, int], int]:
        def guarded(_channel: int, place: int, count: int, data: int) -> int:
            try:
                move(place, count, data)
            except BaseException as error:  # noqa: BLE001 - raised by `call`
                self._error = self._error or error
                return _SHORT_READ if move == self._read else _SHORT_WRITE
            return 0

        return guarded

    def _read(self, block: int, count: int, data: int) -> None:
        self._delta.readinto(self._offset + block * self._block, self._view(count, data))

    def _write(self, block: int, count: int, data: int) -> None:
        self._delta.write(self._offset + block * self._block, self._view(count, data))

    def _write_bytes(self, place: int, count: int, data: int) -> None:
        self._delta.write(self._offset + place, self._view(-count, data))

    def _zero(self, _channel: int, block: int, count: int) -> int:
        try:
            for each in range(block, block + count):
                place = self._offset + each * self._block
                self._delta.write(place, memoryview(bytes(self._block)))
        except BaseException as error:  # noqa: BLE001 - raised by `call`
            self._error = self._error or error
            return _SHORT_WRITE
        return 0

    def _view(self, count: int, data: int) -> memoryview:
        """The library's own buffer; a negative count means bytes (ext2_io.h)."""
        length = -count if count < 0 else count * self._block
        return memoryview((c_char * length).from_address(data)).cast("B")
