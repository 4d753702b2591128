"""The command line. Read in this order: parser, options, common, *_cmd, console."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from functools import cache

from vdbackup.cli import output, remedies
from vdbackup.cli.console import interrupts, warn
from vdbackup.cli.json_values import error_json
from vdbackup.cli.parser import asked_command, build_parser
from vdbackup.errors import Cancelled, Unexpected, VdbackupError, from_os
from vdbackup.text import PrintableFormatter, printable
from vdbackup.translation import asks_for_json, tr

log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments say; the exit status.

    0 done, 1 failed, 2 wrong usage, 3 done with warnings, 130 cancelled.
    """
    with interrupts.caught():
        try:
            status = _done(arguments)
            output.flush()
        except BrokenPipeError:  # whoever read our output has gone; nothing can be said to them
            output.give_up()
            return VdbackupError.exit_code
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - each is said
            return _say(_in_words(error), as_json=asks_for_json(arguments))
        return status


def _in_words(error: BaseException) -> VdbackupError:
    """What is wrong, and what to do; the log gets the rest."""
    if isinstance(error, KeyboardInterrupt):
        return Cancelled(tr("Cancelled."), "")
    if isinstance(error, output.Unsaid):
        output.give_up()
    if isinstance(error, VdbackupError | OSError):
        log.info("failed", exc_info=error)
        return from_os(error) if isinstance(error, OSError) else error
    log.critical("unexpected", exc_info=error)
    title = tr("It failed unexpectedly: {name}: {error}.", name=type(error).__name__, error=error)
    return Unexpected(title, tr("This is a fault of vdbackup; -v shows more."))


def _done(arguments: Sequence[str]) -> int:
    """Do it; the exit status of what did not fail."""
    try:
        options = _parser(asked_command(arguments)).parse_args(arguments)
    except SystemExit as end:  # --help, --version
        return int(end.code or 0)
    _choose_log(options.verbose)
    status: int = options.command(options)
    return status


@cache  # one process may do several commands, as tests do
def _parser(command: str | None) -> argparse.ArgumentParser:
    return build_parser(command)


def _choose_log(verbose: bool) -> None:
    """What `-v` asks for goes to stderr; without a log file nothing else may go there."""
    root = logging.getLogger()
    if verbose:
        shown = logging.StreamHandler()
        shown.setFormatter(PrintableFormatter())
        root.addHandler(shown)
        root.setLevel(logging.DEBUG)
    elif not root.handlers:
        root.addHandler(logging.NullHandler())


def _say(error: VdbackupError, *, as_json: bool) -> int:
    """Say it on standard error, where it disturbs no one who reads the results; the exit status."""
    if as_json:
        output.complain(json.dumps(error_json(error)))
        return error.exit_code
    warn([error.title])
    if advice := remedies.advice(error):
        output.complain(printable(advice))
    return error.exit_code
