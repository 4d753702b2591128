"""What the agent and its client say to each other: a request, and its reply.

Each is one message of a socket that keeps them apart (SOCK_SEQPACKET): JSON, no longer than
MAX_MESSAGE, with a few descriptors beside a reply. What may be larger lies in memory of which
a descriptor goes with it (memory.py). What comes from the other side is believed only once it was
read as one of these classes (records.py), by the agent above all: whoever is connected may send
anything.

A device is named by its number as sysfs has it, "8:1", never by a path.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

from vdbackup import errors, records
from vdbackup.agent.changes import Changes, Harvest, Token
from vdbackup.agent.freezing import Freeze
from vdbackup.agent.in_use import CAPTURE, Asked, Round
from vdbackup.agent.stretches import Stretch
from vdbackup.agent.tracked import Status
from vdbackup.agent.write_log import Logged
from vdbackup.errors import AgentFailed, VdbackupError
from vdbackup.translation import again, tr

MAX_MESSAGE = 64 << 10
"""Bytes. A socket takes some 200 KiB at once."""
MAX_AGAIN = 1000
"""Stretches that are to be read once more: JSON of 40 KB at most."""
MAX_TOGETHER = 16
"""Devices of one client that are frozen together."""
MAX_DESCRIPTORS = MAX_TOGETHER
"""Beside a reply: the bitmap of each, or of one with the memory that it is read into."""
MAX_STATUS = 16 << 20
"""Bytes of what is said of all trackers: 64 followers of each of 1,000 disks."""
_MAX_NAME = 200
_MAX_WHY = 200
_NUMBER = re.compile(r"[0-9]{1,4}:[0-9]{1,7}")
"""The kernel has 12 bits for the first, and 20 for the second (linux/kdev_t.h)."""
_NONCE = re.compile(r"[0-9a-f]{32}")

Record = TypeVar("Record")


def _device(value: str) -> str:
    if not _NUMBER.fullmatch(value):
        raise ValueError(tr("it is no device's number"))
    return value


def _name(value: str) -> str:
    if not 0 < len(value) <= _MAX_NAME or not value.isascii() or not value.isprintable():
        raise ValueError(tr("it is no name"))
    if CAPTURE.fullmatch(value):
        raise ValueError(tr("it is the name of a backup that runs"))
    return value


def _why(value: str) -> str:
    if not 0 < len(value) <= _MAX_WHY or not value.isascii() or not value.isprintable():
        raise ValueError(tr("it is no reason"))
    return value


def _token(value: Token) -> Token:
    if not _NONCE.fullmatch(value.nonce):
        raise ValueError(tr("it is no moment"))
    return value


def _together(value: tuple[OneOfAll, ...]) -> tuple[OneOfAll, ...]:
    if not 0 < len(value) <= MAX_TOGETHER or len({each.device for each in value}) < len(value):
        raise ValueError(tr("they are too many, or one is there twice"))
    return value


def _few(value: tuple[Stretch, ...]) -> tuple[Stretch, ...]:
    if len(value) > MAX_AGAIN or any(not length for _, length in value):
        raise ValueError(tr("they are too many, or empty"))
    return value


Number = Annotated[str, _device]
Name = Annotated[str, _name]
Moment = Annotated[Token, _token]
Why = Annotated[str, _why]
Stretches = tuple[tuple[int, int], ...]

# -------------------------------------------------------------------------------- requests


@dataclass(frozen=True)
class Open:
    """A descriptor to read the device by, past any cache."""

    device: Number


@dataclass(frozen=True)
class Track:
    """See from now on what changes on the disk."""

    device: Number


@dataclass(frozen=True)
class Untrack:
    """See it no more."""

    device: Number


@dataclass(frozen=True)
class Tell:
    """What is known of all trackers."""


@dataclass(frozen=True)
class Use:
    """Begin to use a device (in_use.InUse), whose one user this client is until `Release`.

    Where it is frozen `together` with others, these are used by the same client.
    """

    device: Number
    name: Name | None
    since: Moment | None
    together: bool = field(default=False, metadata=records.LATER)


@dataclass(frozen=True)
class Freezing:
    """A round: freeze it for a moment (in_use.Asked)."""

    few: int
    shrunk: int
    ends: bool
    again: Annotated[Stretches, _few]
    since: Moment


@dataclass(frozen=True)
class OneOfAll:
    """What a round of several devices is to show of one."""

    device: Number
    round: Freezing


@dataclass(frozen=True)
class FreezingAll:
    """A round of several devices in use (in_use.round_of_all)."""

    rounds: Annotated[tuple[OneOfAll, ...], _together]


@dataclass(frozen=True)
class Keep:
    """A point of that moment is stored; of the only device that is used where none is named."""

    token: Moment
    device: Number | None = field(default=None, metadata=records.LATER)


@dataclass(frozen=True)
class Distrust:
    """Something was found that the tracker has missed: nobody is to believe it any more."""

    why: Why
    device: Number | None = field(default=None, metadata=records.LATER)


@dataclass(frozen=True)
class Release:
    """Use the device no more; all of them where none is named."""

    device: Number | None = field(default=None, metadata=records.LATER)


@dataclass(frozen=True)
class Log:
    """Log each write to a volume in the file whose descriptor is beside this (write_log.begin).

    Until `Unlog`, or until this client is gone.
    """

    device: Number


@dataclass(frozen=True)
class Unlog:
    """Log no more, whoever began it."""

    device: Number


@dataclass(frozen=True)
class TellLog:
    """How the log of a volume is."""

    device: Number


REQUESTS: dict[str, type] = {
    "open": Open,
    "track": Track,
    "untrack": Untrack,
    "status": Tell,
    "use": Use,
    "round": Freezing,
    "rounds": FreezingAll,
    "keep": Keep,
    "distrust": Distrust,
    "release": Release,
    "log": Log,
    "unlog": Unlog,
    "log-status": TellLog,
}
"""All that can be asked, by its name."""
_NAMES = {kind: name for name, kind in REQUESTS.items()}

# --------------------------------------------------------------------------------- replies


@dataclass(frozen=True)
class Done:
    """Nothing is to be said of it; of `Open`, with the descriptor."""


@dataclass(frozen=True)
class Disk:
    """Of `Track` and `Untrack`."""

    device: str
    since: datetime | None


@dataclass(frozen=True)
class OneStatus:
    """tracked.Status; of `Tell`, a list of them in memory beside it."""

    device: str
    since: datetime
    changed: int
    followers: tuple[tuple[str, int | None], ...]
    doubt: str

    @classmethod
    def of(cls, status: Status) -> OneStatus:
        """As it is sent."""
        followers = tuple(status.followers.items())
        return cls(str(status.device), status.since, status.changed, followers, status.doubt)

    def status(self) -> Status:
        """As it was."""
        followers = dict(self.followers)
        return Status(Path(self.device), self.since, self.changed, followers, self.doubt)


@dataclass(frozen=True)
class Statuses:
    """What `Tell` gets, in memory."""

    tracked: tuple[OneStatus, ...]


@dataclass(frozen=True)
class Harvested:
    """changes.Harvest; where something is known of what changed, with the bitmap beside it."""

    token: Moment | None
    reason: str
    start: int | None
    size: int | None

    @classmethod
    def of(cls, harvest: Harvest) -> Harvested:
        """As it is sent."""
        changes = harvest.changes
        start, size = (changes.start, changes.size) if changes else (None, None)
        return cls(harvest.token, harvest.reason, start, size)

    def harvest(self, bitmap: bytes | None) -> Harvest:
        """As it was; raises ValueError where the bitmap is missing."""
        changes = None
        if self.start is not None and self.size is not None:
            if bitmap is None:
                raise ValueError(tr("what has changed is missing"))
            changes = Changes(bitmap, self.start, self.size)
        return Harvest(self.token, changes, self.reason)


@dataclass(frozen=True)
class Around:
    """What of a device is frozen, as of the last freeze."""

    left_out: tuple[str, ...]
    outside: Stretches
    restless: Stretches


@dataclass(frozen=True)
class Using:
    """Of `Use`, with the memory that the last round is read into beside it."""

    goes_on: bool
    settled: bool
    room: int
    around: Around
    harvested: Harvested
    can_be_frozen: bool = True


@dataclass(frozen=True)
class Frozen:
    """Of `Freezing`; with the moment as exact as a mark in a log of writes names it."""

    harvested: Harvested
    at: records.Moment
    seconds: float
    taken: bool
    lost: Stretches
    around: Around

    @classmethod
    def of(cls, seen: Round, around: Around) -> Frozen:
        """As it is sent."""
        freeze = seen.freeze
        at, harvested = freeze.at.isoformat(), Harvested.of(seen.harvest)
        return cls(harvested, at, freeze.seconds, seen.taken, seen.lost, around)

    def round(self, bitmap: bytes | None) -> Round:
        """As it was; the freeze is over."""
        harvest = self.harvested.harvest(bitmap)
        freeze = Freeze(0.0, datetime.fromisoformat(self.at), self.seconds)
        return Round(harvest, freeze, self.taken, self.lost)


@dataclass(frozen=True)
class FrozenAll:
    """Of `FreezingAll`: of each, in that order."""

    rounds: tuple[Frozen, ...]


@dataclass(frozen=True)
class Unlogged:
    """Of `Unlog`: whether it still was."""

    was: bool


@dataclass(frozen=True)
class LogStatus:
    """Of `TellLog`: write_log.Logged; None where the volume has no log."""

    log: Logged | None


@dataclass(frozen=True)
class Refused:
    """An error of ours, by its code and its two sentences; of the system, by its number, too."""

    code: str
    title: str
    advice: str
    errno: int | None


# ------------------------------------------------------------------------------- in between


def asked_for(request: Freezing) -> Asked:
    """What a round is asked for."""
    return Asked(request.few, request.shrunk, request.ends, request.again)


def request_of(data: bytes) -> Any:
    """What a client asks for; raises ValueError for whatever is no request."""
    verb, body = _body(data)
    if verb not in REQUESTS:
        raise ValueError(tr("there is no such request"))
    return _exact(REQUESTS[verb], body)


def reply_of(kind: type[Record], data: bytes) -> Record:
    """What the agent replies; raises what it refuses it by, ValueError for what is no reply."""
    verb, body = _body(data)
    if verb == "refused":
        raise _raised(_exact(Refused, body))
    if verb != "done":
        raise ValueError(tr("it is no reply"))
    return _exact(kind, body)


def statuses_of(data: bytes) -> list[Status]:
    """What is known of all trackers; raises ValueError."""
    return [each.status() for each in _exact(Statuses, _loaded(data)).tracked]


def from_client(request: object) -> bytes:
    """A request as it is sent."""
    return _sent(_NAMES[type(request)], request)


def from_agent(reply: object) -> bytes:
    """A reply as it is sent; an error's is the error."""
    if isinstance(reply, VdbackupError):
        return _sent("refused", Refused(reply.code, reply.title, reply.advice, None))
    if isinstance(reply, OSError):
        number = reply.errno or 0
        return _sent("refused", Refused("", os.strerror(number), "", number))
    return _sent("done", reply)


def in_memory(tracked: list[Status]) -> bytes:
    """What is known of all trackers, as it lies in memory."""
    return _dumped(Statuses(tuple(map(OneStatus.of, tracked))))


def _sent(verb: str, record: object) -> bytes:
    data = _dumped({verb: record})
    if len(data) > MAX_MESSAGE:
        raise AgentFailed(
            tr("More is to be said of this device than a message holds."),
            tr("Back it up as root, without the service."),
        )
    return data


def _dumped(record: object) -> bytes:
    return json.dumps(records.to_json(record), separators=(",", ":")).encode("ascii")


def _body(data: bytes) -> tuple[str, object]:
    message = _loaded(data)
    if not isinstance(message, dict) or len(message) != 1:
        raise ValueError(tr("it has not one member"))
    return next(iter(message.items()))


def _loaded(data: bytes) -> object:
    try:
        return json.loads(data.decode("ascii"))
    except RecursionError as error:
        raise ValueError(tr("it is nested too deep")) from error


def _exact(kind: type[Record], body: object) -> Record:
    if not dataclasses.fields(kind):  # type: ignore[arg-type] # all of them are dataclasses
        if body != {}:
            raise ValueError(tr("nothing more can be said of it"))
        return kind()
    try:
        return records.exact(kind, body)
    except (TypeError, ValueError, VdbackupError) as error:
        raise ValueError(str(error)) from error


def _raised(refused: Refused) -> VdbackupError | OSError:
    if refused.errno is not None:
        return OSError(refused.errno, os.strerror(refused.errno % (1 << 31)))
    kinds = {kind.code: kind for kind in _kinds(errors.AgentError, errors.SourceError)}
    kind = kinds.get(refused.code, AgentFailed)
    error = kind.__new__(kind)  # one of them makes its sentences of something else
    VdbackupError.__init__(error, again(refused.title), again(refused.advice))
    return error


def _kinds(*roots: type[VdbackupError]) -> Iterator[type[VdbackupError]]:
    for root in roots:
        yield root
        yield from _kinds(*root.__subclasses__())
