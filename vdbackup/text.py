"""Text from outside, made fit to be shown: names of files, what a guest or a manifest says."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with all written out that would steer a terminal, or forge a line of its own.

    That is whatever is no letter, sign or space for the eye: controls, line ends, marks that turn
    the direction of writing, and bytes of a name that are no UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
