"""The command line. Read in this order: parser, commands, machines, console."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from vdbackup.cli import remedies
from vdbackup.cli.console import interrupts, warn
from vdbackup.cli.parser import build_parser
from vdbackup.errors import Cancelled, VdbackupError, from_os
from vdbackup.text import printable

log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments say; the exit status.

    0 done, 1 failed, 2 wrong usage, 3 done with warnings, 130 cancelled.
    """
    options = build_parser().parse_args(arguments)
    _choose_log(options.verbose)
    with interrupts.caught():
        return _done(options)


def _done(options: argparse.Namespace) -> int:
    """Do it; the exit status, with a sentence where it failed."""
    try:
        status: int = options.command(options)
        sys.stdout.flush()
    except VdbackupError as error:
        log.info("failed", exc_info=True)
        return _say(error)
    except BrokenPipeError:  # whoever read our output has gone; nothing can be said to them
        sys.stderr.close()
        return 1
    except OSError as error:
        log.info("failed", exc_info=True)
        return _say(from_os(error))
    except KeyboardInterrupt:
        return _say(Cancelled("Cancelled.", ""))
    except Exception as error:
        log.critical("unexpected", exc_info=True)
        title = f"It failed unexpectedly: {type(error).__name__}: {error}."
        return _say(VdbackupError(title, "This is a fault of vdbackup; -v shows more."))
    return status


def _choose_log(verbose: bool) -> None:
    """What `-v` asks for goes to stderr; without a log file nothing else may go there."""
    root = logging.getLogger()
    if verbose:
        root.addHandler(logging.StreamHandler())
        root.setLevel(logging.DEBUG)
    elif not root.handlers:
        root.addHandler(logging.NullHandler())


def _say(error: VdbackupError) -> int:
    warn([error.title])
    if advice := remedies.advice(error):
        print(printable(advice), file=sys.stderr)
    return error.exit_code
