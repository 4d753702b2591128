"""What the menu of a source offers: it names the source that it is about."""

from __future__ import annotations

from pathlib import Path

from vdbackup.gui.action import Action
from vdbackup.gui.needs import (
    Chosen,
    OfAlone,
    OfBackedUp,
    OfDevice,
    OfFiles,
    OfListed,
    OfOneSource,
    OfSource,
)
from vdbackup.sources.reference import SourceRef
from vdbackup.text import printable
from vdbackup.translation import tr


def _literal(path: SourceRef | Path | str) -> str:
    """A name as a menu shows it: an ampersand would underline what follows."""
    return printable(str(path)).replace("&", "&&")


def _forget_text(chosen: Chosen) -> str:
    return (
        tr("Remove {source} from this list", source=_literal(chosen.entry.source))
        if chosen.entry
        else ""
    )


def _schedule_text(chosen: Chosen) -> str:
    return tr("Schedule of {entry}…", entry=_literal(chosen.entry.title)) if chosen.entry else ""


def _find_text(chosen: Chosen) -> str:
    return tr("Find a file in {entry}…", entry=_literal(chosen.entry.title)) if chosen.entry else ""


def _choice_text(chosen: Chosen) -> str:
    return tr("Files of {entry}…", entry=_literal(chosen.entry.title)) if chosen.entry else ""


def _policy_text(chosen: Chosen) -> str:
    return (
        tr("Points of {entry} that stay…", entry=_literal(chosen.entry.title))
        if chosen.entry
        else ""
    )


def _track_text(chosen: Chosen) -> str:
    return (
        tr("Changed blocks of {source}…", source=_literal(chosen.entry.source))
        if chosen.entry
        else ""
    )


def _protect_text(chosen: Chosen) -> str:
    return (
        tr("Protect {entry} continuously…", entry=_literal(chosen.entry.title))
        if chosen.entry
        else ""
    )


def _repair_text(chosen: Chosen) -> str:
    return (
        tr("Repair what is in {repository}", repository=_literal(chosen.entry.repository))
        if chosen.entry
        else ""
    )


def _leave_text(chosen: Chosen) -> str:
    if chosen.entry is None:
        return ""
    folder = _literal(chosen.entry.repository)
    return tr("Remove all of {folder} from this list (the backups stay)", folder=folder)


def _about_text(chosen: Chosen) -> str:
    return tr("About {entry}", entry=_literal(chosen.entry.title)) if chosen.entry else ""


OF_LISTED = (
    Action(
        "aboutSource",
        tr("About this source"),
        tr("Show how it is, how much it holds, and what it does automatically"),
        OfListed(lambda desk, entry: desk.show_source(entry)),
        text_of=_about_text,
    ),
    Action(
        "findFile",
        tr("Find a file…"),
        tr("Look for a name in all points"),
        OfBackedUp(lambda desk, entry: desk.dialogs.find(entry)),
        text_of=_find_text,
    ),
    Action(
        "changeChoice",
        tr("Change what is chosen…"),
        tr("Add folders and files, take others out, say what is left out"),
        OfFiles(lambda desk, entry: desk.dialogs.change_choice(entry)),
        text_of=_choice_text,
    ),
    Action(
        "chooseSchedule",
        tr("Schedule…"),
        tr("Say when it is backed up automatically"),
        OfBackedUp(lambda desk, entry: desk.dialogs.schedule(entry)),
        text_of=_schedule_text,
    ),
    Action(
        "choosePolicy",
        tr("Points that stay…"),
        tr("Say which points stay, and see which go"),
        OfBackedUp(lambda desk, entry: desk.dialogs.choose_policy(entry)),
        text_of=_policy_text,
    ),
    Action(
        "trackSource",
        tr("Changed blocks…"),
        tr("See which blocks of the disk change, so that backups read only those"),
        OfDevice(lambda desk, entry: desk.dialogs.track(entry)),
        text_of=_track_text,
    ),
    Action(
        "protectSource",
        tr("Protect continuously…"),
        tr("Keep every write to it, or a point every some seconds, where it can have that"),
        OfSource(lambda desk, entry: desk.dialogs.protect(entry)),
        text_of=_protect_text,
    ),
    Action(
        "convertSet",
        tr("Convert…"),
        tr("Copy all points into a new set in another format"),
        OfAlone(lambda desk, entry: desk.dialogs.convert(entry)),
    ),
    Action(
        "copySource",
        tr("Copy its path"),
        tr("Put the source's path on the clipboard"),
        OfListed(lambda desk, entry: desk.copy(str(entry.source))),
    ),
    Action(
        "showRepository",
        tr("Open the folder of its backups"),
        tr("Show the folder that holds the backups in the file manager"),
        OfListed(lambda desk, entry: desk.show_folder(entry.repository)),
    ),
    Action(
        "forgetSource",
        tr("Remove this source from this list"),
        tr("Let a source leave the list; its backups stay"),
        OfOneSource(lambda desk, entry: desk.dialogs.forget(entry)),
        text_of=_forget_text,
    ),
    Action(
        "repairRepository",
        tr("Repair what is in this folder"),
        tr("Finish what was interrupted, and rebuild from the disks what is missing or damaged"),
        OfListed(lambda desk, entry: desk.operations.repair(entry.repository)),
        text_of=_repair_text,
    ),
    Action(
        "leaveRepository",
        tr("Remove all of this folder from this list"),
        tr("Let all that is backed up to the folder leave the list; the backups stay"),
        OfListed(lambda desk, entry: desk.dialogs.leave(entry.repository)),
        text_of=_leave_text,
    ),
)
"""The menu of a source in the list."""
