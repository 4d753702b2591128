"""A virtual machine on a recovery point's overlay: what it is to consist of, and its start.

What the guest writes goes to a session disk of its own; the overlay and the layers below it are
opened for reading only. Nothing of a session outlives `discard`; what is kept can be started again
(`reopen_session`).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from vdbackup.disks.chain import Chain
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import PointUnreadable
from vdbackup.guest.hardware import ANYTHING, Hardware, HardwareRequest
from vdbackup.qemu import accelerator, devices, launch, qemu
from vdbackup.records import from_json, to_json
from vdbackup.recovery.sessions.attached import Attachment, OtherDisk, check_apart, check_sets
from vdbackup.recovery.sessions.files import SessionFiles
from vdbackup.recovery.sessions.folder import SessionFolder
from vdbackup.recovery.sessions.record import Origin
from vdbackup.recovery.sessions.saved import SavedSession
from vdbackup.recovery.sessions.session import Session
from vdbackup.repository import claims
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.machine import points_together
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.repository.written import WrittenPoint
from vdbackup.translation import tr

Opener = Callable[[], Chain]


def start_session(  # noqa: PLR0913 - nobody needs more than a few of them
    overlay: Path,
    *,
    sessions_folder: Path,
    title: str,
    sector_size: int = 512,
    hardware: Hardware | None = None,
    request: HardwareRequest = ANYTHING,
    display: bool = False,
    disk_format: DiskFormat = DiskFormat.VMDK,
    kernel: qemu.Kernel | None = None,
    on: Origin | SavedSession | None = None,
    others: Sequence[OtherDisk] = (),
    attached: Sequence[OtherDisk] = (),
    background: qemu.Background | None = None,
    open_disk: Opener | None = None,
    keep_writes: int | None = None,
) -> Session:
    """Boot a virtual machine from `overlay`; returns as soon as the guest runs.

    QEMU gets the chain as it was just checked (`Chain.open`): it follows no link by itself. Where
    it cannot read the chain's format, it gets a map of it (qemu/concatenation.py).

    Args:
        overlay: the tip of a chain; neither it nor a parent is ever written to.
        sessions_folder: where the session's own folder is made.
        title: the window's, and the session's in lists.
        sector_size: that the guest sees, in bytes.
        hardware: the machine's, if it has been chosen; else it is chosen now by what is on the
            disk, and what cannot boot is refused unless a controller is wished for.
        request: what the user wants of it.
        display: open QEMU's own window; else the machine runs unseen.
        disk_format: of the chain.
        kernel: started in place of what the disk boots.
        on: the recovery point that the overlay belongs to, which is then held; or a session whose
            disk is used in place of a new one (`reopen_session`).
        others: the machine's other disks.
        attached: disks that it gets beside its own: no part of its system is looked for on them.
        background: for a machine that gives way to all other work.
        keep_writes: bytes that every write of the machine may take, which is kept beside the point
            (protection.py); None: none are.
        open_disk: opens what the machine is given, where that is more than the overlay's chain.

    Raises:
        RecoveryError: QEMU is not installed, has no window here, or does not start; or what is
            attached would be taken for a disk of the machine's own.
        ParentError, DiskFormatError: the chain is not what it should be.
    """
    choice = accelerator.choose()
    window = qemu.window() if display else "none"
    with _reading(overlay):
        chain = open_disk() if open_disk else Chain.open(overlay, disk_format)
    with chain, opened(others) as beside, opened(attached) as more, ExitStack() as undo:
        check_apart([chain, *beside], attached, more)
        if hardware is None:
            with _reading(overlay):
                hardware = launch.hardware_for(chain, request, sector_size, beside)
            if request.controller is None:
                launch.refuse_what_cannot_boot(hardware)
        sector_sizes = [launch.sector_size_for(each) for each in (*beside, *more)]
        devices.check(hardware, [sector_size, *sector_sizes])
        again = isinstance(on, SavedSession)
        if isinstance(on, SavedSession):
            folder = SessionFolder.reopen(on.folder)
            undo.callback(folder.close)
            folder.clear()
        else:
            options = {"hardware": to_json(hardware), "network": request.network}
            folder = SessionFolder.create(
                sessions_folder,
                title,
                overlay,
                on,
                options,
                tuple(each.origin for each in others) if on else (),
                tuple(each.origin for each in attached),
            )
            undo.callback(folder.remove)
        prepared = launch.prepare(folder.path, chain, disk_format, hardware, beside)
        if again:
            qemu.name_backing(folder.disk, prepared.backing)
        else:
            qemu.create_session_disk(folder.disk, prepared.backing, prepared.size)
        second = [
            _other_disk(folder, number, disk, its, sector, again=again)
            for number, (disk, its, sector) in enumerate(
                zip((*others, *attached), (*beside, *more), sector_sizes, strict=True), start=2
            )
        ]
        machine = qemu.Machine(
            title=title,
            identity=uuid.uuid5(uuid.NAMESPACE_OID, folder.id),
            backing=prepared.backing,
            session_disk=folder.disk,
            sector_size=sector_size,
            hardware=hardware,
            uefi=prepared.uefi,
            kernel=kernel or prepared.kernel,
            network=request.network,
            accelerator=choice.accelerator,
            display=window,
            console=folder.console,
            background=background,
            others=second,
            boot_disk=launch.boot_disk(chain, beside, hardware),
        )
        session = Session(folder, choice, machine, keep_writes)
        undo.pop_all()  # folder and QEMU are the session's from here on
        undo.callback(session.keep if again else session.discard)
        session.begin()
        undo.pop_all()
    return session


@contextmanager
def opened(others: Sequence[OtherDisk]) -> Iterator[list[Chain]]:
    """The chains of a machine's other disks."""
    with ExitStack() as stack:
        chains = []
        for each in others:
            with _reading(each.overlay):
                chains.append(stack.enter_context(Chain.open(each.overlay, each.disk_format)))
        yield chains


def _other_disk(
    folder: SessionFolder,
    number: int,
    disk: OtherDisk,
    chain: Chain,
    sector_size: int,
    *,
    again: bool,
) -> qemu.OtherDisk:
    """One of a machine's other disks, and what it needs in the session's folder."""
    place, node = folder.folder_of(number), f"disk{number}"
    backing = launch.backing(place, chain, disk.disk_format).prefixed(f"{node}-")
    session_disk = SessionFiles(place).disk
    if again:
        qemu.name_backing(session_disk, backing)
    else:
        qemu.create_session_disk(session_disk, backing, chain.size)
    return qemu.OtherDisk(node, backing, session_disk, sector_size)


def start_from_point(
    repository: Repository, backup_set: BackupSet, point: RecoveryPoint, **options: Any
) -> Session:
    """Boot a recovery point and hold it; `options` and errors as `start_from_points` has.

    Of a moment of a machine it gets all disks, and it starts from the first of them.

    Raises NotWhole where the moment lacks the point of a disk.
    """
    return start_from_points(repository, points_together(repository, backup_set, point), **options)


def start_from_points(
    repository: Repository,
    points: Mapping[str, RecoveryPoint],
    *,
    attach: Sequence[Attachment] = (),
    **options: Any,
) -> Session:
    """The same of one point for each of the machine's disks, by set; of the first it starts.

    Args:
        repository: where they are.
        points: of which it is started.
        attach: points whose disks it gets beside its own; they are held as those are.
        options: those of `start_session`, whose errors it raises, too.

    Raises RepositoryError where one that is to be attached is not there.
    """
    check_sets(repository, points, attach)
    with ExitStack() as claim:
        claimed = [
            claim.enter_context(_claimed(repository, name, each)) for name, each in points.items()
        ]
        found = [each.find() for each in attach]
        more = [
            (where, *claim.enter_context(_claimed(where, name, each)))
            for where, name, each in found
        ]
        (now, point), *others = claimed
        with now.open_chain(point) as chain:
            sector_size = launch.sector_size_for(chain)
        session = start_session(
            now.overlay_path(point),
            title=title_of(now, point),
            sector_size=sector_size,
            disk_format=now.settings.format,
            on=Origin.of(repository, now, point),
            others=[other_disk(repository, *each) for each in others],
            attached=[other_disk(*each) for each in more],
            open_disk=partial(now.open_machine_disk, point),
            **options,
        )
        session.hold_claim(claim.pop_all())
    return session


def title_of(backup_set: BackupSet, point: RecoveryPoint) -> str:
    """What a machine from a point is called: by the machine and its moment, or by set and point."""
    if point.moment is not None:
        return f"{point.moment.machine} #{point.moment.number}"
    if isinstance(point, WrittenPoint):
        return f"{backup_set.name} #{point.sequence}@w{point.write}"
    return f"{backup_set.name} #{point.sequence}"


@contextmanager
def _claimed(
    repository: Repository, set_name: str, point: RecoveryPoint
) -> Iterator[tuple[BackupSet, RecoveryPoint]]:
    """Claim a point of which all layers are there, as long as they were."""
    doing = tr("running a virtual machine from point {point}", point=point.sequence)
    with claims.reading(repository, set_name, [point.id], doing) as now:
        point = now.point(point.id)
        now.open_chain(point).close()
        yield now, point


def other_disk(repository: Repository, now: BackupSet, point: RecoveryPoint) -> OtherDisk:
    """A point that is claimed as one of a machine's other disks."""
    origin = Origin.of(repository, now, point)
    return OtherDisk(now.overlay_path(point), now.settings.format, origin)


def reopen_session(saved: SavedSession, *, display: bool = False) -> Session:
    """Start the machine of a kept or crashed session again, on the disk that it had written.

    The chain is found afresh, by the point: a merge may have given its files other names. Errors
    are those of `start_session`; nothing of the session is lost by them.

    Raises:
        RecoveryError: the session runs, or does not say what it was started from, or what it lies
            on is not what it was.
        RepositoryError: the point is not there.
    """
    origin, machine = saved.origin, saved.record.machine
    hardware = from_json(Hardware, machine.get("hardware"))
    with ExitStack() as claim:
        found = []
        for each in (origin, *saved.record.others, *saved.record.attached):
            repository, backup_set, point = each.find()
            now, point = claim.enter_context(_claimed(repository, backup_set.name, point))
            each.check_unchanged(now, point)
            each.hold(saved.id, saved.title, saved.folder, saved.record.program)
            found.append((repository, now, point))
        (_, now, point), *beside = found
        own = len(saved.record.others)
        with now.open_chain(point) as chain:
            sector_size = launch.sector_size_for(chain)
        session = start_session(
            now.overlay_path(point),
            sessions_folder=saved.folder.parent,
            title=saved.title,
            sector_size=sector_size,
            hardware=hardware,
            request=HardwareRequest(network=machine.get("network") is True),
            display=display,
            disk_format=now.settings.format,
            on=saved,
            others=[other_disk(*each) for each in beside[:own]],
            attached=[other_disk(*each) for each in beside[own:]],
            open_disk=partial(now.open_machine_disk, point),
        )
        session.hold_claim(claim.pop_all())
    return session


@contextmanager
def _reading(overlay: Path) -> Iterator[None]:
    """Says in a sentence that a file of the overlay's chain cannot be read."""
    try:
        yield
    except OSError as error:
        raise PointUnreadable(
            tr("{overlay} cannot be read: {reason}.", overlay=overlay, reason=error.strerror),
            tr("Boot another recovery point, or put the file back."),
        ) from error
