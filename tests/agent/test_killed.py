"""Whoever is killed at work with a tracker, before any store, has lost no change of anybody's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.agent.followed import begin, changed, write
from vdbackup.agent import bpf, marking, pins, tracking
from vdbackup.agent.block_devices import Place
from vdbackup.agent.changes import BLOCK, Token
from vdbackup.agent.follower import Bitmaps


class Killed(BaseException):
    """It goes no further."""


class Fuse:
    """Lets so many stores happen, and none after them."""

    def __init__(self, stores: int) -> None:
        self.left = stores

    def store(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


class Watched:
    """Memory, or a view of it, whose stores go through a fuse."""

    def __init__(self, memory: Any, fuse: Fuse) -> None:
        self._memory, self._fuse = memory, fuse

    def __setitem__(self, place: Any, value: Any) -> None:
        self._fuse.store()
        self._memory[place] = value

    def __getitem__(self, place: Any) -> Any:
        return self._memory[place]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memory, name)


def watch(thing: object, names: tuple[str, ...], fuse: Fuse) -> None:
    for name in names:
        setattr(thing, name, Watched(getattr(thing, name), fuse))


def killed_after(stores: int, monkeypatch: pytest.MonkeyPatch, disk, work) -> bool:
    """Whether a process that does that work does not come to its end."""
    fuse, made = Fuse(stores), Bitmaps.__init__

    def opened(bitmaps: Bitmaps, fd: int, half: int) -> None:
        made(bitmaps, fd, half)
        watch(bitmaps, ("_memory", "_numbers"), fuse)

    with monkeypatch.context() as patch, tracking.track(disk) as tracked:
        patch.setattr(Bitmaps, "__init__", opened)
        watch(tracked, ("_bits",), fuse)
        watch(tracked._state, ("_numbers", "_memory"), fuse)
        with tracked.follower("one") as follower:
            try:
                work(follower)
            except Killed:
                return True
    return False


def moments(disk, monkeypatch, work) -> Iterator[int]:
    """After each number of stores that is not all of them."""
    for stores in range(100):
        if not killed_after(stores, monkeypatch, disk, work):
            assert stores > 3
            return
        yield stores
    raise AssertionError


def test_a_harvest_that_is_cut_off_costs_no_follower_a_change(disk, monkeypatch):
    since = {name: begin(disk, name) for name in ("one", "other")}
    write(disk, (0, BLOCK))
    expected = [(0, BLOCK)]

    def harvest_it(follower) -> None:
        follower.harvest(since["one"])

    for number in moments(disk, monkeypatch, harvest_it):
        for name, token in since.items():
            assert changed(disk, token, name) == expected
        write(disk, ((2 * number + 2) * BLOCK, BLOCK))
        expected.append(((2 * number + 2) * BLOCK, BLOCK))


def test_a_point_that_is_being_kept_is_known_afterwards(disk, monkeypatch):
    begin(disk, "one")
    tokens: list[Token] = []

    def harvest_and_keep(follower) -> None:
        token = follower.harvest(None).token
        write(disk, (len(tokens) * 2 * BLOCK, BLOCK))
        tokens.append(token)
        follower.keep(token)

    seen = 0
    for _ in moments(disk, monkeypatch, harvest_and_keep):
        if len(tokens) > seen:  # its point was durable
            seen = len(tokens)
            assert ((seen - 1) * 2 * BLOCK, BLOCK) in changed(disk, tokens[-1], "one")
    assert seen > 1


def test_what_is_begun_and_not_finished_is_no_tracker(disk, monkeypatch):
    """Killed between any two of its pins."""
    folder, pinned = pins.folder_of(Place.of(disk).disk), bpf.pin
    for pin in range(2 + 2 * marking.PROGRAMS):
        fuse = Fuse(pin)

        def pin_it(fd, path, fuse=fuse):
            fuse.store()
            pinned(fd, path)

        with monkeypatch.context() as patch:
            patch.setattr(bpf, "pin", pin_it)
            patch.setattr(pins, "remove", lambda _: None)  # who is killed removes nothing
            with pytest.raises(Killed):
                tracking.track(disk)
        assert len(list(folder.iterdir())) == pin
        assert tracking.find(disk) is None
        assert tracking.tracked() == []
        since = begin(disk)
        write(disk, (0, 1))
        assert changed(disk, since) == [(0, BLOCK)]
        tracking.untrack(disk)
