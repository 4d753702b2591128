"""A file, or a stretch of it, as the block device that the programs of file systems ask for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vdbackup.agent import loop_devices
from vdbackup.errors import NotResized
from vdbackup.translation import tr


@contextmanager
def loop_device(file: Path, offset: int = 0, size: int = 0) -> Iterator[str]:
    """The device; both in bytes, and `size` 0 is up to the file's end.

    Raises NotResized where the kernel makes none, or could not write all of it.
    """
    with ExitStack() as stack:
        try:
            backing = os.open(file, os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, backing)
            loop = stack.enter_context(loop_devices.over(backing, 0, offset, size))
        except OSError as error:
            raise _failed(error) from error
        yield loop.path
        try:
            os.fsync(loop.descriptor)
            loop.let_go()
        except OSError as error:
            raise _failed(error) from error


def _failed(error: OSError) -> NotResized:
    return NotResized(
        tr("A partition could not be worked on as a loop device."),
        tr("It says: {line}", line=error.strerror or str(error)),
    )
