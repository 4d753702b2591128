"""The command line. Read in this order: parser, commands, console."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from vdbackup.cli.console import printable, warn
from vdbackup.cli.parser import build_parser
from vdbackup.errors import VdbackupError, from_os

log = logging.getLogger(__name__)

INTERRUPTED = 130


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments say; the exit status.

    0 done, 1 failed, 2 wrong usage, 3 done with warnings, 130 cancelled.
    """
    options = build_parser().parse_args(arguments)
    level = logging.DEBUG if options.verbose else logging.CRITICAL
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    try:
        status: int = options.command(options)
        sys.stdout.flush()
    except VdbackupError as error:
        log.debug("failed", exc_info=True)
        return _say(error)
    except BrokenPipeError:  # whoever read our output has gone; nothing can be said to them
        sys.stderr.close()
        return 1
    except OSError as error:
        log.debug("failed", exc_info=True)
        return _say(from_os(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def _say(error: VdbackupError) -> int:
    warn([error.title])
    if error.advice:
        print(printable(error.advice), file=sys.stderr)
    return error.exit_code
