"""How a source is named: in one text, by its kind and by what that kind knows it by.

`file:/dev/sdb` names a block device, `file:disk.img` a disk image. A path alone means `file:`, and
is what such a name is written as wherever it is kept, handed on or read by a person. `files:` and
paths, as a shell would have them, names chosen folders and files (file_sets/choice.py).
"""

from __future__ import annotations

import enum
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from vdbackup.errors import Remedy, SourceNotFound
from vdbackup.translation import tr


class Scheme(enum.StrEnum):
    """The kinds of sources that can be opened (opening.py)."""

    FILE = "file"
    FILES = "files"


_SCHEME = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*):(?P<rest>.*)", re.DOTALL)
"""RFC 3986, 3.1, but in small letters alone: C:\\ is the beginning of a path."""
_URL = re.compile(r"//(localhost)?(?P<path>/.*)", re.DOTALL)
"""What follows `file:` where another program has written it (RFC 8089)."""


@dataclass(frozen=True)
class SourceRef:
    """Which source is meant. Its text (`str`) parsed is the same reference again.

    Attributes:
        scheme: its kind. One that is no Scheme can be kept and shown, and not opened: a newer
            version may have written it.
        rest: what the kind knows it by; of a file or device its path. A name in it need not be
            text: bytes that are none are lone surrogates (`os.fsdecode`).
    """

    scheme: str
    rest: str

    @classmethod
    def of_path(cls, path: Path) -> Self:
        """An image or a block device."""
        return cls(Scheme.FILE, str(path))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The reference that was written as `text`. Any text is one; nothing is looked for."""
        if text in ("", f"{Scheme.FILE}:"):  # no path: not the folder that is worked in
            return cls(Scheme.FILE, "")
        found = _SCHEME.fullmatch(text)
        if found is None:
            return cls.of_path(Path(text))
        if found["scheme"] != Scheme.FILE:
            return cls(found["scheme"], found["rest"])
        url = _URL.fullmatch(found["rest"])
        return cls.of_path(_unquoted(url["path"]) if url else Path(found["rest"]))

    @classmethod
    def typed(cls, text: str) -> Self:
        """What a person means by `text`: what exists under that very name, else as it is parsed.

        A file may be called "lvm:disk" or "~disk". Where there is none, `~` is a home folder, which
        a shell does not say for it behind `file:`.
        """
        if (_SCHEME.fullmatch(text) or text.startswith("~")) and os.path.lexists(text):
            return cls.of_path(Path(text))
        ref = cls.parse(text)
        if not ref.is_file or not ref.rest:
            return ref
        return cls.of_path(Path(os.path.expanduser(ref.rest)))  # Path's own raises where none is

    @property
    def is_file(self) -> bool:
        """Whether it is an image or a block device."""
        return self.scheme == Scheme.FILE

    @property
    def is_files(self) -> bool:
        """Whether it is chosen folders and files."""
        return self.scheme == Scheme.FILES

    @property
    def path(self) -> Path:
        """Of the image or device; raises SourceNotFound where it names none."""
        if not self.is_file:
            raise unknown(self)
        if not self.rest:  # of a set that has lost what it was made from
            raise SourceNotFound(
                tr("No source is named."),
                tr("Say which disk or image is to be backed up, and into which set."),
            )
        if "\0" in self.rest:
            raise SourceNotFound(
                tr("There is no {what}: no path has a zero byte in it.", what=self),
                tr("Check the path."),
            )
        return Path(self.rest)

    @property
    def name(self) -> str:
        """What a person would call it."""
        return Path(self.rest).stem or self.rest

    def absolute(self) -> Self:
        """The same, whatever folder is worked in."""
        known = self.is_file and self.rest
        return type(self).of_path(Path(self.rest).absolute()) if known else self

    def __str__(self) -> str:
        """The text that it is written as: of a file or device its path."""
        if not self.is_file:
            return f"{self.scheme}:{self.rest}"
        return f"./{self.rest}" if _SCHEME.fullmatch(self.rest) else self.rest


def unknown(ref: SourceRef) -> SourceNotFound:
    """What is said of a source that none of the known kinds is."""
    return SourceNotFound(
        tr(
            "There is no file {ref}, and no kind of source called {scheme} (known: {scheme_2}).",
            ref=ref,
            scheme=ref.scheme,
            scheme_2=", ".join(Scheme),
        ),
        tr("Check the name; of a disk image or a block device its path is enough."),
        remedy=Remedy.LIST_DEVICES,
    )


def _unquoted(path: str) -> Path:
    """A path in which a program has written some bytes as %20 and the like."""
    from urllib.parse import unquote_to_bytes

    return Path(os.fsdecode(unquote_to_bytes(os.fsencode(path))))
