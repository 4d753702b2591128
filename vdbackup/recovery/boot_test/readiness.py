"""Readiness: by what a machine that boots is recognised to be up."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from vdbackup.errors import UsageError
from vdbackup.recovery.boot_test import words as boot_words
from vdbackup.recovery.boot_test.screen import Frame
from vdbackup.translation import tr

SETTLED_TEXT = 5.0
"""Seconds that a screen in text mode has to be at rest."""
SETTLED_DESKTOP = 10.0
SETTLED_MESSAGES = 60.0
"""Of a screen that shows messages as a picture, so that its last line cannot be read, or where the
serial console's last line is not the end: a system that waits for its root file system is at rest,
too, for 30 seconds and more."""

_BUSY_LOOKS = 0.3
"""Share of looks at which the guest may have had something to do."""
_QUIET_DISK = 1 << 20
"""Bytes that it may have read and written."""
_RECENT = 5.0
"""Seconds in which both hold."""


@dataclass(frozen=True)
class View:
    """What could be seen of a machine at one moment.

    Attributes:
        seconds: since its start.
        console: the end of what it wrote to its first serial port.
        text: of its screen, None if that is not in text mode.
        frame: its screen, None if there is none.
        agent: the guest's agent answers.
        rests: its processors had nothing to do.
        disk_bytes: read and written so far.
    """

    seconds: float
    console: str
    text: str | None
    frame: Frame | None
    agent: bool
    rests: bool
    disk_bytes: int


@dataclass(frozen=True)
class Seen:
    """A sign that has come.

    Attributes:
        sentence: what it was.
        seconds: when the machine was up, from its start.
    """

    sentence: str
    seconds: float


class Readiness(Protocol):
    """Sees views one after another, and says when the machine is up."""

    def see(self, view: View) -> Seen | None:
        """The sign; None as long as it has not come."""
        ...


class Words:
    """A text on the serial console or on a screen in text mode."""

    def __init__(self, pattern: str) -> None:
        """Wait for a regular expression; raises UsageError where it is none."""
        try:
            self._pattern = re.compile(pattern, re.MULTILINE)
        except re.error as error:
            raise UsageError(
                tr("{pattern!r} is no regular expression: {error}.", pattern=pattern, error=error),
                tr("Use text:WORDS for plain words."),
            ) from error

    def see(self, view: View) -> Seen | None:
        """Whether the words have come."""
        for text in (view.console, view.text or ""):
            if match := self._pattern.search(text):
                return Seen(tr("It said {match!r}.", match=match[0].strip()[:200]), view.seconds)
        return None


class Login:
    """Somebody is asked to log in, on the serial console or on a screen in text mode."""

    def see(self, view: View) -> Seen | None:
        """Whether it asks."""
        asks = any(boot_words.asks_for_login(text) for text in (view.console, view.text or ""))
        return Seen(tr("It asks for a login."), view.seconds) if asks else None


class Agent:
    """The guest's agent answers."""

    def see(self, view: View) -> Seen | None:
        """Whether it does."""
        return Seen(tr("The guest's agent answers."), view.seconds) if view.agent else None


class SettledScreen:
    """The screen is another than the firmware's and does not change any more; the guest rests."""

    def __init__(self) -> None:
        self._first: Frame | None = None
        self._still: Frame | None = None
        self._since = 0.0
        self._recent: deque[View] = deque()

    def see(self, view: View) -> Seen | None:
        """Whether it has settled; the machine was up when that began."""
        self._recent.append(view)
        while view.seconds - self._recent[0].seconds > _RECENT:
            self._recent.popleft()
        if view.frame is None:
            return None
        self._first = self._first or (None if view.frame.blank else view.frame)
        if self._still is None or not view.frame.same_as(self._still):
            self._still, self._since = view.frame, view.seconds
        at_rest = view.seconds - self._since
        if at_rest < _time_needed(view) or not self._is_an_end(view) or not self._calm():
            return None
        sentence = tr(
            "Its screen has not changed for {at_rest:.0f} s, and it has nothing to do.",
            at_rest=at_rest,
        )
        return Seen(sentence, self._since)

    def _is_an_end(self, view: View) -> bool:
        """Whether what is on the screen can be what a machine comes to."""
        if view.frame is None or view.frame.blank:
            return False
        if view.text is not None:
            return not boot_words.between_stages(view.text)
        return self._first is not None and not view.frame.same_as(self._first)

    def _calm(self) -> bool:
        busy = sum(not each.rests for each in self._recent)
        moved = self._recent[-1].disk_bytes - self._recent[0].disk_bytes
        return busy <= _BUSY_LOOKS * len(self._recent) and moved < _QUIET_DISK


class AnyOf:
    """Whichever comes first."""

    def __init__(self, *signs: Readiness) -> None:
        self._signs = signs

    def see(self, view: View) -> Seen | None:
        """The first one."""
        return next(filter(None, [sign.see(view) for sign in self._signs]), None)


def readiness(words: str) -> Readiness:
    """The sign that `auto`, `login`, `screen`, `agent`, `text:WORDS` or `regex:PATTERN` means.

    Raises UsageError where it means none.
    """
    name, colon, rest = words.partition(":")
    if colon and rest and name in ("text", "regex"):
        return Words(re.escape(rest) if name == "text" else rest)
    if words == "auto":
        return AnyOf(Login(), Agent(), SettledScreen())
    kinds: dict[str, type[Login | Agent | SettledScreen]] = {
        "login": Login,
        "agent": Agent,
        "screen": SettledScreen,
    }
    if words not in kinds:
        raise UsageError(
            tr("There is no sign of life {words!r}.", words=words),
            tr("Choose auto, login, screen, agent, text:WORDS or regex:PATTERN."),
        )
    return kinds[words]()


def _time_needed(view: View) -> float:
    if boot_words.between_stages(view.console):
        return SETTLED_MESSAGES
    if view.text is not None:
        return SETTLED_TEXT
    plain = view.frame is not None and view.frame.plain
    return SETTLED_MESSAGES if plain else SETTLED_DESKTOP
