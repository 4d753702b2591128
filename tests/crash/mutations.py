"""Whether the power cuts notice what is wrong: `python -m tests.crash.mutations [--states N]`.

Each mutation switches off one thing on which safety rests: an fsync (every place in the code that
calls one, as the records have them), a phase of the journal, an order, a check. The stories are
told again, and the first state in which something does not hold is printed, or that nothing noticed
it. An fsync of the engine is tried in one format, one of a format's module in that format.

What recovery does again in any case is noticed by nothing: the folder's fsync in `_take_over`, in
`Journal.clear` and the later ones of `delete`, the order of `_relink` and `_delete_redundant`, the
barrier inside `VhdxDisk.adopt` and `Qcow2Disk._rewrite`. Nor are the checks of lengths and of what
was copied: they are there for storage that alters what it holds, which no power cut does here.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.crash.stories import STORIES, Story
from tests.crash.telling import Telling
from vdbackup.backup import delete, merge, merged_layer, repair
from vdbackup.disks import host_file, qcow2_structs, vhd
from vdbackup.disks.formats import FORMATS
from vdbackup.repository import draft, files, journal
from vdbackup.repository.repository import BackupSet


@dataclass(frozen=True)
class Mutation:
    """Something that is switched off.

    Attributes:
        name: in words.
        apply: does it.
        disk_format: that it concerns.
    """

    name: str
    apply: Callable[[pytest.MonkeyPatch], None]
    disk_format: str = "vmdk"


def nothing(*_: Any, **__: Any) -> None:
    """Instead of what is switched off."""


def _no_journal(patch: pytest.MonkeyPatch) -> None:
    save = journal.Journal.save
    patch.setattr(
        journal.Journal,
        "save",
        lambda self, folder: save(self, folder) if self.result else None,
    )


def _no_second_phase(patch: pytest.MonkeyPatch) -> None:
    save = journal.Journal.save
    patch.setattr(
        journal.Journal,
        "save",
        lambda self, folder: None if self.result else save(self, folder),
    )


def _parent_offered(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(journal.Journal, "offered", lambda self, folder, points: (list(points), []))


def _cleared_first(patch: pytest.MonkeyPatch) -> None:
    remove, clear = merge._delete_redundant, journal.Journal.clear

    def redundant(folder: Path, each: journal.Journal, result: Any) -> None:
        clear(each, folder)
        remove(folder, each, result)

    patch.setattr(merge, "_delete_redundant", redundant)
    patch.setattr(journal.Journal, "clear", nothing)


def _deleted_before_relinking(patch: pytest.MonkeyPatch) -> None:
    relink, remove = merge._relink, merge._delete_redundant

    def first(backup_set: BackupSet, each: journal.Journal, result: Any) -> None:
        remove(backup_set.folder, each, result)
        relink(backup_set, each, result)

    patch.setattr(merge, "_relink", first)


def _json_in_place(patch: pytest.MonkeyPatch) -> None:
    def write(path: Path, data: dict[str, Any]) -> None:
        real = os.rename
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(files, "PARTIAL", "")
            inner.setattr(os, "rename", lambda a, b: None if a == b else real(a, b))
            original(path, data)

    original = files.write_json
    for module in (draft, journal):
        patch.setattr(module, "write_json", write)


def _manifest_last(patch: pytest.MonkeyPatch) -> None:
    original = delete.point_files

    def reordered(*arguments: Any) -> tuple[Path, ...]:
        manifest, *others = original(*arguments)
        return (others[0], manifest, *others[1:])

    patch.setattr(delete, "point_files", reordered)


def _one_slot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(vhd, "SLOTS", _Same(vhd.SLOTS))


class _Same(tuple[int, ...]):
    """Slots of which the one that is in use is taken for free."""

    __slots__ = ()

    def __iter__(self) -> Iterator[int]:
        return iter(_Never(each) for each in super().__iter__())


class _Never(int):
    def __ne__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


def _same_name_slot(patch: pytest.MonkeyPatch) -> None:
    def used(self: qcow2_structs.HeaderCluster) -> int:
        return self.header.backing_offset or free(self)

    free = qcow2_structs.HeaderCluster.free_slot
    patch.setattr(qcow2_structs.HeaderCluster, "free_slot", used)


MUTATIONS = [
    Mutation("no journal while the child is copied", _no_journal),
    Mutation("no journal while links change", _no_second_phase),
    Mutation("the parent is offered while it is copied into", _parent_offered),
    Mutation("the journal goes before the redundant files", _cleared_first),
    Mutation("the child goes before its children have other links", _deleted_before_relinking),
    Mutation("an interrupted merge is not finished", lambda p: p.setattr(merge, "recover", _none)),
    Mutation("JSON is written in place", _json_in_place),
    Mutation("a deleted point's layer goes before its manifest", _manifest_last),
    Mutation("what was half written is not swept", lambda p: p.setattr(merge, "sweep", nothing)),
    Mutation("the length of a layer is not checked",
             lambda p: p.setattr(BackupSet, "check_layer", nothing)),
    Mutation("what was copied is not checked",
             lambda p: p.setattr(merged_layer, "check_held", nothing)),
    Mutation("repair takes sets in the making for sets",
             lambda p: p.setattr(repair, "PARTIAL", ".none")),
    *(
        Mutation(f"no data of {name} are synced at all",
                 lambda p: p.setattr(host_file.HostFile, "sync", nothing), name)
        for name in FORMATS
    ),
    Mutation("a VHD's new link goes into the slot in use", _one_slot, "vhd"),
    Mutation("a QCOW2's new parent goes where the old one's name is", _same_name_slot, "qcow2"),
]  # fmt: skip


def _none(*_: Any) -> list[str]:
    return []


def noticed(mutation: Mutation, count: int, folder: Path) -> str | None:
    """The first state that is wrong; None if the mutation was not noticed."""
    for number, story in enumerate(STORIES):
        if mutation.disk_format not in story.formats:
            continue
        with pytest.MonkeyPatch.context() as patch:
            try:
                telling = _told(story, folder / str(number), mutation, patch)
                faults = telling.try_states(count, until_wrong=True, sampled=20)
            except Exception as error:  # noqa: BLE001 - it shows without any power cut
                return f"{story.name}: {type(error).__name__}: {error}"
        if faults:
            return faults[0]
    return None


def _told(story: Story, folder: Path, mutation: Mutation, patch: pytest.MonkeyPatch) -> Telling:
    def act(lab: Any) -> None:
        mutation.apply(patch)
        story.act(lab)

    changed = replace(story, act=act)
    return Telling(changed, folder, mutation.disk_format)


def barriers(
    disk_format: str, count: int, match: str, folder: Path
) -> Iterator[tuple[str, str | None]]:
    """Every place that calls fsync, and the first state that is wrong without it."""
    tellings = [
        Telling(story, folder / str(number), disk_format)
        for number, story in enumerate(STORIES)
        if disk_format in story.formats
    ]
    sites = dict.fromkeys(site for telling in tellings for site in telling.record.sites())
    for site in sites:
        of_format = site.partition(".")[0].partition("_")[0] in FORMATS
        if disk_format != ("vmdk" if not of_format else site[: len(disk_format) + 1].rstrip("._")):
            continue
        if match not in f"no fsync at {site}":
            continue
        yield site, _without(site, tellings, count)


def _without(site: str, tellings: list[Telling], count: int) -> str | None:
    for telling in tellings:
        if site in telling.record.sites():
            record, cuts = telling.record.without(site)
            faults = telling.try_states(count, record=record, cuts=cuts, until_wrong=True)
            if faults:
                return faults[0]
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.crash.mutations")
    parser.add_argument("--states", type=int, default=200, help="of each story")
    parser.add_argument("--format", choices=FORMATS, action="append")
    parser.add_argument("--match", default="", help="only mutations whose name has this in it")
    arguments = parser.parse_args()
    unnoticed = 0
    for disk_format in arguments.format or FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            for site, fault in barriers(
                disk_format, arguments.states, arguments.match, Path(folder)
            ):
                print(f"no fsync at {site} ({disk_format}): {_said(fault, folder)}", flush=True)
                unnoticed += fault is None
        for mutation in MUTATIONS:
            if mutation.disk_format == disk_format and arguments.match in mutation.name:
                with tempfile.TemporaryDirectory() as folder:
                    fault = noticed(mutation, arguments.states, Path(folder))
                print(f"{mutation.name} ({disk_format}): {_said(fault, folder)}", flush=True)
                unnoticed += fault is None
    return 1 if unnoticed else 0


def _said(fault: str | None, folder: str) -> str:
    return fault.replace(folder, "") if fault else "NOT NOTICED"


if __name__ == "__main__":
    sys.exit(main())
