"""The command that proves that recovery points boot, and what a backup tests automatically."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vdbackup.cli import machines_cmd, remedies
from vdbackup.cli.common import DONE, WARNINGS, find, open_repository, sessions_folder
from vdbackup.cli.console import print_json, say, warn, work
from vdbackup.cli.json_values import boot_test_json, error_json
from vdbackup.cli.options import (
    POINT_HELP,
    Subparsers,
    hardware_options,
    json_option,
    machine_option,
    new_command,
    repository_options,
)
from vdbackup.cli.values import (
    sensible_seconds,
)
from vdbackup.errors import Cancelled, DoesNotBoot, NoSystem, UsageError, VdbackupError
from vdbackup.translation import tr

if TYPE_CHECKING:
    from vdbackup.operations.backup import BackupResult
    from vdbackup.operations.machine_backup import MachineResult
    from vdbackup.operations.machines import Machines
    from vdbackup.recovery.boot_test.boot_test import BootTestOptions
    from vdbackup.repository.backup_set import BackupSet
    from vdbackup.repository.model import BootTest, RecoveryPoint
    from vdbackup.repository.repository import DamagedSet, Repository


def add_boot_test(subparsers: Subparsers) -> None:
    """The command `boot-test`, and what it can be told."""
    parser = new_command(
        subparsers,
        "boot-test",
        boot_test,
        tr("prove that points boot, and note it"),
        example="boot-test -r /mnt/backups --new",
        failed=tr("a point does not boot, or cannot be tested"),
        warned=tr("a damaged set was passed over"),
    )
    repository_options(parser)
    machine_option(parser)
    parser.add_argument(
        "points",
        nargs="*",
        metavar="POINT",
        help=tr("{point_help}; the latest if left out", point_help=POINT_HELP),
    )
    parser.add_argument(
        "--new",
        action="store_true",
        help=tr("all points that have not been tested yet, of all sets"),
    )
    parser.add_argument(
        "--sign", default="auto", metavar="SIGN",
        help=tr(
            "of life: login, screen, agent, text:WORDS, regex:PATTERN, or auto: whichever of the "
            "first three comes first (default: auto)"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=sensible_seconds, metavar="SECONDS",
        help=tr("for each point (default: 180, or 900 where there is no KVM)"),
    )  # fmt: skip
    hardware_options(parser)
    json_option(parser)


def boot_test(options: argparse.Namespace) -> int:
    """Boot points one after the other; a point that cannot be tested does not stop the others."""
    repository = open_repository(options.repository, as_json=options.json)
    chosen, damaged = _chosen(repository, options)
    if not (chosen or damaged or options.json):
        say(tr("All points have been tested."))
    from vdbackup.recovery.boot_test.boot_test import BootTestOptions

    request = BootTestOptions(
        sessions_folder(), options.sign, options.timeout, machines_cmd.request(options)
    )
    results = [
        _test(repository, backup_set, point, request, as_json=options.json)
        for backup_set, point in chosen
    ]
    failed = results.count(False)
    if not options.new:
        failed += results.count(None)  # who names a disk of data wants to hear that it boots not
    if failed:
        raise DoesNotBoot(
            tr("Of {count} points {failed} did not boot.", count=len(results), failed=failed),
            tr("What was seen of each stands above."),
        )
    return WARNINGS if damaged else DONE


def prove_new_point(
    made: BackupResult | MachineResult, allowed: Machines, *, as_json: bool
) -> bool:
    """Boot a point that has just been made; False where it fails.

    A disk of data has no system to boot, and nothing has failed.
    """
    backup_set = made.repository.set(made.set_name)
    point = backup_set.point(made.point.id)
    tested = _test(made.repository, backup_set, point, allowed.boot_test(), as_json=as_json)
    return tested is not False


def _chosen(
    repository: Repository, options: argparse.Namespace
) -> tuple[list[tuple[BackupSet, RecoveryPoint]], list[DamagedSet]]:
    """What is to be tested, and the sets that are passed over, which has been said."""
    from vdbackup.recovery.boot_test.boot_test import untested

    if not options.new:
        return [find(repository, each, options) for each in options.points or ["latest"]], []
    if options.points:
        raise UsageError(
            tr("With --new the points are chosen automatically."), tr("Leave out either of them.")
        )
    sets, damaged = repository.survey()
    if options.set:
        sets, damaged = [repository.set(options.set)], []
    warn(
        [
            tr("{which} is passed over: {problem}", which=each.name, problem=each.problem.title)
            for each in damaged
        ]
    )
    return [(each, point) for each in sets for point in untested(each)], damaged


def _test(
    repository: Repository,
    backup_set: BackupSet,
    point: RecoveryPoint,
    request: BootTestOptions,
    *,
    as_json: bool,
) -> bool | None:
    """Test one point, and say what came of it; whether it boots, None where there is no system."""
    from vdbackup.operations import boot_test

    name = f"{backup_set.name} #{point.sequence}"
    try:
        test: BootTest | NoSystem = work(
            tr("Boot test of {name}", name=name),
            lambda task: boot_test.run(repository, backup_set.name, point.id, request, task),
            as_json=as_json,
        )
    except (UsageError, Cancelled):
        raise
    except VdbackupError as error:
        warn(
            [tr("{name} could not be tested: {error}", name=name, error=remedies.sentences(error))]
        )
        if as_json:
            untested = {"set": backup_set.name, "id": point.id, "sentence": error.title}
            print_json({**error_json(error), **untested})
        return False
    if isinstance(test, NoSystem):
        _say_no_system(name, backup_set, point, test, as_json=as_json)
        return None
    if as_json:
        record = boot_test_json(backup_set, point, test)
        print_json(
            {
                "event": "result",
                "set": backup_set.name,
                "id": point.id,
                "sequence": point.sequence,
                **record,
            }
        )
    elif test.ok:
        say(
            tr(
                "{name} boots, in {seconds:.1f} s. {sentence}",
                name=name,
                seconds=test.seconds,
                sentence=test.sentence,
            )
        )
    if not test.ok:
        where = tr(
            "it stopped at the stage {stage}, after {seconds:.1f} s",
            stage=tr(str(test.stage)),
            seconds=test.seconds,
        )
        warn(
            [
                tr(
                    "{name} does not boot: {where}. {sentence}",
                    name=name,
                    where=where,
                    sentence=test.sentence,
                )
            ]
        )
    return test.ok


def _say_no_system(
    name: str, backup_set: BackupSet, point: RecoveryPoint, reason: NoSystem, *, as_json: bool
) -> None:
    if as_json:
        record = {"set": backup_set.name, "id": point.id, "sequence": point.sequence}
        print_json({"event": "result", **record, "ok": None, "sentence": reason.title})
    else:
        say(f"{name}: {remedies.sentences(reason)}")
