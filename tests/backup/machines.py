"""A machine of two images, to be backed up and looked at."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.noise import noise
from tests.sources.opened import open_path
from vdbackup.backup import machine_capture
from vdbackup.backup.machine_capture import MachineResult
from vdbackup.jobs import Task
from vdbackup.operations.machine_backup import MachineRequest
from vdbackup.repository.machine import KnownMachines, Machine, find_moment, moments_of
from vdbackup.repository.repository import Repository
from vdbackup.sources.reference import SourceRef

SIZE = 4 << 20


class Disks:
    """A machine of two images, its repository, and what the images held at each moment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = [folder / "root.img", folder / "home.img"]
        self.repository = Repository.create(folder / "repository")
        self.held: dict[int, list[bytes]] = {}
        self.write(0)

    def write(self, number: int) -> None:
        for seed, path in enumerate(self.images):
            data = noise(SIZE, seed)
            place = (number % 8) * 65536
            path.write_bytes(
                data[:place] + noise(65536, 10 * number + seed) + data[place + 65536 :]
            )

    def capture(self, **wanted: Any) -> MachineResult:
        with ExitStack() as stack:
            sources = [stack.enter_context(open_path(each)) for each in self.images]
            plan = machine_capture.plan(self.repository, sources, "web", **wanted)
            return machine_capture.run(plan, Task())

    def request(self, **wanted: Any) -> MachineRequest:
        refs = tuple(map(SourceRef.of_path, self.images))
        return MachineRequest("web", self.repository.path, refs, **wanted)

    def back_up(self) -> MachineResult:
        made = self.capture()
        self.held[made.moment.moment.number] = [each.read_bytes() for each in self.images]
        self.write(made.moment.moment.number)
        return made

    @property
    def machine(self) -> Machine:
        return KnownMachines.of(self.repository).named("web")

    def numbers(self) -> list[int]:
        """Of the moments that are whole."""
        every = moments_of(self.repository, self.machine)
        return [each.moment.number for each in every if not each.missing]

    def halves(self) -> list[int]:
        every = moments_of(self.repository, self.machine)
        return [each.moment.number for each in every if each.missing]

    def check(self, *numbers: int) -> None:
        """These moments are there, and hold what the images held, by the chains alone."""
        assert self.numbers() == list(numbers)
        for number in numbers:
            moment = find_moment(self.repository, self.machine, str(number))
            for (name, point), held in zip(moment.points.items(), self.held[number], strict=True):
                with self.repository.set(name).open_chain(point) as chain:
                    data = bytearray(SIZE)
                    chain.readinto(0, memoryview(data))
                    assert bytes(data) == held
