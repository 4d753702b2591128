"""What the machines may use that an operation starts unseen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vdbackup.recovery.boot_test.boot_test import BootTestOptions


@dataclass(frozen=True)
class Machines:
    """What the user lets every machine have.

    Attributes:
        sessions_folder: where machines write.
        memory_mib: of a boot test, in MiB; None for what the system needs.
    """

    sessions_folder: Path
    memory_mib: int | None = None

    def boot_test(self) -> BootTestOptions:
        """How a point is tested if nothing else is said."""
        from vdbackup.guest import hardware
        from vdbackup.recovery.boot_test.boot_test import BootTestOptions

        return BootTestOptions(
            self.sessions_folder, hardware=hardware.HardwareRequest(memory_mib=self.memory_mib)
        )
