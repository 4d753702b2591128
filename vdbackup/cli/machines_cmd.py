"""Commands that start machines: boot and retarget; and how a machine is watched."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup.cli import remedies
from vdbackup.cli.common import (
    DONE,
    WARNINGS,
    announce,
    find_state,
    open_repository,
    sessions_folder,
)
from vdbackup.cli.console import print_json, say, warn, work
from vdbackup.cli.options import (
    CONTROLLERS,
    Subparsers,
    changing_options,
    hardware_options,
    json_option,
    machine_option,
    new_command,
    point_options,
    state_options,
    watching_options,
)
from vdbackup.cli.values import set_and_point
from vdbackup.translation import tr, trn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from vdbackup.guest.hardware import Hardware, HardwareRequest
    from vdbackup.jobs import CancelToken, Task
    from vdbackup.operations.retarget import RetargetResult
    from vdbackup.recovery.retarget.report import FileChange
    from vdbackup.recovery.sessions.session import Session
    from vdbackup.repository.model import RecoveryPoint


def add_boot(subparsers: Subparsers) -> None:
    """The command `boot`, and what it can be told."""
    parser = new_command(
        subparsers,
        "boot",
        boot,
        tr("boot a virtual machine from a point; its writes are dropped unless kept"),
        example="boot -r /mnt/backups latest --network",
        failed=tr("it did not start, or what was waited for did not come"),
        warned=tr("the picture of its screen could not be taken, or a disk was left out"),
    )
    state_options(parser)
    machine_option(parser)
    parser.add_argument(
        "--without-missing", action="store_true",
        help=tr("of a machine: start it with the disks that are there, where some are lost"),
    )  # fmt: skip
    parser.add_argument(
        "--protect", action="store_true",
        help=tr("keep each of its writes beside the point: any moment of it can be had later"),
    )  # fmt: skip
    parser.add_argument(
        "--attach", type=set_and_point, action="append", default=[], metavar="SET[/POINT]",
        help=tr(
            "also give it the disk of that point, such as one of chosen files, behind its own; "
            "the point stays as it is; repeatable"
        ),
    )  # fmt: skip
    parser.add_argument("--keep", action="store_true", help=tr("keep what it writes, as a session"))
    watching_options(parser)
    hardware_options(parser)
    json_option(parser)


def boot(options: argparse.Namespace) -> int:
    """Boot a virtual machine from a point; what it writes is thrown away, unless it is kept."""
    from vdbackup.errors import NotReached
    from vdbackup.records import to_json
    from vdbackup.recovery.boot_test import boot_test
    from vdbackup.recovery.retarget.report import machines_hardware, wish_for
    from vdbackup.recovery.sessions.attached import Attachment
    from vdbackup.recovery.sessions.protection import LIMIT
    from vdbackup.recovery.sessions.vm import start_from_points
    from vdbackup.repository.machine import points_together, usable_together
    from vdbackup.repository.model import BootTest
    from vdbackup.repository.written import is_moment

    repository = open_repository(options.repository, as_json=options.json)
    backup_set, point = find_state(repository, options.point, options)
    wanted, missing = request(options), tuple[str, ...]()
    if options.without_missing:
        points, missing = usable_together(repository, backup_set, point)
        _say_missing(missing, points)
    else:
        points = points_together(repository, backup_set, point)
    started = time.monotonic()
    session, outcome, text = follow(
        lambda: start_from_points(
            repository,
            points,
            attach=[Attachment(repository.path, *each) for each in options.attach],
            sessions_folder=sessions_folder(),
            # a report speaks of all disks: what boots without some is found out anew
            hardware=None if missing else machines_hardware(repository, backup_set, point, wanted),
            request=wish_for(backup_set, point, wanted),
            display=not options.headless,
            keep_writes=LIMIT if options.protect else None,
        ),
        options,
        keep=options.keep,
    )
    seconds = time.monotonic() - started
    if options.until and not is_moment(point.id):
        test = BootTest(boot_test.now(), outcome, round(seconds, 1))
        work(
            tr("Recording the boot test"),
            lambda task: boot_test.record(
                repository, backup_set.name, point.id, test, None, task.cancel
            ),
            as_json=options.json,
        )
    if options.json:
        data = {"accelerator": session.accelerator, "seconds": round(seconds, 2), "console": text}
        hardware = to_json(session.hardware)
        print_json({"event": "result", "reached": outcome, **data, "hardware": hardware})
    if not outcome:
        raise NotReached(missed(options, seconds), last_words(text))
    if options.until and not options.json:
        say(
            tr(
                "{until!r} appeared after {seconds:.1f} s ({accelerator}).",
                until=options.until,
                seconds=seconds,
                accelerator=session.accelerator,
            )
        )
    pictured = not options.screenshot or options.screenshot.exists()
    return DONE if pictured and not missing else WARNINGS


def _say_missing(missing: Sequence[str], points: Mapping[str, RecoveryPoint]) -> None:
    """Which disks a machine is started without; raises NotWhole where there is none at all."""
    from vdbackup.errors import NotWhole

    if not points:
        raise NotWhole(tr("No disk of that moment can be used."), tr("Use another moment."))
    if missing:
        warn(
            [
                trn(
                    "The machine starts without {missing}, which is missing or damaged.",
                    "The machine starts without {missing}, which are missing or damaged.",
                    len(missing),
                    missing=", ".join(missing),
                )
            ]
        )


def add_retarget(subparsers: Subparsers) -> None:
    """The command `retarget`, and what it can be told."""
    parser = new_command(
        subparsers,
        "retarget",
        retarget,
        tr("make a point's machine ready to boot on other hardware, in its overlay alone"),
        example="retarget -r /mnt/backups latest --hardware virtio --dry-run",
        failed=tr("the overlay is as it was"),
        warned=tr("something still stands in the way of a boot"),
    )
    point_options(parser)
    parser.add_argument(
        "--hardware", default="auto", choices=["auto", "none", *CONTROLLERS],
        help=tr(
            "auto: what it has drivers for, and changes only if nothing else boots it; none: an "
            "empty overlay again"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--drivers", type=Path, metavar="DIR",
        help=tr("of Windows: the folder with drivers that it lacks, as virtio-win.iso holds them"),
    )  # fmt: skip
    parser.add_argument(
        "--with", dest="program", choices=["virt-v2v"],
        help=tr("let virt-v2v, where it is installed, make the machine ready for virtio"),
    )  # fmt: skip
    changing_options(parser)


def retarget(options: argparse.Namespace) -> int:
    """Make a point's machine ready to boot on other hardware: on its overlay alone."""
    from vdbackup.errors import UsageError
    from vdbackup.operations import retarget
    from vdbackup.records import to_json

    if options.program and (options.hardware not in ("auto", "virtio") or options.drivers):
        raise UsageError(
            tr(
                "{program} makes a machine ready for virtio, with drivers of its own.",
                program=options.program,
            ),
            tr("Leave out --hardware and --drivers, or --with."),
        )
    wanted = options.program or options.hardware
    repository = open_repository(options.repository, as_json=options.json)
    backup_set, point = repository.find(options.point, options.set)
    plan = retarget.plan(repository, backup_set.name, point.id, wanted, options.drivers)
    if options.dry_run and options.json:
        described = {"wish": plan.wish, "guest": plan.guest, "hardware": plan.hardware}
        details = {name: to_json(value) for name, value in described.items()}
        changes = [to_json(change) for change in plan.edits.changes]
        print_json({"event": "plan", "summary": plan.summary, **details, "changes": changes})
        return _blocked(plan.hardware)
    if not announce(plan, options):
        _say_what_changes(plan.hardware, plan.edits.changes)
        _warn_of(plan.hardware)
        return _blocked(plan.hardware)
    retargeted: RetargetResult = work(
        tr("Retarget"),
        lambda task: retarget.run(plan, sessions_folder(), task),
        as_json=options.json,
        wait=options.wait,
    )
    report = retargeted.report
    if options.json:
        print_json({"event": "result", "report": to_json(report)})
    elif report is not None:
        _say_what_changes(report.hardware, report.changes)
        for note in report.notes:
            say(note)
        say(tr("It took {milliseconds:.1f} s.", milliseconds=report.milliseconds / 1000))
    if report is None:
        return DONE
    _warn_of(report.hardware)
    return _blocked(report.hardware)


def _warn_of(hardware: Hardware | None) -> None:
    """Why a machine will not boot, or may not, and what to do."""
    warn([f"{each.sentence} {each.advice}" for each in hardware.problems] if hardware else [])


def _blocked(hardware: Hardware | None) -> int:
    """The exit status of what is ready to boot, or is not."""
    return WARNINGS if hardware and any(each.blocks for each in hardware.problems) else DONE


def _say_what_changes(hardware: Hardware | None, changes: Iterable[FileChange]) -> None:
    """The reasons for the hardware, and each file as lines that go and lines that come."""
    import difflib

    for reason in hardware.reasons if hardware else ():
        say(reason)
    for change in changes:
        say(f"{change.volume}:{change.path}")
        lines = difflib.unified_diff(
            change.before.splitlines(), change.after.splitlines(), lineterm="", n=0
        )
        for line in list(lines)[2:]:
            if not line.startswith("@@"):
                say(f"  {line}")


def request(options: argparse.Namespace) -> HardwareRequest:
    """What the options of `boot` say about the machine's hardware."""
    from vdbackup.guest.hardware import Controller, HardwareRequest
    from vdbackup.guest.model import Firmware

    return HardwareRequest(
        controller=None if options.hardware == "auto" else Controller(options.hardware),
        firmware=None if options.firmware == "auto" else Firmware(options.firmware),
        memory_mib=options.memory,
        network=options.network,
    )


def _doubts(session: Session) -> list[str]:
    """Why the machine may be slow, or may not boot."""
    hardware = session.hardware
    unkept = "" if session.keeps_writes else session.protection
    doubts = [
        session.notice,
        session.unheld,
        unkept,
        *(problem.sentence for problem in hardware.problems),
    ]
    if hardware.edit.needed:
        doubts.append(tr("The system's own disk would have to be changed for this hardware."))
    return [doubt for doubt in doubts if doubt]


def follow(
    start: Callable[[], Session], options: argparse.Namespace, *, keep: bool
) -> tuple[Session, bool, str]:
    """Start a machine, watch it and end it: all in one job, so that no Ctrl-C leaves a QEMU alone.

    What it wrote is kept if that is wanted, and after a crash of QEMU, or when its window was
    closed, or when a machine that nobody tests was ended by a signal: then nobody has said that it
    may go.

    Returns:
        The machine's session, whether what was asked for came, and what the console shows.
    """

    def run(task: Task) -> tuple[Session, bool, str]:
        with start() as session:
            warn(_doubts(session))
            if not options.json:
                say(" ".join(session.hardware.reasons))
                if session.keeps_writes and session.protection:
                    say(session.protection)
            try:
                outcome = _watch(session, options, task.cancel)
                return session, outcome, session.console_text()
            finally:
                unasked = task.cancel.cancelled and not options.until
                if keep or unasked or session.crashed or session.cut_off:
                    session.keep()
                    warn(
                        [
                            tr(
                                "What it wrote is kept: `vdbackup sessions reopen {id}`.",
                                id=session.id,
                            )
                        ]
                    )

    ended: tuple[Session, bool, str] = work(tr("Boot"), run, as_json=options.json)
    return ended


def missed(options: argparse.Namespace, seconds: float) -> str:
    """What did not happen, in a sentence."""
    if not options.until:
        return tr(
            "The machine was still running after {timeout:g} s, and was ended.",
            timeout=options.timeout,
        )
    if options.timeout and seconds >= options.timeout:
        return tr(
            "The machine did not print {until!r} within {timeout:g} s.",
            until=options.until,
            timeout=options.timeout,
        )
    return tr(
        "The machine ended after {seconds:.0f} s without printing {until!r}.",
        seconds=seconds,
        until=options.until,
    )


def last_words(text: str) -> str:
    """What the machine said last, in a sentence."""
    if not text.strip():
        return tr("It printed nothing on its serial console; --screenshot shows its screen.")
    return tr("Its last words: {line!r}.", line=text.strip().splitlines()[-1][:200])


def _watch(session: Session, options: argparse.Namespace, cancel: CancelToken) -> bool:
    """Wait for what was asked for; whether it came in time."""
    try:
        if options.until:
            return session.wait_for_text(options.until, timeout=options.timeout, cancel=cancel)
        return _wait_for_end(session, options.timeout, cancel)
    finally:
        if options.screenshot:
            _take_picture(session, options.screenshot)


def _wait_for_end(session: Session, timeout: float | None, cancel: CancelToken) -> bool:
    """Whether the machine ended in time; one that is paused for want of space may go on later."""
    from vdbackup.errors import RecoveryError

    while True:
        try:
            return session.wait(timeout=timeout, cancel=cancel)
        except RecoveryError as error:
            if not session.paused or timeout is not None:
                raise
            then = tr("Then: `vdbackup sessions resume {id}`.", id=session.id)
            warn([error.title, f"{remedies.advice(error)} {then}".lstrip()])
            session.wait_while_paused(cancel)


def _take_picture(session: Session, file: Path) -> None:
    """Save the screen; a machine that has switched itself off has none, which is no failed boot."""
    from vdbackup.errors import RecoveryError

    try:
        session.screenshot(file)
    except RecoveryError as error:
        warn([tr("There is no picture of the screen: {error}", error=error.title)])
