"""What the files of a recovery point are called: made and taken apart here, side by side.

    0002-incremental.vmdk         the layer: number, type, format
    0002-incremental.json         its manifest
    0002-incremental.digests      the digests of its blocks
    0002-overlay.vmdk             the point's overlay
    0002-overlay.retarget.json    what was done to the overlay
    0002-boot.png                 the screen at the end of the last boot test

So a listing shows the points in their order. A person's own files lie beside them, perhaps: what is
taken for a point's is moved, or goes with it.
"""

from __future__ import annotations

import enum
import re
from pathlib import Path
from typing import NamedTuple

from vdbackup.disks.names import BACKUP_FORMATS, DiskFormat
from vdbackup.translation import marked


class PointType(enum.StrEnum):
    """How a recovery point's layer was made: everything, or what differs from its parent."""

    FULL = marked("full")
    INCREMENTAL = marked("incremental")
    DIFFERENTIAL = marked("differential")


class LayerName(NamedTuple):
    """What a layer's name says of it."""

    sequence: int
    kind: PointType
    format: DiskFormat


class OverlayName(NamedTuple):
    """What an overlay's name says of it."""

    sequence: int
    format: DiskFormat


_NUMBER = "([0-9]{4,18})"
_KINDS, _FORMATS = "|".join(PointType), "|".join(BACKUP_FORMATS)
_LAYER = re.compile(rf"{_NUMBER}-({_KINDS})\.({_FORMATS})")
_MANIFEST = re.compile(rf"{_NUMBER}-(?:{_KINDS})\.json")
_OVERLAY = re.compile(rf"{_NUMBER}-overlay\.({_FORMATS})")
_REPORT = re.compile(rf"({_NUMBER}-overlay)\.retarget\.json")
_POINT_FILE = re.compile(
    rf"{_NUMBER}-(?:(?:{_KINDS})\.(?:{_FORMATS}|json|digests)"
    rf"|overlay\.(?:{_FORMATS}|retarget\.json)|boot\.png)"
)
_IN_A_MANIFEST = re.compile(r"[0-9]{4,19}-[a-z]{1,20}\.[a-z0-9]{1,20}")

# ---------------------------------------------------------------------------- made


def layer_name(sequence: int, kind: PointType, ending: str) -> str:
    """Of a point's layer; `ending` is its format's name."""
    return f"{sequence:04d}-{kind.value}.{ending}"


def overlay_name(sequence: int, ending: str) -> str:
    """Of a point's overlay; `ending` is its format's name."""
    return f"{sequence:04d}-overlay.{ending}"


def picture_name(sequence: int) -> str:
    """Of the picture of the screen from a point's last boot test."""
    return f"{sequence:04d}-boot.png"


def manifest_name(layer: str) -> str:
    """Of the manifest of a layer with that name."""
    return f"{stem_of(layer)}.json"


def digests_name(layer: str) -> str:
    """Of the digests of a layer with that name."""
    return f"{stem_of(layer)}.digests"


def report_name(overlay: str) -> str:
    """Of what was done to an overlay with that name."""
    return f"{stem_of(overlay)}.retarget.json"


def manifest_beside(layer: Path) -> Path:
    """Where a layer's manifest lies."""
    return layer.with_name(manifest_name(layer.name))


def digests_beside(layer: Path) -> Path:
    """Where a layer's digests lie."""
    return layer.with_name(digests_name(layer.name))


def others_of(layer: str) -> tuple[str, ...]:
    """Of all files of a point but its layer, whose name is `layer`: its manifest first."""
    number = number_in(layer)
    overlay = f"{number}-overlay.{ending_of(layer)}"
    return (
        manifest_name(layer),
        digests_name(layer),
        overlay,
        report_name(overlay),
        f"{number}-boot.png",
    )


# ---------------------------------------------------------------------------- taken apart


def layer_of(name: str) -> LayerName | None:
    """What the name of a layer says; None of what is no layer."""
    match = _LAYER.fullmatch(name)
    return LayerName(int(match[1]), PointType(match[2]), DiskFormat(match[3])) if match else None


def overlay_of(name: str) -> OverlayName | None:
    """What the name of an overlay says; None of what is none."""
    match = _OVERLAY.fullmatch(name)
    return OverlayName(int(match[1]), DiskFormat(match[2])) if match else None


def number_of_manifest(name: str) -> int | None:
    """The number of the point whose manifest has that name; None of what is none."""
    match = _MANIFEST.fullmatch(name)
    return int(match[1]) if match else None


def overlay_reported_in(name: str) -> str | None:
    """The overlay, without its ending, whose report has that name; None of what is none."""
    match = _REPORT.fullmatch(name)
    return match[1] if match else None


def number_of(name: str) -> int | None:
    """The number of the point whose file has that name; None of what is nobody's of ours."""
    match = _POINT_FILE.fullmatch(name)
    return int(match[1]) if match else None


def stem_of(name: str) -> str:
    """A name without its endings: "0002-overlay.retarget.json" -> "0002-overlay"."""
    return name.partition(".")[0]


def number_in(name: str) -> str:
    """How a name of a point's file begins: its number, as it is written there."""
    return name.partition("-")[0]


def ending_of(name: str) -> str:
    """The name of a layer's or overlay's format, as it stands in its name."""
    return name.partition(".")[2]


def can_be_a_points(name: str) -> bool:
    """Whether a manifest may name such a file: what leads out of the set's folder it may not.

    A later version's kinds and formats are let through here.
    """
    return _IN_A_MANIFEST.fullmatch(name) is not None


def belong_together(manifest: str, layer: str, digests: str, overlay: str) -> bool:
    """Whether these are names of one point's files, as far as they must be."""
    stem = stem_of(manifest)
    return (stem_of(layer), stem_of(digests), stem_of(overlay)) == (
        stem,
        stem,
        f"{number_in(stem)}-overlay",
    )
