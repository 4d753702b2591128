"""What leaves the list of sources, and what that means: nothing of any backup is changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vdbackup.gui.catalogue import Entry
from vdbackup.jobs import Plan
from vdbackup.settings import Settings
from vdbackup.translation import tr, trn


def plan_repository(folder: Path, names: Sequence[str]) -> Plan:
    """What taking a repository out of the window means."""
    return Plan(
        tr(
            "These leave the list, and nothing is deleted: {names}. Their backups stay in "
            "{folder}; “Open backups…” shows them again.",
            names=", ".join(names),
            folder=folder,
        )
    )


def plan_source(entry: Entry, *, is_scheduled: bool) -> Plan:
    """What taking a source with backups out of the window means."""
    said = trn(
        "Its {count} point stays in {folder}, and nothing is deleted. “Open backups…” shows it.",
        "Its {count} points stay in {folder}, and nothing is deleted. “Open backups…” shows them.",
        len(entry.points),
        folder=entry.repository,
    )
    if is_scheduled:
        said += tr(" Its schedule goes on: it is still backed up.")
    return Plan(said)


def without(entry: Entry, settings: Settings, *, alone: bool) -> Settings:
    """These settings, with a source that leaves the list.

    Args:
        entry: the source.
        settings: as they are.
        alone: whether nothing else of its repository is in the list.
    """
    folder = entry.repository
    known = [each for each in settings.sources if each.repository == folder]
    seen = any(each.set_name for each in known)
    if alone and not (entry.problem and seen):  # nobody knows what else is on a drive that is away
        return settings.without_repository(folder)
    names = [each.set_name for each in known if each.source == entry.source and each.set_name]
    if entry.backup_set is not None or (entry.problem and not names):
        names.extend(entry.set_names)
    return settings.without_source(entry.source, folder).hiding(folder, names)
