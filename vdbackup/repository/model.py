"""What a repository holds, as plain values: sets and recovery points, and their JSON."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

from vdbackup import records
from vdbackup.agent.changes import Token
from vdbackup.consistency import Consistency
from vdbackup.disks.names import BACKUP_FORMATS, DiskFormat
from vdbackup.errors import DamagedMetadata, Remedy, RepositoryError
from vdbackup.jobs import readable_size
from vdbackup.repository import naming
from vdbackup.repository.naming import PointType
from vdbackup.repository.near_continuous import NearContinuous
from vdbackup.repository.policy import Policy
from vdbackup.translation import marked, tr, trn

_PLACES_NAMED = 5
_MAX_FACTS = 64
_MAX_BOOT = 1e6
MAX_PINS = 1000
"""Of a set: with notes as long as they may be they still fit into a record."""
_OF_FILES = "files:"
"""How the reference of chosen files begins (sources/reference.py)."""
_SECTOR = 512
"""Bytes, to which the size of a raw file is rounded up."""


def _file_name(name: str) -> str:
    """A name in it must not lead out of the set's folder, nor to anything but a point's files."""
    if not naming.can_be_a_points(name):
        raise ValueError(tr("{name} is no name of a point's file", name=records.quoted(name)))
    return name


def _duration(seconds: float) -> float:
    if not seconds < _MAX_BOOT:
        raise ValueError(tr("{seconds!r} is no number of seconds", seconds=seconds))
    return seconds


def _few(facts: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
    if len(facts) > _MAX_FACTS:
        raise ValueError(tr("too many facts of the source"))
    return facts


def _not_too_many(pins: tuple[Pin, ...]) -> tuple[Pin, ...]:
    if len(pins) > MAX_PINS:
        raise ValueError(tr("too many pins"))
    return pins


def _of_a_backup(disk_format: DiskFormat) -> DiskFormat:
    """Never raw: a layer that is taken for a raw disk reads as what its guest never had."""
    if disk_format not in BACKUP_FORMATS:
        raise ValueError(
            tr(
                "{disk_format!r} is no format that a backup is kept in",
                disk_format=disk_format.value,
            )
        )
    return disk_format


def _not_valid(name: str, error: Exception) -> RepositoryError:
    return DamagedMetadata(
        tr("{name} is not valid: {error}.", name=name, error=error),
        tr("It can be rebuilt from the disks."),
        remedy=Remedy.REPAIR,
    )


MAX_DISKS = 16
"""Of a machine: as many as are frozen together, and as a virtual machine gets."""


def few_sets(names: tuple[str, ...]) -> tuple[str, ...]:
    """What a machine has one of for each disk: at least one, none twice; raises ValueError."""
    if not 0 < len(names) <= MAX_DISKS or len(set(names)) < len(names):
        raise ValueError(tr("these cannot be the disks of a machine"))
    return names


_FileName = Annotated[str, _file_name]


@dataclass(frozen=True)
class Check:
    """The last time something was proven of a point (UTC, ISO 8601), and whether it held."""

    at: records.Moment
    ok: bool


class BootStage(enum.StrEnum):
    """How far a machine comes when it boots, in this order."""

    FIRMWARE = marked("firmware")
    LOADER = marked("boot loader")
    KERNEL = marked("kernel")
    SYSTEM = marked("system")
    LOGIN = marked("login")


@dataclass(frozen=True)
class BootTest(Check):
    """The last boot test of a point; its picture, if there is one, is `RecoveryPoint.picture`.

    Attributes:
        seconds: from the start of the machine until it was up, or until the test had failed.
        stage: the last one that was reached, None where nothing is known of it.
        sentence: what was seen; it may quote the guest.
    """

    seconds: Annotated[float, _duration] = 0.0
    stage: BootStage | None = None
    sentence: records.Sentence = ""


@dataclass(frozen=True)
class Rehearsal(Check):
    """The last restore of a point that was done beforehand, in a virtual twin of a target.

    Attributes:
        size: of the twin's disk, in bytes; it hung on `controller`, and was started by `firmware`.
        restore_seconds: until all was written and ready; boot_seconds: from then until it was up.
        sentence: what was seen; it may quote the guest.
    """

    size: int = 0
    controller: records.Sentence = ""
    firmware: records.Sentence = ""
    restore_seconds: Annotated[float, _duration] = 0.0
    boot_seconds: Annotated[float, _duration] = 0.0
    sentence: records.Sentence = ""

    @property
    def seconds(self) -> float:
        """Until the machine was back."""
        return self.restore_seconds + self.boot_seconds


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
    facts: Annotated[Mapping[str, tuple[str, ...]], _few] = field(default_factory=dict, hash=False)

    @classmethod
    def from_json(cls, data: Any) -> SourceIdentity:
        """An identity from external text; raises TypeError or ValueError."""
        return records.tolerant(cls, data)


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
    ended: records.Moment


class ChangesFrom(enum.StrEnum):
    """By what a capture knew what had changed since the point before."""

    TRACKER = "tracker"
    SCAN = "scan"
    FILES = "files"  # by each file's size and times


@dataclass(frozen=True)
class Reading:
    """How a source was read for a point.

    Attributes:
        read_bytes: of the source, what was read again included.
        scan_reason: why all of it was read, to be put behind "because"; "" where nothing else was
            to be expected.
        tracker: the moment, as the tracker of changes knows it; None where none can go on from it.
        unproven: how many points after each other, this one the last, hold what the tracker said;
            0 where all was read. It stays as it is, whichever of them are merged or deleted.
        all_blocks: whether free space was to be read, too.
        not_read: what the point does not hold though the source may, because it was free or is
            space for swapping: (offset, length) in bytes.
        about_free: what was left out, and what was kept whole and why, a sentence each.
    """

    consistency: Consistency
    changes_from: ChangesFrom = ChangesFrom.SCAN
    read_bytes: int = 0
    scan_reason: records.Sentence = ""
    tracker: Token | None = None
    unproven: int = 0
    all_blocks: bool = True
    not_read: tuple[tuple[int, int], ...] = ()
    about_free: tuple[records.Sentence, ...] = ()


@dataclass(frozen=True)
class Moment:
    """To which moment of a machine a point belongs, as the points of all its disks note it.

    Attributes:
        id: UUID, the same in each of them.
        machine: its name.
        number: the moment's order among the machine's, from 1; never reused.
        sets: the sets of all its disks, that of the one that it starts from first: the moment is
            whole where each of them has its point of it.
        points: the ids of these points, which their layers hold, too: one whose manifest was lost,
            and rebuilt from the disk, is known again.
    """

    id: str
    machine: str
    number: int
    sets: Annotated[tuple[str, ...], few_sets]
    points: Annotated[tuple[str, ...], few_sets]

    @property
    def ids(self) -> dict[str, str]:
        """The id of the point of each set."""
        return dict(zip(self.sets, self.points, strict=True))


@dataclass(frozen=True)
class RecoveryPoint:
    """The source as it was at one moment: a manifest.

    Attributes:
        id: UUID; also the layer's own identity where its format has space for one.
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
        reading: how the source was read; None where it was not captured, or by an older version.
        moment: the machine's to which it belongs; None where it was not captured with other disks.
        rehearsed: the last restore to a virtual twin of a target; None if never.
    """

    id: str
    sequence: int
    created: records.Moment
    type: PointType
    parent: str | None
    disk: _FileName
    overlay: _FileName
    digests: _FileName
    disk_size: int
    virtual_size: int
    sector_size: int
    stored_bytes: int
    verified: Check | None = None
    boot_tested: BootTest | None = None
    merged: tuple[str, ...] = ()
    merged_before: int = 0
    warnings: tuple[records.OurWords, ...] = ()
    unreadable: tuple[tuple[int, int], ...] = ()
    promoted_from: Promotion | None = None
    captured_from: SourceIdentity | None = None
    exact_size: int | None = None
    reading: Reading | None = None
    moment: Moment | None = None
    rehearsed: Rehearsal | None = field(default=None, metadata=records.SELDOM)

    @property
    def merged_count(self) -> int:
        """How many points it stands for besides its own moment."""
        return self.merged_before + len(self.merged)

    @property
    def proven(self) -> str:
        """When the older of its proofs was made, UTC, ISO 8601; "" where one is missing, or failed.

        Verified and boot-tested; chosen files hold no system to boot.
        """
        proofs = [self.verified] if self.is_of_files else [self.verified, self.boot_tested]
        held = [each.at for each in proofs if each is not None and each.ok]
        return min(held, key=_parsed) if len(held) == len(proofs) else ""

    @property
    def is_of_files(self) -> bool:
        """Whether chosen files were captured, not a disk."""
        return self.captured_from is not None and self.captured_from.path.startswith(_OF_FILES)

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
        record: dict[str, Any] = records.to_json(self)
        return record

    @classmethod
    def from_json(cls, data: dict[str, Any], name: str = tr("A manifest")) -> RecoveryPoint:
        """A point from its manifest, external text; raises RepositoryError where it makes no sense.

        Args:
            data: the JSON object.
            name: of the manifest, for the sentence.
        """
        try:
            return records.tolerant(cls, data).checked()
        except (TypeError, ValueError) as error:
            raise _not_valid(name, error) from error

    def checked(self) -> RecoveryPoint:
        """The point; raises ValueError where one of its sizes contradicts another."""
        not_read = self.reading.not_read if self.reading else ()
        for name, ranges in (("unreadable", self.unreadable), ("not_read", not_read)):
            for offset, length in ranges:
                if offset + length > self.virtual_size:
                    raise ValueError(
                        tr(
                            "{name}: {offset} + {length} is beyond the end of the disk",
                            name=name,
                            offset=offset,
                            length=length,
                        )
                    )
        if self.moment and len(self.moment.sets) != len(self.moment.points):
            raise ValueError(tr("moment: its sets and its points are not as many"))
        exact, rounded_up = self.exact_size, self.virtual_size
        if exact is not None and not rounded_up - _SECTOR < exact < rounded_up:
            raise ValueError(
                tr("exact_size: {exact} does not end within the last sector", exact=exact)
            )
        return self


def _parsed(moment: str) -> datetime:
    at = datetime.fromisoformat(moment)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def unreadable_warning(ranges: Sequence[tuple[int, int]]) -> str:
    """The sentence for `RecoveryPoint.warnings` that says what the source did not give."""
    sum_of_all = readable_size(sum(length for _, length in ranges))
    places = ", ".join(str(offset) for offset, _ in ranges[:_PLACES_NAMED])
    more = (
        tr(" and {count} more places", count=len(ranges) - _PLACES_NAMED)
        if len(ranges) > _PLACES_NAMED
        else ""
    )
    return trn(
        "{sum_of_all} of the source could not be read and are zeros in this point: at byte "
        "{places}{more}.",
        "{sum_of_all} of the source could not be read and are zeros in this point: at bytes "
        "{places}{more}.",
        len(ranges),
        sum_of_all=sum_of_all,
        places=places,
        more=more,
    )


@dataclass(frozen=True)
class Pin:
    """A person has said of a point that it stays, whatever the policy says.

    Attributes:
        sequence: the point's number, which it keeps when it is merged, repaired or converted.
        note: why, in their words; may be empty.
        since: UTC, ISO 8601.
    """

    sequence: int
    note: records.Note
    since: records.Moment


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
        pins: the points that stay whatever the policy says. They stand here and not in manifests,
            because of this a repair has a copy.
        near: points are made every so many seconds; None where that never was.
        unmerged: what the policy had to leave when it was applied last, a sentence each; None where
            it could do all.
        unfollowed: what went wrong after the last backup beside that, the same way.
    """

    source: SourceIdentity
    virtual_size: int
    sector_size: int
    format: Annotated[DiskFormat, _of_a_backup]
    policy: Policy = field(default_factory=Policy)
    last_sequence: int = 0
    continues: str = ""
    source_format: str = ""
    pins: Annotated[tuple[Pin, ...], _not_too_many] = ()
    near: NearContinuous | None = field(default=None, metadata=records.SELDOM)
    unmerged: tuple[records.Sentence, ...] | None = field(default=None, metadata=records.SELDOM)
    unfollowed: tuple[records.Sentence, ...] | None = field(default=None, metadata=records.SELDOM)

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `set.json`."""
        record: dict[str, Any] = records.to_json(self)
        return record

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SetSettings:
        """Settings from `set.json`; raises RepositoryError where it makes no sense."""
        try:
            return records.tolerant(cls, data)
        except (TypeError, ValueError) as error:
            raise _not_valid("set.json", error) from error
