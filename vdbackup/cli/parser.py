"""What can be said on the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from vdbackup import __version__
from vdbackup.cli import output
from vdbackup.cli.agent_cmd import add_agent
from vdbackup.cli.bisect_cmd import add_bisect
from vdbackup.cli.boot_test_cmd import add_boot_test
from vdbackup.cli.care_cmd import add_delete, add_merge, add_repair, add_verify
from vdbackup.cli.get_back_cmd import add_export, add_extract, add_restore
from vdbackup.cli.history_cmd import add_diff, add_find, add_size, add_versions
from vdbackup.cli.in_use_cmd import add_track, add_untrack
from vdbackup.cli.look_cmd import add_files, add_info, add_list
from vdbackup.cli.machines_cmd import add_boot, add_retarget
from vdbackup.cli.make_cmd import add_adopt, add_backup, add_convert, add_demo
from vdbackup.cli.mount_cmd import add_mount, add_umount
from vdbackup.cli.policy_cmd import add_policy
from vdbackup.cli.protection_cmd import (
    add_moments,
    add_promote,
    add_protect,
    add_unprotect,
)
from vdbackup.cli.rehearse_cmd import add_rehearse
from vdbackup.cli.rescue_cmd import add_make_bootable, add_make_rescue, add_rescue
from vdbackup.cli.schedule_cmd import add_schedule
from vdbackup.cli.sessions_cmd import add_open_with, add_sessions
from vdbackup.cli.status_cmd import add_status
from vdbackup.cli.tell_cmd import add_tell
from vdbackup.errors import UsageError
from vdbackup.translation import marked, markedn, tr, trn

FAMILIES: Mapping[str, Mapping[str, Callable[[Any], None]]] = {
    marked("make"): {
        "backup": add_backup,
        "adopt": add_adopt,
        "convert": add_convert,
        "demo": add_demo,
    },
    marked("look"): {
        "list": add_list,
        "status": add_status,
        "files": add_files,
        "find": add_find,
        "versions": add_versions,
        "diff": add_diff,
        "size": add_size,
        "info": add_info,
    },
    marked("get back"): {
        "restore": add_restore,
        "export": add_export,
        "extract": add_extract,
        "mount": add_mount,
        "umount": add_umount,
        "make-rescue": add_make_rescue,
        "rescue": add_rescue,
        "make-bootable": add_make_bootable,
    },
    marked("volumes in use"): {
        "track": add_track,
        "untrack": add_untrack,
        "agent": add_agent,
    },
    marked("machines"): {
        "boot": add_boot,
        "boot-test": add_boot_test,
        "bisect": add_bisect,
        "retarget": add_retarget,
        "rehearse": add_rehearse,
        "sessions": add_sessions,
        "open-with": add_open_with,
        "protect": add_protect,
        "unprotect": add_unprotect,
        "moments": add_moments,
        "promote": add_promote,
    },
    marked("care"): {
        "verify": add_verify,
        "repair": add_repair,
        "merge": add_merge,
        "delete": add_delete,
        "policy": add_policy,
        "schedule": add_schedule,
        "tell": add_tell,
    },
}
"""What commands are for, their names, and what adds each of them."""


OF_ARGPARSE = (
    *(marked("usage: "), marked("positional arguments"), marked("options")),
    marked("show this help message and exit"),
    marked("the following arguments are required: %s"),
    marked("one of the arguments %s is required"),
    marked("unrecognized arguments: %s"),
    marked("argument %(argument_name)s: %(message)s"),
    marked("invalid choice: %(value)r (choose from %(choices)s)"),
    marked("invalid %(type)s value: %(value)r"),
    *(marked("expected one argument"), marked("expected at most one argument")),
    *(
        marked("expected at least one argument"),
        *markedn("expected %s argument", "expected %s arguments"),
    ),
    *(marked("not allowed with argument %s"), marked("ignored explicit argument %r")),
    marked("ambiguous option: %(option)s could match %(matches)s"),
    marked("unknown parser %(parser_name)r (choices: %(choices)s)"),
)
"""What the standard library's parser says. It asks gettext for a catalogue that cannot be ours."""
vars(argparse).update(_=tr, ngettext=trn)


class _Parser(argparse.ArgumentParser):
    """One that complains as the commands do, and shows its commands in groups.

    Attributes:
        groups: what the commands are for, and those that are, in the order of the house.
    """

    groups: Sequence[tuple[str, Sequence[argparse.Action]]] = ()

    def format_help(self) -> str:
        """What `--help` says: as argparse does, but for the groups."""
        if not self.groups:
            return super().format_help()
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        for title, commands in self.groups:
            formatter.start_section(title)
            formatter.add_arguments(commands)
            formatter.end_section()
        formatter.start_section(tr("options"))
        formatter.add_arguments(self._get_optional_actions())
        formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def error(self, message: str) -> NoReturn:
        sentence = f"{message[:1].upper()}{message[1:]}."
        raise UsageError(sentence, tr("`{prog} --help` shows what it can be told.", prog=self.prog))

    def _print_message(self, message: str, file: object = None) -> None:
        """What argparse says: its own way passes over output that cannot be written."""
        if file is sys.stdout:
            output.say(message.rstrip("\n"))
        else:
            output.complain(message, end="")


def asked_command(arguments: Sequence[str]) -> str | None:
    """The command that the arguments begin with; None where that is not plain."""
    first = next((each for each in arguments if each not in ("-v", "--verbose")), None)
    return first if any(first in family for family in FAMILIES.values()) else None


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser; after parsing, `command` in the result is the function to call.

    With `only` it knows that command alone: to build all takes 20 ms, half of a short command.
    """
    parser = _Parser(
        prog="vdbackup",
        description=tr(
            "Back volumes up straight into virtual disks that a virtual machine can boot."
        ),
        epilog=tr(
            "Without arguments the window opens. `vdbackup COMMAND --help` shows what a command "
            "can be told, with an example. Exit status: 0 done, 1 failed, 2 wrong usage, 3 done "
            "with warnings, 130 cancelled."
        ),
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"vdbackup {__version__}",
        help=tr("show program's version number and exit"),
    )
    parser.add_argument("-v", "--verbose", action="store_true", help=tr("log to stderr"))
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    groups = []
    for title, family in FAMILIES.items():
        before = len(subparsers._choices_actions)
        for name, add in family.items():
            if only in (None, name):
                add(subparsers)
        groups.append((tr(title), subparsers._choices_actions[before:]))
    parser.groups = groups
    return parser
