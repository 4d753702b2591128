"""What safety rests on, each of it to be switched off: barriers, phases of the journal, checks."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from tests.backup.merge_cut_off import instead_of, run_of
from vdbackup import durable
from vdbackup.backup import merge, merge_steps, merged_layer, repair
from vdbackup.backup.merge_steps import Merging
from vdbackup.disks import host_file
from vdbackup.disks.formats import FORMATS
from vdbackup.disks.qcow2 import structs
from vdbackup.disks.vhd import disk as vhd
from vdbackup.disks.vhd.structs import SLOTS
from vdbackup.records import from_json
from vdbackup.recovery.retarget import overlay, report
from vdbackup.recovery.retarget.report import RetargetReport
from vdbackup.repository import files, journal, publication
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.manifests import manifest_path
from vdbackup.repository.model import RecoveryPoint


@dataclass(frozen=True)
class Mutation:
    """Something that is switched off.

    Attributes:
        name: in words.
        apply: does it.
        disk_format: that it concerns.
        tests: that notice it, where it is not about power cuts.
        why_not: why nothing can notice it, where that is so.
    """

    name: str
    apply: Callable[[pytest.MonkeyPatch], None]
    disk_format: str = "vmdk"
    tests: tuple[str, ...] = ()
    why_not: str = ""


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
    remove, clear = run_of("delete"), journal.Journal.clear

    def redundant(merging: Merging) -> None:
        clear(merging.journal, merging.folder)
        remove(merging)

    instead_of(patch, "delete", redundant)
    patch.setattr(journal.Journal, "clear", nothing)


def _deleted_before_relinking(patch: pytest.MonkeyPatch) -> None:
    relink, remove = run_of("relink"), run_of("delete")

    def first(merging: Merging) -> None:
        remove(merging)
        relink(merging)

    instead_of(patch, "relink", first)


def _json_in_place(patch: pytest.MonkeyPatch) -> None:
    def write(path: Path, data: bytes, check: Callable[[], None] = nothing) -> None:
        check()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        files.sync_folder(path.parent)

    patch.setattr(durable, "replace", write)


def _manifest_last(patch: pytest.MonkeyPatch) -> None:
    withdraw = publication.withdraw

    def layer_first(folder: Path, point: RecoveryPoint) -> None:
        if (folder / point.disk).exists():
            os.rename(folder / point.disk, publication.in_flight(folder / point.disk))
            files.sync_folder(folder)
        withdraw(folder, point)

    patch.setattr(publication, "withdraw", layer_first)


def _manifest_not_in_flight(patch: pytest.MonkeyPatch) -> None:
    """As it was until November 2026."""

    def publish(folder: Path, point: RecoveryPoint) -> None:
        for name in (point.disk, point.digests, point.overlay):
            os.rename(folder / (name + files.PARTIAL), folder / name)
        files.sync_folder(folder)
        files.write_json(manifest_path(folder, point), point.to_json())

    patch.setattr(publication, "publish", publish)


def _one_slot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(vhd, "SLOTS", _Same(SLOTS))


def _not_read_back(phase: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Whatever a merge reads back in that phase is not looked at."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        check = merged_layer.check_held

        def other_phases(*arguments: Any) -> None:
            if phase not in arguments:
                check(*arguments)

        patch.setattr(merged_layer, "check_held", other_phases)
        patch.setattr(merge_steps, "check_held", other_phases)

    return apply


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
    def used(self: structs.HeaderCluster) -> int:
        return self.header.backing_offset or free(self)

    free = structs.HeaderCluster.free_slot
    patch.setattr(structs.HeaderCluster, "free_slot", used)


def _any_report(patch: pytest.MonkeyPatch) -> None:
    """A report is believed whichever overlay it speaks of."""

    def load(backup_set: BackupSet, point: RecoveryPoint) -> RetargetReport | None:
        path = report.report_path(backup_set, point)
        return from_json(RetargetReport, files.read_json(path)) if path.exists() else None

    patch.setattr(report, "load", load)


def _none(*_: Any, **__: Any) -> list[Any]:
    return []


MUTATIONS = [
    Mutation("no journal while the child is copied", _no_journal),
    Mutation("no journal while links change", _no_second_phase),
    Mutation("the parent is offered while it is copied into", _parent_offered),
    Mutation("the journal goes before the redundant files", _cleared_first),
    Mutation("the child goes before its children have other links", _deleted_before_relinking,
             why_not="recovery links them from the journal, in which all names stand; until then "
             "they may be refused in any case"),
    Mutation("an interrupted merge is not finished",
             lambda p: p.setattr(merge, "recover", lambda *_: merge.Recovered())),
    Mutation("JSON is written in place", _json_in_place),
    Mutation("a deleted point's layer goes before its manifest", _manifest_last),
    Mutation("the manifest lies not in flight before other files have names",
             _manifest_not_in_flight),
    Mutation("an interrupted publication is not finished",
             lambda p: p.setattr(publication, "finish", _none)),
    Mutation("a manifest in flight is believed whatever its files are",
             lambda p: p.setattr(publication, "_fit", lambda *_: True),
             tests=("tests/crash/test_interrupted_publication.py",)),
    Mutation("what was half written is not swept", lambda p: p.setattr(merge, "sweep", nothing)),
    Mutation("the length of a layer is not checked",
             lambda p: p.setattr(BackupSet, "check_layer", nothing),
             tests=("tests/backup/test_merge.py",)),
    Mutation("the child is not checked before it is merged",
             _not_read_back("Check child"), tests=("tests/backup/test_merge.py",)),
    Mutation("what was copied is not checked", _not_read_back("Check"),
             tests=("tests/crash/test_interrupted_merge.py",)),
    Mutation("repair takes sets in the making for sets",
             lambda p: p.setattr(repair, "PARTIAL", ".none"),
             tests=("tests/backup/test_repair.py",)),
    Mutation("a new overlay is made in place", lambda p: p.setattr(overlay, "PARTIAL", "")),
    Mutation("a report is believed beside any overlay", _any_report),
    *(
        Mutation(f"no data of {name} are synced at all",
                 lambda p: p.setattr(host_file.HostFile, "sync", nothing), name)
        for name in FORMATS
    ),
    Mutation("a VHD's new link goes into the slot in use", _one_slot, "vhd"),
    Mutation("a QCOW2's new parent goes where the old one's name is", _same_name_slot, "qcow2",
             tests=("tests/disks/test_power_cuts.py",)),
]  # fmt: skip


# ---------------------------------------------------------------------------------------- barriers


NOT_NOTICED = {
    "repository.lease:make": (
        "a lease that says nothing is taken over after two seconds: on one computer the flock "
        "tells that nobody holds the repository"
    ),
    "backup.merge_steps:_take_over": (
        "the journal is there, so recovery gives the file its name again; until then what hangs "
        "on the child is refused with it and without it"
    ),
    "repository.publication:_let_exist": (
        "set.json is written next in the same folder, which makes that durable"
    ),
    "backup.merge_steps:check_before_going_on": (
        "what a killed process had not made durable: in the story's beginning all of it is; "
        "tests/backup/test_merge_steps.py sees the order"
    ),
    "repository.publication:finish": (
        "what a killed process had not made durable: in the story's beginning all of it is; "
        "tests/crash/test_interrupted_publication.py sees the order"
    ),
    "repository.draft:sweep": (
        "what comes back is swept away again, or does not fit what has the same name since"
    ),
    "disks.host_file:HostFile.drop_cached": (
        "it lets pages go from the cache, so that what is read back comes from the storage; nobody "
        "goes by what it makes durable"
    ),
    "backup.quarantine:put_aside": (
        "a rename from folder to folder happens as a whole, and the fsync of the new one has made "
        "it durable; were the old name there, too, the next repair would put it aside"
    ),
    "recovery.retarget.disks:PointDisk.empty": (
        "a report that is there again says nothing beside an overlay that it does not name"
    ),
    "recovery.retarget.overlay:publish_overlay": (
        "a report is saved or removed next in the same folder, which makes that durable; and it "
        "says nothing beside an overlay that it does not name"
    ),
}
"""Places that call fsync, and why nothing can notice that they do not."""


def without_line(patch: pytest.MonkeyPatch, site: str) -> None:
    """Let the code run without a statement: "module:function:line", as records have it."""
    name, qualname, line = site.split(":")
    module = sys.modules[f"vdbackup.{name}"]
    assert module.__file__
    tree = ast.parse(Path(module.__file__).read_text())
    code = compile(_Without(int(line)).visit(tree), module.__file__, "exec")
    function: Any = module
    for part in qualname.split("."):
        function = getattr(function, part)
    function = getattr(function, "__func__", function)
    patch.setattr(function, "__code__", _found(code, qualname))


class _Without(ast.NodeTransformer):
    def __init__(self, line: int) -> None:
        self._line = line

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return ast.copy_location(ast.Pass(), node) if node.lineno == self._line else node


def _found(code: CodeType, qualname: str) -> CodeType:
    """The function's code in that of its module."""
    waiting = [code]
    while waiting:
        each = waiting.pop()
        if each.co_qualname == qualname:
            return each
        waiting += [inner for inner in each.co_consts if isinstance(inner, CodeType)]
    raise LookupError(qualname)
