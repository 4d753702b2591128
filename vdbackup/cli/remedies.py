"""What a terminal says of errors: the engine's sentences, our remedies by command and option."""

from __future__ import annotations

from vdbackup.errors import Remedy, VdbackupError
from vdbackup.translation import tr

WORDS = {
    Remedy.BACK_UP_MACHINE: tr("`vdbackup backup --machine {0}` does it."),
    Remedy.BOOT_WITHOUT_MISSING: tr("`vdbackup boot --without-missing` starts it without."),
    Remedy.CHOOSE_HARDWARE: tr("--hardware names it; with auto it needs no driver that it lacks."),
    Remedy.END_SESSION: tr("`vdbackup sessions discard {0}` or `vdbackup sessions promote {0}`."),
    Remedy.END_SESSION_ELSEWHERE: tr(
        "`vdbackup sessions discard {0}` there; if that is not possible any more, add -r and the "
        "folder here."
    ),
    Remedy.FORGET_WRITES: tr("`vdbackup unprotect --forget {0}`."),
    Remedy.GIVE_DRIVERS: tr("--drivers DIR names the folder with them."),
    Remedy.IGNORE_DAMAGE: tr("Or give --ignore-damage to get all that is whole."),
    Remedy.INSTALL_AGENT: tr("Or let root run `vdbackup agent install`, once."),
    Remedy.KEEP_MOMENT: tr("`vdbackup promote {0}` does it."),
    Remedy.LIST_DEVICES: tr("`lsblk` lists block devices."),
    Remedy.LIST_MOMENTS: tr("`vdbackup moments` shows which there are."),
    Remedy.LIST_POINTS: tr("`vdbackup list` shows what there is."),
    Remedy.LIST_SESSIONS: tr("`vdbackup sessions list` shows what there is."),
    Remedy.NAME_ANOTHER_SET: tr("--set names the set."),
    Remedy.NAME_PARENTS: tr(
        "Or name the folder that the parent lies in with --parents-in, if you trust the disk."
    ),
    Remedy.NAME_SET: tr("--set NAME says it."),
    Remedy.NO_DISPLAY: tr("--headless opens none."),
    Remedy.OVERWRITE: tr("--overwrite replaces what is there."),
    Remedy.REPAIR: tr("`vdbackup repair` does that."),
    Remedy.RETARGET: tr("`vdbackup retarget` does it."),
    Remedy.SAY_NOT_RUNNING: tr("Then say so with --not-running."),
    Remedy.SAY_SAME_SOURCE: tr(
        "--set names another, and without it a set is found or begun; --same-source says that it "
        "is meant."
    ),
    Remedy.SAY_SAME_DISK: tr("--same-source says that."),
    Remedy.SAY_WHAT_IT_IS: tr("--source-format says it: {0}."),
    Remedy.SET_KEEPS_ITS_FORMAT: tr("Leave --format out, or name a new set with --set."),
    Remedy.UNLOCK: tr("With the key: --unlock asks for it, --key-file FILE reads it."),
    Remedy.TRACK: tr("`vdbackup track {0}` does it."),
    Remedy.UNPIN: tr("`vdbackup policy --unpin {0}` does it."),
    Remedy.VERIFY: tr("`vdbackup verify` shows which points are whole."),
}


def advice(error: VdbackupError) -> str:
    """What to do about an error; may be empty."""
    ours = WORDS[error.remedy].format(error.about) if error.remedy else ""
    return f"{error.advice} {ours}".strip()


def sentences(error: VdbackupError) -> str:
    """What is wrong, and what to do about it."""
    return f"{error.title} {advice(error)}".rstrip()
