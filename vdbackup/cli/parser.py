"""What can be said on the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from vdbackup import __version__
from vdbackup.cli import output
from vdbackup.errors import UsageError
from vdbackup.translation import marked, markedn, tr, trn

if TYPE_CHECKING:
    from collections.abc import Callable

    from vdbackup.cli.options import Subparsers

FAMILIES: Mapping[str, Mapping[str, str]] = {
    marked("make"): {
        "backup": "make_cmd",
        "adopt": "make_cmd",
        "convert": "make_cmd",
        "demo": "make_cmd",
    },
    marked("look"): {
        "list": "look_cmd",
        "status": "status_cmd",
        "files": "look_cmd",
        "find": "history_cmd",
        "versions": "history_cmd",
        "diff": "history_cmd",
        "size": "history_cmd",
        "info": "look_cmd",
    },
    marked("get back"): {
        "restore": "get_back_cmd",
        "export": "get_back_cmd",
        "extract": "get_back_cmd",
        "mount": "mount_cmd",
        "umount": "mount_cmd",
        "make-rescue": "rescue_cmd",
        "rescue": "rescue_cmd",
        "make-bootable": "rescue_cmd",
    },
    marked("volumes in use"): {
        "track": "in_use_cmd",
        "untrack": "in_use_cmd",
        "agent": "agent_cmd",
    },
    marked("machines"): {
        "boot": "machines_cmd",
        "boot-test": "boot_test_cmd",
        "bisect": "bisect_cmd",
        "retarget": "machines_cmd",
        "rehearse": "rehearse_cmd",
        "sessions": "sessions_cmd",
        "open-with": "sessions_cmd",
        "protect": "protection_cmd",
        "unprotect": "protection_cmd",
        "moments": "protection_cmd",
        "promote": "protection_cmd",
    },
    marked("care"): {
        "verify": "care_cmd",
        "repair": "care_cmd",
        "merge": "care_cmd",
        "delete": "care_cmd",
        "policy": "policy_cmd",
        "schedule": "schedule_cmd",
        "tell": "tell_cmd",
    },
}
"""What commands are for, their names, and the module that adds each, of which but one is read."""


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

    With `only` it knows that command alone: to read and build all takes 30 ms, of the 75 of a short
    command.
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
        for name, module in family.items():
            if only in (None, name):
                _add_command(subparsers, name, module)
        groups.append((tr(title), subparsers._choices_actions[before:]))
    parser.groups = groups
    return parser


def _add_command(subparsers: Subparsers, name: str, module: str) -> None:
    add: Callable[[Subparsers], None] = getattr(
        import_module(f"vdbackup.cli.{module}"), f"add_{name.replace('-', '_')}"
    )
    add(subparsers)
