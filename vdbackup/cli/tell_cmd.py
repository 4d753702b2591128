"""The command that says how people are told of trouble, changes that, and tries it out: tell."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vdbackup.cli.common import DONE, WARNINGS
from vdbackup.cli.console import print_json, say, table, warn
from vdbackup.cli.options import (
    Subparsers,
    json_option,
    new_command,
)
from vdbackup.cli.values import (
    positive,
)
from vdbackup.errors import UsageError
from vdbackup.translation import tr, trn

if TYPE_CHECKING:
    from vdbackup.operations.telling import Attempt
    from vdbackup.settings import Settings

NOBODY = "off"
MOST_DAYS = 365
"""As the window offers."""


def add_tell(subparsers: Subparsers) -> None:
    """The command `tell`, and what it can be told."""
    parser = new_command(
        subparsers,
        "tell",
        tell,
        tr("show how you are told of what scheduled backups need you for, or change that"),
        example="tell --mail me@example.org --test",
        failed=tr("nothing was changed"),
        warned=tr("you could not be told in one of these ways"),
    )
    parser.add_argument(
        "--mail", metavar="ADDRESS",
        help=tr("send mail there, by msmtp or sendmail; `off` for none"),
    )  # fmt: skip
    parser.add_argument(
        "--command", dest="program", metavar="COMMAND",
        help=tr("run that, with a title and a sentence as two more arguments; `off` for none"),
    )  # fmt: skip
    parser.add_argument(
        "--remind-after", type=_days, metavar="DAYS",
        help=tr("tell of a set whose last backup is older than that"),
    )  # fmt: skip
    parser.add_argument(
        "--test", action="store_true", help=tr("then tell you something, to see whether that works")
    )
    json_option(parser)


def tell(options: argparse.Namespace) -> int:
    """Show how people are told of trouble, or change that."""
    from vdbackup.operations import telling
    from vdbackup.operations.telling import Ways

    wanted = _wanted(options)
    settings = _settled(wanted)
    try:
        ways = Ways.of(settings.mail_to, settings.trouble_command)
        missing = telling.missing(ways)
    except UsageError as error:  # the file was written by hand
        ways, missing = Ways(), (error.title,)
    tried = telling.try_out(ways) if options.test else ()
    if options.json:
        event = {"event": "result"} if options.test or wanted else {}
        print_json({**event, **_json(settings, missing), **_tried_json(options, tried)})
    else:
        table((tr("how"), tr("what")), _rows(settings))
        for each in tried:
            say(_said(each))
    warn(missing)
    return WARNINGS if missing or any(_is_trouble(each, tried) for each in tried) else DONE


def _wanted(options: argparse.Namespace) -> dict[str, Any]:
    """What is to be another way, by the names of the settings."""
    said = {"mail_to": options.mail, "trouble_command": options.program}
    wanted = {
        name: "" if text == NOBODY else text.strip()
        for name, text in said.items()
        if text is not None
    }
    if options.remind_after:
        return {**wanted, "remind_after_days": options.remind_after}
    return wanted


def _settled(wanted: dict[str, Any]) -> Settings:
    """The settings, with what is wanted written down.

    Raises UsageError where one of those makes no sense, DamagedSettings.
    """
    from dataclasses import replace

    from vdbackup.locations import Locations
    from vdbackup.operations.telling import Ways
    from vdbackup.settings import Settings

    def change(before: Settings) -> Settings:
        after = replace(before, **wanted)
        Ways.of(after.mail_to, after.trouble_command)  # or nothing is written
        return after

    file = Locations.from_environment().settings_file
    return Settings.update(file, change, Settings()) if wanted else Settings.load(file)


def _days(text: str) -> int:
    days = positive(text)
    if days > MOST_DAYS:
        raise argparse.ArgumentTypeError(
            tr("{text} is more than {most} days", text=text, most=MOST_DAYS)
        )
    return days


def _is_trouble(attempt: Attempt, all_of_them: Sequence[Attempt]) -> bool:
    """That there is no desktop is none, where something else tells."""
    return bool(attempt.problem) and not (attempt.expected and len(all_of_them) > 1)


def _rows(settings: Settings) -> list[tuple[str, ...]]:
    days = settings.remind_after_days
    return [
        (tr("on the desktop"), tr("where there is one")),
        (tr("mail to"), settings.mail_to or tr("nobody")),
        (tr("command"), settings.trouble_command or tr("none")),
        (tr("reminded after"), trn("{count} day", "{count} days", days)),
    ]


def _said(attempt: Attempt) -> str:
    names = {"desktop": tr("Desktop"), "mail": tr("Mail"), "command": tr("Command")}
    how = attempt.problem or tr("told.")
    return tr("{way}: {how}", way=names[attempt.way], how=how)


def _json(settings: Settings, missing: Sequence[str]) -> dict[str, Any]:
    return {
        "mail_to": settings.mail_to or None,
        "command": settings.trouble_command or None,
        "remind_after_days": settings.remind_after_days,
        "missing": list(missing),
    }


def _tried_json(options: argparse.Namespace, tried: Sequence[Attempt]) -> dict[str, Any]:
    if not options.test:
        return {}
    return {"test": [{"way": each.way.value, "problem": each.problem or None} for each in tried]}
