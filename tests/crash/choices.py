"""Draws what of a record had reached the storage: often extremes, for those are what goes wrong."""

from __future__ import annotations

import random

import numpy as np

from tests.crash.record import SECTOR, Choice, Enter, Flags, Kept, Leave, Node, Write
from tests.crash.states import States

TORN = 0.6
"""The share of the writes that were on their way of which some sectors are there."""
ORDERED, ANY = "ordered", "any"
"""How changes of names are lost."""


def draw(states: States, cut: int, rng: random.Random) -> Choice:
    """A choice at that place: often an extreme one, for those are what goes wrong."""
    pending = states.pending(cut)
    changes = states.record.changes
    names = [number for number in pending if isinstance(changes[number], Enter | Leave)]
    files: dict[Node, list[int]] = {}
    for number in pending:
        if not isinstance(changes[number], Enter | Leave):
            files.setdefault(changes[number].node, []).append(number)
    manner = rng.choice((ORDERED, ANY, ANY))
    kept = _names_in_order(states, cut, names, rng) if manner == ORDERED else _some(names, rng)
    alike = rng.choice(_MANNERS) if rng.random() < 0.5 else None
    sizes = {}
    for node, numbers in files.items():
        kept |= (alike or rng.choice(_MANNERS))(numbers, rng)
        for number in numbers:
            change = changes[number]
            if isinstance(change, Write) and kept.get(number) is True and rng.random() < TORN:
                kept[number] = _sectors(change, rng)
        if rng.random() < 0.3:
            sizes[node] = rng.choice(states.sizes(node, cut))
    return Choice(cut, kept, sizes, manner == ANY and rng.random() < 0.3)


def _names_in_order(states: States, cut: int, names: list[int], rng: random.Random) -> Kept:
    """All up to some moment, which is not before the last that is durable."""
    last = states.last_durable_name(cut)
    open_end = [number for number in names if number > last]
    kept = len(names) - len(open_end) + rng.randint(0, len(open_end))
    return dict.fromkeys(names[:kept], True)


def _some(numbers: list[int], rng: random.Random) -> Kept:
    return rng.choice(_MANNERS)(numbers, rng)


def _none(numbers: list[int], rng: random.Random) -> Kept:
    del numbers, rng
    return {}


def _all(numbers: list[int], rng: random.Random) -> Kept:
    del rng
    return dict.fromkeys(numbers, True)


def _any(numbers: list[int], rng: random.Random) -> Kept:
    share = rng.choice((0.1, 0.5, 0.9))
    return {number: True for number in numbers if rng.random() < share}


def _one(numbers: list[int], rng: random.Random) -> Kept:
    return {rng.choice(numbers): True} if numbers else {}


def _all_but_one(numbers: list[int], rng: random.Random) -> Kept:
    lost = rng.choice(numbers) if numbers else None
    return {number: True for number in numbers if number != lost}


def _first(numbers: list[int], rng: random.Random) -> Kept:
    return dict.fromkeys(numbers[: rng.randint(0, len(numbers))], True)


def _last(numbers: list[int], rng: random.Random) -> Kept:
    return dict.fromkeys(numbers[rng.randint(0, len(numbers)) :], True)


_MANNERS = (_none, _all, _any, _one, _all_but_one, _first, _last)


def _sectors(write: Write, rng: random.Random) -> Flags:
    """Which sectors of a torn write are there: its start, its end, or any."""
    first, end = write.offset // SECTOR, -(-(write.offset + len(write.data)) // SECTOR)
    number = np.arange(end - first)
    # headers and such change in their first sectors, and the rest is as it was
    place = rng.choice((rng.randint(0, end - first), rng.randint(1, 4)))
    manner = rng.randrange(4)
    if manner == 0:
        return np.asarray(number < place)
    if manner == 1:
        return np.asarray(number >= place)
    generator = np.random.default_rng(rng.getrandbits(32))
    pages = 1 if manner == 2 else 8  # whole pages of 4 KiB, or single sectors
    return np.repeat(generator.random(-(-len(number) // pages)) < rng.random(), pages)[
        : len(number)
    ]
