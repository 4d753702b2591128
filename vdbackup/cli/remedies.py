"""What a terminal says of errors: the engine's sentences, our remedies by command and option."""

from __future__ import annotations

from vdbackup.errors import Remedy, VdbackupError

WORDS = {
    Remedy.BACK_UP_MACHINE: "`vdbackup backup --machine {0}` does it.",
    Remedy.CHOOSE_HARDWARE: "--hardware names it; with auto it needs no driver that it lacks.",
    Remedy.END_SESSION: "`vdbackup sessions discard {0}` or `vdbackup sessions promote {0}`.",
    Remedy.END_SESSION_ELSEWHERE: "`vdbackup sessions discard {0}` there; if that is not possible "
    "any more, add -r and the folder here.",
    Remedy.FORGET_WRITES: "`vdbackup unprotect --forget {0}`.",
    Remedy.GIVE_DRIVERS: "--drivers DIR names the folder with them.",
    Remedy.IGNORE_DAMAGE: "Or give --ignore-damage to get all that is whole.",
    Remedy.INSTALL_AGENT: "Or let root run `vdbackup agent install`, once.",
    Remedy.KEEP_MOMENT: "`vdbackup promote {0}` does it.",
    Remedy.LIST_DEVICES: "`lsblk` lists block devices.",
    Remedy.LIST_MOMENTS: "`vdbackup moments` shows which there are.",
    Remedy.LIST_POINTS: "`vdbackup list` shows what there is.",
    Remedy.LIST_SESSIONS: "`vdbackup sessions list` shows what there is.",
    Remedy.NAME_ANOTHER_SET: "--set names the set.",
    Remedy.NAME_PARENTS: "Or name the folder that the parent lies in with --parents-in, if you "
    "trust the disk.",
    Remedy.NAME_SET: "--set NAME says it.",
    Remedy.NO_DISPLAY: "--headless opens none.",
    Remedy.OVERWRITE: "--overwrite replaces what is there.",
    Remedy.REPAIR: "`vdbackup repair` does that.",
    Remedy.RETARGET: "`vdbackup retarget` does it.",
    Remedy.SAY_NOT_RUNNING: "Then say so with --not-running.",
    Remedy.SAY_SAME_SOURCE: "--set names another, and without it a set is found or begun; "
    "--same-source says that it is meant.",
    Remedy.SAY_SAME_DISK: "--same-source says that.",
    Remedy.SAY_WHAT_IT_IS: "--source-format says it: {0}.",
    Remedy.SET_KEEPS_ITS_FORMAT: "Leave --format out, or name a new set with --set.",
    Remedy.UNPIN: "`vdbackup policy --unpin {0}` does it.",
    Remedy.VERIFY: "`vdbackup verify` shows which points are whole.",
}


def advice(error: VdbackupError) -> str:
    """What to do about an error; may be empty."""
    ours = WORDS[error.remedy].format(error.about) if error.remedy else ""
    return f"{error.advice} {ours}".strip()


def sentences(error: VdbackupError) -> str:
    """What is wrong, and what to do about it."""
    return f"{error.title} {advice(error)}".rstrip()
