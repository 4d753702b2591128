"""What options of several commands mean, said once."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vdbackup.operations.policy import Change

from vdbackup.cli.values import (
    Limit,
    backups,
    file_size,
    hours,
    limit_or_off,
    number_or_off,
    points_kept,
    positive,
    sensible_seconds,
)
from vdbackup.cli.writes_options import writes_options
from vdbackup.disks.names import BACKUP_FORMATS, DiskFormat
from vdbackup.errors import UsageError
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.reference import Scheme, SourceRef
from vdbackup.translation import tr

POINT_HELP = tr(
    "an id, the unique start of one, a sequence number, or `latest`: the newest that was captured"
)
STATE_HELP = tr(
    "{point_help}; or a moment behind it: POINT@TIME, POINT@wWRITES (see `moments`)",
    point_help=POINT_HELP,
)
FORMAT_NAMES = tr(
    "{backup_formats} or {backup_formats_2}",
    backup_formats=", ".join(BACKUP_FORMATS[:-1]),
    backup_formats_2=BACKUP_FORMATS[-1],
)
CONTROLLERS = ("virtio", "virtio-scsi", "ahci", "ide", "nvme", "pvscsi", "lsi", "sas")
Subparsers = Any  # argparse does not name the type


def new_command(
    subparsers: Subparsers,
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    *,
    example: str,
    failed: str,
    warned: str = "",
) -> argparse.ArgumentParser:
    """A command's own parser; `command` in what it parses is the function to call.

    Args:
        subparsers: of the parser that it belongs to.
        name: what a user types.
        run: does it; returns the exit status.
        text: what it does, in a line.
        example: how it is typed, without the program's name.
        failed: what it means that it ends with 1.
        warned: what it means that it ends with 3; empty where it never does.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=text,
        description=sentence(text),
        epilog=epilog(example, failed, warned),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=run)
    return parser


def new_family(
    subparsers: Subparsers, name: str, text: str, *, example: str, failed: str
) -> Subparsers:
    """A command that has commands of its own: where those are added. Args: as `new_command` has."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=text,
        description=sentence(text),
        epilog=epilog(example, failed),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser.add_subparsers(required=True, metavar="ACTION", title=tr("actions"))


def sentence(text: str) -> str:
    """What a list says in a line, as a sentence."""
    return f"{text[:1].upper()}{text[1:]}."


def epilog(example: str, failed: str, warned: str = "") -> str:
    """An example and the exit statuses, as they stand below a command's options."""
    statuses = {0: tr("done"), 1: failed, 2: tr("wrong usage"), 3: warned, 130: tr("cancelled")}
    lines = [f"  {status:<4} {means}" for status, means in statuses.items() if means]
    return "\n".join(
        (
            tr("example:"),
            tr("  vdbackup {example}", example=example),
            "",
            tr("exit status:"),
            *lines,
        )
    )


def repository_options(parser: argparse.ArgumentParser, *, in_set: bool = True) -> None:
    """Which repository, and which set in it."""
    parser.add_argument(
        "-r", "--repository", type=Path, required=True, metavar="DIR",
        help=tr("the folder that holds the backups"),
    )  # fmt: skip
    if in_set:
        parser.add_argument(
            "--set", metavar="NAME", help=tr("the backup set, if there are several")
        )


def point_options(parser: argparse.ArgumentParser) -> None:
    """Which point, of which set in which repository."""
    repository_options(parser)
    parser.add_argument("point", metavar="POINT", help=POINT_HELP)


def state_options(parser: argparse.ArgumentParser) -> None:
    """Which point, or moment behind one: of commands that only read it."""
    repository_options(parser)
    parser.add_argument("point", metavar="POINT", help=STATE_HELP)


def machine_option(parser: argparse.ArgumentParser) -> None:
    """That a point is a moment of a machine."""
    parser.add_argument(
        "--machine", metavar="NAME",
        help=tr("POINT is a moment of that machine: its number, its id, or `latest`"),
    )  # fmt: skip


def parents_option(parser: argparse.ArgumentParser) -> None:
    """Where a disk's parents lie."""
    parser.add_argument(
        "--parents-in", type=Path, metavar="DIR", action="append", default=[],
        help=tr("also look for a virtual disk's parents there, if you trust the disk; repeatable"),
    )  # fmt: skip


def files_options(parser: argparse.ArgumentParser) -> None:
    """Which folders and files are meant, and what of them is not."""
    group = parser.add_argument_group(tr("chosen files, in the place of a disk"))
    group.add_argument(
        "--files", nargs="+", metavar="PATH",
        help=tr("folders and files: they are kept on a disk of their own"),
    )  # fmt: skip
    group.add_argument(
        "--exclude", action="append", default=[], metavar="GLOB",
        help=tr(
            "leave out what has such a name or, where there is a slash in it, such a path; "
            "repeatable"
        ),
    )  # fmt: skip
    group.add_argument(
        "--exclude-larger", type=file_size, default=0, metavar="SIZE",
        help=tr("leave out files that are larger: 4G, 700M"),
    )  # fmt: skip
    group.add_argument(
        "--cross-file-systems", action="store_true",
        help=tr("take other file systems, too, that are mounted in the folders"),
    )  # fmt: skip
    group.add_argument(
        "--caches", action="store_true",
        help=tr("take what is in folders, too, that are marked as caches (CACHEDIR.TAG)"),
    )  # fmt: skip


def chosen_source(options: argparse.Namespace) -> SourceRef | None:
    """What is named to be backed up, a disk or files; None where nothing is, but a set."""
    source: SourceRef | None = options.source
    if options.files is None:
        left_out = options.exclude or options.exclude_larger
        if left_out or options.cross_file_systems or options.caches:
            raise UsageError(
                tr("What is left out or taken, too, is said of files, and none are named."),
                tr("Name them with --files."),
            )
        if source is None and options.set is None:
            raise UsageError(
                tr("Nothing is named to be backed up."),
                tr(
                    "Name a disk, files with --files, or with --set what has been backed up before."
                ),
            )
        return source
    if source is not None:
        raise UsageError(
            tr(
                "Either a disk is backed up or files are, and both are named: {source} and {file}.",
                source=source,
                file=options.files[0],
            ),
            tr("Name one of them."),
        )
    choice = Choice.of(
        options.files,
        options.exclude,
        crosses=options.cross_file_systems,
        caches=options.caches,
        largest=options.exclude_larger,
    )
    return SourceRef(Scheme.FILES, str(choice))


def source_format_option(parser: argparse.ArgumentParser) -> None:
    """What a disk is, where that is not plain."""
    parser.add_argument(
        "--source-format", metavar="FORMAT", choices=[each.value for each in DiskFormat],
        help=tr(
            "what the disk is, where its name and its contents do not agree: raw, {format_names}; "
            "a backup set keeps it in mind",
            format_names=FORMAT_NAMES
        ),
    )  # fmt: skip


def changing_options(parser: argparse.ArgumentParser) -> None:
    """What every command can be told that changes a repository: to plan, to wait, to speak JSON."""
    dry_run_option(parser)
    wait_option(parser)
    json_option(parser)


def json_option(parser: argparse.ArgumentParser) -> None:
    """That the result is for a program."""
    parser.add_argument("--json", action="store_true", help=tr("print JSON"))


def wait_option(parser: argparse.ArgumentParser) -> None:
    """That whoever works there is waited for."""
    parser.add_argument(
        "--wait", type=sensible_seconds, nargs="?", const=math.inf, metavar="SECONDS",
        help=tr(
            "wait, at most SECONDS, while the repository or the point is in use, instead of "
            "refusing at once"
        ),
    )  # fmt: skip


def policy_options(parser: argparse.ArgumentParser) -> None:
    """What a set is to do automatically."""
    parser.add_argument(
        "--keep", type=points_kept, metavar="N",
        help=tr("from now on keep the newest N points of the set, or `all`: older ones are merged"),
    )  # fmt: skip
    parser.add_argument(
        "--keep-within", type=hours, metavar="TIME",
        help=tr("keep all points of the last TIME: 36h, 2d, 3w; `off` as with the rules below"),
    )  # fmt: skip
    for rule, period in (("daily", tr("days")), ("weekly", tr("weeks")), ("monthly", tr("months")),
                         ("yearly", tr("years"))):  # fmt: skip
        parser.add_argument(
            f"--{rule}", type=number_or_off, metavar="N",
            help=tr("keep the newest point of each of N {period} that have points", period=period),
        )  # fmt: skip
    parser.add_argument(
        "--at-most", type=limit_or_off, action="append", metavar="N",
        help=tr(
            "keep N points at most of those, the newest, beside the pinned ones; or as many as "
            "hold N bytes together, such as 500G; repeatable for both"
        ),
    )  # fmt: skip
    writes_options(parser)
    parser.add_argument(
        "--boot-test", choices=["off", "each"],
        help=tr("from now on boot-test no new point of the set, or each, after its backup"),
    )  # fmt: skip
    parser.add_argument(
        "--retarget", choices=["auto", "off"],
        help=tr("from now on make each new point ready to boot (auto, which is usual), or do not"),
    )  # fmt: skip
    parser.add_argument(
        "--index", choices=["off", "each"],
        help=tr(
            "from now on note the names of files in each new point after its backup, for `find`, "
            "or in none (off, which is usual)"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--read-all-every", type=backups, metavar="N",
        help=tr(
            "from now on read everything at every Nth backup, or `never`, where else only what "
            "the tracker has marked is read: that proves it (10 is usual)"
        ),
    )  # fmt: skip


def policy_change(options: argparse.Namespace) -> Change | None:
    """What `policy_options` ask for; None where nothing is to be another way."""
    from vdbackup.operations.policy import Change
    from vdbackup.repository.policy import BootTests

    points, size = _at_most(options.at_most or [])
    change = Change(
        keep=options.keep,
        retarget=options.retarget == "auto" if options.retarget else None,
        boot_test=BootTests(options.boot_test) if options.boot_test else None,
        read_all_every=options.read_all_every,
        index=options.index == "each" if options.index else None,
        keep_within=options.keep_within,
        daily=options.daily,
        weekly=options.weekly,
        monthly=options.monthly,
        yearly=options.yearly,
        at_most=points,
        at_most_bytes=size,
        keep_writes=options.keep_writes,
        moments_every=options.moments_every,
        forget_moments=options.forget_moments,
    )
    return None if change == Change() else change


def _at_most(said: Sequence[Limit]) -> Limit:
    """How many points, and bytes, there may be at most: what was said last of each."""
    points = size = None
    for count, bytes_ in said:
        points = points if count is None else count
        size = size if bytes_ is None else bytes_
    return points, size


def dry_run_option(parser: argparse.ArgumentParser) -> None:
    """That nothing is done."""
    parser.add_argument(
        "--dry-run", action="store_true", help=tr("say what would happen, do nothing")
    )


def hardware_options(parser: argparse.ArgumentParser) -> None:
    """The hardware of a machine."""
    parser.add_argument(
        "--hardware", default="auto",
        choices=["auto", *CONTROLLERS],
        help=tr("the disk controller that the machine finds; auto: one that it has a driver for"),
    )  # fmt: skip
    parser.add_argument(
        "--firmware", default="auto", choices=["auto", "bios", "uefi"],
        help=tr("auto: what the disk has a boot loader for"),
    )  # fmt: skip
    parser.add_argument(
        "--memory",
        type=positive,
        metavar="MIB",
        help=tr("in MiB; what the system needs if left out"),
    )
    parser.add_argument(
        "--network", action="store_true", help=tr("give it a network, by which nobody reaches it")
    )


def watching_options(parser: argparse.ArgumentParser) -> None:
    """What a machine is watched for, and how long."""
    parser.add_argument("--headless", action="store_true", help=tr("open no display"))
    parser.add_argument(
        "--until", metavar="TEXT", help=tr("until TEXT appears on the serial console")
    )
    parser.add_argument(
        "--timeout", type=sensible_seconds, metavar="SECONDS", help=tr("give up after that")
    )
    parser.add_argument(
        "--screenshot", type=Path, metavar="PNG", help=tr("save the screen at the end")
    )
