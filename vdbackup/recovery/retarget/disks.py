"""The disks of what is retargeted: a point's, or those of all points of a machine's moment.

A machine is retargeted as a whole, because its system lies on several disks and calls all of them
by some name. Each keeps an overlay of its own, and the report lies beside each: whoever boots any
of the points boots the machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from vdbackup.disks.chain import Chain
from vdbackup.disks.formats import open_disk
from vdbackup.errors import NotRetargeted
from vdbackup.guest.disk import Disk
from vdbackup.jobs import Task
from vdbackup.recovery.retarget import identity
from vdbackup.recovery.retarget.linux import appliance
from vdbackup.recovery.retarget.overlay import publish_overlay, scratched
from vdbackup.recovery.retarget.report import report_path
from vdbackup.repository import claims, holds
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.files import remove, sync_folder
from vdbackup.repository.machine import points_together
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr
from vdbackup.volumes.volumes import Volumes


@dataclass(frozen=True)
class PointDisk:
    """One of them.

    Attributes:
        backup_set: that it is a disk of.
        point: as which it is retargeted.
    """

    backup_set: BackupSet
    point: RecoveryPoint

    @property
    def source(self) -> str:
        """What it was called when it was backed up."""
        return self.backup_set.settings.source.path

    def check_free(self) -> None:
        """Raise PointInUse where a session lies on it: what that wrote fits this overlay alone."""
        holds.check_free(self.backup_set, [self.point])

    def forget_boot_test(self, repository: Repository) -> None:
        """What was proven, was proven of the overlay and the hardware that there were until now."""
        if self.point.boot_tested:
            repository.save_point(self.backup_set.name, replace(self.point, boot_tested=None))
        remove(self.backup_set.folder / self.point.picture)

    def publish(self, scratch: Path | None, patches: Mapping[int, bytes], task: Task) -> str:
        """Give it an overlay with that; the identity of the one that it has then."""
        unchanged = "" if scratch or patches else self._empty_overlay()
        return unchanged or publish_overlay(self.backup_set, self.point, scratch, patches, task)

    def empty(self, task: Task) -> None:
        """The report goes last: beside an overlay that it does not name it says nothing."""
        self.publish(None, {}, task)
        remove(report_path(self.backup_set, self.point))
        sync_folder(self.backup_set.folder)

    def check_written(self, scratch: Path, errand: appliance.Errand) -> None:
        """Read back what the appliance wrote, by the readers that had read what was there before.

        They do not replay a journal and the guest's kernel did: a file that only the journal had
        made what it was would come out as a mixture of both.
        """
        with (
            scratched(self.backup_set, self.point, scratch) as chain,
            self.backup_set.open_chain(self.point) as below,
        ):
            now, then = Disk(chain), Disk(below)
            for write in errand.writes:
                before = b""
                if write.append:
                    before = then.trees[write.volume.volume].read(write.path, 1 << 30) or b""
                wanted = before + write.content
                if now.trees[write.volume.volume].read(write.path, len(wanted)) != wanted:
                    raise NotRetargeted(
                        tr(
                            "The file {write} is not what it should be after it was changed.",
                            write=write.path,
                        ),
                        tr(
                            "The overlay is as it was. Choose hardware that needs no changes, or "
                            "another recovery point."
                        ),
                    )

    def _empty_overlay(self) -> str:
        """The identity of the point's overlay, if that is there and empty; else ""."""
        path = self.backup_set.overlay_path(self.point)
        if not path.exists():
            return ""
        overlay = open_disk(path, self.backup_set.settings.format)
        try:
            empty = not len(overlay.block_map().own_ranges())
            return (overlay.info.disk_id or "") if empty else ""
        finally:
            overlay.close()


def disks_of(repository: Repository, set_name: str, point_id: str) -> list[PointDisk]:
    """Those of a point, that which the machine starts from first; raises NotWhole."""
    backup_set = repository.set(set_name)
    point = backup_set.point(point_id)
    together = points_together(repository, backup_set, point)
    if len(together) == 1:
        return [PointDisk(backup_set, point)]
    return [PointDisk(repository.set(name), each) for name, each in together.items()]


@contextmanager
def opened(disks: Sequence[PointDisk]) -> Iterator[list[Chain]]:
    """The chains of all disks; the caller holds the repository's lock."""
    with ExitStack() as stack:
        yield [stack.enter_context(each.backup_set.open_chain(each.point)) for each in disks]


@contextmanager
def claimed(repository: Repository, disks: Sequence[PointDisk]) -> Iterator[list[Chain]]:
    """The same for whoever reads only: nobody takes the points away meanwhile."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                claims.open_point(
                    repository,
                    each.backup_set.name,
                    each.point.id,
                    tr("planning to retarget point {point}", point=each.point.sequence),
                )
            )
            for each in disks
        ]


def new_identity(chain: Chain, sector_size: int) -> Mapping[int, bytes]:
    """What is written over a disk so that it bears another identity; nothing if it has no table."""
    if "" in Volumes(chain).by_name:
        return {}

    def read(offset: int, length: int) -> bytes:
        data = bytearray(length)
        chain.readinto(offset, memoryview(data))
        return bytes(data)

    return identity.new_disk_identity(read, chain.size, sector_size)
