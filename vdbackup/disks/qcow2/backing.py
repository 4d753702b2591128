"""What a backing file's name means where it is more than a path: "file:base.img", "json:{...}".

libvirt writes such names. Source: QEMU, block.c (parse_json_protocol, path_has_protocol) and
qapi/block-core.json (BlockdevOptions); what else stands there than a file and its format would make
other bytes of it, so such a name is not followed.
"""

from __future__ import annotations

import json
from typing import NamedTuple

_FILE = ("file", "host_device")
"""QEMU's drivers for what is a path."""
_CALM = {
    "node-name", "read-only", "auto-read-only", "force-share", "discard", "detect-zeroes", "cache",
    "aio", "locking", "drop-cache", "lazy-refcounts", "pass-discard-request",
}  # fmt: skip
"""Options that change nothing of what is read."""


class Backing(NamedTuple):
    """A path, and QEMU's name for the format where the name says it."""

    path: str
    driver: str | None = None


def backing_of(name: str) -> Backing | None:
    """The file that a name means; None where it is none, or more than that.

    QEMU takes what stands before the first colon for a protocol, if no slash comes first.
    """
    if not has_protocol(name):
        return Backing(name)
    if name.startswith("json:"):
        return _of_json(name.removeprefix("json:"))
    return Backing(name.removeprefix("file:")) if name.startswith("file:") else None


def has_protocol(name: str) -> bool:
    """Whether QEMU would not take a name for a path."""
    return ":" in name.split("/", 1)[0]


def _of_json(text: str) -> Backing | None:
    """A format, and in it the file, which may be written as options of options or with dots."""
    try:
        options = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(options, dict):
        return None
    nested = options.pop("file", {})
    if not isinstance(nested, dict):
        return None
    flat = options | {f"file.{name}": value for name, value in nested.items()}
    said = {name: value for name, value in flat.items() if name.removeprefix("file.") not in _CALM}
    driver = said.pop("driver", None)
    path = said.pop("file.filename", None)
    if said.pop("file.driver", "file") not in _FILE or said:
        return None
    if not isinstance(path, str) or not isinstance(driver, str | None):
        return None
    return Backing(path, driver)
