"""Commands that care for what is there: merge, delete, verify, repair."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vdbackup.cli.against_source import verify_against_source
from vdbackup.cli.common import (
    DONE,
    WARNINGS,
    announce,
    confirm,
    find,
    finish_merges,
    machines,
    open_repository,
    said_of,
    told_of,
    unread_state,
)
from vdbackup.cli.console import print_json, say, warn, work
from vdbackup.cli.json_values import broken_json, point_json
from vdbackup.cli.options import (
    POINT_HELP,
    Subparsers,
    changing_options,
    json_option,
    machine_option,
    new_command,
    repository_options,
    wait_option,
)
from vdbackup.cli.values import (
    positive,
)
from vdbackup.errors import Damaged, NotRepaired, UsageError, VdbackupError
from vdbackup.jobs import Plan, Task, Work
from vdbackup.jobs import readable_size as size
from vdbackup.translation import tr, trn

if TYPE_CHECKING:
    from pathlib import Path

    from vdbackup.operations.merge import MergeResult
    from vdbackup.operations.several import Patience
    from vdbackup.recovery.verify import Verdict
    from vdbackup.repository.repository import Repository

RANGE = ".."
"""Between the oldest and the newest point of a range."""


def add_merge(subparsers: Subparsers) -> None:
    """The command `merge`, and what it can be told."""
    parser = new_command(
        subparsers,
        "merge",
        merge,
        tr("roll a point into its parent, or several that follow each other into one"),
        example="merge -r /mnt/backups 3..7 --dry-run",
        failed=tr("nothing was merged"),
        warned=tr(
            "what had been cut off was finished instead, or another program's machine still has a "
            "layer's old name"
        ),
    )
    repository_options(parser)
    parser.add_argument(
        "points", nargs="+", metavar="POINT",
        help=tr(
            "{point_help}; OLDEST..NEWEST, or several, for all from the oldest to the newest, "
            "which are rolled into the newest one's moment",
            point_help=POINT_HELP,
        ),
    )  # fmt: skip
    machine_option(parser)
    changing_options(parser)


def merge(options: argparse.Namespace) -> int:
    """Roll a point into its parent, or several into one."""
    from vdbackup.repository.repository import Repository

    repository, allowed = Repository.open(options.repository), machines()
    finished = finish_merges(repository, allowed, as_json=options.json)
    if finished.done or finished.undone:
        # it may be this very merge that is asked for again: going on would merge one step further
        warn([*told_of(finished), tr("Nothing else was merged: look at `vdbackup list` first.")])
        warn(said_of(finished.trouble))
        if options.json:
            sentences = [*finished.done, *map(str, finished.undone)]
            print_json({"event": "result", "way": None, "finished": sentences})
        return WARNINGS
    plan, do = _planned_merge(repository, options, allowed.sessions_folder)
    if not announce(plan, options):
        return DONE
    result: MergeResult = work(tr("Merge"), do, as_json=options.json, wait=options.wait)
    merged = result.point
    if options.json:
        data = point_json(repository.set(result.set_name), merged)
        print_json({"event": "result", "way": result.way, **data})
    else:
        say(
            tr(
                "Point {merged} is now a {type} of {size}.",
                merged=merged.sequence,
                type=tr(merged.type),
                size=size(merged.stored_bytes),
            )
        )
        say(result.way.sentence)
    warn(said_of(result.trouble))
    return WARNINGS if result.trouble else DONE


def _planned_merge(
    repository: Repository, options: argparse.Namespace, sessions: Path
) -> tuple[Plan, Work[MergeResult]]:
    """What is to be merged, and what does that."""
    from vdbackup.operations import merge, several

    one = len(options.points) == 1 and RANGE not in options.points[0]
    name, ids = _named(repository, [end for each in options.points for end in _ends(each)], options)
    if one:
        plan = merge.plan(repository, name, ids[0])
        return plan, lambda task: merge.run(plan, sessions, task)
    of_range = several.plan_merge(repository, name, ids)
    return of_range, lambda task: several.merge_range(of_range, sessions, task, _patience(options))


def _ends(reference: str) -> list[str]:
    """Of a range both, else the one that is named; raises UsageError."""
    ends = reference.split(RANGE, 1)
    if len(ends) > 1 and not all(ends):
        raise UsageError(
            tr("{reference} has one end, and a range has two.", reference=reference),
            tr("Say it as 3..7."),
        )
    return ends


def _named(
    repository: Repository, references: Sequence[str], options: argparse.Namespace
) -> tuple[str, list[str]]:
    """The set that these points are of, and their ids, each once."""
    found = [find(repository, each, options) for each in references]
    backup_set, _ = found[0]  # what is no machine's names its set, and so all are of one
    return backup_set.name, list(dict.fromkeys(point.id for _, point in found))


def _patience(options: argparse.Namespace) -> Patience:
    """What is waited for between two of several points, once one of them is done."""
    from vdbackup.operations.several import USUAL, Patience

    return USUAL if options.wait is None else Patience(options.wait, VdbackupError)


def add_delete(subparsers: Subparsers) -> None:
    """The command `delete`, and what it can be told."""
    parser = new_command(
        subparsers,
        "delete",
        delete,
        tr("delete recovery points"),
        example="delete -r /mnt/backups 3 5 7 --dry-run",
        failed=tr("nothing was deleted, or of several not all"),
        warned=tr("another program's machine still has a layer's old name"),
    )
    repository_options(parser)
    parser.add_argument("points", nargs="+", metavar="POINT", help=POINT_HELP)
    machine_option(parser)
    parser.add_argument("--yes", action="store_true", help=tr("even the last point of its set"))
    changing_options(parser)


def delete(options: argparse.Namespace) -> int:
    """Delete recovery points."""
    from vdbackup.repository.repository import Repository

    repository, allowed = Repository.open(options.repository), machines()
    finished = finish_merges(repository, allowed, as_json=options.json)
    warn(told_of(finished))  # what could not be relinked is tried again, and said, at the end
    name, ids = _named(repository, options.points, options)
    plan, takes_all, do = _planned_deletion(repository, name, ids, options, allowed.sessions_folder)
    if not announce(plan, options):
        return DONE
    if takes_all and not options.yes:
        confirm(
            trn(
                "Delete the last point of {set_name}?",
                "Delete the last points of {set_name}?",
                len(ids),
                set_name=name,
            ),
            trn(
                "It is the last point of {set_name}, and no backup of its source would remain.",
                "They are the last points of {set_name}: no backup of its source would remain.",
                len(ids),
                set_name=name,
            ),
            tr("Nothing was deleted."),
        )
    gone, trouble = work(tr("Delete"), do, as_json=options.json, wait=options.wait)
    if options.json:
        print_json({"event": "result", "deleted": gone[-1], "points": list(gone)})
    warn(said_of(trouble))
    return WARNINGS if trouble else DONE


def _planned_deletion(
    repository: Repository,
    name: str,
    ids: Sequence[str],
    options: argparse.Namespace,
    sessions: Path,
) -> tuple[Plan, bool, Work[tuple[tuple[str, ...], tuple[VdbackupError, ...]]]]:
    """What is to be deleted, whether no point is left then, and what does that.

    It results in the ids of what is gone, and in what went wrong after it.
    """
    from vdbackup.operations import delete, several

    if len(ids) == 1:
        plan = delete.plan(repository, name, ids[0])

        def one(task: Task) -> tuple[tuple[str, ...], tuple[VdbackupError, ...]]:
            result = delete.run(plan, sessions, task)
            return (result.point_id,), result.trouble

        return plan, plan.last, one
    of_several = several.plan_delete(repository, name, ids)

    def each(task: Task) -> tuple[tuple[str, ...], tuple[VdbackupError, ...]]:
        result = several.delete_several(of_several, sessions, task, _patience(options))
        return result.ids, result.trouble

    return of_several, of_several.takes_all, each


def add_verify(subparsers: Subparsers) -> None:
    """The command `verify`, and what it can be told."""
    parser = new_command(
        subparsers,
        "verify",
        verify,
        tr("check that points are as they were captured"),
        example="verify -r /mnt/backups",
        failed=tr("a point is damaged, or the tracker of a source has missed changes"),
        warned=tr("a point may not be read, or the source was not read as it was at one moment"),
    )
    repository_options(parser)
    parser.add_argument(
        "points",
        nargs="*",
        metavar="POINT",
        help=tr("{point_help}; all if none", point_help=POINT_HELP),
    )
    parser.add_argument(
        "--against-source", action="store_true",
        help=tr(
            "read the set's source as a whole instead, and compare it with POINT, or with the "
            "newest: whatever differs has to be marked as changed since, where changes are tracked"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--sample",
        type=positive,
        metavar="N",
        help=tr("the N points that were verified the longest ago, or never"),
    )
    wait_option(parser)
    json_option(parser)


def verify(options: argparse.Namespace) -> int:
    """Check that points are as they were captured."""
    from vdbackup.recovery import verify

    if options.sample and (options.points or options.against_source):
        raise UsageError(
            tr("A sample is chosen automatically."), tr("Leave out the points, or --sample.")
        )
    if options.against_source:
        return verify_against_source(options)
    repository = open_repository(options.repository, as_json=options.json)
    backup_set = repository.set(options.set)
    wanted = tuple(repository.find(each, options.set)[1].id for each in options.points)
    if options.sample:
        wanted = verify.longest_ago(backup_set, options.sample)
    plan = verify.plan(repository, backup_set.name, wanted or None)
    verdicts: list[verify.Verdict] = work(
        tr("Verify"),
        lambda task: verify.run(plan, task),
        as_json=options.json,
        wait=options.wait,
    )
    unknown = () if wanted else backup_set.broken
    if options.json:
        checked = {"points": [verdict_json(each) for each in verdicts]}
        print_json(
            {"event": "result", **checked, "damaged": [broken_json(each) for each in unknown]}
        )
    else:
        for verdict in verdicts:
            say(
                tr("Point {point}: ok", point=verdict.point.sequence)
                if verdict.ok
                else tr("Point {point}: DAMAGED", point=verdict.point.sequence)
            )
            for finding in verdict.findings:
                where = "" if finding.offset is None else tr(" at {offset}", offset=finding.offset)
                say(f"  {finding.file}{where}: {finding.problem}")
        for each in unknown:
            say(tr("Point {which}: {which_2}", which=each.sequence, which_2=unread_state(each)))
            say(f"  {each.name}: {each.problem.title}")
    damaged = [str(each.point.sequence) for each in verdicts if not each.ok]
    damaged += [str(each.sequence) for each in unknown if not each.refused]
    if damaged:
        raise Damaged(
            trn(
                "Damaged: point {damaged}.",
                "Damaged: points {damaged}.",
                len(damaged),
                damaged=", ".join(damaged),
            ),
            tr(
                "Use another point, or `restore --ignore-damage` for what is whole; make a new "
                "full."
            ),
        )
    return WARNINGS if unknown else DONE


def words_of_points(verdicts: Sequence[Verdict]) -> str:
    """Which points they are of: "point 3", "points 3, 4"."""
    numbers = ", ".join(str(each.point.sequence) for each in verdicts)
    return trn("point {numbers}", "points {numbers}", len(verdicts), numbers=numbers)


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """What was found out about a point."""
    return {
        "id": verdict.point.id,
        "sequence": verdict.point.sequence,
        "ok": verdict.ok,
        "findings": [vars(finding) for finding in verdict.findings],
    }


def add_repair(subparsers: Subparsers) -> None:
    """The command `repair`, and what it can be told."""
    parser = new_command(
        subparsers,
        "repair",
        repair,
        tr("finish what was interrupted; rebuild missing metadata from the disks"),
        example="repair -r /mnt/backups",
        failed=tr("something cannot be repaired"),
        warned=tr("another program's machine still has a layer's old name"),
    )
    repository_options(parser, in_set=False)
    wait_option(parser)
    json_option(parser)


def repair(options: argparse.Namespace) -> int:
    """Finish what was interrupted; rebuild missing metadata."""
    from vdbackup.operations import repair

    allowed = machines()
    repaired: repair.RepairResult = work(
        tr("Repair"),
        lambda task: repair.run(options.repository, allowed.sessions_folder, task),
        as_json=options.json,
        wait=options.wait,
    )
    if options.json:
        undone = [str(each) for each in repaired.undone]
        print_json({"event": "result", "done": repaired.done, "undone": undone})
    else:
        nothing = [] if repaired.undone else [tr("Nothing had to be repaired.")]
        for sentence in repaired.done or nothing:
            say(sentence)
        warn(said_of(repaired.undone))
    warn(said_of(repaired.trouble))
    if repaired.undone:
        raise NotRepaired(
            tr("Not all could be repaired."),
            tr("Bring back from a copy what could not, then have it repaired again."),
        )
    return WARNINGS if repaired.trouble else DONE
