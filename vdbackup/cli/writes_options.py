"""What a policy can be told about kept writes: which moments of them stay."""

from __future__ import annotations

import argparse

from vdbackup.cli.values import seconds_or_off
from vdbackup.translation import tr


def writes_options(parser: argparse.ArgumentParser) -> None:
    """Which moments stay of the writes that are kept of a set's machines."""
    parser.add_argument(
        "--keep-writes", type=seconds_or_off, metavar="TIME",
        help=tr(
            "of writes that are kept of machines all of the last TIME before their log ends stays, "
            "such as 1h or 2d; before that a moment of each minute; `off`: all stay"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--moments-every", type=seconds_or_off, metavar="TIME",
        help=tr("before that a moment of each TIME, such as 5m (1m is usual)"),
    )  # fmt: skip
    parser.add_argument(
        "--forget-moments", type=seconds_or_off, metavar="TIME",
        help=tr("moments that are older than TIME go, such as 7d; `off`: none do"),
    )  # fmt: skip
