"""The tracker of one disk, open: what its followers harvest, and whether it can be trusted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from vdbackup.agent import bpf, pins
from vdbackup.agent.block_devices import Place
from vdbackup.agent.changes import BLOCK, CLEAN, PAGE, Changes, Harvest, Token
from vdbackup.agent.follower import Bitmaps
from vdbackup.agent.state import Description, State
from vdbackup.agent.trust import Trust
from vdbackup.translation import tr


def half_of(size: int) -> int:
    """Bytes of a bitmap for a disk of `size` bytes: whole pages."""
    blocks = -(-size // BLOCK)
    return -(-blocks // (8 * PAGE)) * PAGE


@dataclass(frozen=True)
class Status:
    """What is known of a tracker without any harvest; sizes in bytes.

    Attributes:
        device: the whole disk.
        since: when tracking began.
        changed: what the follower that is furthest behind would read now; what was marked since
            tracking began, where there is no follower.
        followers: by name, what each would read; None for everything.
        doubt: why the tracker cannot be trusted any more, to be put behind "because"; else "".
    """

    device: Path
    since: datetime
    changed: int
    followers: dict[str, int | None]
    doubt: str


class Tracked:
    """The tracker of a whole disk, for one device on it. Closing it ends no tracking.

    Attributes:
        place: the device, and where on which disk it lies.
        description: what the tracker was begun with.
        trust: whether it can be trusted.
    """

    def __init__(self, place: Place, folder: Path) -> None:
        """Open it; raises OSError, TypeError or ValueError where it is none, or half made."""
        self.place = place
        self._folder = folder
        with ExitStack() as undo:
            self._state = State.open(folder / "state")
            undo.callback(self._state.close)
            self.description: Description = self._state.description
            self._half = half_of(self.description.size)
            fd = bpf.open_pin(folder / "bits")
            undo.callback(os.close, fd)
            self.trust = Trust(place.disk, folder, self._state)
            if not self._state.ready or bpf.map_bytes(fd) != 2 * self._half:
                raise ValueError(tr("it is not a whole tracker"))
            self._bits = bpf.in_memory(fd)
            undo.pop_all()
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what is open."""
        self._state.close()
        self._bits.close()

    def follower(self, name: str) -> Follower:
        """Whoever follows the disk under that name; from now on, if nobody has.

        It costs the kernel's memory two bits for each 64 KiB of the disk: 4 MiB for a TiB.

        Args:
            name: any, not too long: some 60 letters always fit.

        Raises ValueError for a name that is too long, TrackerBusy, and OSError where the kernel has
        no memory, or tracking has been ended.
        """
        file = pins.follower_file(self._folder, name)
        if not name or len(file.name) > pins.MAX_NAME:
            raise ValueError(tr("{name!r} is too long, or empty", name=name))
        with pins.alone(self._folder):
            make = Bitmaps.open if os.path.lexists(file) else Bitmaps.create
            return Follower(self, make(file, self._half))

    @property
    def lasting(self) -> bool:
        """Whether tracking goes on when nobody follows the disk any more."""
        return self._state.lasting

    def let_last(self) -> None:
        """Tracking goes on from now on until it is ended on purpose."""
        self._state.lasting = True

    def names(self) -> list[str]:
        """Of all followers."""
        return list(pins.followers(self._folder))

    def forget(self, name: str) -> None:
        """Let a follower be none any more, who may be none already; raises TrackerBusy."""
        with suppress(FileNotFoundError), pins.alone(self._folder):  # it may have been ended, too
            pins.follower_file(self._folder, name).unlink()

    def doubt(self) -> str:
        """Why the tracker cannot be trusted any more, to be put behind "because"; else "".

        What was found once is found by everybody from then on.
        """
        return self.trust.doubt()

    def distrust(self, why: str) -> None:
        """Something had changed that was not marked: nobody believes the tracker from now on.

        Args:
            why: to be put behind "because"; it is kept in the kernel, for some 1,000 letters.
        """
        self.trust.distrust(why)

    def status(self) -> Status:
        """What is known without a harvest."""
        active = int.from_bytes(self._bits[: self._half], "little")
        active |= int.from_bytes(self._bits[self._half :], "little")
        known: dict[str, int | None] = {}
        union = active
        for name, file in pins.followers(self._folder).items():
            bitmaps = Bitmaps.open(file, self._half)
            pending = bitmaps.furthest_back()
            bitmaps.close()
            marks = None if pending is None else int.from_bytes(pending, "little") | active
            known[name] = None if marks is None else marks.bit_count() * BLOCK
            union |= marks or 0
        return Status(
            self.place.disk.node,
            self.description.since,
            union.bit_count() * BLOCK,
            known,
            self.doubt(),
        )

    # ------------------------------------------------------------------------- harvesting

    def _harvest(self, number: int) -> str:
        """Let all followers have what was marked; why that cannot be relied on, else "".

        For `Follower.harvest`, within `pins.alone`. The half that was marked last is taken first:
        whoever harvested before may have been killed when it was not yet empty.

        Args:
            number: of the map of the follower who asks: what is not pinned any more is not marked.
        """
        if doubt := self.trust.doubt_of_place():
            return doubt
        with self._bitmaps() as followers:
            if number not in [each.number for each in followers]:
                return tr("what it followed it by was removed")
            self._hand_out(1 - (self._state.generation & 1), followers)
            written = self.trust.written()
            self._state.generation += 1
            # A program that has read the old generation may not have marked yet: without this one
            # block of 40,000 was lost (measured).
            bpf.wait_for_programs()
            self._hand_out(1 - (self._state.generation & 1), followers)
        self.trust.measure()
        return self.trust.doubt_of_counts(written)

    @contextmanager
    def _bitmaps(self) -> Iterator[list[Bitmaps]]:
        with ExitStack() as stack:
            found = []
            for file in pins.followers(self._folder).values():
                found.append(Bitmaps.open(file, self._half))
                stack.callback(found[-1].close)
            yield found

    def _hand_out(self, half: int, followers: list[Bitmaps]) -> None:
        """Mark with all followers what a half has, and empty it: in this order, page by page."""
        for at in range(0, self._half, PAGE):
            here = slice(half * self._half + at, half * self._half + at + PAGE)
            page = self._bits[here]
            if page != CLEAN:
                marks = int.from_bytes(page, "little")
                for follower in followers:
                    follower.add(at, marks)
                self._bits[here] = CLEAN


class Follower:
    """One who follows a disk: it is told what has changed since any moment that it still needs."""

    def __init__(self, tracked: Tracked, bitmaps: Bitmaps) -> None:
        self._tracked = tracked
        self._bitmaps = bitmaps

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what is open; it is a follower still."""
        self._bitmaps.close()

    def harvest(self, since: Token | None) -> Harvest:
        """What has changed since a moment until now. Counts only while no write is under way.

        That is within a freeze of all file systems on the device (see above). It writes to no file
        system, and takes milliseconds: 10 for the programs that run to end, and 5 for each TiB.

        Args:
            since: an earlier harvest's token, or that of the last point; None where everything is
                to be read anyway.

        Raises TrackerBusy, and OSError where the kernel refuses something: then nothing is known,
        nor lost.
        """
        tracked, place = self._tracked, self._tracked.place
        try:
            with pins.alone(tracked._folder):
                if doubt := tracked._harvest(self._bitmaps.number):
                    return Harvest(None, None, doubt)
                generation = tracked._state.generation
                token = Token(tracked.description.nonce, generation, place.start, place.size)
                harvest = self._told(token, since)
                self._bitmaps.begin(generation)
                return harvest
        except FileNotFoundError:
            return Harvest(None, None, tr("tracking was ended"))

    def _told(self, token: Token, since: Token | None) -> Harvest:
        if since is None:
            return Harvest(token, None, "")
        if since.nonce != token.nonce:
            again = self._tracked.description.instead_of
            return Harvest(token, None, tr("tracking was begun anew") + (again and f": {again}"))
        if (since.start, since.size) != (token.start, token.size):
            return Harvest(token, None, tr("the partition has another place or size"))
        bitmap = self._bitmaps.since(since.generation)
        if bitmap is None:
            return Harvest(token, None, tr("what changed since then was not kept"))
        return Harvest(token, Changes(bitmap, token.start, token.size), "")

    def distrust(self, why: str) -> None:
        """As `Tracked.distrust`."""
        self._tracked.distrust(why)

    def keep(self, token: Token) -> None:
        """What is older than that moment is needed no more: the point that notes it is durable.

        Where it is not this follower's last harvest, all stays as it is: the next one then is told
        of more changes than there were, not of fewer. Raises TrackerBusy.
        """
        if token.nonce == self._tracked.description.nonce:
            with suppress(FileNotFoundError), pins.alone(self._tracked._folder):
                self._bitmaps.keep(token.generation)
