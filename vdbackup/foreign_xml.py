"""XML that other programs have written: never followed anywhere, and never read without end.

What expands or fetches something (entities) needs a document type, which none of those programs
writes: a text with one is refused before a parser sees it. It has to be UTF-8, so that nothing can
hide from that look.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup import durable
from vdbackup.errors import VdbackupError

if TYPE_CHECKING:
    from xml.etree import ElementTree as ET

_MAX_LENGTH = 4 << 20
"""Bytes: a VirtualBox machine with a hundred snapshots has less than one MiB."""


def parsed(text: str | None) -> ET.Element | None:
    """The root element; None where it is none that a program wrote."""
    if not text or len(text) > _MAX_LENGTH or "<!DOCTYPE" in text:
        return None
    from xml.etree import ElementTree as ET  # late: most users have no such machines

    try:
        return ET.fromstring(text)  # noqa: S314 - no document type, no entities
    except (ET.ParseError, ValueError):
        return None


def parsed_file(path: Path) -> ET.Element | None:
    """The same of a file that may be anything, or may not be there."""
    try:
        return parsed(durable.read_own(path, _MAX_LENGTH).decode("utf-8"))
    except (OSError, UnicodeDecodeError, VdbackupError):
        return None
