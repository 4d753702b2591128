"""A language that nobody speaks, in which each letter of ours is another: what is left out shows.

As a plugin of pytest (`-p tests.pseudo`) it is spoken before any module of ours says something.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vdbackup import translation

WIDE = {
    code: code + 0xFEE0 for code in (*range(ord("A"), ord("Z") + 1), *range(ord("a"), ord("z") + 1))
}
"""To the full-width forms of Unicode."""
GERMAN = Path(__file__).resolve().parents[1] / "resources/locale/de/LC_MESSAGES/vdbackup.po"
_KEPT = re.compile(r"({[^{}]*}|%\([a-z_]+\)[a-z]|%[a-z]|<[^<>]*>)")


def wide(text: str) -> str:
    """The text in that language; places for values, and markup, stay."""
    parts = _KEPT.split(text)
    return "".join(part if _KEPT.fullmatch(part) else part.translate(WIDE) for part in parts)


class Texts(Mapping[str, Sequence[str]]):
    """Has every text, whatever is asked for; what German has is found again in records."""

    def __init__(self) -> None:
        self._known = translation.read(GERMAN).texts

    def get(self, key: str, default: object = None) -> Sequence[str]:
        """All forms of it."""
        assert isinstance(default, tuple)
        return tuple(wide(form) if form else form for form in default)  # argparse asks for None

    def __getitem__(self, key: str) -> Sequence[str]:
        return (wide(key),)

    def __contains__(self, key: object) -> bool:
        return key in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


translation.use(translation.Catalogue(Texts()))
