"""Which blocks of a disk change, marked in the kernel while no process of ours runs.

    with tracking.track(Path("/dev/sda2")) as tracked:          # begins it, or joins
        with tracked.follower("name of a set") as follower:
            # all file systems frozen, or the device unused: nothing is under way
            first = follower.harvest(since=None)                # then everything is read
            ...
            second = follower.harvest(since=first.token)        # then second.changes
            ...                                                 # the point is made, and durable
            follower.keep(second.token)                         # which stands in its manifest

    # at the next backup, in another process
            follower.keep(token)                                # of the last manifest: see below
            harvest = follower.harvest(since=token)

**A harvest counts only while no write is under way.** A block is marked when its write is handed
in, before the data reach the disk: who harvests and then reads may else read what was there before,
and the mark is used up. So all file systems on the device are frozen (FIFREEZE) during `harvest`,
for a moment; what changed is read afterwards, and the last time still within the freeze. That is
the caller's matter.

**Never a missed block.** `harvest` gives no changes, but a reason for a full read, whenever
anything does not fit: another medium, another size, a program or a link that is gone, a request
that could not be marked, a computer that slept, fewer sectors counted than the kernel has counted
(`trust`). Then its token is None, and `track` begins anew, with another nonce. Whoever is killed at
whatever moment costs at most a full read (`follower`).

A follower keeps two moments: its last harvest, and the one it was told to `keep`. Any other one is
known only if one of these is older. So a point's token is kept once the point is durable, and again
before the next backup, for whoever was killed between the two.

Several sets may follow one disk, each by a name of its own; no harvest takes anything from another.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

from vdbackup.agent import bpf, marking, pins
from vdbackup.agent.block_devices import SECTOR, Disk, Place
from vdbackup.agent.changes import PAGE
from vdbackup.agent.state import Description, State
from vdbackup.agent.tracked import Status, Tracked, half_of
from vdbackup.agent.trust import slept
from vdbackup.errors import NotTracked, TrackingRefused
from vdbackup.translation import tr

log = logging.getLogger(__name__)

_LETTERS = 200
"""Of a doubt, as far as the tracker that comes next keeps it: it has 2 KiB for all that it is."""


def track(device: int | Path, *, lasting: bool = True) -> Tracked:
    """Begin to track the whole disk that a device lies on, or join whoever has begun it.

    Tracking goes on without any process of ours, until `untrack` or the next boot. A tracker that
    cannot be trusted any more is ended, and another begun: tokens of the old one mean a full read.

    Args:
        device: a disk or a partition of one, by its number (st_rdev) or its file.
        lasting: it is not ended by `end_unneeded`, either.

    Raises:
        SourceNotFound, NotADisk: there is no such device.
        TrackingRefused: changes of this disk would not all be seen.
        TrackingNotSupported: this kernel or system cannot do it.
        NeedsRoot: this user may not.
        TrackerBusy: another process is at work with trackers.
    """
    place = Place.of(device)
    hindrance = place.disk.hindrance() if lasting else place.disk.hindrance_now()
    if hindrance:
        raise TrackingRefused(
            tr(
                "Changes of {node} cannot be tracked: {hindrance}.",
                node=place.disk.node,
                hindrance=hindrance,
            ),
            tr("Everything on it is read at each backup instead."),
        )
    if not place.disk.medium:
        raise pins.refused(
            OSError(errno.EOPNOTSUPP, tr("no diskseq")), tr("disks have no numbers in it")
        )
    pins.make_home()
    with pins.alone(pins.home()):
        _remove_those_of_gone_media()
        tracked, doubt = _open(place), ""
        if tracked is not None and (doubt := tracked.doubt()):
            log.info("%s is tracked anew: %s", place.disk.node, doubt)
            lasting = lasting or tracked.lasting
            tracked.close()
            tracked = None
        tracked = tracked or _begun_anew(place, doubt)
        if lasting:
            tracked.let_last()
        return tracked


def _begun_anew(place: Place, doubt: str) -> Tracked:
    _remove(pins.folder_of(place.disk))
    try:
        return _begin(place, doubt[:_LETTERS])
    except BaseException:
        pins.remove(pins.folder_of(place.disk))
        raise


def find(device: int | Path) -> Tracked | None:
    """The tracker of the disk that a device lies on; None where it is not tracked.

    Whether it can be trusted is not asked: see `Tracked.doubt`. Raises as `track` does.
    """
    return _open(Place.of(device))


def untrack(device: int | Path) -> Path:
    """End the tracking of the disk that a device lies on, which it returns.

    The kernel marks nothing any more, and whoever has the tracker open sees that it has ended.

    Raises NotTracked where there is no tracker, and as `track` does.
    """
    place = Place.of(device)
    folder = pins.folder_of(place.disk)
    if folder not in pins.folders():
        raise NotTracked(
            tr("Changes of {node} are not tracked.", node=place.disk.node),
            tr("There is nothing to end."),
        )
    with pins.alone(pins.home()):
        _remove(folder)
    return place.disk.node


def end_unneeded(device: int | Path) -> None:
    """End the tracking of a disk unless it is to last, or somebody follows it.

    Raises as `track` does.
    """
    place = Place.of(device)
    folder = pins.folder_of(place.disk)
    if folder not in pins.folders():
        return
    with pins.alone(pins.home()):
        found = _open(place)
        if found is not None:
            with found:
                if found.lasting or found.names():
                    return
        _remove(folder)


def tracked() -> list[Status]:
    """Of all disks that are tracked.

    Raises NeedsRoot where this user may not look.
    """
    found = []
    for folder in pins.folders():
        disk, medium = pins.disk_of(folder)
        if disk.medium == medium and (there := _open(Place(disk, 0, disk.size))):
            with there:
                found.append(there.status())
    return found


def _open(place: Place) -> Tracked | None:
    """The tracker of a disk; None where there is none that is whole."""
    folder = pins.folder_of(place.disk)
    if folder not in pins.folders():
        return None
    try:
        return Tracked(place, folder)
    except PermissionError as error:
        raise pins.refused(error, tr("its tracker cannot be opened")) from error
    except (OSError, TypeError, ValueError) as error:
        log.info("%s is no whole tracker: %s", folder, error)
        return None


def _begin(place: Place, instead_of: str) -> Tracked:
    folder, size = pins.folder_of(place.disk), place.disk.size
    where = marking.layout_of_this_kernel()
    try:
        folder.mkdir(mode=0o700)
        _set_up(folder, place, size, where, instead_of)
    except OSError as error:
        raise pins.refused(error, tr("it does not take the program that marks changes")) from error
    return Tracked(place, folder)


def _set_up(folder: Path, place: Place, size: int, where: marking.Layout, instead_of: str) -> None:
    """Make all that is pinned, the word that it is whole last; raises OSError."""
    bpf.wait_for_programs()  # a kernel that cannot do that is refused before anything is there
    mapping = place.disk.mapping
    with ExitStack() as stack:

        def closing(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        state_map = closing(bpf.create_array(b"vdbackup_state", 1, PAGE))
        bits = closing(bpf.create_array(b"vdbackup_bits", 2 * half_of(size) // 8, 8))
        bpf.pin(state_map, folder / "state")
        bpf.pin(bits, folder / "bits")
        programs, links = [], []
        for which, (code, type_id) in enumerate(_codes(place.disk, size, where, state_map, bits)):
            program = closing(bpf.load_program(b"vdbackup_mark", code, type_id))
            bpf.pin(program, folder / f"program{which}")
            link = closing(bpf.attach(program))
            bpf.pin(link, folder / f"link{which}")
            programs.append(bpf.program_number(program))
            links.append(bpf.link_info(link).number)
        state = State.open(folder / "state")
        stack.callback(state.close)
        state.generation = 1
        state.description = Description(
            secrets.token_hex(16), datetime.now(UTC), size, place.disk.medium, slept(),
            tuple(programs), tuple(links), instead_of, mapping,
        )  # fmt: skip
        state.ready = True


def _codes(
    disk: Disk, size: int, where: marking.Layout, state: int, bits: int
) -> Iterator[tuple[bytes, int]]:
    """The instructions of all programs, each with its tracepoint's type."""
    number, words = (disk.major, disk.minor), half_of(size) // 8
    for copy in range(marking.COPIES):
        code = marking.program(where, number, size // SECTOR, words, state, bits, copy)
        yield code, where.queued
    yield marking.watch(where, number, state), where.issued


def _remove(folder: Path) -> None:
    """End a tracker, which need not be there or be whole; whoever has it open sees that."""
    with suppress(FileNotFoundError), pins.alone(folder):
        with suppress(OSError, ValueError):
            state = State.open(folder / "state")
            state.ready = False
            state.close()
        pins.remove(folder)


def _remove_those_of_gone_media() -> None:
    """No disk is ever again what they are of."""
    for folder in pins.folders():
        disk, medium = pins.disk_of(folder)
        if disk.medium != medium:
            _remove(folder)
