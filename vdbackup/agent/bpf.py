"""bpf(2) and membarrier(2), by their numbers: the C library has no names for them.

Sources: bpf(2), membarrier(2), the kernel's include/uapi/linux/bpf.h. What is taken of each
structure has been where it is since Linux 5.15 at least: the kernel only ever adds to their ends.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import mmap
import os
import platform
import struct
from dataclasses import dataclass
from pathlib import Path

from vdbackup.translation import tr

_CALLS = {"x86_64": (321, 324), "aarch64": (280, 283), "riscv64": (280, 283)}
"""Numbers of bpf(2) and membarrier(2)."""
_MAP_CREATE, _PROG_LOAD, _OBJ_PIN, _OBJ_GET, _INFO, _TRACEPOINT_OPEN = 0, 5, 6, 7, 15, 17
_ARRAY, _MMAPABLE = 2, 0x400
_TRACING, _RAW_TRACEPOINT = 26, 23
"""Type of program and of attachment that together are `tp_btf`."""
_GLOBAL = 1
"""membarrier(2): all processors pass through a quiescent state (the kernel's synchronize_rcu)."""
_LOG_BYTES, _LOG_END = 16 << 20, 2000

_DISTURBED = 8
"""Times that it is asked again; libbpf does so 5 times."""

log = logging.getLogger(__name__)
_libc = ctypes.CDLL(None, use_errno=True)


def _call(which: int, *arguments: object) -> int:
    """A system call; raises OSError: ENOSYS on processors whose numbers are not known here."""
    numbers = _CALLS.get(platform.machine())
    if numbers is None or struct.calcsize("P") != 8:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    result: int = _libc.syscall(ctypes.c_long(numbers[which]), *arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _bpf(command: int, attributes: bytes) -> int:
    return _call(0, ctypes.c_int(command), attributes, ctypes.c_uint(len(attributes)))


def wait_for_programs() -> None:
    """Return once every program has ended that was running when this was called.

    Raises OSError: EINVAL on a kernel with processors that must not be disturbed (nohz_full).
    """
    _call(1, ctypes.c_int(_GLOBAL), ctypes.c_uint(0), ctypes.c_int(0))


def create_array(name: bytes, entries: int, size: int) -> int:
    """A descriptor of a map: an array of zeros that can be mapped into memory; raises OSError.

    Args:
        name: 15 letters at most.
        entries: how many.
        size: of each, in bytes; with 8 the whole lies in memory without gaps.
    """
    return _bpf(
        _MAP_CREATE,
        struct.pack("<IIIIIII16s", _ARRAY, 4, size, entries, _MMAPABLE, 0, 0, name),
    )


def load_program(name: bytes, instructions: bytes, type_id: int) -> int:
    """A descriptor of a program that the kernel has checked; raises OSError.

    Why it takes one not stands in the log.

    Args:
        name: 15 letters at most.
        instructions: eight bytes each.
        type_id: BTF's number of the tracepoint's type, `btf_trace_...`.
    """
    try:
        return _load_undisturbed(name, instructions, type_id)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS):
            log.info("%s", _words_about(name, instructions, type_id))
        raise


def _load_undisturbed(name: bytes, instructions: bytes, type_id: int) -> int:
    """The same; the kernel gives up its check where a signal waits, and has to be asked again."""
    for _ in range(_DISTURBED):
        try:
            return _load(name, instructions, type_id, None)
        except BlockingIOError:
            log.info("the check of %r was disturbed", name)
    return _load(name, instructions, type_id, None)


def _load(
    name: bytes, instructions: bytes, type_id: int, words: ctypes.Array[ctypes.c_char] | None
) -> int:
    """The same; what the kernel finds goes to `words`, for which loading may fail (ENOSPC)."""
    code, terms = ctypes.create_string_buffer(instructions), ctypes.create_string_buffer(b"GPL")
    verbose = (0, 0, 0) if words is None else (1, len(words), ctypes.addressof(words))
    attributes = struct.pack(
        "<IIQQIIQII16sIIIIQIIQIII",
        _TRACING, len(instructions) // 8, ctypes.addressof(code), ctypes.addressof(terms),
        *verbose, 0, 0, name, 0, _RAW_TRACEPOINT, 0, 0, 0, 0, 0, 0, 0, type_id, 0,
    )  # fmt: skip
    return _bpf(_PROG_LOAD, attributes)


def _words_about(name: bytes, instructions: bytes, type_id: int) -> str:
    """The end of what the kernel says of a program that it does not take."""
    words = ctypes.create_string_buffer(_LOG_BYTES)
    try:
        os.close(_load(name, instructions, type_id, words))
    except OSError:
        return words.value[-_LOG_END:].decode(errors="replace")
    return tr("it was taken the second time")


def attach(program: int) -> int:
    """A descriptor of the link that lets a program run; it runs until nothing holds the link."""
    return _bpf(_TRACEPOINT_OPEN, struct.pack("<QIIQ", 0, program, 0, 0))


def pin(fd: int, path: Path) -> None:
    """Let a file in a bpf file system hold an object; raises OSError, FileExistsError for one."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(_OBJ_PIN, struct.pack("<QII", ctypes.addressof(name), fd, 0))


def open_pin(path: Path) -> int:
    """A descriptor of the object that such a file holds; raises OSError."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(_OBJ_GET, struct.pack("<QII", ctypes.addressof(name), 0, 0))


def _info(fd: int, size: int) -> bytes:
    """What the kernel says of an object, as much as it knows of `size` bytes; raises OSError."""
    info = ctypes.create_string_buffer(size)
    _bpf(_INFO, struct.pack("<IIQ", fd, size, ctypes.addressof(info)))
    return info.raw


@dataclass(frozen=True)
class Link:
    """A link that is there: its number, and that of the program that it lets run."""

    number: int
    program: int


def link_info(fd: int) -> Link:
    """Which link it is; numbers are not given twice before the next boot. Raises OSError."""
    _, number, program = struct.unpack_from("<III", _info(fd, 48))
    return Link(number, program)


def program_number(fd: int) -> int:
    """Which program it is; raises OSError."""
    number: int = struct.unpack_from("<I", _info(fd, 232), 4)[0]
    return number


def missed_runs(fd: int) -> int:
    """How often a program was not run since it was loaded, because it was running on that CPU."""
    number: int = struct.unpack_from("<Q", _info(fd, 232), 208)[0]
    return number


def map_number(fd: int) -> int:
    """Which map it is; raises OSError."""
    number: int = struct.unpack_from("<I", _info(fd, 88), 4)[0]
    return number


def map_bytes(fd: int) -> int:
    """How long an array is in memory, in bytes; raises OSError."""
    size, entries = struct.unpack_from("<II", _info(fd, 88), 12)
    return int(size) * int(entries)


def in_memory(fd: int) -> mmap.mmap:
    """An array's own memory, shared with the kernel's programs; raises OSError."""
    return mmap.mmap(fd, map_bytes(fd), mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
