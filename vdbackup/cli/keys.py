"""The key of what is encrypted inside a point: asked for, or read from a file; never an argument.

Arguments of commands are seen by every user of a computer.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from contextlib import suppress
from pathlib import Path

from vdbackup.errors import UsageError
from vdbackup.translation import tr


def key_options(parser: argparse.ArgumentParser) -> None:
    """Where the key of encrypted volumes comes from; without one they stay closed."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--unlock", action="store_true",
        help=tr("ask for the passphrase or recovery key of what is encrypted (LUKS, BitLocker)"),
    )  # fmt: skip
    group.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help=tr("it is all that FILE holds, with or without its last line break"),
    )


def secrets_of(options: argparse.Namespace) -> tuple[bytes, ...]:
    """What may be the key, one after the other; none where nothing is to be unlocked.

    Raises:
        UsageError: there is nobody to ask, or the file holds no key. OSError: it cannot be read.
    """
    from vdbackup.volumes.encryption import MAX_SECRET  # late: few commands are given a key

    if options.key_file is not None:
        data = b""
        with suppress(IsADirectoryError), options.key_file.open("rb") as file:
            data = file.read(MAX_SECRET + 1)
        if not data or len(data) > MAX_SECRET:
            raise UsageError(
                tr("{file} holds no key.", file=options.key_file),
                tr("Name a file with the passphrase, or one that was made as a key."),
            )
        line = data.removesuffix(b"\n").removesuffix(b"\r")
        return (data,) if line == data else (line, data)
    if not options.unlock:
        return ()
    if not sys.stdin.isatty():
        raise UsageError(
            tr("There is no terminal to ask for the key at."),
            tr("Name a file that holds it with --key-file."),
        )
    typed = getpass.getpass(tr("Passphrase or recovery key: "))
    return (typed.encode("utf-8", "surrogateescape"),)
