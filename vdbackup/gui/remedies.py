"""What the window says of errors: the engine's sentences, and our remedies by what to press."""

from __future__ import annotations

from vdbackup.errors import Remedy, VdbackupError
from vdbackup.text import printable
from vdbackup.translation import tr

WORDS = {
    Remedy.BACK_UP_MACHINE: tr("The list of sources shows it."),
    Remedy.END_SESSION: tr("The list of virtual machines offers both."),
    Remedy.IGNORE_DAMAGE: tr("“Even if it is damaged” restores all that is whole."),
    Remedy.INSTALL_AGENT: tr("Or let an administrator install the agent: the manual says how."),
    Remedy.LIST_DEVICES: tr("“Add a source…” lists the disks of this computer."),
    Remedy.LIST_POINTS: tr("“Read again” (F5) shows what there is."),
    Remedy.LIST_SESSIONS: tr("The list of virtual machines shows what there is."),
    Remedy.NAME_ANOTHER_SET: tr("Keep the backups in another folder."),
    Remedy.NO_DISPLAY: tr("“Run without a display” in the settings does that."),
    Remedy.OVERWRITE: tr("“Overwrite what is there” replaces it."),
    Remedy.REPAIR: tr("“Repair” in the menu of the source does that (right mouse button)."),
    Remedy.SET_KEEPS_ITS_FORMAT: tr("Choose that format, or another folder for the backups."),
    Remedy.UNLOCK: tr("Or type its passphrase or recovery key above the files."),
    Remedy.FORGET_WRITES: tr("“Forget the writes…” in the menu of the point does that."),
    Remedy.LIST_MOMENTS: tr("The timeline shows what is kept as a band."),
    Remedy.UNPIN: tr("“Unpin” beside the facts of the point does that."),
    Remedy.VERIFY: tr("“Verify” shows which points are whole."),
}
"""What the window cannot do is not here: the engine's advice stands alone then."""


def advice(error: VdbackupError) -> str:
    """What to do about an error; may be empty."""
    ours = WORDS.get(error.remedy, "") if error.remedy else ""
    return printable(f"{error.advice} {ours}".strip())


def sentences(error: VdbackupError) -> str:
    """What is wrong, and what to do about it."""
    return f"{printable(error.title)} {advice(error)}".rstrip()
