"""What a repository holds, as plain values: sets and recovery points, and their JSON."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vdbackup import records
from vdbackup.disks.names import BACKUP_FORMATS, DiskFormat
from vdbackup.errors import Remedy, RepositoryError, UsageError
from vdbackup.jobs import readable_size
from vdbackup.repository import naming
from vdbackup.repository.naming import PointType

MAX_SENTENCE = 1000
"""Characters of what a boot test has to say."""
_PLACES_NAMED = 5
_MAX_FACTS = 64
_MAX_QUOTE = 200
_MAX_BOOT = 1e6
_SECTOR = 512
"""Bytes, to which the size of a raw file is rounded up."""


@dataclass(frozen=True)
class Check:
    """The last time something was proven of a point (UTC, ISO 8601), and whether it held."""

    at: str
    ok: bool


class BootStage(enum.StrEnum):
    """How far a machine comes when it boots, in this order."""

    FIRMWARE = "firmware"
    LOADER = "boot loader"
    KERNEL = "kernel"
    SYSTEM = "system"
    LOGIN = "login"


@dataclass(frozen=True)
class BootTest(Check):
    """The last boot test of a point; its picture, if there is one, is `RecoveryPoint.picture`.

    Attributes:
        seconds: from the start of the machine until it was up, or until the test had failed.
        stage: the last one that was reached, None where nothing is known of it.
        sentence: what was seen; it may quote the guest.
    """

    seconds: float = 0.0
    stage: BootStage | None = None
    sentence: str = ""


@dataclass(frozen=True)
class SourceIdentity:
    """Which source a set belongs to.

    Attributes:
        id: the one number by which older versions know it.
        name: of it, for a person.
        path: the text of the reference that it is opened by again (sources/reference.py).
        facts: all that is known of it, name to values (sources/identity.py); empty where an older
            version wrote it.
    """

    id: str
    name: str
    path: str
    facts: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    @classmethod
    def from_json(cls, data: Any) -> SourceIdentity:
        """An identity from external text; raises TypeError, ValueError or KeyError."""
        facts = data.get("facts", {})
        if not isinstance(facts, dict) or len(facts) > _MAX_FACTS:
            raise ValueError("too many facts of the source")
        known = {
            records.text(name): tuple(map(records.text, values)) for name, values in facts.items()
        }
        return cls(
            records.text(data["id"]), records.text(data["name"]), records.text(data["path"]), known
        )


@dataclass(frozen=True)
class Promotion:
    """Where a point comes from that was not captured: a virtual machine's session.

    Attributes:
        session: the session's id.
        title: what ran in it, for a person.
        ended: when the machine wrote last, UTC, ISO 8601.
    """

    session: str
    title: str
    ended: str


@dataclass(frozen=True)
class RecoveryPoint:
    """The source as it was at one moment: a manifest.

    Attributes:
        id: UUID; also the layer's own identity where its format has room for one.
        sequence: order within the set, from 1; never reused, never derived from a clock.
        created: end of the capture, UTC, ISO 8601.
        parent: id of the point that this one reads through, None for a full.
        disk, overlay, digests: file names in the set's folder.
        disk_size: the layer file's length in bytes when it was published.
        virtual_size, sector_size: of the disk that a VM sees, in bytes.
        stored_bytes: bytes of the disk that the layer holds.
        verified, boot_tested: the last such check, None if never.
        merged: ids of the points that were rolled together with this one and are gone, the one that
            went last at the end; of very many the last ones.
        merged_before: how many more went before those.
        warnings: what was not as it should have been during capture, a sentence each.
        unreadable: what the source did not give, and reads as zeros: (offset, length) in bytes.
        promoted_from: the session whose changes it holds; None for what was captured.
        captured_from: the source as it was known then; None where it was not captured, or by an
            older version.
        exact_size: bytes of a source that ended within its last sector: `virtual_size` is rounded
            up. None where it did not, or an older version captured it.
    """

    id: str
    sequence: int
    created: str
    type: PointType
    parent: str | None
    disk: str
    overlay: str
    digests: str
    disk_size: int
    virtual_size: int
    sector_size: int
    stored_bytes: int
    verified: Check | None = None
    boot_tested: BootTest | None = None
    merged: tuple[str, ...] = ()
    merged_before: int = 0
    warnings: tuple[str, ...] = ()
    unreadable: tuple[tuple[int, int], ...] = ()
    promoted_from: Promotion | None = None
    captured_from: SourceIdentity | None = None
    exact_size: int | None = None

    @property
    def merged_count(self) -> int:
        """How many points it stands for besides its own moment."""
        return self.merged_before + len(self.merged)

    @property
    def report(self) -> str:
        """Its file that says what was done to the overlay; it need not be there."""
        return naming.report_name(self.overlay)

    @property
    def picture(self) -> str:
        """The name of the screen's picture from the last boot test, which need not be there."""
        return naming.picture_name(self.sequence)

    def to_json(self) -> dict[str, Any]:
        """The manifest's JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any], name: str = "A manifest") -> RecoveryPoint:
        """A point from its manifest, external text; raises RepositoryError where it makes no sense.

        Args:
            data: the JSON object.
            name: of the manifest, for the sentence.
        """
        try:
            return cls(
                id=records.text(data["id"]),
                sequence=records.number(data["sequence"]),
                created=records.moment(data["created"]),
                type=PointType(data["type"]),
                parent=records.text(data["parent"]) if data["parent"] is not None else None,
                disk=_file_name(data["disk"]),
                overlay=_file_name(data["overlay"]),
                digests=_file_name(data["digests"]),
                disk_size=records.number(data["disk_size"]),
                virtual_size=records.number(data["virtual_size"]),
                sector_size=records.number(data["sector_size"]),
                stored_bytes=records.number(data["stored_bytes"]),
                verified=_check(data.get("verified")),
                boot_tested=_boot_test(data.get("boot_tested")),
                merged=tuple(records.text(each) for each in data.get("merged", ())),
                merged_before=records.number(data.get("merged_before", 0)),
                warnings=tuple(records.text(each) for each in data.get("warnings", ())),
                unreadable=tuple(
                    _range(each, data["virtual_size"]) for each in data.get("unreadable", ())
                ),
                promoted_from=_promotion(data.get("promoted_from")),
                captured_from=_source(data.get("captured_from")),
                exact_size=_exact_size(data.get("exact_size"), data["virtual_size"]),
            )
        except _NO_SENSE as error:
            raise RepositoryError(
                f"{name} is not valid: {_short(error)}.",
                "It can be rebuilt from the disks.",
                remedy=Remedy.REPAIR,
            ) from error


_NO_SENSE = (AttributeError, KeyError, TypeError, ValueError, RecursionError, UsageError)
"""What looking at external JSON ends in where it is not what it should be."""


def _short(error: Exception) -> str:
    """What an error says; it may quote whatever stands there."""
    text = str(error)
    return text if len(text) <= _MAX_QUOTE else f"{text[:_MAX_QUOTE]}..."


def _format(value: Any) -> DiskFormat:
    """Never raw: a layer that is taken for a raw disk reads as what its guest never had."""
    if value not in BACKUP_FORMATS:
        raise ValueError(f"{value!r} is no format that a backup is kept in")
    return DiskFormat(value)


def _range(value: Any, size: int) -> tuple[int, int]:
    offset, length = value
    if records.number(offset) + records.number(length) > size:
        raise ValueError(f"{value!r} lies beyond the end of the disk")
    return offset, length


def _exact_size(value: Any, rounded_up: int) -> int | None:
    if value is None:
        return None
    if not rounded_up - _SECTOR < records.number(value) < rounded_up:
        raise ValueError(f"{value!r} does not end within the last sector")
    return int(value)


def unreadable_warning(ranges: Sequence[tuple[int, int]]) -> str:
    """The sentence for `RecoveryPoint.warnings` that says what the source did not give."""
    sum_of_all = readable_size(sum(length for _, length in ranges))
    places = ", ".join(str(offset) for offset, _ in ranges[:_PLACES_NAMED])
    more = f" and {len(ranges) - _PLACES_NAMED} more places" if len(ranges) > _PLACES_NAMED else ""
    return (
        f"{sum_of_all} of the source could not be read and are zeros in this point: at "
        f"byte{'s' if len(ranges) > 1 else ''} {places}{more}."
    )


def _file_name(value: Any) -> str:
    """A name in it must not lead out of the set's folder, nor to anything but a point's files."""
    if not naming.can_be_a_points(records.text(value)):
        raise ValueError(f"{value!r} is no name of a point's file")
    return str(value)


def _promotion(value: Any) -> Promotion | None:
    if not value:
        return None
    return Promotion(
        records.text(value["session"]), records.text(value["title"]), records.moment(value["ended"])
    )


def _source(value: Any) -> SourceIdentity | None:
    return SourceIdentity.from_json(value) if value else None


def _check(value: Any) -> Check | None:
    return Check(records.moment(value["at"]), bool(value["ok"])) if value else None


def _boot_test(value: Any) -> BootTest | None:
    check = _check(value)
    if check is None:
        return None
    seconds, stage = value.get("seconds", 0.0), value.get("stage")
    if type(seconds) not in (int, float) or not 0 <= seconds < _MAX_BOOT:
        raise ValueError(f"{seconds!r} is no number of seconds")
    return BootTest(
        check.at,
        check.ok,
        float(seconds),
        BootStage(stage) if stage is not None else None,
        records.text(value.get("sentence", ""))[:MAX_SENTENCE],
    )


class BootTests(enum.StrEnum):
    """Which new points are boot-tested by themselves."""

    OFF = "off"
    EACH = "each"


@dataclass(frozen=True)
class Policy:
    """What a set does by itself.

    Attributes:
        keep: merge or delete older points after a capture until this many are left; None keeps all.
        retarget: prepare each new point's overlay for booting, after the capture.
        boot_test: which new points are boot-tested, after their capture.

    Raises UsageError where not even the newest would be kept, or more than could be read again.
    """

    keep: int | None = None
    retarget: bool = True
    boot_test: BootTests = BootTests.OFF

    def __post_init__(self) -> None:
        if self.keep is not None and self.keep < 1:
            raise UsageError(
                f"{self.keep} recovery points cannot be kept: the newest one always stays.",
                "Keep 1 or more.",
            )
        if self.keep is not None and self.keep >= 1 << 63:  # as `records.number` reads
            raise UsageError(
                f"{self.keep:,} recovery points are more than any set holds.", "Keep all of them."
            )


@dataclass(frozen=True)
class SetSettings:
    """A set's `set.json`: whose backups these are and how they are made.

    Attributes:
        virtual_size, sector_size: of the source when it was last captured, in bytes.
        last_sequence: the highest number that a point ever had, deleted ones included.
        continues: the name of the set that this one was converted from, "" if it was not: later
            backups of the source go on here.
        source_format: what the user said that the source is, "raw" or a virtual disk's format; ""
            where nobody had to.
    """

    source: SourceIdentity
    virtual_size: int
    sector_size: int
    format: DiskFormat
    policy: Policy = field(default_factory=Policy)
    last_sequence: int = 0
    continues: str = ""
    source_format: str = ""

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `set.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SetSettings:
        """Settings from `set.json`; raises RepositoryError where it makes no sense."""
        try:
            source, policy = data["source"], data.get("policy", {})
            keep = policy.get("keep")
            return cls(
                source=SourceIdentity.from_json(source),
                virtual_size=records.number(data["virtual_size"]),
                sector_size=records.number(data["sector_size"]),
                format=_format(data["format"]),
                policy=Policy(
                    records.number(keep) if keep is not None else None,
                    records.flag(policy.get("retarget", True)),
                    boot_test=BootTests(policy.get("boot_test", BootTests.OFF)),
                ),
                last_sequence=records.number(data.get("last_sequence", 0)),
                continues=records.text(data.get("continues", "")),
                source_format=records.text(data.get("source_format", "")),
            )
        except _NO_SENSE as error:
            raise RepositoryError(
                f"set.json is not valid: {_short(error)}.",
                "It can be rebuilt from the disks.",
                remedy=Remedy.REPAIR,
            ) from error
