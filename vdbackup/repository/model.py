"""What a repository holds, as plain values: sets and recovery points, and their JSON."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vdbackup.errors import RepositoryError


class PointType(enum.StrEnum):
    """How a recovery point's layer was made: everything, or what differs from its parent."""

    FULL = "full"
    INCREMENTAL = "incremental"
    DIFFERENTIAL = "differential"


@dataclass(frozen=True)
class Check:
    """The last time something was proven of a point (UTC, ISO 8601), and whether it held."""

    at: str
    ok: bool


@dataclass(frozen=True)
class SourceIdentity:
    """Which source a set belongs to: `id` stays the same as long as it is the same disk."""

    id: str
    name: str
    path: str


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
        merged: ids of the points that were rolled together with this one and are gone.
        warnings: what was not as it should have been during capture, a sentence each.
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
    boot_tested: Check | None = None
    merged: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The manifest's JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RecoveryPoint:
        """A point from its manifest; raises RepositoryError where the manifest makes no sense."""
        try:
            fields = dict(data)
            fields["type"] = PointType(fields["type"])
            for check in ("verified", "boot_tested"):
                fields[check] = Check(**fields[check]) if fields.get(check) else None
            for names in ("merged", "warnings"):
                fields[names] = tuple(fields.get(names, ()))
            point = cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise RepositoryError(
                f"A manifest is not valid: {error}.", "Run `vdbackup repair` to rebuild it."
            ) from error
        for name in (point.disk, point.overlay, point.digests):
            # a manifest is external text: a name in it must not lead out of the set's folder
            if Path(name).name != name:
                raise RepositoryError(
                    f"A manifest names a file outside its folder: {name!r}.",
                    "Run `vdbackup repair` to rebuild the manifest.",
                )
        return point


@dataclass(frozen=True)
class Policy:
    """What a set does by itself.

    Attributes:
        keep: merge or delete older points after a capture until this many are left; None keeps all.
    """

    keep: int | None = None


@dataclass(frozen=True)
class SetSettings:
    """A set's `set.json`: whose backups these are and how they are made.

    Attributes:
        virtual_size, sector_size: of the source when it was last captured, in bytes.
        last_sequence: the highest number that a point ever had, deleted ones included.
    """

    source: SourceIdentity
    virtual_size: int
    sector_size: int
    format: str
    policy: Policy = field(default_factory=Policy)
    last_sequence: int = 0

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `set.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SetSettings:
        """Settings from `set.json`; raises RepositoryError where it makes no sense."""
        try:
            return cls(
                source=SourceIdentity(**data["source"]),
                virtual_size=int(data["virtual_size"]),
                sector_size=int(data["sector_size"]),
                format=str(data["format"]),
                policy=Policy(**data.get("policy", {})),
                last_sequence=int(data.get("last_sequence", 0)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RepositoryError(
                f"set.json is not valid: {error}.", "Run `vdbackup repair` to rebuild it."
            ) from error
