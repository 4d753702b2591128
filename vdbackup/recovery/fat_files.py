"""What is in a FAT, as vdbackup reads it itself: what a FAT that is made anew is compared with.

mtools carries most names and not all: of a sign beyond 16 bits it makes "_", and of two files that
differ by it one; of "größe" that is stored as a short name in small letters "grÖße". So what it
cannot carry is refused before, and what it has made is read again by another program than it.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from vdbackup.errors import GuestUnreadable, NotResized
from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import Content, Kind, Unreadable, reading

if TYPE_CHECKING:
    from vdbackup.volumes.filesystems.fat import FatNode

_LONGEST = 255
"""Bytes of a name in the folder for temporary files (Linux, NAME_MAX)."""
_STARTERS = frozenset(
    ("io.sys", "ibmbio.com", "kernel.sys", "ntldr", "bootmgr", "ldlinux.sys", "drbio.sys")
)
"""What a boot sector starts: DOS, FreeDOS, Windows, SYSLINUX."""
_PIECE = 1 << 20


@dataclass(frozen=True)
class Kept:
    """What a file or folder of a FAT must be afterwards, too.

    Attributes:
        size: in bytes.
        attributes: as FatNode has its flags.
        changed: when, in ns since 1970; None where that is unknown, and of a folder.
        digest: of what a file holds; b"" where that was not asked for.
        by_code_page: as FatNode says of its name.
    """

    size: int
    attributes: int
    changed: int | None
    digest: bytes = b""
    by_code_page: bool = field(default=False, compare=False)


def files_of(file: Path, *, read: bool) -> dict[str, Kept]:
    """All files and folders, by path; raises NotResized where one cannot be read.

    Args:
        file: the partition.
        read: whether to take digests.
    """
    try:
        with file.open("rb") as opened, reading(tr("The FAT")):
            return dict(_below("", _root(opened), read=read))
    except GuestUnreadable as error:
        raise _damaged() from error


def label_of(file: Path) -> bytes:
    """The label in its topmost folder, 11 bytes; b"" where it has none there."""
    with file.open("rb") as opened, reading(tr("The FAT")):
        return _root(opened).label()


def check_kept(before: dict[str, Kept], after: dict[str, Kept]) -> None:
    """Raise NotResized where not all is as it was."""
    for path, kept in before.items():
        found = after.get(path)
        if found is None or _without_time(found) != _without_time(kept):
            break
        if kept.changed is not None and found.changed != kept.changed:
            break
    else:
        if len(before) == len(after):
            return
    raise NotResized(tr("Not all that is in a FAT could be kept as it was."), "")


def check_whole(before: dict[str, Kept], after: dict[str, Kept]) -> None:
    """Raise NotResized where a check has mended a FAT by taking away from what is in it."""
    if before != after:
        raise _damaged()


def check_can_be_carried(paths: dict[str, Kept], *, starts: bool) -> None:
    """Raise NotResized where other programs could not copy all, or it would not start any more.

    Args:
        paths: what is in it.
        starts: whether what starts a computer from it is lost when it is made anew.
    """
    for path, kept in paths.items():
        name = path.rpartition("/")[2]
        too_long = len(name.encode(errors="surrogatepass")) > _LONGEST
        if kept.by_code_page or too_long or not all(map(_is_carried, name)):
            raise _not_carried(name)
        if starts and path.casefold().lstrip("/") in _STARTERS:
            raise NotResized(
                tr("A FAT that a computer starts from cannot be made anew."),
                tr("A computer starts from it: {name} is there.", name=name),
            )


def _root(opened: io.BufferedReader) -> FatNode:
    from vdbackup.volumes.filesystems import fat  # late: its library is large

    return cast("FatNode", fat.open_root(opened)[1])


def _below(above: str, folder: FatNode, *, read: bool) -> Iterator[tuple[str, Kept]]:
    for child in folder.children():
        node = cast("FatNode", child)
        path, stat = f"{above}/{node.name}", node.stat()
        if stat.kind == Kind.FOLDER:
            yield path, Kept(0, node.flags, None, by_code_page=node.depends_on_code_page)
            yield from _below(path, node, read=read)
        else:
            content = node.content()
            digest = _digest(content) if read else b""
            by_code_page = node.depends_on_code_page
            yield path, Kept(stat.size, node.flags, stat.modified, digest, by_code_page)


def _digest(content: Content) -> bytes:
    found = hashlib.blake2b()
    left = content.size
    while left:
        piece = content.stream.read(min(left, _PIECE))
        if not piece:
            raise Unreadable(tr("its end is missing"))
        found.update(piece)
        left -= len(piece)
    return found.digest()


def _without_time(kept: Kept) -> tuple[int, int, bytes]:
    return kept.size, kept.attributes, kept.digest


def _is_carried(sign: str) -> bool:
    return 0x20 <= ord(sign) <= 0xFFFF and not 0xD800 <= ord(sign) < 0xE000


def _not_carried(name: str) -> NotResized:
    return NotResized(
        tr("A FAT has a name that cannot be kept."),
        tr("No other program copies {name!r} as it is called.", name=name),
    )


def _damaged() -> NotResized:
    return NotResized(
        tr("A FAT is damaged."),
        tr("It is damaged: let its own system check it first."),
    )
