"""After a merge: the machines that other programs have on the merged layers, on their new names.

libvirt's and VirtualBox's machines name every layer below their disk, and a merge gives some of
them other names. Nothing of a machine is changed but those names: where another program has put
snapshots above, or the user another card in, that stays.

A merge is whole before this begins, and does not need it. Order: the session's disk is linked to
the layers as they are called now, then the program's own copy of the machine, and last the file in
the session's folder, durable before it is renamed into place. By that file one sees what is left to
do, so whoever opens the repository after a power cut does it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from vdbackup import foreign_xml
from vdbackup.errors import OtherProgramFailed, VdbackupError, from_os
from vdbackup.recovery.sessions.elsewhere import NAMES, Program
from vdbackup.recovery.sessions.files import SessionFiles
from vdbackup.recovery.sessions.saved import SavedSession, saved_sessions
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr

_FILES: dict[str | None, Callable[[SessionFiles], Path]] = {
    Program.VIRT_MANAGER: lambda files: files.domain,
    Program.VIRTUALBOX: lambda files: files.virtualbox,
}
"""What names each layer; VMware's file names the session's disk alone."""


def relink_all(sessions_folder: Path, repository: Repository) -> list[OtherProgramFailed]:
    """Let no machine name layers of the repository that are gone; those that could not be changed.

    A machine that runs has its files open, and then no merge has changed what it reads.
    """
    failed = []
    for saved in saved_sessions(sessions_folder):
        if not _is_behind(saved, repository):
            continue
        # half a second: what boots, and on what
        from vdbackup.recovery.other_programs import machine

        try:
            machine.write_again(saved, not_running=True)
        except (VdbackupError, OSError) as error:
            problem = from_os(error) if isinstance(error, OSError) else error
            failed.append(
                OtherProgramFailed.because_of(
                    problem,
                    tr(
                        "The machine of the session {id} in {names} names layers that a merge has "
                        "renamed, and could not be changed: {problem}",
                        id=saved.id,
                        names=NAMES[Program(saved.program or "")],
                        problem=problem.title,
                    ),
                )
            )
    return failed


def _is_behind(saved: SavedSession, repository: Repository) -> bool:
    """Whether a machine names a layer of the repository that is gone: a merge leaves one such."""
    origin = saved.record.origin
    file_in = _FILES.get(saved.program)
    if file_in is None or origin is None:
        return False
    if (origin.repository, origin.repository_id) != (repository.path.absolute(), repository.id):
        return False
    root = foreign_xml.parsed_file(file_in(saved.files))
    if root is None:
        return False
    names = [each.get("file") or each.get("location") or "" for each in root.iter()]
    layers = [name for name in names if name.startswith(f"{origin.repository}/")]
    # os.path: a name that no file can have is one that is not there, where Path raises OSError
    return any("\0" not in name and not os.path.exists(name) for name in layers)
