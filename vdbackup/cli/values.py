"""What a value on the command line means, as argparse asks: numbers, sizes, rates, times."""

from __future__ import annotations

import argparse
import re
from typing import Literal

from vdbackup.jobs import readable_size
from vdbackup.translation import tr

LEAST_RATE = 64 << 10
"""Bytes a second: with less, a chunk would take longer than anybody waits for a cancel."""
MOST_RATE = 1 << 40
"""What no storage reaches: a slip of the hand."""
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
Limit = tuple[int | Literal["off"] | None, int | Literal["off"] | None]
"""Of points, and of bytes; None where nothing is said of it."""


def positive(text: str) -> int:
    """A number of at least 1; raises ArgumentTypeError or ValueError."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(tr("{text} is less than 1", text=text))
    return number


def set_and_point(text: str) -> tuple[str, str]:
    """Of "photos/3", or "photos", which means its newest point; raises ArgumentTypeError."""
    name, slash, point = text.partition("/")
    if not name or (slash and not point) or "/" in point:
        raise argparse.ArgumentTypeError(
            tr("{text} is neither a set nor one with a point, such as photos/3", text=text)
        )
    return name, point or "latest"


def partition_numbers(text: str) -> tuple[int, ...]:
    """Of "2" or "1,3"; raises ArgumentTypeError."""
    try:
        return tuple(positive(each) for each in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            tr("{text} is no list of numbers, such as 1,3", text=text)
        ) from None


def rate(text: str) -> int:
    """Bytes a second, of "100M", "800K", "1.5G" or a number of bytes; raises ArgumentTypeError."""
    bytes_ = _bytes_of(text.lower().removesuffix("/s"))
    if not LEAST_RATE <= bytes_ < MOST_RATE:
        raise argparse.ArgumentTypeError(
            tr(
                "{text} is no rate of at least {size} a second, such as 100M",
                text=text,
                size=readable_size(LEAST_RATE),
            )
        )
    return bytes_


def file_size(text: str) -> int:
    """Bytes, of "4G", "700M" or a number of bytes; raises ArgumentTypeError."""
    if not (bytes_ := _bytes_of(text)):
        raise argparse.ArgumentTypeError(tr("{text} is no size of a file, such as 700M", text=text))
    return bytes_


def size_in_bytes(text: str) -> int:
    """Of "500G", "1.5T", "800M" or a number of bytes; raises ArgumentTypeError."""
    if not (bytes_ := _bytes_of(text)):
        raise argparse.ArgumentTypeError(tr("{text} is no size, such as 500G", text=text))
    return bytes_


def number_of_bytes(text: str) -> int:
    """A size, of "20G", "800M" or a number of bytes; raises ArgumentTypeError."""
    if (bytes_ := _bytes_of(text)) < 1 << 20:
        raise argparse.ArgumentTypeError(
            tr("{text} is no size of at least 1M, such as 20G", text=text)
        )
    return bytes_


def _bytes_of(text: str) -> int:
    """What "1.5G" means; 0 where it means nothing, or more than any storage holds."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    if found is None:
        return 0
    bytes_ = float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " ")
    return int(bytes_) if bytes_ < 1 << 60 else 0


def points_kept(text: str) -> int | Literal["all"]:
    """How many points, or "all"; raises ArgumentTypeError."""
    try:
        return "all" if text == "all" else positive(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            tr("{text} is neither a number nor `all`", text=text)
        ) from None


def number_or_off(text: str) -> int | Literal["off"]:
    """How many, or "off"; raises ArgumentTypeError."""
    try:
        return "off" if text == "off" else positive(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            tr("{text} is neither a number nor `off`", text=text)
        ) from None


def limit_or_off(text: str) -> Limit:
    """So many points, or bytes ("500G"), or "off", which is both; raises ArgumentTypeError."""
    if text == "off":
        return "off", "off"
    if text.isdecimal():
        return positive(text), None
    try:
        return None, number_of_bytes(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            tr("{text} is neither a number, nor a size such as 500G, nor `off`", text=text)
        ) from None


def hours(text: str) -> int | Literal["off"]:
    """A number of hours, of "36h", "2d" or "3w", or "off"; raises ArgumentTypeError."""
    if text == "off":
        return "off"
    if not (seconds := _seconds_of(text, "hdw", 7)):
        raise argparse.ArgumentTypeError(
            tr("{text} is neither a time, such as 36h or 2d, nor `off`", text=text)
        )
    return seconds // _SECONDS["h"]


def seconds_of(text: str) -> int:
    """A number of seconds, of "90s", "10m" or "1h"; raises ArgumentTypeError."""
    if not (seconds := _seconds_of(text, "smh", 5)):
        raise argparse.ArgumentTypeError(tr("{text} is no time, such as 90s or 10m", text=text))
    return seconds


def seconds_or_off(text: str) -> int | Literal["off"]:
    """A number of seconds, of "90s", "5m", "2h", "7d", "2w", or "off"; raises ArgumentTypeError."""
    if text == "off":
        return "off"
    if not (seconds := _seconds_of(text, "smhdw", 7)):
        raise argparse.ArgumentTypeError(
            tr("{text} is neither a time, such as 5m, 1h or 7d, nor `off`", text=text)
        )
    return seconds


def _seconds_of(text: str, units: str, digits: int) -> int:
    """What "36h" means, in one of the units and with at most so many digits; 0: nothing."""
    found = re.fullmatch(rf"([1-9]\d{{0,{digits - 1}}})([{units}])", text)
    return int(found[1]) * _SECONDS[found[2]] if found else 0


def backups(text: str) -> int | Literal["never"]:
    """How many backups, or "never"; raises ArgumentTypeError."""
    try:
        return "never" if text == "never" else positive(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            tr("{text} is neither a number nor `never`", text=text)
        ) from None


def sensible_seconds(text: str) -> float:
    """A time; raises ArgumentTypeError or ValueError."""
    seconds = float(text)
    if not 0 < seconds < 1e6:
        raise argparse.ArgumentTypeError(tr("{text} is no sensible number of seconds", text=text))
    return seconds
