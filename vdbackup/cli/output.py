"""Standard output and error as they may be: closed, full, a pipe nobody reads, any encoding."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from vdbackup.errors import VdbackupError
from vdbackup.translation import tr


class Unsaid(VdbackupError):
    """What a command found out or did cannot be told: standard output is full, for instance."""

    code = "output-failed"


def prepare() -> None:
    """Let nothing that is said fail for its encoding, and no file get a standard one's number.

    To be called before any file is opened. Where a shell has closed a standard descriptor (`2>&-`),
    the next file that is opened would get its number, and complaints that are meant for a terminal,
    a library's or another program's, would be written into a backup.
    """
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number
        stream = getattr(sys, name)
        if stream is None:  # Python found it closed
            setattr(sys, name, _nowhere(mode))
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str, *, at_once: bool = False) -> None:
    """Write a line to standard output.

    Raises:
        BrokenPipeError: nobody reads any more. Unsaid: it cannot be written.
    """
    with _told():
        print(text, flush=at_once)


def flush() -> None:
    """Write out what is kept back; raises as `say` does."""
    with _told():
        sys.stdout.flush()


def complain(text: str, end: str = "\n") -> None:
    """Write to standard error, as far as it takes something: there is no one else to tell."""
    try:
        print(text, end=end, file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = _closed(sys.stderr)


def give_up() -> None:
    """Say nothing more on standard output; else Python would try once more at its end."""
    sys.stdout = _closed(sys.stdout)


@contextmanager
def _told() -> Iterator[None]:
    """Turn an error of standard output into one that says so."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unsaid(
            tr("What there is to say cannot be written: {reason}.", reason=error.strerror),
            tr("Look at where standard output goes; what was done until then is done."),
        ) from error


def _closed(stream: TextIO) -> TextIO:
    """Close a stream that takes nothing; what is to be used instead of it."""
    with suppress(OSError):
        stream.close()
    return _nowhere("w")


def _nowhere(mode: str) -> TextIO:
    return io.TextIOWrapper(open(os.devnull, mode + "b"), "utf-8", "backslashreplace")
