"""Does a point boot? A disk of data does not, and nothing has failed then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdbackup.errors import NoSystem
from vdbackup.jobs import Task
from vdbackup.repository.model import BootTest
from vdbackup.repository.repository import Repository

if TYPE_CHECKING:
    from vdbackup.recovery.boot_test.boot_test import BootTestOptions


def run(
    repository: Repository,
    set_name: str,
    point_id: str,
    request: BootTestOptions,
    task: Task,
) -> BootTest | NoSystem:
    """Boot a point unseen, and record what came of it; NoSystem where there is nothing to boot.

    Raises what else `recovery.boot_test.boot_test.run` does.
    """
    from vdbackup.recovery.boot_test import boot_test  # late: it takes long to import

    try:
        return boot_test.run(repository, set_name, point_id, request, task)
    except NoSystem as error:
        return error
