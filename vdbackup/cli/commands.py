"""One function per command: it returns the exit status, or raises a VdbackupError.

What only one command needs is imported inside it: Python and numpy alone start in 70 ms, which is
most of what a small command takes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from vdbackup.cli import output, remedies
from vdbackup.cli.console import interrupts, print_json, say, table, warn, work
from vdbackup.errors import (
    BackupError,
    Cancelled,
    Damaged,
    PointNotFound,
    UsageError,
    VdbackupError,
    from_os,
)
from vdbackup.jobs import CancelToken, Plan, Report
from vdbackup.jobs import readable_size as size
from vdbackup.text import printable

if TYPE_CHECKING:
    from vdbackup.backup.capture import CapturePlan
    from vdbackup.repository.backup_set import BackupSet
    from vdbackup.repository.manifests import BrokenManifest
    from vdbackup.repository.model import Policy, RecoveryPoint
    from vdbackup.repository.repository import DamagedSet, Repository

DONE, FAILED, WARNINGS = 0, 1, 3


def open_repository(path: Path, *, as_json: bool = False) -> Repository:
    """Open a repository, and finish first what a crash left in it.

    Args:
        path: the repository's folder.
        as_json: show progress as JSON lines; not for a command that prints a single JSON value.
    """
    from vdbackup.repository.repository import Repository

    repository = Repository.open(path)
    warn(_finish_merges(repository, as_json=as_json))
    relink_machines(repository)
    return repository


def relink_machines(repository: Repository) -> None:
    """Let other programs' machines name their layers as merges have left them.

    Settings or a folder of sessions that cannot be read stop nothing else: that is only said.
    """
    from vdbackup.recovery.relinking import relink_all

    try:
        folder = sessions_folder()
        if folder.is_dir():
            warn(relink_all(folder, repository))
    except (VdbackupError, OSError) as error:
        warn([remedies.sentences(from_os(error) if isinstance(error, OSError) else error)])


def _finish_merges(repository: Repository, *, as_json: bool) -> list[str]:
    """Finish merges that were cut off; what was done, a sentence each. It may take an hour."""
    from vdbackup.backup import merge

    if not merge.interrupted(repository):
        return []
    finished: list[str] = work(
        "Finishing an interrupted merge",
        lambda report, cancel: merge.recover(repository, report, cancel),
        as_json=as_json,
    )
    interrupts.check()
    return finished


def sessions_folder() -> Path:
    """Where virtual machines write, by the user's settings."""
    from vdbackup.settings import Locations, Settings

    locations = Locations.from_environment()
    return Settings.load(locations.settings_file).sessions(locations)


def announce(plan: Plan, options: argparse.Namespace) -> bool:
    """Say what is planned; whether it is to be done."""
    if options.dry_run:
        if options.json:
            print_json({"event": "plan", **_plan_json(plan)})
        else:
            say(plan.summary)
            if plan.bytes_to_copy:
                say(f"Up to {size(plan.bytes_to_copy)} are copied.")
            for name in (*plan.replaces, *plan.invalidates):
                say(f"  replaced or gone afterwards: {name}")
            if plan.hindrance:
                say(plan.hindrance)
    elif not options.json:
        say(plan.summary)
    return not options.dry_run


def _plan_json(plan: Plan) -> dict[str, Any]:
    return {
        "summary": plan.summary,
        "bytes_to_copy": plan.bytes_to_copy,
        "creates": plan.creates,
        "replaces": plan.replaces,
        "invalidates": plan.invalidates,
        "hindrance": plan.hindrance,
    }


def point_json(backup_set: BackupSet, point: RecoveryPoint) -> dict[str, Any]:
    """A recovery point as `list --json` shows it: paths relative to the repository."""
    from vdbackup.cli.boot_test import boot_test_json

    verified, booted = point.verified, point.boot_tested
    return {
        "id": point.id,
        "sequence": point.sequence,
        "created": point.created,
        "type": point.type.value,
        "parent": point.parent,
        "disk": f"{backup_set.name}/{point.disk}",
        "overlay": f"{backup_set.name}/{point.overlay}",
        "stored_bytes": point.stored_bytes,
        "verified": {"at": verified.at, "ok": verified.ok} if verified else None,
        "boot_tested": boot_test_json(backup_set, point, booted) if booted else None,
        "retargeted": _retargeted(backup_set, point),
        "warnings": point.warnings,
        "unreadable": point.unreadable,
        "promoted_from": asdict(point.promoted_from) if point.promoted_from else None,
    }


def _retargeted(backup_set: BackupSet, point: RecoveryPoint) -> dict[str, Any] | None:
    """What the report beside the overlay says in short; None without one."""
    if not (backup_set.folder / point.report).exists():
        return None
    from vdbackup.recovery.retarget.report import load

    report = load(backup_set, point)
    if report is None:
        return None
    boots = not any(problem.blocks for problem in report.hardware.problems)
    hardware = report.hardware.controller.value
    return {"hardware": hardware, "boots": boots, "changed_files": len(report.changes)}


def backup(options: argparse.Namespace) -> int:
    """Back a source up."""
    from vdbackup.backup import capture
    from vdbackup.backup.belonging import said_before
    from vdbackup.cli.boot_test import prove_new_point
    from vdbackup.recovery.retarget.policy import for_new_point
    from vdbackup.repository.repository import Repository
    from vdbackup.sources.source import open_source

    if options.same_source and not options.set:
        raise UsageError(
            "--same-source says whose backups a set holds, and no set is named.", "Add --set NAME."
        )

    @contextmanager
    def planned() -> Iterator[capture.CapturePlan]:
        before = said_before(options.repository, options.source, options.set)
        where = options.source, options.parents_in
        with open_source(*where, options.source_format, before) as source:
            capture.check_apart(source, options.repository)
            repository = Repository.open_or_create(options.repository)
            plan = capture.plan(
                repository,
                source,
                set_name=options.set,
                kind=options.type,
                disk_format=options.format,
                same_source=options.same_source,
            )
            yield replace(plan, policy=_policy(options, plan))

    def again(report: Report, cancel: CancelToken) -> capture.CaptureResult:
        with planned() as plan:
            return capture.run(plan, report, cancel)

    with planned() as plan:
        if not announce(plan, options):
            return DONE
        result: capture.CaptureResult = work(
            f"Backup of {plan.source.path}",
            lambda report, cancel: capture.run(plan, report, cancel),
            as_json=options.json,
            wait=options.wait,
            again=again,
        )
    point = result.point
    warnings: tuple[str, ...] = work(
        "Retarget",
        lambda report, cancel: for_new_point(
            plan.repository, result.set_name, point.id, sessions_folder(), report, cancel
        ),
        as_json=options.json,
    )
    warnings = (*result.warnings, *warnings)
    if options.json:
        data = point_json(plan.repository.set(result.set_name), point)
        print_json({"event": "result", "set": result.set_name, **data, "notes": result.notes})
    else:
        say(f"Point {point.sequence} ({point.type}): {size(point.stored_bytes)} stored.")
        for note in result.notes:
            say(note)
    warn(warnings)
    relink_machines(plan.repository)
    if plan.similar:
        warn([f"If it is the same, go on there with --set {plan.similar!r} --same-source."])
    boots = prove_new_point(plan.repository, result.set_name, point.id, as_json=options.json)
    return WARNINGS if warnings or not boots else DONE


def _policy(options: argparse.Namespace, plan: CapturePlan) -> Policy | None:
    """What the set is to do by itself from now on; None for what it does already."""
    from vdbackup.repository.model import BootTests, Policy

    changes: dict[str, Any] = {}
    if options.keep:
        changes["keep"] = options.keep
    if options.boot_test:
        changes["boot_test"] = BootTests(options.boot_test)
    if options.retarget:
        changes["retarget"] = options.retarget == "auto"
    if not changes:
        return None
    present = Policy()
    if not plan.new_set:
        present = plan.repository.set(plan.set_name).settings.policy
    return replace(present, **changes)


def list_points(options: argparse.Namespace) -> int:
    """List sets and recovery points, and what of them is damaged."""
    from vdbackup.repository import long_chains

    repository = open_repository(options.repository)
    sets, damaged = repository.survey()
    status = WARNINGS if damaged or any(each.broken for each in sets) else DONE
    if options.json:
        print_json(
            {
                "repository": repository.id,
                "sets": [_set_json(each) for each in sets],
                "damaged": [{"name": each.name, **_problem_json(each.problem)} for each in damaged],
            }
        )
        return status
    for backup_set in sets:
        settings = backup_set.settings
        say(
            f"{backup_set.name}: {settings.source.path or 'source unknown'}, "
            f"{size(settings.virtual_size)}, {settings.format}"
        )
        rows = [_point_row(backup_set, point) for point in backup_set.points]
        if rows:
            table(_COLUMNS, rows)
        if long := long_chains.sentence(backup_set):
            say(long)
        for manifest in backup_set.broken:
            say(f"{_state(manifest)}: {remedies.sentences(manifest.problem)}")
    for lost in damaged:
        say(f"{lost.name}: {_state(lost)}: {remedies.sentences(lost.problem)}")
    if not sets and not damaged:
        say("No backups yet.")
    return status


def _state(unread: BrokenManifest | DamagedSet) -> str:
    """What may not be read need not be damaged."""
    return "MAY NOT BE READ" if unread.refused else "DAMAGED"


def _problem_json(problem: VdbackupError) -> dict[str, str]:
    return {"title": problem.title, "advice": remedies.advice(problem)}


def _broken_json(manifest: BrokenManifest) -> dict[str, Any]:
    problem = _problem_json(manifest.problem)
    return {"file": manifest.name, "sequence": manifest.sequence, **problem}


def _set_json(backup_set: BackupSet) -> dict[str, Any]:
    from vdbackup.repository import long_chains

    settings = backup_set.settings
    return {
        "name": backup_set.name,
        "source": settings.source.path,
        "virtual_size": settings.virtual_size,
        "format": settings.format,
        "keep": settings.policy.keep,
        "retarget": settings.policy.retarget,
        "long_chain": long_chains.sentence(backup_set) or None,
        "points": [point_json(backup_set, point) for point in backup_set.points],
        "damaged": [_broken_json(each) for each in backup_set.broken],
    }


_COLUMNS = ("#", "created (UTC)", "type", "parent", "stored", "verified", "boots", "id")


def _number_of(backup_set: BackupSet, point_id: str | None) -> str:
    try:
        return str(backup_set.point(point_id).sequence) if point_id is not None else ""
    except PointNotFound:
        return ""


def _point_row(backup_set: BackupSet, point: RecoveryPoint) -> tuple[str, ...]:
    verified = "" if not point.verified else "ok" if point.verified.ok else "DAMAGED"
    boots = "" if not point.boot_tested else "yes" if point.boot_tested.ok else "NO"
    kind = f"{point.type}, of a session" if point.promoted_from else point.type
    created = point.created.replace("T", " ")[:19]
    above = _number_of(backup_set, point.parent)
    stored = size(point.stored_bytes)
    return (str(point.sequence), created, kind, above, stored, verified, boots, point.id[:8])


def merge(options: argparse.Namespace) -> int:
    """Roll a point into its parent."""
    from vdbackup.backup import merge
    from vdbackup.repository.repository import Repository

    repository = Repository.open(options.repository)
    if finished := _finish_merges(repository, as_json=options.json):
        # it may be this very merge that is asked for again: going on would merge one step further
        warn([*finished, "Nothing else was merged: look at `vdbackup list` first."])
        relink_machines(repository)
        if options.json:
            print_json({"event": "result", "way": None, "finished": finished})
        return WARNINGS
    backup_set, point = repository.find(options.point, options.set)
    plan = merge.plan(repository, backup_set.name, point.id)
    if not announce(plan, options):
        return DONE
    result: merge.MergeResult = work(
        "Merge",
        lambda report, cancel: merge.run(plan, report, cancel),
        as_json=options.json,
        wait=options.wait,
    )
    merged = result.point
    if options.json:
        data = point_json(repository.set(backup_set.name), merged)
        print_json({"event": "result", "way": result.way, **data})
    else:
        say(f"Point {merged.sequence} is now a {merged.type} of {size(merged.stored_bytes)}.")
        say(result.way.sentence)
    relink_machines(repository)
    return DONE


def adopt(options: argparse.Namespace) -> int:
    """Take a chain that another program made into the repository."""
    from vdbackup.backup import adopt, capture
    from vdbackup.repository.repository import Repository
    from vdbackup.sources.source import open_source

    @contextmanager
    def planned() -> Iterator[adopt.AdoptPlan]:
        with open_source(options.tip, options.parents_in, options.source_format) as source:
            capture.check_apart(source, options.repository)
            repository = Repository.open_or_create(options.repository)
            yield adopt.plan(repository, source, set_name=options.set, disk_format=options.format)

    def again(report: Report, cancel: CancelToken) -> BackupSet:
        with planned() as plan:
            return adopt.run(plan, report, cancel)

    with planned() as plan:
        if not announce(plan, options):
            return DONE
        adopted = work(
            "Adopt",
            lambda report, cancel: adopt.run(plan, report, cancel),
            as_json=options.json,
            wait=options.wait,
            again=again,
        )
    return _show_new_set(adopted, options)


def convert(options: argparse.Namespace) -> int:
    """Copy a set into a new one in another format."""
    from vdbackup.backup import convert

    repository = open_repository(options.repository, as_json=options.json)
    plan = convert.plan(repository, repository.set(options.set).name, options.format, options.to)
    if not announce(plan, options):
        return DONE
    converted = work(
        "Convert",
        lambda report, cancel: convert.run(plan, report, cancel),
        as_json=options.json,
        wait=options.wait,
    )
    return _show_new_set(converted, options)


def _show_new_set(made: BackupSet, options: argparse.Namespace) -> int:
    if options.json:
        print_json({"event": "result", **_set_json(made)})
    else:
        count = len(made.points)
        say(f"The set {made.name} holds {count} recovery point{'s' if count > 1 else ''}.")
    return DONE


def delete(options: argparse.Namespace) -> int:
    """Delete a recovery point."""
    from vdbackup.backup import delete

    repository = open_repository(options.repository, as_json=options.json)
    backup_set, point = repository.find(options.point, options.set)
    plan = delete.plan(repository, backup_set.name, point.id)
    if not announce(plan, options):
        return DONE
    if plan.last and not options.yes:
        _ask_to_delete(plan.set_name)
    work(
        "Delete",
        lambda report, cancel: delete.run(plan, report, cancel),
        as_json=options.json,
        wait=options.wait,
    )
    if options.json:
        print_json({"event": "result", "deleted": point.id})
    relink_machines(repository)
    return DONE


def _ask_to_delete(set_name: str) -> None:
    """Raise Cancelled unless the user says yes; BackupError where there is nobody to ask."""
    if not sys.stdin.isatty():
        raise BackupError(
            f"It is the last point of {set_name}, and no backup of its source would remain.",
            "Say with --yes that this is meant.",
        )
    output.complain(printable(f"Delete the last point of {set_name}? [y/N] "), end="")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Cancelled("Nothing was deleted.", "")


def restore(options: argparse.Namespace) -> int:
    """Restore or export a point."""
    from vdbackup.recovery import restore

    repository = open_repository(options.repository, as_json=options.json)
    backup_set, point = repository.find(options.point, options.set)
    plan = restore.plan(
        repository,
        backup_set.name,
        point.id,
        options.target,
        disk_format=options.format or restore.format_of(options.target),
        overwrite=options.overwrite,
        ignore_damage=options.ignore_damage,
    )
    if not announce(plan, options):
        return DONE
    warnings = work(
        "Restore", lambda report, cancel: restore.run(plan, report, cancel), as_json=options.json
    )
    if options.json:
        print_json({"event": "result", "target": str(options.target), "warnings": warnings})
    warn(warnings)
    return WARNINGS if warnings else DONE


def verify(options: argparse.Namespace) -> int:
    """Check that points are as they were captured."""
    from vdbackup.recovery import verify

    repository = open_repository(options.repository, as_json=options.json)
    backup_set = repository.set(options.set)
    wanted = tuple(repository.find(each, options.set)[1].id for each in options.points)
    plan = verify.plan(repository, backup_set.name, wanted or None)
    verdicts: list[verify.Verdict] = work(
        "Verify",
        lambda report, cancel: verify.run(plan, report, cancel),
        as_json=options.json,
        wait=options.wait,
    )
    unknown = () if options.points else backup_set.broken
    if options.json:
        said = {"points": [_verdict_json(each) for each in verdicts]}
        print_json({"event": "result", **said, "damaged": [_broken_json(each) for each in unknown]})
    else:
        for verdict in verdicts:
            say(f"Point {verdict.point.sequence}: {'ok' if verdict.ok else 'DAMAGED'}")
            for finding in verdict.findings:
                where = "" if finding.offset is None else f" at {finding.offset}"
                say(f"  {finding.file}{where}: {finding.problem}")
        for each in unknown:
            say(f"Point {each.sequence}: {_state(each)}")
            say(f"  {each.name}: {each.problem.title}")
    damaged = [str(each.point.sequence) for each in verdicts if not each.ok]
    damaged += [str(each.sequence) for each in unknown if not each.refused]
    if damaged:
        raise Damaged(
            f"Damaged: point{'' if len(damaged) == 1 else 's'} {', '.join(damaged)}.",
            "Use another point, or `restore --ignore-damage` for what is whole; make a new full.",
        )
    return WARNINGS if unknown else DONE


def _verdict_json(verdict: Any) -> dict[str, Any]:
    return {
        "id": verdict.point.id,
        "sequence": verdict.point.sequence,
        "ok": verdict.ok,
        "findings": [vars(finding) for finding in verdict.findings],
    }


def repair(options: argparse.Namespace) -> int:
    """Finish what was interrupted; rebuild missing metadata. 1 where something could not be."""
    from vdbackup.backup import repair

    said: repair.Repaired = work(
        "Repair",
        lambda report, cancel: repair.run(options.repository, report, cancel),
        as_json=options.json,
        wait=options.wait,
    )
    if options.json:
        print_json({"event": "result", "done": said.done, "undone": said.undone})
    else:
        nothing = [] if said.undone else ["Nothing had to be repaired."]
        for sentence in said.done or nothing:
            say(sentence)
        warn(said.undone)
    return FAILED if said.undone else DONE


def files(options: argparse.Namespace) -> int:
    """List files inside a point."""
    from vdbackup.recovery.browse import FileBrowser
    from vdbackup.repository import claims

    repository = open_repository(options.repository)
    backup_set, point = repository.find(options.point, options.set)
    doing = f"listing files of point {point.sequence}"
    with claims.open_point(repository, backup_set.name, point.id, doing) as chain:
        browser = FileBrowser(chain)
        entries, warnings = browser.listing(options.path), browser.warnings([options.path])
    if options.json:
        print_json([{**vars(entry), "kind": str(entry.kind)} for entry in entries])
    else:
        for entry in entries:
            name = entry.name + ("/" if entry.kind == "folder" else "")
            say(f"{entry.size:>14}  {(entry.modified or '')[:19]:<19}  {name}")
    warn(warnings)
    return WARNINGS if warnings else DONE


def extract(options: argparse.Namespace) -> int:
    """Copy files out of a point."""
    from vdbackup.recovery.browse import FileBrowser
    from vdbackup.repository import claims

    repository = open_repository(options.repository, as_json=options.json)
    backup_set, point = repository.find(options.point, options.set)
    doing = f"extracting files of point {point.sequence}"
    with claims.open_point(repository, backup_set.name, point.id, doing) as chain:
        browser = FileBrowser(chain)
        warnings = work(
            "Extract",
            lambda report, cancel: browser.extract(
                options.paths, options.destination, report, cancel
            ),
            as_json=options.json,
        )
    if options.json:
        print_json({"event": "result", "warnings": warnings})
    warn(warnings)
    return WARNINGS if warnings else DONE


def info(options: argparse.Namespace) -> int:
    """Describe a virtual disk and its chain."""
    from vdbackup.disks.chain import Chain
    from vdbackup.disks.contents import decide
    from vdbackup.disks.extents import total
    from vdbackup.errors import SourceError

    if not options.disk.exists():
        raise SourceError(f"There is no {options.disk}.", "Check the path.")
    if options.disk.is_dir():
        raise SourceError(f"{options.disk} is a folder.", "Give a virtual disk file.")
    decision = decide(options.disk, options.source_format)
    with Chain.open(options.disk, decision.disk_format, options.parents_in) as chain:
        doubts = [f"{each.path} {each.info.unclean}." for each in chain.layers if each.info.unclean]
        doubts = [*filter(None, [decision.doubt]), *doubts]
        layers: list[dict[str, Any]] = [
            {
                "path": str(layer.path),
                "format": layer.info.format,
                "virtual_size": layer.info.virtual_size,
                "sector_size": layer.info.sector_size,
                "block_size": layer.info.block_size,
                "disk_id": layer.info.disk_id,
                "content_id": layer.info.content_id,
                "parent": layer.info.parent.relative_path if layer.info.parent else None,
                "stored_bytes": total(layer.block_map().data_ranges()),
            }
            for layer in reversed(chain.layers)
        ]
    if options.json:
        print_json({**layers[0], "chain": layers, "warnings": doubts})
    for number, layer in enumerate([] if options.json else layers):
        say(f"{'parent: ' if number else ''}{layer['path']}")
        say(f"  format        {layer['format']}, blocks of {size(layer['block_size'])}")
        say(f"  virtual size  {size(layer['virtual_size'])} ({layer['virtual_size']} bytes)")
        say(f"  stored        {size(layer['stored_bytes'])}")
        say(f"  identity      {layer['disk_id'] or '-'}, content {layer['content_id'] or '-'}")
    warn(doubts)
    return WARNINGS if doubts else DONE


def demo(options: argparse.Namespace) -> int:
    """Tell the whole story on a small bootable disk made on the spot."""
    from vdbackup.demo import Demo

    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(TemporaryDirectory(prefix="vdbackup-")))
        story: Demo = Demo(folder, tell=say)
        proofs = work("Demo", lambda _report, cancel: story.run(cancel), as_json=False)
    say("")
    table(("what", "proof", "seconds"), [(p.claim, p.evidence, f"{p.seconds:.1f}") for p in proofs])
    if options.folder:
        say("")
        say(f"Everything is kept in {options.folder}; `vdbackup list -r {story.repository}`.")
    return DONE
