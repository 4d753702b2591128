"""What a set does with a tracker, in short: begin, harvest, be told."""

from __future__ import annotations

import os
from pathlib import Path

from vdbackup.agent import tracking
from vdbackup.agent.changes import Harvest, Token
from vdbackup.sources.live_rounds import ranges_of

Runs = list[tuple[int, int]]


def write(device: Path, *places: tuple[int, int]) -> None:
    """Write at each offset so many bytes, and let no write be under way."""
    fd = os.open(device, os.O_WRONLY)
    try:
        for offset, length in places:
            os.pwrite(fd, b"\1" * length, offset)
        os.fsync(fd)
    finally:
        os.close(fd)


def begin(device: Path, name: str = "a set") -> Token:
    """Track a device; the moment of a first point."""
    with tracking.track(device) as tracked, tracked.follower(name) as follower:
        token = follower.harvest(None).token
        assert token is not None
        follower.keep(token)
        return token


def harvest(device: Path, since: Token, name: str = "a set") -> Harvest:
    """As another process does it."""
    tracked = tracking.find(device)
    assert tracked is not None
    with tracked, tracked.follower(name) as follower:
        return follower.harvest(since)


def changed(device: Path, since: Token, name: str = "a set") -> Runs:
    """Where there is no doubt."""
    told = harvest(device, since, name)
    assert told.reason == ""
    assert told.changes is not None
    return [(offset, length) for offset, length in ranges_of(told.changes).tolist()]


def doubt(device: Path, since: Token) -> str:
    """Where there is one, which stays until tracking is begun anew."""
    told = harvest(device, since)
    assert told.token is None
    assert told.changes is None
    assert harvest(device, since).reason == told.reason
    with tracking.track(device) as tracked:
        assert tracked.doubt() == ""
    assert harvest(device, since).reason == f"tracking was begun anew: {told.reason}"
    return told.reason
