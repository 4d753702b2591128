"""What `--json` shows of points and sets, in the same form wherever it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdbackup.cli import remedies
from vdbackup.errors import SourceNotFound, VdbackupError
from vdbackup.jobs import Plan
from vdbackup.sources.reference import SourceRef
from vdbackup.translation import original

if TYPE_CHECKING:
    from vdbackup.backup.forecast import Fate
    from vdbackup.operations.put_back import PutBackPlan
    from vdbackup.operations.restore import Restored, RestorePlan
    from vdbackup.operations.restore_files import FilesPlan, FilesRestored
    from vdbackup.operations.schedules.store import Run
    from vdbackup.operations.writes_policy import LogFate
    from vdbackup.repository.backup_set import BackupSet
    from vdbackup.repository.machine import Machine, MomentPoints
    from vdbackup.repository.manifests import BrokenManifest
    from vdbackup.repository.model import BootTest, Moment, Reading, RecoveryPoint, Rehearsal
    from vdbackup.repository.near_continuous import NearContinuous
    from vdbackup.repository.policy import Policy
    from vdbackup.sources.inventory import Device

_READING = (
    "consistency", "changes_from", "scan_reason", "read_bytes", "all_blocks", "not_read",
    "about_free",
)  # fmt: skip


def plan_json(plan: Plan) -> dict[str, Any]:
    """What would be done, and with which files."""
    return {
        "summary": plan.summary,
        "bytes_to_copy": plan.bytes_to_copy,
        "creates": plan.creates,
        "replaces": plan.replaces,
        "invalidates": plan.invalidates,
        "hindrance": plan.hindrance,
    }


def restore_plan_json(plan: RestorePlan) -> dict[str, Any]:
    """What a restore would do besides: `device` is null where it goes to a file."""
    return {
        "target": str(plan.target),
        "pieces": [
            {
                "partition": piece.number,
                "start": piece.stretch.start,
                "size": piece.stretch.size,
                "target": str(piece.target),
                "device": piece.lying_there and device_json(piece.lying_there),
                "spare": piece.spare,
            }
            for piece in plan.pieces
        ],
        "moves": [asdict(each) for each in plan.fitting.moves] if plan.fitting else None,
        "delta": plan.delta,
        "resumed_bytes": plan.resumed,
    }


def device_json(device: Device) -> dict[str, Any]:
    """A block device and what lies on it; sizes in bytes."""
    return {
        "path": str(device.path),
        "kind": device.kind,
        "size": device.size,
        "model": device.model,
        "serial": device.serial,
        "contents": [asdict(each) for each in device.contents],
    }


def restored_json(restored: Restored) -> dict[str, Any]:
    """What a restore did."""
    figures = restored.figures
    return {
        "target": str(restored.target),
        "warnings": restored.warnings,
        "compared_bytes": figures.compared,
        "written_bytes": figures.written,
        "verified_bytes": figures.verified,
        "resumed_bytes": figures.resumed,
    }


def files_plan_json(plan: FilesPlan) -> dict[str, Any]:
    """What a restore of chosen files would do besides; of names the first hundred of each kind."""
    outlook = plan.outlook
    return {
        "target": str(plan.request.target),
        "files": outlook.files,
        "new": outlook.new,
        "same": outlook.same,
        "differing": outlook.other.count,
        "newer": outlook.newer.count,
        "blocked": outlook.blocked.first,
        "not_writable": outlook.closed.first,
        "cannot_restore": outlook.refused,
    }


def put_back_plan_json(plan: PutBackPlan) -> dict[str, Any]:
    """What putting files back would do besides."""
    return {
        "places": [str(place.path) for place in plan.places],
        "files": plan.files,
        "same": plan.same,
        "differing": plan.other,
        "newer": plan.newer,
    }


def files_restored_json(restored: FilesRestored) -> dict[str, Any]:
    """What a restore of chosen files did."""
    return {
        "target": str(restored.target),
        "warnings": restored.warnings,
        "files": restored.files,
        "written_bytes": restored.content,
        "same": restored.same,
    }


def point_json(backup_set: BackupSet, point: RecoveryPoint) -> dict[str, Any]:
    """A recovery point as `list --json` shows it: paths relative to the repository."""
    verified, booted = point.verified, point.boot_tested
    pin = backup_set.pin(point)
    return {
        "id": point.id,
        "sequence": point.sequence,
        "created": point.created,
        "type": point.type.value,
        "parent": point.parent,
        "disk": f"{backup_set.name}/{point.disk}",
        "overlay": f"{backup_set.name}/{point.overlay}",
        "stored_bytes": point.stored_bytes,
        "verified": {"at": verified.at, "ok": verified.ok} if verified else None,
        "boot_tested": boot_test_json(backup_set, point, booted) if booted else None,
        "proven": point.proven or None,
        "retargeted": _retargeted(backup_set, point),
        "warnings": point.warnings,
        "unreadable": point.unreadable,
        "exact_size": point.exact_size,
        "promoted_from": asdict(point.promoted_from) if point.promoted_from else None,
        "pinned": {"note": pin.note, "since": pin.since} if pin else None,
        **_reading(point.reading),
        "moment": _moment(point.moment),
        "rehearsed": rehearsal_json(point.rehearsed) if point.rehearsed else None,
    }


def _moment(moment: Moment | None) -> dict[str, Any] | None:
    """The moment of a machine that a point belongs to."""
    if moment is None:
        return None
    return {"id": moment.id, "machine": moment.machine, "number": moment.number}


def moment_json(found: MomentPoints) -> dict[str, Any]:
    """A moment of a machine: its points by set, and whose are missing."""
    moment = found.moment
    return {
        "id": moment.id,
        "machine": moment.machine,
        "number": moment.number,
        "created": found.created,
        "whole": not found.missing,
        "points": [
            {"set": name, "id": point.id, "sequence": point.sequence}
            for name, point in found.points.items()
        ],
        "missing": found.missing,
    }


def machine_json(machine: Machine, moments: Sequence[MomentPoints]) -> dict[str, Any]:
    """A machine with its moments."""
    return {
        "name": machine.name,
        "sets": machine.sets,
        "moments": [moment_json(each) for each in moments],
    }


def _reading(reading: Reading | None) -> dict[str, Any]:
    """How the source was read; nulls where nobody noted it."""
    if reading is None:
        return dict.fromkeys(_READING)
    return {
        "consistency": asdict(reading.consistency),
        "changes_from": reading.changes_from,
        "scan_reason": reading.scan_reason or None,
        "read_bytes": reading.read_bytes,
        "all_blocks": reading.all_blocks,
        "not_read": sum(length for _, length in reading.not_read),
        "about_free": reading.about_free,
    }


def _retargeted(backup_set: BackupSet, point: RecoveryPoint) -> dict[str, Any] | None:
    """What the report beside the overlay says in short; None without one."""
    if not (backup_set.folder / point.report).exists():
        return None
    from vdbackup.recovery.retarget.report import load

    report = load(backup_set, point)
    if report is None:
        return None
    boots = not any(problem.blocks for problem in report.hardware.problems)
    hardware = report.hardware.controller.value
    return {"hardware": hardware, "boots": boots, "changed_files": len(report.changes)}


def problem_json(problem: VdbackupError) -> dict[str, str]:
    """What is wrong, and what to do."""
    return {"title": problem.title, "advice": remedies.advice(problem)}


def error_json(error: VdbackupError) -> dict[str, str]:
    """Why a command, or a part of what it does, has failed."""
    return {"event": "error", "code": error.code, "family": error.family, **problem_json(error)}


def broken_json(manifest: BrokenManifest) -> dict[str, Any]:
    """A point whose manifest cannot be read."""
    problem = problem_json(manifest.problem)
    return {"file": manifest.name, "sequence": manifest.sequence, **problem}


def set_json(backup_set: BackupSet) -> dict[str, Any]:
    """A set with its points, and what of them is damaged."""
    from vdbackup.repository import long_chains

    settings = backup_set.settings
    return {
        "name": backup_set.name,
        "source": _source(settings.source.path),
        "virtual_size": settings.virtual_size,
        "format": settings.format,
        **_automatically(settings.policy),
        "long_chain": long_chains.sentence(backup_set) or None,
        "near_continuous": near_json(settings.near),
        "points": [point_json(backup_set, point) for point in backup_set.points],
        "damaged": [broken_json(each) for each in backup_set.broken],
    }


def near_json(near: NearContinuous | None) -> dict[str, Any] | None:
    """How often points are, or were, made of a near-continuous set; None of any other."""
    if near is None:
        return None
    return {
        "every_seconds": near.every,
        "since": near.since,
        "ended": near.ended,
        "why": original(near.why),
    }


def _source(text: str) -> str | dict[str, Any]:
    """What a set's source is: of a disk its path; chosen files as what was chosen."""
    from vdbackup.sources.file_sets.choice import Choice

    ref = SourceRef.parse(text)
    if not ref.is_files:
        return text
    try:
        choice = Choice.parse(ref.rest)
    except SourceNotFound:  # of a damaged record
        return text
    return {
        "kind": "files",
        "paths": choice.paths,
        "exclude": choice.exclude,
        "cross_file_systems": choice.crosses,
        "caches": choice.caches,
        "exclude_larger": choice.largest or None,
    }


def policy_json(set_name: str, policy: Policy) -> dict[str, Any]:
    """What a set does automatically; it keeps all points where all rules are null."""
    return {"set": set_name, **_automatically(policy)}


def _automatically(policy: Policy) -> dict[str, Any]:
    return {
        "keep": policy.keep,
        "keep_within_hours": policy.keep_within,
        "daily": policy.daily,
        "weekly": policy.weekly,
        "monthly": policy.monthly,
        "yearly": policy.yearly,
        "at_most": policy.at_most,
        "retarget": policy.retarget,
        "boot_test": policy.boot_test.value,
        "read_all_every": policy.read_all_every,
        "at_most_bytes": policy.at_most_bytes,
        "keep_writes_seconds": policy.keep_writes,
        "moments_every_seconds": policy.moments_every,
        "forget_moments_seconds": policy.forget_moments,
        "index": policy.index,
    }


def log_fate_json(fate: LogFate) -> dict[str, Any]:
    """What becomes of a log of kept writes with the next backup."""
    return {
        "set": fate.set_name,
        "session": fate.kept.session,
        "outcome": fate.outcome.value,
        "moments": fate.moments,
        "going": fate.moments if fate.whole else len(fate.going),
        "frees_bytes": fate.frees,
        "whole": fate.whole,
        "why": fate.why,
    }


def fate_json(fate: Fate) -> dict[str, Any]:
    """What becomes of a point with the next backup."""
    return {
        "id": fate.point.id,
        "sequence": fate.point.sequence,
        "created": fate.point.created,
        "outcome": fate.outcome.value,
        "rules": [rule.name.lower() for rule in fate.rules],
        "why": fate.why,
        "into": fate.into,
    }


def rehearsal_json(found: Rehearsal) -> dict[str, Any]:
    """What came of a rehearsal."""
    from vdbackup.records import to_json

    return {"seconds": round(found.seconds, 1), **to_json(found)}


def boot_test_json(backup_set: BackupSet, point: RecoveryPoint, test: BootTest) -> dict[str, Any]:
    """A result as JSON shows it; the picture's path is relative to the repository."""
    picture = Path(backup_set.name, point.picture)
    there = (backup_set.folder / point.picture).exists()
    return {
        "at": test.at,
        "ok": test.ok,
        "seconds": test.seconds,
        "stage": test.stage,
        "sentence": test.sentence,
        "picture": str(picture) if there else None,
    }


def run_json(run: Run) -> dict[str, Any]:
    """How a run ended."""
    return {
        "began": run.began,
        "ended": run.ended,
        "outcome": run.outcome.name.lower(),
        "sentence": run.sentence,
        "code": run.code or None,
        "point": run.point or None,
        "stored_bytes": run.stored_bytes,
        "read_bytes": run.read_bytes,
    }
