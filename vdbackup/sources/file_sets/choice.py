"""Which files are chosen: folders and files, without what is excluded."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from vdbackup.errors import SourceNotFound
from vdbackup.translation import tr

_EXCLUDE, _CROSS, _CACHES = "--exclude", "--cross-file-systems", "--caches"
_LARGER = "--exclude-larger"
_MAX_DIGITS = 18


@dataclass(frozen=True)
class Choice:
    """What a set of files consists of.

    Attributes:
        paths: of folders and files, absolute, no links; what lies in a folder belongs to it. None
            lies in another. Names need not be text (`os.fsdecode`).
        exclude: patterns (fnmatch) of what is left out: of names, or, where there is a slash in
            one, of whole paths; `*` stands for slashes, too. What lies in such a folder is left out
            with it.
        crosses: whether other file systems that are mounted in the folders belong to it.
        caches: whether folders do that are marked as caches (CACHEDIR.TAG).
        largest: bytes of a file that belongs to it at most; 0 for any.
    """

    paths: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    crosses: bool = False
    caches: bool = False
    largest: int = 0

    @classmethod
    def of(
        cls,
        paths: Sequence[str],
        exclude: Sequence[str] = (),
        *,
        crosses: bool = False,
        caches: bool = False,
        largest: int = 0,
    ) -> Self:
        """What a person chooses: links are followed, and what lies in another is left away."""
        whole = sorted({os.path.realpath(os.path.expanduser(path)) for path in paths})
        apart = [
            path
            for path in whole
            if not any(path != each and _lies_in(path, each) for each in whole)
        ]
        return cls(tuple(apart), tuple(exclude), crosses, caches, largest)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The choice that was written as `text`; raises SourceNotFound where it is none.

        Nothing is looked for.
        """
        paths: list[str] = []
        exclude: list[str] = []
        flags: set[str] = set()
        largest = 0
        try:
            words = iter(shlex.split(text))
            for word in words:
                if word == _EXCLUDE:
                    exclude.append(next(words))
                elif word == _LARGER:
                    largest = _size(next(words))
                elif word in (_CROSS, _CACHES):
                    flags.add(word)
                else:
                    paths.append(word)
        except (ValueError, StopIteration):
            paths = []
        if not paths or "\0" in text:
            raise SourceNotFound(
                tr("No files are chosen by {text!r}.", text=text),
                tr("Name a folder or a file, or several."),
            )
        return cls(tuple(paths), tuple(exclude), _CROSS in flags, _CACHES in flags, largest)

    @classmethod
    def typed(cls, text: str) -> Self:
        """What a person means by `text`; raises SourceNotFound as `parse` does."""
        said = cls.parse(text)
        flags = {"crosses": said.crosses, "caches": said.caches}
        return cls.of(said.paths, said.exclude, **flags, largest=said.largest)

    def __str__(self) -> str:
        """As a shell would be told: the paths, then what is left out."""
        words = [*self.paths]
        for pattern in self.exclude:
            words += [_EXCLUDE, pattern]
        if self.largest:
            words += [_LARGER, str(self.largest)]
        words += [_CROSS] * self.crosses + [_CACHES] * self.caches
        return shlex.join(words)

    @property
    def title(self) -> str:
        """What sentences call it."""
        others = len(self.paths) - 1
        return self.paths[0] + (tr(" and {others} more", others=others) if others else "")

    def is_too_large(self, found: os.stat_result) -> bool:
        """Whether what is known of a file says that it is left out for its size."""
        return 0 < self.largest < found.st_size and stat.S_ISREG(found.st_mode)

    def leaves_out(self, path: bytes) -> bool:
        """Whether a pattern says that what lies there, whose folder does not say so, is left out.

        Args:
            path: absolute.
        """
        if self._names is None and self._whole is None:
            return False
        text = os.fsdecode(path)
        name = text.rpartition("/")[2]
        return bool(
            (self._names and self._names.match(name)) or (self._whole and self._whole.match(text))
        )

    @cached_property
    def _names(self) -> re.Pattern[str] | None:
        return _any_of([each for each in self.exclude if "/" not in each])

    @cached_property
    def _whole(self) -> re.Pattern[str] | None:
        return _any_of([each.rstrip("/") for each in self.exclude if "/" in each])


def _size(word: str) -> int:
    """A number of bytes; raises ValueError."""
    if not word.isdecimal() or len(word) > _MAX_DIGITS or not int(word):
        raise ValueError(tr("it is no number of bytes"))
    return int(word)


def _any_of(patterns: Sequence[str]) -> re.Pattern[str] | None:
    if not patterns:
        return None
    return re.compile("|".join(fnmatch.translate(each) for each in patterns))


def _lies_in(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")
