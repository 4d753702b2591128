"""What the agent may do: of root's rights, six; whatever it starts has none of them.

Why each is needed:

    CAP_SYS_ADMIN        to freeze and thaw file systems (FIFREEZE), and to mount a bpf file system
    CAP_BPF              to load a program that marks what changes, and to make its maps
    CAP_PERFMON          to let it run at the kernel's tracepoints
    CAP_DAC_READ_SEARCH  to reach what is mounted in folders of users, and devices of any group
    CAP_IPC_LOCK         to lock memory for what is read while nobody may write
    CAP_SYS_RESOURCE     so that the guardian is the last process to be killed (oom_score_adj)

It stays user 0, whose files the devices and the kernel's own are, but that is no power any more: a
program that user 0 starts gets no rights by that (SECBIT_NOROOT).
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Callable
from typing import NoReturn

from vdbackup.errors import AgentFailed
from vdbackup.translation import tr

SYS_ADMIN, BPF, PERFMON = 21, 39, 38
KEPT = {SYS_ADMIN, BPF, PERFMON, 2, 14, 24}
"""By their numbers (linux/capability.h): those above, then the other three in that order."""
_SETPCAP = 8
_LAST = 63
_DUMPABLE, _SECUREBITS, _BSET_DROP, _NO_NEW_PRIVS, _AMBIENT = 4, 28, 24, 38, 47
_AMBIENT_CLEAR = 4
_NO_ROOT = 0b1110_1111
"""All of linux/securebits.h, and that they stay, but for SECBIT_KEEP_CAPS itself."""
_VERSION = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def drop_all_but_what_is_needed() -> None:
    """Give up all other rights of this process, for good; raises AgentFailed where it cannot."""
    os.umask(0o077)
    os.environ.clear()
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    os.environ["LC_ALL"] = "C.UTF-8"
    os.chdir("/")
    had = effective()
    if 6 in had:  # CAP_SETGID
        os.setgroups([])
    if _SETPCAP in had:
        _called("prctl", _libc.prctl, _SECUREBITS, _NO_ROOT, 0, 0, 0)
        for number in range(_LAST + 1):
            if number not in KEPT:
                _libc.prctl(_BSET_DROP, number, 0, 0, 0)  # EINVAL: the kernel has none of it
    _libc.prctl(_AMBIENT, _AMBIENT_CLEAR, 0, 0, 0)
    _called("prctl", _libc.prctl, _NO_NEW_PRIVS, 1, 0, 0, 0)
    _called("prctl", _libc.prctl, _DUMPABLE, 0, 0, 0, 0)
    _keep(had & KEPT)
    if not effective() <= KEPT:
        raise _failed(tr("it still has others"))


def hear_no_key() -> None:
    """Ctrl-C in the client's terminal is the client's matter; to be ended ends it in good order."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)


def _end(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)


def effective() -> set[int]:
    """The rights that this thread has now, by their numbers."""
    with open("/proc/thread-self/status", "rb") as file:
        line = next(line for line in file if line.startswith(b"CapEff:"))
    mask = int(line.split()[1], 16)
    return {number for number in range(_LAST + 1) if mask >> number & 1}


def _keep(wanted: set[int]) -> None:
    """capset(2): permitted and effective are these, and nothing is inherited."""
    mask = sum(1 << number for number in wanted)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION, 0))
    data = ctypes.create_string_buffer(struct.pack("=6I", low, low, 0, high, high, 0))
    _called("capset", _libc.capset, header, data)


def _called(name: str, function: Callable[..., int], *arguments: object) -> None:
    whole = (ctypes.c_ulong(each) if isinstance(each, int) else each for each in arguments)
    if function(*whole):
        raise _failed(f"{name}: {os.strerror(ctypes.get_errno())}")


def _failed(why: str) -> AgentFailed:
    return AgentFailed(
        tr("The service could not give up the rights that it does not need: {why}.", why=why),
        tr("Nothing was done. Back the volume up as root, without the service."),
    )
