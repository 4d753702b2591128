"""Readers, ours and others, each asked once about the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from tests.backup import sparse

Ask = Callable[[Path, Path, str], None]
"""Raises where a reader finds in a disk of that format, through its chain, other bytes than a raw
file holds."""


class Asked:
    """What was found right in this process, by the contents of all that was read for it.

    A test that cuts a merge off at each of 150 changes checks most layers 150 times; byte for byte
    they are the same, and a library takes up to 70 ms for each, our own reading 20. Which files a
    reader opens for a disk is not known from their contents: that is to be checked each time
    (`readers.chain_names`).
    """

    _right: ClassVar[set[tuple[object, ...]]] = set()

    def __init__(self) -> None:
        self._contents: dict[Path, bytes | None] = {}

    def look_again(self) -> None:
        """Files may have changed since: read them anew."""
        self._contents.clear()

    def once(
        self, ask: Ask, disk: Path, raw: Path, disk_format: str, chain: Sequence[Path]
    ) -> None:
        """Ask, unless it was right for these bytes; `chain` is the disk's, itself included."""
        self.about(
            (ask, disk.name, disk_format), [*chain, raw], lambda: ask(disk, raw, disk_format)
        )

    def about(self, what: object, files: Iterable[Path], check: Callable[[], None]) -> None:
        """Check, unless that was right with these bytes in the files; what else it depends on is
        told by the repr of `what`."""
        read = tuple((path.name, self._content(path)) for path in files)
        asked = (repr(what), read)
        if asked not in self._right:
            check()
            self._right.add(asked)

    def _content(self, path: Path) -> bytes | None:
        """Tells a file's bytes from others; None where no file bears the name."""
        if path not in self._contents:
            found = path.is_file() and not path.is_symlink()
            self._contents[path] = sparse.digest(path) if found else None
        return self._contents[path]
