"""Repair of `set.json`: from the copy beside it; where that is lost, too, from the disks.

What the user once chose stands in no disk: how many points are kept, what is done after a backup,
what the source was said to be, which set this one continues. What cannot be known any more is said,
and no retention goes by a number that may be another by now: all points are kept.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from vdbackup.backup.quarantine import QUARANTINE, put_aside
from vdbackup.backup.repair_identity import Layer
from vdbackup.backup.repair_point import json_or_empty
from vdbackup.disks.chain import Chain
from vdbackup.errors import RepositoryError, VdbackupError
from vdbackup.repository import naming
from vdbackup.repository.files import read_json
from vdbackup.repository.model import SetSettings, SourceIdentity
from vdbackup.repository.policy import Policy
from vdbackup.repository.repository import SETTINGS, SETTINGS_COPY, settings_copy, write_settings
from vdbackup.sources.facts import with_written
from vdbackup.sources.identity import Facts
from vdbackup.translation import tr


def are_valid(folder: Path) -> bool:
    """Whether a set's `set.json` can be read; raises OSError."""
    try:
        SetSettings.from_json(read_json(folder / SETTINGS))
    except (RepositoryError, FileNotFoundError):
        return False
    return True


def write_anew(folder: Path, layers: list[Layer]) -> str:
    """Write a set's `set.json`, with what can still be known; the sentence that says so.

    Args:
        folder: the set's.
        layers: what it holds, by sequence.
    """
    newest = layers[-1]
    names = [*folder.iterdir(), *folder.glob(f"{QUARANTINE}/*")]
    numbers = [layer.sequence for each in names if (layer := naming.layer_of(each.name))]
    copy = settings_copy(folder)
    if copy is not None and copy.format != newest.format:
        copy = None  # it is another set's
    if copy is None:
        settings, known = _from_disks(folder, layers)
    else:
        settings, known = _from_copy(folder, copy, newest.sequence)
    settings = replace(
        settings,
        virtual_size=newest.info.virtual_size,
        sector_size=newest.info.sector_size,
        last_sequence=max(settings.last_sequence, *numbers),
    )
    put_aside(folder, SETTINGS)
    if copy is None:
        put_aside(folder, SETTINGS_COPY)
    write_settings(folder, settings)
    return tr(
        "{folder}: {settings} was written anew{known}",
        folder=folder.name,
        settings=SETTINGS,
        known=known,
    )


def bring_back(folder: Path) -> str:
    """Write a set's `set.json` from its copy, as no disk is left; the sentence, "" without one."""
    copy = settings_copy(folder)
    if copy is None:
        return ""
    settings, known = _from_copy(folder, copy, 0)
    put_aside(folder, SETTINGS)
    write_settings(folder, settings)
    return tr(
        "{folder}: {settings} was written anew{known}",
        folder=folder.name,
        settings=SETTINGS,
        known=known,
    )


def _from_copy(folder: Path, copy: SetSettings, newest: int) -> tuple[SetSettings, str]:
    """What the copy says; without its number of points where that may be another by now.

    `newest` is the number of the newest layer.

    An older version changes `set.json` alone: it made points that the copy does not know of, or
    wrote a policy after the copy was written, which is the last of the two that we write. What has
    written over `set.json` since looks the same, and keeps all points, too.
    """
    known = copy.last_sequence >= newest and not _is_newer(
        folder / SETTINGS, folder / SETTINGS_COPY
    )
    if known or not copy.policy.takes:
        return copy, tr(" from its copy; its source is {source}.", source=copy.source.path)
    every = replace(copy, policy=copy.policy.retaining(Policy()))
    number = (
        tr("number, {keep},", keep=copy.policy.keep)
        if copy.policy.keep is not None
        else tr("rules")
    )
    return every, (
        tr(
            " from its copy, which may be older than what is lost; its source is {source}, and it "
            "keeps all its points: the copy's {number} may be another by now. Say again how many "
            "are to be kept.",
            source=copy.source.path,
            number=number,
        )
    )


def _is_newer(path: Path, other: Path) -> bool:
    """Whether a file, if it is there, was written after the other one."""
    try:
        return path.lstat().st_mtime_ns > other.lstat().st_mtime_ns
    except FileNotFoundError:
        return False


def _from_disks(folder: Path, layers: list[Layer]) -> tuple[SetSettings, str]:
    """What the disks say, and what is left of the damaged file beyond all doubt."""
    newest = layers[-1]
    source = _source_said(folder, layers)
    settings = SetSettings(
        source or SourceIdentity("", folder.name, "", _facts_inside(newest)),
        newest.info.virtual_size,
        newest.info.sector_size,
        newest.format,
    )
    whose = (
        tr("its source is {source}", source=source.path)
        if source
        else tr(
            "its source is only known by what is on the disk: the next backup has to name the set"
        )
    )
    return settings, (
        tr(
            "; {whose}, and it keeps all its points. How many were to be kept, what was to be "
            "done after a backup and what the source was said to be is not known any more: say it "
            "again.",
            whose=whose,
        )
    )


def _source_said(folder: Path, layers: list[Layer]) -> SourceIdentity | None:
    """The set's source, by what is left of `set.json`, or else by the newest manifest."""
    manifests = [json_or_empty(naming.manifest_beside(layer.path)) for layer in reversed(layers)]
    named = [each.get("captured_from") for each in manifests]
    for each in (json_or_empty(folder / SETTINGS).get("source"), *named):
        with suppress(TypeError, ValueError):
            return SourceIdentity.from_json(each)
    return None


def _facts_inside(layer: Layer) -> dict[str, tuple[str, ...]]:
    """What the layer's disk itself says of its source; only its size if it cannot be read."""
    size, sector_size = layer.info.virtual_size, layer.info.sector_size
    try:
        with Chain.open(layer.path, layer.format) as chain:
            return with_written(Facts(), chain.readinto, size, sector_size).record()
    except (VdbackupError, OSError):
        return Facts(size=str(size)).record()
