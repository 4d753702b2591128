"""What can be said on the command line."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from vdbackup import __version__
from vdbackup.cli import boot_test, commands, machines, output, sessions
from vdbackup.text import printable

_POINT_HELP = (
    "an id, the unique start of one, a sequence number, or `latest`: the newest that was captured"
)
_FORMATS = "vmdk, vhd, vhdx or qcow2"  # not imported: numpy would come with them
_CONTROLLERS = ("virtio", "virtio-scsi", "ahci", "ide", "nvme", "pvscsi", "lsi", "sas")
_Subparsers = Any  # argparse does not name the type


class _Parser(argparse.ArgumentParser):
    """One whose complaints hold names of files as they can be shown: a shell's `*` finds any."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))

    def _print_message(self, message: str, file: object = None) -> None:
        """What argparse says: its own way passes over output that cannot be written."""
        if file is sys.stdout:
            output.say(message.rstrip("\n"))
        else:
            output.complain(message, end="")


def build_parser() -> argparse.ArgumentParser:
    """The parser; after parsing, `command` in the result is the function to call."""
    parser = _Parser(
        prog="vdbackup",
        description="Back volumes up straight into virtual disks that a virtual machine can boot.",
        epilog="Without arguments the window opens. Exit status: 0 done, 1 failed, 2 wrong usage, "
        "3 done with warnings, 130 cancelled.",
    )
    parser.add_argument("--version", action="version", version=f"vdbackup {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log to stderr")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_backup, _add_list, _add_merge, _add_delete, _add_restore, _add_export, _add_verify,
        _add_repair, _add_boot, _add_boot_test, _add_retarget, _add_sessions, _add_open_with,
        _add_files, _add_extract, _add_info, _add_convert, _add_adopt, _add_demo,
    ):  # fmt: skip
        add(subparsers)
    return parser


def _command(
    subparsers: _Subparsers, name: str, run: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(name, help=text, description=text)
    parser.set_defaults(command=run)
    return parser


def _in_repository(parser: argparse.ArgumentParser, *, in_set: bool = True) -> None:
    parser.add_argument(
        "-r", "--repository", type=Path, required=True, metavar="DIR",
        help="the folder that holds the backups",
    )  # fmt: skip
    if in_set:
        parser.add_argument("--set", metavar="NAME", help="the backup set, if there are several")


def _parents(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parents-in", type=Path, metavar="DIR", action="append", default=[],
        help="also look for a virtual disk's parents there, if you trust the disk; repeatable",
    )  # fmt: skip


def _source_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source-format", metavar="FORMAT", choices=["raw", "vmdk", "vhd", "vhdx", "qcow2"],
        help="what the disk is, where its name and its contents do not agree: raw, "
        f"{_FORMATS}; a backup set keeps it in mind",
    )  # fmt: skip


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait", type=_seconds, nargs="?", const=math.inf, metavar="SECONDS",
        help="wait, at most SECONDS, while the repository or the point is in use, "
        "instead of refusing at once",
    )  # fmt: skip


def _dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would happen, do nothing")


def _add_backup(subparsers: _Subparsers) -> None:
    parser = _command(subparsers, "backup", commands.backup, "back a disk up")
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a disk image or block device")
    _in_repository(parser)
    parser.add_argument(
        "--type", default="auto", choices=["auto", "full", "incremental", "differential"],
        help="auto: incremental where there is something to add to",
    )  # fmt: skip
    parser.add_argument(
        "--format", metavar="FORMAT",
        help=f"of a new set: {_FORMATS}; if left out vmdk, or what the disk fits into",
    )  # fmt: skip
    _parents(parser)
    _source_format(parser)
    parser.add_argument(
        "--same-source", action="store_true",
        help="SOURCE is what the set named with --set holds the backups of, though it looks like "
        "another; nothing older is merged this time",
    )  # fmt: skip
    parser.add_argument(
        "--keep", type=_positive, metavar="N",
        help="from now on keep the newest N points of the set: older ones are merged",
    )  # fmt: skip
    parser.add_argument(
        "--boot-test", choices=["off", "each"],
        help="from now on boot-test no new point of the set, or each, after its backup",
    )  # fmt: skip
    parser.add_argument(
        "--retarget", choices=["auto", "off"],
        help="from now on make each new point ready to boot (auto, which is usual), or do not",
    )  # fmt: skip
    _dry_run(parser)
    _wait(parser)
    _json(parser)


def _add_retarget(subparsers: _Subparsers) -> None:
    parser = _command(
        subparsers,
        "retarget",
        machines.retarget,
        "make a point's machine ready to boot on other hardware, in its overlay alone",
    )
    _in_repository(parser)
    parser.add_argument("point", metavar="POINT", help=_POINT_HELP)
    parser.add_argument(
        "--hardware", default="auto", choices=["auto", "none", *_CONTROLLERS],
        help="auto: what it has drivers for, and changes only if nothing else boots it; "
        "none: an empty overlay again",
    )  # fmt: skip
    parser.add_argument(
        "--drivers", type=Path, metavar="DIR",
        help="of Windows: the folder with drivers that it lacks, as virtio-win.iso holds them",
    )  # fmt: skip
    parser.add_argument(
        "--with", dest="program", choices=["virt-v2v"],
        help="let virt-v2v, where it is installed, make the machine ready for virtio",
    )  # fmt: skip
    _dry_run(parser)
    _wait(parser)
    _json(parser)


def _add_list(subparsers: _Subparsers) -> None:
    parser = _command(subparsers, "list", commands.list_points, "list sets and recovery points")
    _in_repository(parser, in_set=False)
    _json(parser)


def _add_merge(subparsers: _Subparsers) -> None:
    parser = _command(subparsers, "merge", commands.merge, "roll a point into its parent")
    _in_repository(parser)
    parser.add_argument("point", metavar="POINT", help=_POINT_HELP)
    _dry_run(parser)
    _wait(parser)
    _json(parser)


def _add_delete(subparsers: _Subparsers) -> None:
    parser = _command(subparsers, "delete", commands.delete, "delete a recovery point")
    _in_repository(parser)
    parser.add_argument("point", metavar="POINT", help=_POINT_HELP)
    parser.add_argument("--yes", action="store_true", help="even the last point of its set")
    _dry_run(parser)
    _wait(parser)
    _json(parser)


def _add_restore(subparsers: _Subparsers) -> None:
    parser = _command(
        subparsers, "restore", commands.restore, "restore a point to a raw file or block device"
    )
    _in_repository(parser)
    parser.add_argument("point", metavar="POINT", help=_POINT_HELP)
    parser.add_argument("target", type=Path, metavar="TARGET", help="a new file, or a device")
    parser.set_defaults(format="raw")
    _restoring(parser)


def _add_export(subparsers: _Subparsers) -> None:
    parser = _command(
        subparsers, "export", commands.restore, "write a point as one stand-alone disk"
    )
    _in_repository(parser)
    parser.add_argument("point", metavar="POINT", help=_POINT_HELP)
    parser.add_argument("target", type=Path, metavar="FILE", help="a new file")
    parser.add_argument(
        "--format",
        default=None,
        help=f"raw, {_FORMATS}; for clouds and appliances vhd-fixed (Azure), vmdk-stream (AWS, "
        "vSphere) or ova (VirtualBox, vSphere); by FILE's ending if left out",
    )
    _restoring(parser)


def _restoring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument(
        "--ignore-damage", action="store_true", help="restore what is whole of a damaged point"
    )
    _dry_run(parser)
    _json(parser)


def _add_verify(subparsers: _Subparsers) -> None:
    parser = _command(
        subparsers, "verify", commands.verify, "check that points are as they were captured"
    )
    _in_repository(parser)
    parser.add_argument("points", nargs="*", metavar="POINT", help=f"{_POINT_HELP}; all if none")
    _wait(parser)
    _json(parser)


def _add_repair(subparsers: _Subparsers) -> None:
    parser = _command(
        subparsers, "repair", commands.repair,
        "finish what was interrupted; rebuild missing metadata from the disks",
    )  # fmt: skip
    _in_repository(parser, in_set=False)
    _wait(parser)
    _json(parser)


def _add_boot(subparsers: _Subparsers) -> None:
    parser = _command(
        subparsers,
        "boot",
        machines.boot,
        "boot a virtual machine from a point; its writes are dropped unless kept",
    )
    _in_repository(parser)
    parser.add_argument("point", metavar="POINT", help=_POINT_HELP)
    parser.add_argument("--keep", action="store_true", help="keep what it writes, as a session")
    _watching(parser)
    _hardware(parser)
    _json(parser)


def _hardware(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hardware", default="auto",
        choices=["auto", *_CONTROLLERS],
        help="the disk controller that the machine finds; auto: one that it has a driver for",
    )  # fmt: skip
    parser.add_argument(
        "--firmware", default="auto", choices=["auto", "bios", "uefi"],
        help="auto: what the disk has a boot loader for",
    )  # fmt: skip
    parser.add_argument(
        "--memory", type=_positive, metavar="MIB", help="in MiB; what the system needs if left out"
    )
    parser.add_argument(
        "--network", action="store_true", help="give it a network, by which nobody reaches it"
    )


def _watching(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--headless", action="store_true", help="open no display")
    parser.add_argument("--until", metavar="TEXT", help="until TEXT appears on the serial console")
    parser.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="give up after that")
    parser.add_argument("--screenshot", type=Path, metavar="PNG", help="save the screen at the end")


def _add_sessions(subparsers: _Subparsers) -> None:
    text = "list, reopen, stop, discard and promote what virtual machines run on or left"
    parser: argparse.ArgumentParser = subparsers.add_parser("sessions", help=text, description=text)
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    made = {
        name: _command(actions, name, run, help_text)
        for name, run, help_text in (
            ("list", sessions.list_sessions, "which sessions there are, running and kept"),
            ("reopen", sessions.reopen, "start a kept session's machine again, and keep it after"),
            ("resume", sessions.resume, "let a machine that is paused go on"),
            ("stop", sessions.stop, "press the power button, and kill it after a minute"),
            ("kill", sessions.kill, "end a machine at once, as a power cut would"),
            ("discard", sessions.discard, "end a session, and delete what its machine wrote"),
            ("promote", sessions.promote, "make a recovery point of what its machine wrote"),
        )
    }
    for name, action in made.items():
        if name != "list":
            action.add_argument(
                "session", metavar="ID", help="of the session, its start or its end"
            )
    _watching(made["reopen"])
    made["discard"].add_argument(
        "-r", "--repository", type=Path, metavar="DIR",
        help="also let go of the points there that another computer's session of this id holds",
    )  # fmt: skip
    for name in ("discard", "promote", "reopen"):
        made[name].add_argument(
            "--not-running", action="store_true",
            help="the machine of another program does not run, where only you can know that",
        )  # fmt: skip
    _dry_run(made["promote"])
    _wait(made["promote"])
    for name in ("list", "reopen", "promote"):
        _json(made[name])


def _add_open_with(subparsers: _Subparsers) -> None:
    parser = _command(
        subparsers, "open-with", sessions.open_with,
        "make a virtual machine of a point for another program, and keep it as a session",
    )  # fmt: skip
    parser.add_argument(
        "program", choices=["virt-manager", "virtualbox", "vmware"], metavar="PROGRAM",
        help="virt-manager, virtualbox or vmware",
    )  # fmt: skip
    parser.add_argument("point", metavar="POINT", help=_POINT_HELP)
    _in_repository(parser)
    parser.add_argument("--memory", type=_positive, default=1024, metavar="MIB", help="in MiB")
    _json(parser)


def _add_boot_test(subparsers: _Subparsers) -> None:
    parser = _command(
        subparsers, "boot-test", boot_test.boot_test, "prove that points boot, and note it"
    )
    _in_repository(parser)
    parser.add_argument(
        "points", nargs="*", metavar="POINT", help=f"{_POINT_HELP}; the latest if left out"
    )
    parser.add_argument(
        "--new", action="store_true", help="all points that have not been tested yet, of all sets"
    )
    parser.add_argument(
        "--sign", default="auto", metavar="SIGN",
        help="of life: login, screen, agent, text:WORDS, regex:PATTERN, or auto: whichever of the "
        "first three comes first (default: auto)",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS",
        help="for each point (default: 180, or 900 where there is no KVM)",
    )  # fmt: skip
    _hardware(parser)
    _json(parser)


def _add_files(subparsers: _Subparsers) -> None:
    parser = _command(subparsers, "files", commands.files, "list files inside a point")
    _in_repository(parser)
    parser.add_argument("point", metavar="POINT", help=_POINT_HELP)
    parser.add_argument("path", nargs="?", default="/", metavar="PATH", help="a folder in it")
    _json(parser)


def _add_extract(subparsers: _Subparsers) -> None:
    parser = _command(subparsers, "extract", commands.extract, "copy files out of a point")
    _in_repository(parser)
    parser.add_argument("point", metavar="POINT", help=_POINT_HELP)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files or folders in it")
    parser.add_argument("destination", type=Path, metavar="DESTINATION", help="a folder")
    _json(parser)


def _add_info(subparsers: _Subparsers) -> None:
    parser = _command(subparsers, "info", commands.info, "describe a virtual disk and its chain")
    parser.add_argument("disk", type=Path, metavar="DISK")
    _parents(parser)
    _source_format(parser)
    _json(parser)


def _add_convert(subparsers: _Subparsers) -> None:
    parser = _command(
        subparsers, "convert", commands.convert, "copy a set into a new one in another format"
    )
    _in_repository(parser)
    parser.add_argument("--format", metavar="FORMAT", required=True, help=_FORMATS)
    parser.add_argument(
        "--to", metavar="NAME", help="the new set's name; by set and format if left out"
    )
    _dry_run(parser)
    _wait(parser)
    _json(parser)


def _add_adopt(subparsers: _Subparsers) -> None:
    parser = _command(
        subparsers, "adopt", commands.adopt, "take another program's chain of disks in as a set"
    )
    parser.add_argument("tip", type=Path, metavar="CHAIN-TIP", help="the newest disk of the chain")
    _in_repository(parser)
    parser.add_argument(
        "--format", metavar="FORMAT", help=f"of the set: {_FORMATS}; the tip's own if left out"
    )
    _parents(parser)
    _source_format(parser)
    _dry_run(parser)
    _wait(parser)
    _json(parser)


def _add_demo(subparsers: _Subparsers) -> None:
    parser = _command(
        subparsers, "demo", commands.demo, "the whole story on a small disk made on the spot"
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER",
        help="a new folder to keep everything in; else it is thrown away at the end",
    )  # fmt: skip


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is no sensible number of seconds")
    return seconds
