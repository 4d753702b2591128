"""`verify --against-source`: what is said of a source that was compared with a point."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vdbackup.cli.common import DONE, WARNINGS, open_repository
from vdbackup.cli.console import print_json, say, warn, work
from vdbackup.errors import ChangesMissed, UsageError
from vdbackup.jobs import readable_size as size
from vdbackup.translation import tr

if TYPE_CHECKING:
    from vdbackup.operations.against_source import SourceVerdict


def verify_against_source(options: argparse.Namespace) -> int:
    """Compare a set's source with a point."""
    from vdbackup.operations import against_source

    if len(options.points) > 1:
        raise UsageError(
            tr("A source is compared with one point, and several are named."),
            tr("Name one of them, or none for the newest."),
        )
    repository = open_repository(options.repository, as_json=options.json)
    named = [repository.find(each, options.set)[1].id for each in options.points]
    with against_source.planned(repository, options.set, *named) as plan:
        verdict: SourceVerdict = work(
            tr("Compare {source}", source=plan.source.title),
            lambda task: against_source.run(plan, task),
            as_json=options.json,
            wait=options.wait,
        )
    if options.json:
        print_json({"event": "result", "set": plan.set_name, **_json(verdict)})
    else:
        for sentence in _sentences(verdict):
            say(sentence)
    warn(verdict.warnings)
    if not verdict.ok:
        raise ChangesMissed(
            tr(
                "Changes of {source} were missed: what tracks it is not believed any more.",
                source=verdict.source,
            ),
            tr("Back it up: the next backup reads everything."),
        )
    return WARNINGS if verdict.warnings else DONE


def _sentences(verdict: SourceVerdict) -> list[str]:
    number, claim = verdict.point.sequence, verdict.claim
    read = tr("{size} of {source} were read.", size=size(verdict.read_bytes), source=verdict.source)
    begun = [*filter(None, (read, verdict.consistency.sentence))]
    if claim is None:
        return [
            *begun,
            tr(
                "{size} differ from point {number}.",
                size=size(verdict.differing_bytes),
                number=number,
            ),
            tr(
                "Whether all that changed is marked cannot be said, because {unclaimed}.",
                unclaimed=verdict.unclaimed,
            ),
        ]
    marked = tr(
        "{size} differ from point {number}, and are marked as changed since.",
        size=size(claim.marked),
        number=number,
    )
    others = []
    if claim.missed:
        others.append(tr("{size} differ without being marked.", size=size(claim.missed)))
    if back := verdict.given_back_bytes:
        others.append(
            tr("{size} have become zeros unmarked: space that was given back.", size=size(back))
        )
    return [*begun, marked, *(others or [tr("Nothing else differs.")])]


def _json(verdict: SourceVerdict) -> dict[str, Any]:
    claim = verdict.claim
    return {
        "id": verdict.point.id,
        "sequence": verdict.point.sequence,
        "source": verdict.source,
        "ok": verdict.ok,
        "consistency": asdict(verdict.consistency),
        "read_bytes": verdict.read_bytes,
        "differing_bytes": verdict.differing_bytes,
        "marked_bytes": claim.marked if claim else None,
        "missed_bytes": claim.missed if claim else None,
        "scan_reason": verdict.unclaimed or None,
    }
