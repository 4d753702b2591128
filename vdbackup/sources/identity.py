"""Who a source is: all that is known of it, and whether what is there now is the same one.

No single fact will do. A dock or card reader shows its own serial number for whatever disk lies in
it; clones and virtual machines made from one template share the ids of their tables, partitions and
file systems; /dev/sdb and /dev/dm-3 are other disks after the next start. So facts are witnesses:
one that contradicts outweighs one that agrees, except where it is known why it changed.

What may change on a disk that stays the same: its table, if the hardware says by two numbers that
it is the same (it was repartitioned); its file systems, if the partition is the same; its serial
number, if that was a dock's and the disk is now attached without one; its size, if anything but a
dock vouches for it (a volume or virtual disk that was grown).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, fields

from vdbackup.jobs import readable_size
from vdbackup.translation import tr


class Verdict(enum.StrEnum):
    """Whether a source is the one that is known."""

    SAME = "same"
    UNSURE = "unsure"
    OTHER = "other"


class Kind(enum.StrEnum):
    """What a source is to the kernel. A volume is made by device-mapper or md: LVM, RAID.

    Chosen files are nothing to it; their paths are one text, which says which they are.
    """

    FILE = "file"
    FILES = "files"
    DISK = "disk"
    PARTITION = "partition"
    VOLUME = "volume"
    LOOP = "loop"


class Attached(enum.StrEnum):
    """Whose numbers a disk shows: its own, or maybe those of a bridge (USB, FireWire)."""

    DIRECTLY = "directly"
    BRIDGE = "bridge"


@dataclass(frozen=True)
class Facts:
    """All that is known of a source; empty means that it is not known, or that there is none.

    Attributes:
        paths: names of the file or device.
        links: names that lead to it, as its user gave them.
        size: in bytes, in decimal.
        kind: a Kind.
        attached: an Attached.
        model, serial, wwn: of the hardware, as lsblk says them.
        volume: what device-mapper or md call a volume, for as long as it exists.
        file: of an image, or of the one behind a loop device: file system and file, whatever it is
            called; a file that is made in its place has another.
        disk: the id that a virtual disk has by its format.
        partition: PARTUUID of a source that is a partition.
        table: GUID or signature of the partition table on it.
        partitions: GUIDs of the partitions on it.
        contents: ids of file systems and the like on it, as blkid writes them.
        twins: other devices attached now that have the same table, partition or file system.
    """

    paths: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    size: str = ""
    kind: str = ""
    attached: str = ""
    model: str = ""
    serial: str = ""
    wwn: str = ""
    volume: str = ""
    file: str = ""
    disk: str = ""
    partition: str = ""
    table: str = ""
    partitions: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    twins: tuple[str, ...] = ()

    def record(self) -> dict[str, tuple[str, ...]]:
        """What is kept of them: name to values. Who was attached beside it is of the moment."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        values = {name: (v,) if isinstance(v, str) else v for name, v in found.items()}
        return {name: v for name, v in values.items() if any(v) and name != "twins"}

    @classmethod
    def of_record(cls, record: Mapping[str, tuple[str, ...]]) -> Facts:
        """Facts as they were kept; what a newer version knows besides is left out."""
        wanted = {each.name: isinstance(each.default, tuple) for each in fields(cls)}
        return cls(
            **{  # type: ignore[arg-type]
                name: values if wanted[name] else values[0]
                for name, values in record.items()
                if name in wanted and values
            }
        )

    @classmethod
    def of_old_id(cls, source_id: str, path: str) -> Facts:
        """What a set knew when one number was all that was kept: "wwn:0x5000", "file:/disk.img"."""
        kind, _, value = source_id.partition(":")
        paths = (path,) if path else ()
        if not value:
            return cls(paths=paths)
        found: dict[str, Facts] = {
            "file": cls(paths=(value, *paths), kind=Kind.FILE),
            "partuuid": cls(paths=paths, kind=Kind.PARTITION, partition=value),
            "wwn": cls(paths=paths, wwn=value),
            "serial": cls(paths=paths, serial=value),
            "ptuuid": cls(paths=paths, table=value),
            "uuid": cls(paths=paths, contents=(value,)),
        }
        return found.get(kind, cls(paths=paths))

    def after(self, known: Facts) -> Facts:
        """These facts of a source that is known already, with what only `known` tells.

        What is written on it is as it is now, for it may have been wiped.
        """
        written = ("partition", "table", "partitions", "contents")
        kept = {name: values for name, values in known.record().items() if name not in written}
        return Facts.of_record(kept | self.record())

    def __str__(self) -> str:
        """For a person: "WDC WD40EFRX, serial A, 3.6 TiB (/dev/sdb)"."""
        parts = [self.model] if self.model else []
        if self.serial:
            parts.append(tr("serial {serial}", serial=self.serial))
        if self.size.isascii() and self.size.isdigit():
            parts.append(readable_size(int(self.size)))
        path = self.paths[0] if self.paths else ""
        if self.model or self.serial:
            return ", ".join(parts) + (f" ({path})" if path else "")
        return ", ".join([path or tr("an unknown source"), *parts])


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        agree, contradict: names of facts.
    """

    verdict: Verdict
    agree: tuple[str, ...]
    contradict: tuple[str, ...]

    @property
    def provable(self) -> bool:
        """Whether too little is known, and nothing speaks against it: the contents may prove it.

        They prove nothing where it is another file that the user's link leads to now. It may be
        today's copy of the disk, or another machine's that was made from the same template, and
        most of those are alike, too: retention would run over the first one's only backups.
        """
        return self.verdict is Verdict.UNSURE and not self.contradict

    @property
    def alike(self) -> bool:
        """Whether one may take them for the same, though they are not, or need not be."""
        return self.verdict is Verdict.UNSURE or not _NOTHING_TO_GO_BY.issuperset(self.agree)

    @property
    def reasons(self) -> str:
        """In words: "the same size, but not the same serial number"."""
        same = tr("the same ") + _listed(self.agree) if self.agree else ""
        differ = tuple(name for name in self.contradict if name != "twins")
        other = tr("not the same ") + _listed(differ) if differ else ""
        beside = (
            tr("another device attached has its ids, too") if "twins" in self.contradict else ""
        )
        return tr(", but ").join(each for each in (same, other, beside) if each) or tr(
            "little is known"
        )


_WORDS = {
    "paths": tr("path"),
    "links": tr("link"),
    "size": tr("size"),
    "kind": tr("kind of device"),
    "model": tr("model"),
    "serial": tr("serial number"),
    "wwn": tr("WWN"),
    "volume": tr("volume id"),
    "file": tr("file"),
    "disk": tr("virtual disk's id"),
    "partition": tr("partition id"),
    "written": tr("ids of partitions and file systems"),
    "twins": tr("devices beside it"),
}
_NOTHING_TO_GO_BY = {"size", "kind", "model"}
_PATHS, _LINKS, _SIZE, _KIND, _MODEL = "paths", "links", "size", "kind", "model"
_SERIAL, _WWN, _VOLUME, _FILE = "serial", "wwn", "volume", "file"
_WRITTEN = "written"
_SINGLE = (_SIZE, _KIND, _MODEL, _SERIAL, _WWN, _VOLUME, _FILE, "disk", "partition")
_STRONG = {_SERIAL, _WWN, _VOLUME, _FILE, "disk", "partition", _WRITTEN}


def compare(known: Facts, now: Facts) -> Comparison:
    """Whether the source that is there now is the one that is known."""
    seen = _Seen(known, now)
    verdict = _verdict(seen)
    if verdict is Verdict.SAME and now.twins and not seen.by_itself:
        seen.contradict.add("twins")
        verdict = Verdict.UNSURE
    order = [*_WORDS]
    return Comparison(
        verdict,
        tuple(sorted(seen.agree, key=order.index)),
        tuple(sorted(seen.contradict, key=order.index)),
    )


class _Seen:
    """Which facts agree and which contradict; those that one side does not know are in neither."""

    def __init__(self, known: Facts, now: Facts) -> None:
        self.known, self.now = known, now
        self.agree: set[str] = set()
        self.contradict: set[str] = set()
        for name in _SINGLE:
            self._note(name, _relation(getattr(known, name), getattr(now, name)))
        if known.paths and now.paths:
            self._note(_PATHS, not set(known.paths).isdisjoint(now.paths))
        if _PATHS in self.contradict and not _names(known).isdisjoint(_names(now)):
            self.agree.add(_LINKS)
        self._note(_WRITTEN, _same_written(known, now))
        if self.agree & {_WWN, _SERIAL, _VOLUME}:  # a device's name then says nothing
            self.contradict.discard(_PATHS)

    def _note(self, name: str, same: bool | None) -> None:
        if same is not None:
            (self.agree if same else self.contradict).add(name)

    @property
    def trusted(self) -> bool:
        """Whether the numbers are the disk's own, both times."""
        return self.known.attached == self.now.attached == Attached.DIRECTLY

    @property
    def by_itself(self) -> bool:
        """Whether it is the same by what no clone can have."""
        hardware = self.trusted and bool(self.agree & {_WWN, _SERIAL})
        return hardware or bool(self.agree & {_VOLUME, _FILE})


def _names(facts: Facts) -> set[str]:
    return {*facts.paths, *facts.links}


def _relation(known: str, now: str) -> bool | None:
    return known == now if known and now else None


def _same_written(known: Facts, now: Facts) -> bool | None:
    """Whether what is written on both is the same; None if not known, or only in part."""
    ids = [
        {each.partition, each.table, *each.partitions, *each.contents} - {""}
        for each in (known, now)
    ]
    if not all(ids):
        return None
    if ids[0].isdisjoint(ids[1]):
        return False
    first = _relation(known.partition, now.partition)
    if first is None:
        first = _relation(known.table, now.table)
    return None if first is False else True


def _verdict(seen: _Seen) -> Verdict:
    if _KIND in seen.contradict:
        return Verdict.UNSURE if seen.agree & _STRONG else Verdict.OTHER
    kind = seen.now.kind
    if kind == Kind.FILE:
        return _of_file(seen)
    if kind == Kind.FILES:
        return Verdict.SAME if _PATHS in seen.agree else Verdict.OTHER
    if kind == Kind.VOLUME and _VOLUME in seen.agree | seen.contradict:
        return Verdict.SAME if _VOLUME in seen.agree else Verdict.OTHER
    if kind == Kind.LOOP and _FILE in seen.agree | seen.contradict:
        return _of_loop(seen)
    return _of_disk(seen)


def _of_file(seen: _Seen) -> Verdict:
    """A path means what its user puts there, and a file may be moved; a copy is another disk."""
    if _WRITTEN in seen.contradict:
        return Verdict.OTHER
    if seen.agree & {_PATHS, _FILE}:
        return Verdict.SAME
    if seen.agree & {_WRITTEN, "disk", _LINKS}:
        return Verdict.UNSURE
    return Verdict.OTHER if _PATHS in seen.contradict else Verdict.UNSURE


def _of_loop(seen: _Seen) -> Verdict:
    """The device's own name is the next free one: only the file behind it counts."""
    if _FILE in seen.agree:
        return Verdict.OTHER if _WRITTEN in seen.contradict else Verdict.SAME
    return Verdict.UNSURE if _WRITTEN in seen.agree else Verdict.OTHER


def _of_disk(seen: _Seen) -> Verdict:
    if "partition" in seen.contradict:
        return Verdict.OTHER
    if seen.contradict & {_WWN, _SERIAL}:
        return _of_other_hardware(seen)
    if seen.agree & {_WWN, _SERIAL}:
        return _of_same_hardware(seen)
    return _without_hardware(seen)


def _of_other_hardware(seen: _Seen) -> Verdict:
    out_of_dock = seen.known.attached == Attached.BRIDGE and seen.now.attached == Attached.DIRECTLY
    if out_of_dock and _WWN not in seen.contradict and {_WRITTEN, _SIZE} <= seen.agree:
        return Verdict.SAME
    if seen.trusted or _WRITTEN not in seen.agree:
        return Verdict.OTHER
    return Verdict.UNSURE


def _of_same_hardware(seen: _Seen) -> Verdict:
    if _WRITTEN in seen.contradict:
        repartitioned = seen.trusted and {_WWN, _SERIAL} <= seen.agree
        return Verdict.SAME if repartitioned else Verdict.OTHER
    if seen.trusted:
        return Verdict.UNSURE if _MODEL in seen.contradict else Verdict.SAME
    # the dock's number: whatever disk lies in it, or a clone of it, shows the same
    if _WRITTEN in seen.agree and _SIZE not in seen.contradict:
        return Verdict.SAME
    return Verdict.UNSURE


def _without_hardware(seen: _Seen) -> Verdict:
    if _WRITTEN in seen.contradict:
        return Verdict.OTHER
    if _WRITTEN in seen.agree:
        here = _PATHS in seen.agree and _SIZE not in seen.contradict
        return Verdict.SAME if here else Verdict.UNSURE
    if seen.contradict & {_PATHS, _SIZE}:
        return Verdict.OTHER
    return Verdict.UNSURE


def _listed(names: tuple[str, ...]) -> str:
    words = [_WORDS[name] for name in names]
    return tr(" and ").join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
