"""The keys of what is encrypted inside a point: asked for, or read from files; never an argument.

Arguments of commands are seen by every user of a computer.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup.errors import UsageError
from vdbackup.translation import tr

if TYPE_CHECKING:
    from vdbackup.volumes.keys import Keys


def key_options(parser: argparse.ArgumentParser) -> None:
    """Where the keys of encrypted volumes come from; without one they stay closed."""
    parser.add_argument(
        "--unlock", action="store_true",
        help=tr("ask for the passphrase or recovery key of what is encrypted (LUKS, BitLocker)"),
    )  # fmt: skip
    parser.add_argument(
        "--key-file",
        action="append",
        default=[],
        metavar="[VOLUME=]FILE",
        help=tr(
            "it is all that FILE holds, with or without its last line break; of the VOLUME alone, "
            "as `files` names it, where one is named; can be repeated"
        ),
    )


def keys_of(options: argparse.Namespace) -> Keys:
    """What may be the keys; none where nothing is to be unlocked.

    Raises:
        UsageError: there is nobody to ask, or a file holds no key. OSError: one cannot be read.
    """
    from vdbackup.volumes.keys import Keys  # late: few commands are given a key

    of_any: list[bytes] = []
    of_one: list[tuple[str, bytes]] = []
    for text in options.key_file:
        volume, file = _named(text)
        secrets = _secrets_in(file)
        if volume:
            of_one += [(volume, secret) for secret in secrets]
        else:
            of_any += secrets
    if options.unlock:
        of_any.append(_typed())
    return Keys(tuple(of_any), tuple(of_one))


def _named(text: str) -> tuple[str, Path]:
    """The volume that a key is for, "" for any, and its file; a file that is called so is meant."""
    volume, sign, file = text.partition("=")
    if sign and "/" not in volume and not Path(text).exists():
        return volume, Path(file)
    return "", Path(text)


def _secrets_in(file: Path) -> tuple[bytes, ...]:
    from vdbackup.volumes.encryption import MAX_SECRET

    data = b""
    with suppress(IsADirectoryError), file.open("rb") as opened:
        data = opened.read(MAX_SECRET + 1)
    if not data or len(data) > MAX_SECRET:
        raise UsageError(
            tr("{file} holds no key.", file=file),
            tr("Name a file with the passphrase, or one that was made as a key."),
        )
    line = data.removesuffix(b"\n").removesuffix(b"\r")
    return (data,) if line == data else (line, data)


def _typed() -> bytes:
    if not sys.stdin.isatty():
        raise UsageError(
            tr("There is no terminal to ask for the key at."),
            tr("Name a file that holds it with --key-file."),
        )
    typed = getpass.getpass(tr("Passphrase or recovery key: "))
    return typed.encode("utf-8", "surrogateescape")
