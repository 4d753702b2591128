"""The text of a schedule's systemd units: a service that runs once, and the timer that starts it.

What stands in them comes from outside, and may be any bytes but NUL: folders with spaces, percent
signs, quotes, line ends, or in no encoding at all. systemd.syntax(7) and systemd.service(5) say how
that is written.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vdbackup.operations.schedules.store import Schedule
from vdbackup.operations.schedules.timing import LOGIN, PLUG
from vdbackup.text import printable
from vdbackup.translation import tr

_PLAIN = frozenset(range(0x20, 0x7F)) - frozenset(b'"\\')
_REFUSED = frozenset(range(0x20)) | frozenset(b"\"'\\\x7f")
"""What systemd has in no program's path, however it is written: env(1) starts such a one."""
_ENV = "/usr/bin/env"
_DOUBLED = {"%": "%%", "$": "$$"}
BACKUP, MERGE = "backup", "merge"
"""What a unit does."""
_LOOKS_AGAIN = "15min"
_AFTER_LOGIN = "2min"
"""What a desktop does first."""


@dataclass(frozen=True)
class Units:
    """A schedule's units.

    Attributes:
        texts: name of each unit to its text.
        wanted: those that are enabled, so that systemd starts them.
    """

    texts: dict[str, str]
    wanted: tuple[str, ...]


def name_of(schedule_id: str, kind: str, what: str = BACKUP) -> str:
    """A unit of a schedule; `kind` is "service" or "timer", `what` BACKUP or MERGE."""
    return f"vdbackup-{what}-{schedule_id}.{kind}"


def units(schedule: Schedule, command: Sequence[str], merge: Sequence[str] = ()) -> Units:
    """What systemd is told.

    Args:
        schedule: when.
        command: what is run, an argument each.
        merge: what is run to apply the policy, where that has a time of its own.
    """
    made = _backing_up(schedule, command)
    if schedule.merging is None:
        return made
    service, timer = (name_of(schedule.id, kind, MERGE) for kind in ("service", "timer"))
    about = tr(
        "Merging of old backups of {set_name} by vdbackup, {words}",
        set_name=_words(schedule.set_name),
        words=schedule.merging.words,
    )
    when = [*(f"OnCalendar={each}" for each in schedule.merging.calendar), "Persistent=true"]
    texts = {
        service: _service_text(about, merge, on_mains=schedule.on_mains),
        timer: _timer_text(about, when),
    }
    return Units({**made.texts, **texts}, (*made.wanted, timer))


def _backing_up(schedule: Schedule, command: Sequence[str]) -> Units:
    service, timer = (name_of(schedule.id, kind) for kind in ("service", "timer"))
    if schedule.every == PLUG:
        wanted_by = f"{escaped_path(schedule.mount_point)}.mount"
        text = _service(schedule, command, f"\n[Install]\nWantedBy={wanted_by}\n")
        return Units({service: text}, (service,))
    return Units({service: _service(schedule, command, ""), timer: _timer(schedule)}, (timer,))


def _service(schedule: Schedule, command: Sequence[str], install: str) -> str:
    about = tr(
        "Backup of {set_name} by vdbackup, {words}",
        set_name=_words(schedule.set_name),
        words=schedule.timing.words,
    )
    return _service_text(about, command, on_mains=schedule.on_mains) + install


def _service_text(about: str, command: Sequence[str], *, on_mains: bool) -> str:
    lines = [
        "# Written by vdbackup. What it says is lost when the schedule is changed or removed.",
        "[Unit]",
        f"Description={about}",
        *(["ConditionACPower=true"] if on_mains else []),
        "",
        "[Service]",
        "Type=oneshot",
        f"ExecStart={command_line(command)}",
        "# 3: done, with warnings",
        "SuccessExitStatus=3",
        "Nice=10",
        "IOSchedulingClass=idle",
    ]
    return "\n".join(lines) + "\n"


def _timer(schedule: Schedule) -> str:
    """Missed while the computer was off, it elapses once as soon as that is on (Persistent).

    Where it may not run now, it looks again: once the slot has its point it finds nothing due.
    """
    when = [f"OnCalendar={each}" for each in schedule.timing.calendar]
    if schedule.every == LOGIN:
        when = [f"OnStartupSec={_AFTER_LOGIN}"]
    else:
        when.append("Persistent=true")
    if schedule.waits and schedule.timing.interval is not None:
        when.append(f"OnUnitInactiveSec={_LOOKS_AGAIN}")
    if schedule.random_delay:
        when.append(f"RandomizedDelaySec={schedule.random_delay}s")
    about = tr(
        "Backups of {set_name} by vdbackup, {words}",
        set_name=_words(schedule.set_name),
        words=schedule.timing.words,
    )
    return _timer_text(about, when)


def _timer_text(about: str, when: Sequence[str]) -> str:
    lines = [
        "# Written by vdbackup. What it says is lost when the schedule is changed or removed.",
        "[Unit]",
        f"Description={about}",
        "",
        "[Timer]",
        *when,
        "",
        "[Install]",
        "WantedBy=timers.target",
    ]
    return "\n".join(lines) + "\n"


def command_line(command: Sequence[str]) -> str:
    """A program and its arguments, as a unit has them.

    Each in quotes and escaped as C does, so that no byte ends the line or is no UTF-8. `%` begins a
    specifier and `$` a variable, unless doubled; but for the program, which knows no variables.
    """
    program, *arguments = command
    if _REFUSED.intersection(os.fsencode(program)):
        return command_line((_ENV, *command))
    return " ".join(
        (_quoted(program, {"%": "%%"}), *(_quoted(each, _DOUBLED) for each in arguments))
    )


def _quoted(text: str, doubled: Mapping[str, str]) -> str:
    letters = (chr(each) if each in _PLAIN else f"\\x{each:02x}" for each in os.fsencode(text))
    return '"' + "".join(doubled.get(each, each) for each in letters) + '"'


def escaped_path(path: str) -> str:
    """How systemd calls the unit of a path, without its ending (systemd.unit(5), "/dev/sda")."""
    parts = [part for part in os.fsencode(path).split(b"/") if part not in (b"", b".")]
    if not parts:
        return "-"
    joined = b"-".join(re.sub(rb"[^a-zA-Z0-9:_.]", _escaped_in_name, part) for part in parts)
    first = "\\x2e" if joined.startswith(b".") else chr(joined[0])
    return first + joined[1:].decode("ascii")


def _escaped_in_name(found: re.Match[bytes]) -> bytes:
    return b"\\x%02x" % found[0][0]


def _words(text: str) -> str:
    """A name in a description: in a line, and without specifiers."""
    return printable(text).replace("%", "%%").rstrip("\\")


def crontab_line(schedule: Schedule, command: Sequence[str], merge: Sequence[str] = ()) -> str:
    """The same for cron, as crontab(5) has it, a line each; "" where cron cannot do that.

    There `%` is a line end, unless escaped, and a line end ends all, whatever is quoted.
    """
    wanted = [(schedule.timing.cron, command)]
    if schedule.merging is not None:
        wanted.append((schedule.merging.cron, merge))
    lines = [(when, shlex.join(words)) for when, words in wanted]
    if any(not when or "\n" in words for when, words in lines):
        return ""
    return "\n".join(f"{when} {words}".replace("%", "\\%") for when, words in lines)
