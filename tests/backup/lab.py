"""A disk image, a repository, and a raw copy of the disk at each recovery point's moment."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Container
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pytest

from tests.backup import sparse
from tests.backup.asked import Ask, Asked
from tests.oracles import libvmdk, readers
from tests.sources.opened import open_path
from vdbackup.backup import capture, delete, merge
from vdbackup.disks.disk import UNIT, VirtualDisk
from vdbackup.disks.formats import open_disk
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import Cancelled, VdbackupError
from vdbackup.jobs import CancelToken, Progress, Report, Task, silent
from vdbackup.repository import claim_files
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.policy import Policy
from vdbackup.repository.repository import Repository

SIZE = 20 * BLOCK + 8 * 512
"""Bytes of the disk: no multiple of 64 KiB, but of 4 KiB: 7-Zip opens no other VHDX."""

Reading = tuple[Path, list[Path]]
"""What a disk is to hold, raw, and the files of its chain, itself first."""


def sha256(path: Path) -> str:
    """Of a file's contents."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fingerprint(folder: Path) -> dict[str, tuple[str, int]]:
    """Name to contents and mode of every file below the folder, the lock and its lease left out."""
    return {
        str(path.relative_to(folder)): (sparse.digest(path).hex(), path.stat().st_mode)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", ".lock.json")
    }


class Lab:
    """What a story about backups needs.

    Attributes:
        image: the source, a raw image.
        repository: where the backups go; they are all in one set, named "disk".
        disk_format: of the set.
        unit: bytes in which its fulls are kept.
        moments: id of a point to a raw copy of the disk at that moment.
        overlays: id of a point to a raw copy of what its overlay reads as, where it is not empty.
    """

    def __init__(
        self,
        folder: Path,
        size: int = SIZE,
        repository: Path | None = None,
        disk_format: str = "vmdk",
        unit: int = UNIT,
    ) -> None:
        self.unit = unit
        self.folder = folder
        self.disk_format = DiskFormat(disk_format)
        self.image = folder / "disk.img"
        with self.image.open("wb") as image:
            image.truncate(size)
        self.repository = Repository.create(repository or folder / "repository")
        self.moments: dict[str, Path] = {}
        self.overlays: dict[str, Path] = {}
        self._asked = Asked()

    # ------------------------------------------------------------------ the disk

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self.image.stat().st_size

    def poke(self, offset: int, data: bytes | int) -> None:
        """Write to the disk: bytes, or that many zeros; a negative offset counts from the end."""
        with self.image.open("r+b") as image:
            image.seek(offset if offset >= 0 else self.size + offset)
            image.write(bytes(data) if isinstance(data, int) else data)

    def save(self, folder: Path) -> Callable[[], None]:
        """Keep all as it is now in an empty folder; calling the result brings it back."""
        shutil.copytree(self.repository.path, folder / "repository", copy_function=sparse.copy)
        load_disk = self.save_disk()

        def load() -> None:
            shutil.rmtree(self.repository.path)
            kept = folder / "repository"
            shutil.copytree(kept, self.repository.path, copy_function=sparse.copy)
            load_disk()

        return load

    def save_disk(self) -> Callable[[], None]:
        """The same but for the repository, which somebody else brings back."""
        image, moments = self.image.read_bytes(), dict(self.moments)

        def load() -> None:
            self.image.write_bytes(image)
            self.moments = dict(moments)

        return load

    # ------------------------------------------------------------------ what is done

    def backup(
        self, kind: str = "auto", *, policy: Policy | None = None, report: Report = silent
    ) -> RecoveryPoint:
        """Back the disk up, and keep a copy of it as it is now."""
        return self.capture(kind, policy=policy, report=report).point

    def capture(
        self,
        kind: str = "auto",
        *,
        policy: Policy | None = None,
        report: Report = silent,
        cancel: CancelToken | None = None,
    ) -> capture.CaptureResult:
        """The same, with all that the capture has to say."""
        with open_path(self.image) as source:
            source.unit = self.unit
            plan = capture.plan(
                self.repository,
                source,
                set_name="disk",
                kind=kind,
                policy=policy,
                disk_format=self.disk_format,
                all_blocks=True,  # whole disks are compared, what is free on them, too
            )
            result = capture.run(plan, Task(report, cancel or CancelToken()))
        copy = self.folder / f"{result.point.id}.raw"
        shutil.copyfile(self.image, copy)
        self.moments[result.point.id] = copy
        return result

    def merge(self, point: RecoveryPoint) -> RecoveryPoint:
        """Roll a point into its parent."""
        plan = merge.plan(self.repository, "disk", point.id)
        return merge.run(plan, Task()).point

    def merge_half(self, point: RecoveryPoint) -> Cancelled:
        """Roll a point into its parent, and cancel that when the first of it has been copied."""
        cancel = CancelToken()

        def stop(progress: Progress) -> None:
            if progress.phase == "Merge":
                cancel.cancel()

        with pytest.raises(Cancelled) as stopped:
            merge.run(merge.plan(self.repository, "disk", point.id), Task(stop, cancel))
        return stopped.value

    def delete(self, point: RecoveryPoint) -> None:
        """Delete a point."""
        delete.run(delete.plan(self.repository, "disk", point.id), Task())

    # ------------------------------------------------------------------ what there is

    @property
    def set(self) -> BackupSet:
        """The set as it is now."""
        return self.repository.set("disk")

    @property
    def set_folder(self) -> Path:
        """The set's folder, whatever is the matter with the set."""
        return self.repository.path / "disk"

    @property
    def files(self) -> dict[str, tuple[str, int]]:
        """Every file of the repository."""
        return fingerprint(self.repository.path)

    def layer(self, point: RecoveryPoint) -> Path:
        """The point's layer."""
        return self.set.disk_path(point)

    def overlay(self, point: RecoveryPoint) -> Path:
        """The point's overlay."""
        return self.set.overlay_path(point)

    def file(self, stem: str) -> str:
        """The name of a disk of the set: "0001-full" -> "0001-full.vmdk"."""
        return f"{stem}.{self.disk_format}"

    def open(self, path: Path, writable: bool = False) -> VirtualDisk:
        """One of the set's disks, without its parents."""
        return open_disk(path, self.disk_format, writable)

    # ------------------------------------------------------------------ whether it is right

    def check_all(self) -> None:
        """Every point, its layer and its overlay, reads as its moment was: by everybody.

        A program reads a layer through its overlay, if that is empty: the same data, once.
        """
        backup_set = self.set
        self._asked.look_again()
        for point in backup_set.points:
            layer, overlay = self._readings(backup_set, point)
            self._ask(readers.assert_processes_read, overlay)
            own = point.id in self.overlays
            self._ask(readers.assert_processes_read if own else readers.assert_sound, layer)
        self.check_without_processes()

    def check_without_processes(self) -> None:
        """The same by libraries: a tenth of the time, for tests that check hundreds of times."""
        backup_set = self.set
        self._asked.look_again()
        for point in backup_set.points:
            for reading in self._readings(backup_set, point):
                self._ask(readers.assert_library_reads, reading)
            self._check_ours(backup_set, point)
        self.check_files()

    def _readings(self, backup_set: BackupSet, point: RecoveryPoint) -> list[Reading]:
        """The point's layer and overlay: what each holds, and the files it is read through."""
        raw = self.moments[point.id]
        layers = [backup_set.disk_path(each) for each in reversed(backup_set.chain(point))]
        overlay = backup_set.overlay_path(point)
        return [(raw, layers), (self.overlays.get(point.id, raw), [overlay, *layers])]

    def _ask(self, ask: Ask, reading: Reading) -> None:
        raw, chain = reading
        self._asked.once(ask, chain[0], raw, self.disk_format, chain)

    def check_ours(self, point: RecoveryPoint) -> None:
        """Our own chain reads the moment, and the digests are those of the moment."""
        self._asked.look_again()
        self._check_ours(self.set, point)

    def check_offered(self, concerned: Container[int]) -> None:
        """The same of every point; those with such numbers may say instead why they do not read."""
        backup_set = self.set
        self._asked.look_again()
        for point in backup_set.points:
            with suppress(VdbackupError) if point.sequence in concerned else nullcontext():
                self._check_ours(backup_set, point)

    def check_by_processes(self, point: RecoveryPoint) -> None:
        """Readers that are programs find in the point, through its overlay, what it should hold."""
        self._asked.look_again()
        _, overlay = self._readings(self.set, point)
        self._ask(readers.assert_processes_read, overlay)

    def _check_ours(self, backup_set: BackupSet, point: RecoveryPoint) -> None:
        """Once for what is read: the set's part in it, what its manifests say, and the bytes."""
        chain = backup_set.chain(point)
        grows = backup_set.journal and backup_set.journal.parent.id  # whose length is not known
        files = [backup_set.folder / name for each in chain for name in (each.disk, each.digests)]
        self._asked.about(
            ("ours", backup_set.settings.format, grows, chain),
            [*files, self.moments[point.id]],
            lambda: self._read_ours(backup_set, point),
        )

    def _read_ours(self, backup_set: BackupSet, point: RecoveryPoint) -> None:
        wanted = self.moments[point.id].read_bytes()
        data = bytearray(point.virtual_size)
        with backup_set.open_chain(point) as chain:
            chain.readinto(0, memoryview(data))
        assert data == wanted, f"point {point.sequence} reads wrong"
        with backup_set.open_digests(point) as digests:
            expected = digests.expected(np.arange(-(-point.virtual_size // digests.block)))
            assert (expected == digests.digest(memoryview(wanted))).all()

    def check_files(self, left: frozenset[str] = frozenset()) -> None:
        """Nothing lies in the set's folder but what its points consist of, and those files.

        What a process that was cut off said of itself counts no more, and is swept in time.
        """
        backup_set = self.set
        wanted = {"set.json"}
        for point in backup_set.points:
            manifest = Path(point.disk).with_suffix(".json").name
            wanted |= {point.disk, point.overlay, point.digests, manifest}
        # where it was retargeted or boot-tested
        more = {name for point in backup_set.points for name in (point.report, point.picture)}
        found = {path.name for path in backup_set.folder.iterdir()}
        found -= more | (left - wanted) | {"set.copy.json"}  # gone while a policy changes
        found -= {path.name for path in claim_files.left_behind(backup_set.folder)}
        assert found == wanted, f"too much {found - wanted}, missing {wanted - found}"
        for point in backup_set.points:
            layer, overlay = backup_set.disk_path(point), backup_set.overlay_path(point)
            status = layer.stat()
            assert status.st_size == point.disk_size, f"{point.disk} has {status.st_size} bytes"
            assert status.st_mode & 0o777 == 0o444, f"{point.disk} has mode {status.st_mode:o}"
            parents = [each.disk for each in backup_set.chain(point)][::-1]
            for path, more_names in ((layer, []), (overlay, [point.overlay])):
                if self.disk_format == "vmdk":
                    libvmdk.assert_names_itself(path)
                names = self.names(path)
                assert names == [*more_names, *parents], f"{path.name} reads through {names}"

    def names(self, disk: Path) -> list[str]:
        """The files of a disk's chain as another program finds them, the disk first."""
        return readers.chain_names(disk, self.disk_format)
