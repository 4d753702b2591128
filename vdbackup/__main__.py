"""The window without arguments, the command line with."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
from typing import NoReturn

_UTF8 = ["-X", "utf8"]
"""Python's option: PEP 540."""
_MANY = 50_000
"""Things that are made before Python looks for circles among them: 700 as it comes."""


def run() -> NoReturn:
    """Start what the arguments ask for, and end with its exit status."""
    status = main()
    if sys.argv[1:] and threading.active_count() == 1 and not _is_watched():
        _leave(status)
    sys.exit(status)


def _is_watched() -> bool:
    """Whether somebody counts lines or calls, who writes that down last."""
    if sys.gettrace() or sys.getprofile():
        return True
    monitoring = getattr(sys, "monitoring", None)  # from Python 3.12 on, by number (PEP 669)
    return monitoring is not None and any(map(monitoring.get_tool, range(6)))


def main() -> int:
    """Start what the arguments ask for; the exit status."""
    try:
        return _started(sys.argv[1:])
    except KeyboardInterrupt:  # before anything was begun: Python was reading the program
        return 130
    finally:  # all is done: one more Ctrl-C, while Python ends, must not change the status
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _started(arguments: list[str]) -> int:
    _take_names_for_utf8()
    # numpy's linear algebra, which nobody needs here, else has a thread for each core that turns
    # in circles for 50 ms of its time
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from vdbackup import translation

    if translation.asks_for_json(arguments):
        translation.english()  # before any module says something
    from vdbackup.cli import output

    output.prepare()
    if arguments:
        # what is read at the start stays: to look for circles among it time and again takes a
        # twentieth of a short command (`merge`: 258 ms of processor time, and 243 so)
        gc.set_threshold(_MANY)
        from vdbackup import cli
        from vdbackup.locations import Locations, start_log

        start_log(Locations.from_environment())
        return cli.main(arguments)
    from vdbackup.gui import app

    return app.main(arguments)


def _take_names_for_utf8() -> None:
    """Where Python takes the names of files for another encoding, start it anew without that.

    A locale without UTF-8 would give the same set and the same source another name, which neither a
    listing nor the next backup would find. What is said keeps the terminal's encoding.
    """
    if sys.getfilesystemencoding() == "utf-8" or sys.orig_argv[1:3] == _UTF8:
        return
    if sys.stdout is not None and not os.environ.get("PYTHONIOENCODING"):
        os.environ["PYTHONIOENCODING"] = sys.stdout.encoding
    os.execv(sys.executable, [sys.orig_argv[0], *_UTF8, *sys.orig_argv[1:]])  # noqa: S606


def _leave(status: int) -> None:
    """End without taking Python apart piece by piece: the kernel takes back all of it at once.

    That is a tenth of the processor time of a short command. What wants to be told of the end is
    told; where the last words find no place, Python says so as ever.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return
    atexit._run_exitfuncs()
    os._exit(status)


if __name__ == "__main__":
    run()
