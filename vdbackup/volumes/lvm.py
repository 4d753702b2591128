"""LVM2: where on a disk its linear logical volumes lie, read from its own metadata.

A physical volume has a label in one of its first four sectors; its header names an area in which
the volume group's metadata stand as text. Each logical volume consists of segments, and a linear
segment of extents that follow each other on one physical volume. Stripes, mirrors, thin volumes
and caches are named, and not put together.

Structures: lib/format_text/layout.h and lib/label/label.h of LVM2; the text's grammar:
lib/config/config.c.
"""

from __future__ import annotations

import io
import logging
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vdbackup.text import printable
from vdbackup.translation import tr

log = logging.getLogger(__name__)

SECTOR = 512
_AREA = struct.Struct("<QQ")
_METADATA = struct.Struct("<I16sIQQ")
_LOCATION = struct.Struct("<QQII")
_MAGIC = b" LVM2 x[5A%r0N*>"
_IGNORED = 1
"""In a location's flags: the text there is not in use."""
_CHECKSUM = 0xF597A6CF
_MAX_TEXT = 16 << 20
_MAX_TOKENS = 1_000_000
_MAX_DEPTH = 16
_TOKEN = re.compile(r'\s+|#[^\n]*|(?P<word>[{}\[\]=,]|"(?:[^"\\]|\\.)*"|[^\s{}\[\]=,"#]+)')


class Damaged(ValueError):
    """The metadata are not what LVM writes."""


@dataclass(frozen=True)
class LogicalVolume:
    """A logical volume.

    Attributes:
        group, name: as LVM knows it.
        runs: where it lies on the disk, offset and length in bytes; empty if it has a problem.
        problem: a sentence that says why it is not put together; "" if it is.
        has_snapshot: whether another volume reads from it what it held before.
        is_writable: what a thin volume reads from that was made of it is not (lvmthin(7)), nor what
            its owner has said so of.
    """

    group: str
    name: str
    runs: tuple[tuple[int, int], ...]
    problem: str = ""
    has_snapshot: bool = False
    is_writable: bool = True

    @property
    def mapper_name(self) -> str:
        """Its name in /dev/mapper: hyphens in either part stand there twice."""
        return "-".join(part.replace("-", "--") for part in (self.group, self.name))


@dataclass(frozen=True)
class PhysicalVolume:
    """A partition that belongs to a volume group: where it lies (bytes), its id, the text."""

    offset: int
    id: str
    text: str


def is_physical_volume(head: bytes) -> bool:
    """Whether a volume that begins with `head` has LVM's label."""
    return _label(head) is not None


def logical_volumes(disk: io.BufferedReader, offsets: Sequence[int]) -> list[LogicalVolume]:
    """What the volume groups on a disk hold.

    Args:
        disk: the disk's bytes.
        offsets: where its physical volumes begin, in bytes. One that is damaged counts as missing.
    """
    members = _physical_volumes(disk, offsets)
    places = {member.id: member.offset for member in members}
    found: dict[str, LogicalVolume] = {}
    for text in dict.fromkeys(member.text for member in members if member.text):
        try:
            for volume in _group(parse(text), places):
                found.setdefault(volume.mapper_name, volume)
        except (ValueError, KeyError, TypeError, AttributeError):
            log.info("a volume group's metadata are damaged", exc_info=True)
    return list(found.values())


@dataclass(frozen=True)
class SpreadGroup:
    """A volume group whose volumes lie on other disks, too.

    Attributes:
        name, id: as LVM knows it.
        here: the ids of its physical volumes on this disk that a volume lies on.
        count: on how many any does.
    """

    name: str
    id: str
    here: frozenset[str]
    count: int


def spread(disk: io.BufferedReader, offsets: Sequence[int]) -> list[SpreadGroup]:
    """The volume groups of a disk that need other disks, too.

    Args:
        disk: the disk's bytes.
        offsets: where physical volumes may begin, in bytes.
    """
    own = _physical_volumes(disk, [each for each in offsets if _begins(disk, each)])
    found = []
    for text in dict.fromkeys(each.text for each in own if each.text):
        try:
            name, content = _top(parse(text))
            volumes = content["physical_volumes"]
            used = frozenset(str(volumes[alias]["id"]) for alias in _used(content, volumes))
            here = used & {each.id for each in own}
            if here and here < used:
                found.append(SpreadGroup(printable(name), str(content["id"]), here, len(used)))
        except (ValueError, KeyError, TypeError, AttributeError):
            log.info("a volume group's metadata are damaged", exc_info=True)
    return found


def _used(content: dict[str, Any], physical: dict[str, Any]) -> set[str]:
    """The physical volumes that any segment lies on, also of volumes in volumes."""
    segments = [
        segment
        for volume in content.get("logical_volumes", {}).values()
        for segment in volume.values()
        if isinstance(segment, dict)
    ]
    named = [name for segment in segments for name in segment.get("stripes", ())]
    return {name for name in named if isinstance(name, str) and name in physical}


def members(disk: io.BufferedReader, offset: int) -> int:
    """How many physical volumes the group of the one at byte `offset` has; 0 if unknown."""
    try:
        text = _physical_volume(disk, offset).text
        return len(_top(parse(text))[1]["physical_volumes"])
    except (ValueError, KeyError, TypeError, struct.error):
        return 0


def parse(text: str) -> dict[str, Any]:
    """LVM's configuration as dictionaries of str, int, float and lists; raises Damaged."""
    top: dict[str, Any] = {}
    sections = [top]
    tokens = _tokens(text)
    for name in tokens:
        if name == "}":
            if len(sections) == 1:
                raise Damaged(tr("a section ends that has not begun"))
            sections.pop()
            continue
        match next(tokens, ""):
            case "{" if len(sections) < _MAX_DEPTH:
                section: dict[str, Any] = {}
                sections[-1][_bare(name)] = section
                sections.append(section)
            case "=":
                sections[-1][_bare(name)] = _value(tokens)
            case other:
                raise Damaged(tr("{other!r} stands where a value should", other=other))
    if len(sections) > 1:
        raise Damaged(tr("a section does not end"))
    return top


def _tokens(text: str) -> Iterator[str]:
    at, count = 0, 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or count > _MAX_TOKENS:
            raise Damaged(tr("it cannot be read at letter {at}", at=at))
        at, count = match.end(), count + 1
        if match["word"]:
            yield match["word"]


def _value(tokens: Iterator[str]) -> Any:
    first = next(tokens, "")
    if first != "[":
        return _scalar(first)
    items: list[Any] = []
    for word in tokens:
        if word == "]":
            return items
        if word != ",":
            items.append(_scalar(word))
    raise Damaged(tr("a list does not end"))


def _scalar(word: str) -> Any:
    if word.startswith('"'):
        return re.sub(r"\\(.)", r"\1", word[1:-1])
    if re.fullmatch(r"[+-]?\d{1,19}", word):
        return int(word)
    if re.fullmatch(r"[+-]?\d{1,19}\.\d{1,19}", word):
        return float(word)
    raise Damaged(tr("{word!r} is no value", word=word))


def _bare(name: str) -> str:
    if name.startswith(('"', "=", ",", "[", "]", "{")):
        raise Damaged(tr("{name!r} is no name", name=name))
    return name


def _group(top: dict[str, Any], places: dict[str, int]) -> Iterator[LogicalVolume]:
    """The visible logical volumes of a volume group."""
    group, content = _top(top)
    extent = int(content["extent_size"]) * SECTOR
    starts: dict[str, int | None] = {}
    for alias, volume in content["physical_volumes"].items():
        place = places.get(volume["id"])
        starts[alias] = None if place is None else place + int(volume["pe_start"]) * SECTOR
    volumes = content.get("logical_volumes", {})
    stores, originals = _snapshots(volumes), _originals(volumes)
    for name, volume in volumes.items():
        if "VISIBLE" not in volume.get("status", ()):
            continue
        try:
            if name in stores:
                raise Damaged(stores[name])
            runs = tuple(_runs(volume, extent, starts))
            yield LogicalVolume(
                group,
                name,
                runs,
                has_snapshot=name in originals,
                is_writable="WRITE" in volume["status"],
            )
        except Damaged as reason:
            problem = tr(
                "Its logical volume {name} cannot be put together: {reason}",
                name=printable(name),
                reason=reason,
            )
            yield LogicalVolume(group, name, (), problem)


def _top(top: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A group's name and what is said of it."""
    try:
        return next((key, value) for key, value in top.items() if isinstance(value, dict))
    except StopIteration:
        raise Damaged(tr("it describes no volume group")) from None


def _snapshots(volumes: dict[str, Any]) -> dict[str, str]:
    """What keeps a volume from being what its own segments hold, by its name.

    A snapshot's own blocks are only those that its original has changed since; while it is merged,
    the original's are those of both.
    """
    found: dict[str, str] = {}
    for volume in volumes.values():
        segment = volume.get("segment1", {})
        if segment.get("type") == "snapshot":
            found[segment.get("cow_store", "")] = tr("it is a snapshot of another volume")
            if "merging_store" in segment:
                found[segment["merging_store"]] = tr("it is a snapshot of another volume")
                found[segment.get("origin", "")] = tr("a snapshot is being merged into it")
    return found


def _originals(volumes: dict[str, Any]) -> set[str]:
    """Volumes that have snapshots, which read from them what has not changed since."""
    segments = [volume.get("segment1", {}) for volume in volumes.values()]
    return {str(each.get("origin")) for each in segments if each.get("type") == "snapshot"}


def _runs(
    volume: dict[str, Any], extent: int, starts: dict[str, int | None]
) -> Iterator[tuple[int, int]]:
    """Where the segments of a logical volume lie; raises Damaged with the end of a sentence."""
    expected = 0
    for number in range(1, int(volume["segment_count"]) + 1):
        segment = volume[f"segment{number}"]
        kind, count = segment["type"], segment["extent_count"]
        if kind != "striped":
            raise Damaged(tr("it is of the kind {kind!r}", kind=printable(kind)))
        if segment["stripe_count"] != 1:
            raise Damaged(tr("it is spread over several disks in stripes"))
        alias, first = segment["stripes"]
        start = starts.get(alias)
        if start is None:
            raise Damaged(tr("a part of it lies on another disk"))
        if segment["start_extent"] != expected or count <= 0 or first < 0 or extent <= 0:
            raise Damaged(tr("its metadata are damaged"))
        expected += count
        yield start + first * extent, count * extent


def _begins(disk: io.BufferedReader, offset: int) -> bool:
    """Whether a physical volume does, there."""
    disk.seek(offset)
    return is_physical_volume(disk.read(4 * SECTOR))


def _physical_volumes(disk: io.BufferedReader, offsets: Sequence[int]) -> list[PhysicalVolume]:
    found: list[PhysicalVolume] = []
    for offset in offsets:
        try:
            found.append(_physical_volume(disk, offset))
        except (ValueError, struct.error):
            log.info("the physical volume at byte %d is damaged", offset, exc_info=True)
    return found


def _physical_volume(disk: io.BufferedReader, offset: int) -> PhysicalVolume:
    disk.seek(offset)
    head = disk.read(5 * SECTOR)
    at = _label(head)
    if at is None:
        raise Damaged(tr("it has no label"))
    identity = head[at : at + 32].decode("ascii")
    name = "-".join(identity[a:b] for a, b in _ID_PARTS)
    areas = _areas(head, at + 40)
    texts = [_text(disk, offset + start, size) for start, size in areas[1][:2]]
    return PhysicalVolume(offset, name, next((text for text in texts if text), ""))


_ID_PARTS = ((0, 6), (6, 10), (10, 14), (14, 18), (18, 22), (22, 26), (26, 32))
"""Where LVM sets hyphens into an id in its text; in the header there are none."""


def _label(head: bytes) -> int | None:
    """Where the header of a physical volume begins in its first bytes; None if it is none."""
    for sector in range(4):
        label = head[sector * SECTOR : (sector + 1) * SECTOR]
        if len(label) == SECTOR and label.startswith(b"LABELONE"):
            number, header = struct.unpack_from("<Q4xI", label, 8)
            if number == sector and label[24:32] == b"LVM2 001" and header <= SECTOR - 40:
                return sector * SECTOR + int(header)
    return None


def _areas(head: bytes, at: int) -> list[list[tuple[int, int]]]:
    """The two lists that a physical volume's header ends with: of data and of metadata areas."""
    lists: list[list[tuple[int, int]]] = [[], []]
    for areas in lists:
        while True:
            start, size = _AREA.unpack_from(head, at)
            at += _AREA.size
            if not start:
                break
            areas.append((start, size))
    return lists


def _text(disk: io.BufferedReader, start: int, size: int) -> str:
    """The volume group's text in the ring of a metadata area; "" if none is in use there."""
    disk.seek(start)
    header = disk.read(SECTOR)
    _, magic, _, _, area = _METADATA.unpack_from(header)
    if magic != _MAGIC or area != size or size <= SECTOR:
        raise Damaged(tr("its metadata area is damaged"))
    at, length, checksum, flags = _LOCATION.unpack_from(header, _METADATA.size)
    if not at or flags & _IGNORED:
        return ""
    if not SECTOR <= at < size or not 0 < length <= min(size - SECTOR, _MAX_TEXT):
        raise Damaged(tr("its metadata lie nowhere"))
    disk.seek(start + at)
    text = disk.read(min(length, size - at))
    if len(text) < length:
        disk.seek(start + SECTOR)
        text += disk.read(length - len(text))
    if zlib.crc32(text, _CHECKSUM ^ 0xFFFFFFFF) ^ 0xFFFFFFFF != checksum:
        raise Damaged(tr("its metadata differ from their checksum"))
    return text.rstrip(b"\0").decode(errors="replace")
