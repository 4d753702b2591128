"""A folder for what is large and needed meanwhile: it goes with its process, however that ends.

Who uses one holds a lock on it, which the kernel drops with the process. What a killed one has left
goes when the next one is made in the same place, and so before its space is needed.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vdbackup.durable import hold_lock

log = logging.getLogger(__name__)

_FRESH, _PREFIX = "vdbackup-", "vdbackup-scratch-"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def scratch_folder(where: Path | None = None) -> Iterator[Path]:
    """A new folder, gone with all that is in it when the block ends; raises OSError.

    Args:
        where: in what it is made; the folder for temporary files if left out.
    """
    place = Path(tempfile.gettempdir()) if where is None else where
    _sweep(place)
    fresh = Path(tempfile.mkdtemp(prefix=_FRESH, dir=place))
    own = fresh.with_name(_PREFIX + fresh.name.removeprefix(_FRESH))
    with _held(fresh):
        fresh.rename(own)  # only now: whoever sweeps takes what nobody holds
        try:
            yield own
        finally:
            shutil.rmtree(own)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    try:
        fd = hold_lock(os.open(folder, _FOLDER))
    except OSError as error:  # without locks there nobody else can take it for left behind, either
        log.info("%s cannot be locked: %s", folder, error)
        yield
        return
    try:
        yield
    finally:
        os.close(fd)


def _sweep(place: Path) -> None:
    """Remove what this user's killed processes have left there."""
    for left in place.glob(f"{_PREFIX}*"):
        try:
            fd = os.open(left, _FOLDER)
            if os.fstat(fd).st_uid != os.geteuid():
                os.close(fd)
                continue
            fd = hold_lock(fd)
        except OSError:  # in use, or another one's, or gone
            continue
        log.info("%s was left by a process that was killed, and goes", left)
        shutil.rmtree(left, ignore_errors=True)
        os.close(fd)
