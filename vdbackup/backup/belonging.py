"""Which set a source belongs to: the one that holds its backups, surely, or a new one.

Retention goes over what a set holds, so another disk in it would cost the first one its backups.
Where it is not sure that it is the same source, a set of its own is begun, and said; a set that was
named is refused until the user says that it is meant.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vdbackup.backup.unread import not_claimed
from vdbackup.disks.extents import aligned, blocks_of, without
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import OtherSource, RepositoryError, VdbackupError
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import BLOCK, differ
from vdbackup.repository.marker import MARKER
from vdbackup.repository.model import SetSettings, SourceIdentity
from vdbackup.repository.near_paths import NearPaths
from vdbackup.repository.repository import Repository, check_set_name, free_set_name
from vdbackup.repository.unit_digests import in_units
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.identity import Comparison, Facts, Kind, Verdict, compare
from vdbackup.sources.reference import SourceRef
from vdbackup.sources.source import Source
from vdbackup.translation import tr

log = logging.getLogger(__name__)

_SAMPLE = 64
"""Blocks of 64 KiB that are compared: 4 MiB are read."""
_SHARE = 0.5
"""Of them has to be as it was captured. Of another disk's, almost none is."""


@dataclass(frozen=True)
class Belonging:
    """The set that a source's backup goes into.

    Attributes:
        set_name: of the set.
        existing: the set, None if it is to be made.
        identity: what is to be kept of the source.
        confirmed: the verdict that the user has overruled; None where it is the same source.
        similar: another set that may hold this source's backups, or "".
        note: what there is to say of that, or of the set, or "".
    """

    set_name: str
    existing: BackupSet | None
    identity: SourceIdentity
    confirmed: Verdict | None = None
    similar: str = ""
    note: str = ""


def identity_of(source: Source, now: Facts) -> SourceIdentity:
    """What is kept of a source that nothing was known of."""
    return SourceIdentity(source.id, source.name, str(source.ref), now.record())


def belonging(
    repository: Repository, source: Source, set_name: str | None = None, *, same_source: bool
) -> Belonging:
    """The set that the source's next backup goes into.

    Args:
        repository: where the sets are.
        source: open.
        set_name: as the user says; found by what is known of the source if None.
        same_source: the user says that the source of the set so named is this one.

    Raises:
        OtherSource: the named set is another source's, or may be.
    """
    now = source.facts()
    if set_name is not None:
        return _named(repository, source, now, check_set_name(set_name), same_source)
    known, alike, unreadable = _look(repository, source, now)
    if known:
        return _at_home(repository.set(known), source, now)
    name = free_set_name(repository, source.name)
    fresh = Belonging(name, None, identity_of(source, now))
    if alike:
        similar, found = alike
        settings = repository.settings(similar)
        if found.verdict is Verdict.UNSURE:
            note = _unsure(source, similar, known_facts(settings), found)
            return replace(fresh, similar=similar, note=note)
        return replace(fresh, note=_other(source, similar, known_facts(settings), found))
    if unreadable:
        note = tr(
            "{source} gets a set of its own; whether {unreadable} holds its backups cannot be "
            "told, because that cannot be read: repair the repository.",
            source=source.title,
            unreadable=", ".join(unreadable),
        )
        return replace(fresh, similar=unreadable[0], note=note)
    return replace(fresh, note=_misnamed(repository, source))


def _misnamed(repository: Repository, source: Source) -> str:
    """What is said of folders that nobody looked into for the source's set; nothing if none."""
    if not (names := repository.misnamed()):
        return ""
    return tr(
        "{source} gets a set of its own; whether {misnamed} holds its backups cannot be told: no "
        "set can be called so. If it does, rename that folder.",
        source=source.title,
        misnamed=", ".join(names),
    )


def set_of(repository: Repository, source: Source) -> str | None:
    """The name of the set that surely holds the source's backups, if there is one."""
    return _look(repository, source, source.facts())[0]


def said_before(folder: Path, ref: SourceRef, set_name: str | None = None) -> str | None:
    """What the user said that the source is when it was backed up before; None where nothing.

    It is needed to open the source, so that the source is known by its name alone. Where two sets
    have two answers, there is none.

    Args:
        folder: the repository's, which need not be there yet.
        ref: the source.
        set_name: of its set, where that is known.
    """
    if not (folder / MARKER).exists():
        return None
    repository = Repository.open(folder)
    names = {str(ref)}
    if ref.is_file:
        names = {os.path.abspath(ref.path), os.path.realpath(ref.path)}
    answers = set()
    for name in repository.names():
        if set_name not in (None, name):
            continue
        try:
            settings = repository.settings(name)
        except RepositoryError as error:  # it stops only what is done with that set
            log.warning("%s says nothing of its source: %s", name, error)
            continue
        known = {settings.source.path, *known_facts(settings).paths}
        if settings.source_format in list(DiskFormat) and known & names:
            answers.add(settings.source_format)
    return answers.pop() if len(answers) == 1 else None


def size_before(folder: Path, ref: SourceRef, set_name: str | None = None) -> int | None:
    """Bytes of the disk that chosen files have in their set, None where there is no such set.

    It is needed to open them: they go on on a disk of that size.

    Args:
        folder: the repository's, which need not be there yet.
        ref: the files.
        set_name: of their set, where that is said.
    """
    if not ref.is_files or not (folder / MARKER).exists():
        return None
    repository = Repository.open(folder)
    paths = (str(Choice(Choice.typed(ref.rest).paths)),)
    for name in repository.names():
        try:
            settings = repository.settings(name)
        except RepositoryError as error:
            log.warning("%s says nothing of its source: %s", name, error)
            continue
        known = known_facts(settings)
        if known.kind == Kind.FILES and (set_name == name or known.paths == paths):
            return settings.virtual_size
    return None


def known_facts(settings: SetSettings) -> Facts:
    """What a set knows of its source; one of an older version knows one number and the size."""
    source = settings.source
    if source.facts:
        return Facts.of_record(source.facts)
    return replace(Facts.of_old_id(source.id, source.path), size=str(settings.virtual_size))


def _look(
    repository: Repository, source: Source, now: Facts
) -> tuple[str | None, tuple[str, Comparison] | None, list[str]]:
    """The source's set; else the set that is most like its; and the sets that cannot be read."""
    found: dict[str, Comparison] = {}
    unreadable, continued = [], set()
    for name in repository.names():
        try:
            settings = repository.settings(name)
        except RepositoryError:
            unreadable.append(name)
            continue
        found[name] = compare(known_facts(settings), now)
        if found[name].provable and known_facts(settings).paths:
            found[name] = _proven(found[name], repository.set(name), source)
        if found[name].verdict is Verdict.SAME:
            continued.add(settings.continues)
    same = [name for name, each in found.items() if each.verdict is Verdict.SAME]
    homes = [name for name in same if name not in continued]
    if homes:
        return max(homes, key=lambda name: len(found[name].agree)), None, []
    alike = [name for name, each in found.items() if each.alike]
    if not alike:
        return None, None, unreadable

    def likeness(name: str) -> tuple[bool, int, bool]:
        unsure = found[name].verdict is Verdict.UNSURE
        return unsure, len(found[name].agree), name == source.name

    name = max(alike, key=likeness)
    return None, (name, found[name]), unreadable


def _named(
    repository: Repository, source: Source, now: Facts, name: str, same_source: bool
) -> Belonging:
    if name not in repository.names():
        return Belonging(name, None, identity_of(source, now))
    existing = repository.set(name)
    known = known_facts(existing.settings)
    found = _proven(compare(known, now), existing, source)
    if found.verdict is Verdict.SAME or not (existing.points or existing.hidden):
        return _at_home(existing, source, now)
    if not same_source:
        sure = found.verdict is Verdict.OTHER
        raise OtherSource(name, str(known), str(now), found.reasons, sure=sure)
    note = tr(
        "As you say, {now} goes on in the set {name}, which belonged to {known}; no older "
        "points are merged or deleted this time.",
        now=now,
        name=name,
        known=known,
    )
    return Belonging(name, existing, identity_of(source, now), found.verdict, note=note)


def _at_home(existing: BackupSet, source: Source, now: Facts) -> Belonging:
    known = known_facts(existing.settings)
    return Belonging(existing.name, existing, identity_of(source, now.after(known)))


def _proven(found: Comparison, backup_set: BackupSet, source: Source) -> Comparison:
    """The same comparison, decided by the contents where nothing speaks against it."""
    if found.provable and _resembles(source, backup_set):
        return replace(found, verdict=Verdict.SAME)
    return found


def _resembles(source: Source, backup_set: BackupSet) -> bool:
    """Whether the source holds much of what was captured last, in places spread over the disk."""
    last = backup_set.latest_captured()
    if last is None or last.virtual_size != source.size:
        return False
    try:
        with backup_set.open_digests(last) as fold:
            state = in_units(fold)
            held = without(aligned(state.held(), BLOCK, source.size), not_claimed(last))
            places = _spread(held, _SAMPLE)
            same = 0
            for offset in places:
                view = memoryview(bytearray(min(BLOCK, source.size - offset)))
                source.readinto(offset, view)
                wanted = state.expected(blocks_of(np.array([[offset, len(view)]]), BLOCK))
                same += not differ(state.digest(view), wanted).any()
    except VdbackupError:  # damaged, or the source has errors there: then it is no proof
        return False
    return bool(places) and same >= len(places) * _SHARE


def _spread(held: np.ndarray, count: int) -> list[int]:
    """Offsets of at most so many blocks, evenly spread over ranges of whole blocks."""
    blocks = -(-held[:, 1] // BLOCK)
    ends = np.cumsum(blocks)
    total = int(ends[-1]) if len(ends) else 0
    chosen = np.unique(np.linspace(0, max(total - 1, 0), min(count, total)).astype(np.int64))
    rows = np.searchsorted(ends, chosen, side="right")
    starts = held[rows, 0] + (chosen - (ends[rows] - blocks[rows])) * BLOCK
    return [int(each) for each in starts]


def _other(source: Source, similar: str, known: Facts, found: Comparison) -> str:
    return tr(
        "{source} gets a set of its own: it is not what the set {similar} holds the backups "
        "of ({known}): {reasons}.",
        source=source.title,
        similar=similar,
        known=known,
        reasons=found.reasons,
    )


def _unsure(source: Source, similar: str, known: Facts, found: Comparison) -> str:
    return tr(
        "{source} gets a set of its own: whether it is what the set {similar} holds the "
        "backups of ({known}) is not sure: {reasons}.{whether_gone}",
        source=source.title,
        similar=similar,
        known=known,
        reasons=found.reasons,
        whether_gone=_whether_gone(source, known),
    )


def _whether_gone(source: Source, known: Facts) -> str:
    """Of an image: whether it may have been moved here. It may lie on a drive that is put away.

    Nothing is said of one on a share that may not answer: who asks waits for ever.
    """
    if known.kind != Kind.FILE or not known.paths:
        return ""
    near = NearPaths([file.parent for file in source.files])
    if any(near.followed(Path(each)) is None for each in known.paths):
        return ""
    there = any(map(os.path.lexists, known.paths))
    return (
        tr(" {path} is still there.", path=known.paths[0])
        if there
        else tr(" {path} is not there.", path=known.paths[0])
    )
