"""Text from outside, made fit to be shown: names of files, what a guest or a manifest says."""

from __future__ import annotations

import logging
from typing import Any


def printable(text: str, *, but: str = "") -> str:
    """The text with all written out that would steer a terminal, or forge a line of its own.

    That is whatever is no letter, sign or space for the eye: controls, line ends, marks that turn
    the direction of writing, and bytes of a name that are no UTF-8. Written out, not left out: a
    name never passes for the harmless one that would be left of it.

    Args:
        text: from outside.
        but: characters that stay what they are, such as the ends of our own lines.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in but else ascii(c)[1:-1] for c in text)


def iso(moment: int | None) -> str | None:
    """A time in ns since 1970 as ISO 8601 has it, in UTC and whole seconds."""
    from datetime import UTC, datetime  # late: most of what is said has no times

    if moment is None:
        return None
    return datetime.fromtimestamp(moment // 10**9, UTC).isoformat(timespec="seconds")


class PrintableFormatter(logging.Formatter):
    """Records of the log, each of one line but for a traceback's, whatever names they hold."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging calls it so
        """The line itself."""
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """A traceback: an error's text may hold names, too, of which no line may look like ours."""
        lines = super().formatException(ei).splitlines()
        return "\n".join(f"  {printable(line)}" for line in lines)
