"""What a terminal wants to know of `vdbackup`: its man page, and completion for three shells.

All of it is made from the one parser of the command line, whenever the project is built: see
`build_hook.py`. The completions are shtab's. The man page is written here, since argparse-manpage
knows nothing of our groups, examples and exit statuses, and comes as a source archive alone, which
would have to be built before this project can be.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import shtab

from vdbackup import __version__
from vdbackup.cli.parser import build_parser
from vdbackup.sources.reference import SourceRef

PLACES = {
    "man": "man/man1/vdbackup.1",
    "bash": "bash-completion/completions/vdbackup",
    "zsh": "zsh/site-functions/_vdbackup",
    "fish": "fish/vendor_completions.d/vdbackup.fish",
}
"""Below a `share` folder: where man and each shell look."""

_ENDLESS = 100_000  # columns: man itself breaks lines
_ENVIRONMENT = {
    "VDBACKUP_CONFIG_DIR": "the folder that holds the settings",
    "VDBACKUP_DATA_DIR": "the folder that sessions are kept in, unless the settings name another",
    "VDBACKUP_LOG_DIR": "the folder that holds the log",
    "VDBACKUP_CACHE_DIR": "the folder that keeps what can be found out again",
}


def write(share: Path) -> dict[str, Path]:
    """Write all of it below a folder; which file is which."""
    texts = {"man": man_page()}
    texts |= {shell: completion(shell) for shell in PLACES if shell != "man"}
    written = {name: share / place for name, place in PLACES.items()}
    for name, path in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[name], encoding="utf-8")
    return written


# -------------------------------------------------------------------------------- completion


def completion(shell: str) -> str:
    """The script by which a shell completes our commands, options and names of files."""
    parser = build_parser()
    for below in (parser, *(each for _, each in _commands(parser))):
        for action in below._actions:
            if action.type in (Path, SourceRef.typed):
                folder = action.metavar in ("DIR", "FOLDER", "DESTINATION")
                action.complete = shtab.DIRECTORY if folder else shtab.FILE  # type: ignore[attr-defined]
    return shtab.complete(parser, shell)


def _commands(
    parser: argparse.ArgumentParser, name: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each, below in action.choices.items():
                yield f"{name} {each}".strip(), below
                yield from _commands(below, f"{name} {each}".strip())


# ---------------------------------------------------------------------------------- man page


def man_page() -> str:
    """The page of section 1, in the macros of man(7)."""
    parser = build_parser()
    commands = dict(_commands(parser))
    does = str(parser.description).rstrip(".")
    lines = [
        f'.TH VDBACKUP 1 "" "vdbackup {__version__}" "User Commands"',
        ".nh",
        ".SH NAME",
        f"vdbackup \\- {_roff(does[:1].lower() + does[1:])}",
        ".SH SYNOPSIS",
        ".B vdbackup",
        ".br",
        *_usage(parser),
        ".SH DESCRIPTION",
        _roff(re.sub(r"`([^`]*)`", r"\1", str(parser.epilog))),
        ".SH OPTIONS",
        *_arguments(parser),
    ]
    for title, group in parser.groups:
        lines.append(f'.SH "COMMANDS: {title.upper()}"')
        names = [each.dest for each in group]
        for name, command in commands.items():
            if name.split()[0] in names:
                lines += [f'.SS "vdbackup {_roff(name)}"', *_command(command)]
    lines += [".SH ENVIRONMENT"]
    for variable, means in _ENVIRONMENT.items():
        lines += [".TP", f".B {variable}", _roff(means)]
    return "\n".join(lines) + "\n"


def _command(parser: argparse.ArgumentParser) -> list[str]:
    return [
        _roff(str(parser.description)),
        ".PP",
        *_usage(parser),
        *_arguments(parser),
        ".PP",
        ".nf",
        *(_roff(line) for line in str(parser.epilog).splitlines()),
        ".fi",
    ]


def _usage(parser: argparse.ArgumentParser) -> list[str]:
    formatter = argparse.HelpFormatter(parser.prog, width=_ENDLESS)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)
    line = " ".join(formatter.format_help().split()).removeprefix("usage: ")
    return [f".B {_roff(parser.prog)}", _roff(line.removeprefix(parser.prog).strip())]


def _arguments(parser: argparse.ArgumentParser) -> list[str]:
    formatter = argparse.HelpFormatter(parser.prog, width=_ENDLESS)
    lines = []
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            lines += [".TP", _named(action), _roff(formatter._expand_help(action))]
    return lines


def _named(action: argparse.Action) -> str:
    """An option with what it takes, or what stands in an argument's place."""
    value = str(action.metavar or "|".join(map(str, action.choices or ())) or action.dest.upper())
    if not action.option_strings:
        return f"\\fI{_roff(value)}\\fR"
    names = ", ".join(f"\\fB{_roff(each)}\\fR" for each in action.option_strings)
    if action.nargs == 0:
        return names
    optional = action.nargs == argparse.OPTIONAL
    return f"{names} \\fI{_roff(f'[{value}]' if optional else value)}\\fR"


def _roff(text: str) -> str:
    """A text as it stands, in roff: no line of it begins a request, a hyphen can be copied."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text
