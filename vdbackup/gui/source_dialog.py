"""A page about one source: how it is, how much it holds, and what it does automatically."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from PySide6.QtGui import QAction
from PySide6.QtWidgets import QFormLayout, QHBoxLayout, QWidget

from vdbackup.errors import SourceNotFound
from vdbackup.gui import parts, words, written_words
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.schedule_dialog import RAN, run_in_words
from vdbackup.operations import policy
from vdbackup.operations.written_logs import ReadLog
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.text import printable
from vdbackup.translation import tr, trn

HELD = tr("Nothing needs somebody.")
BY_HAND = tr("when you say so")
ABREAST = 3
"""Buttons in a row."""


class SourceDialog(parts.Dialog):
    """Facts, findings, and the actions that change what the facts say.

    Args:
        logs: of the writes that are kept beside its points.
        actions: what can be done to the source; each is a button that closes this.
    """

    def __init__(
        self,
        entry: Entry,
        logs: Sequence[ReadLog],
        actions: Sequence[QAction],
        parent: QWidget,
    ) -> None:
        super().__init__("sourceDialog", tr("About {entry}", entry=entry.title), 520, parent)
        self.column.addWidget(parts.label(entry.title, "heading"))
        inside = QWidget()
        form = QFormLayout(inside)
        form.setContentsMargins(0, 0, 8, 0)
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(8)
        for name, fact in facts(entry, logs).items():
            value = parts.label(words.breakable_lines(fact), selectable=True)
            value.setAccessibleName(name)
            form.addRow(parts.label(name, "muted", wrap=False), value)
        self.column.addWidget(parts.Scrolled(inside, tr("Facts")), 1)
        self._add_health(entry)
        self._add_actions(actions)
        self.add_close_button()

    def _add_health(self, entry: Entry) -> None:
        health = entry.health
        findings = health.findings if health else ()
        needs = any(each.needs_somebody for each in findings)
        said = "\n".join(printable(each.sentence) for each in findings) or HELD
        role = "warning" if needs else "" if findings else "good"
        self.column.addWidget(parts.Notice(words.breakable_lines(said), "sourceHealth", role))
        if health and health.last_run:
            run = health.last_run
            self.column.addWidget(
                parts.Notice(run_in_words(run), "sourceLastRun", RAN[run.outcome])
            )

    def _add_actions(self, actions: Sequence[QAction]) -> None:
        offered = [each for each in actions if each.isVisible() and each.isEnabled()]
        for first in range(0, len(offered), ABREAST):
            row = QHBoxLayout()
            for action in offered[first : first + ABREAST]:
                made = parts.button(action.iconText(), f"{action.objectName()}Button")
                made.setToolTip(parts.hint(action.text().replace("&&", "&")))
                made.clicked.connect(self.accept)
                made.clicked.connect(action.trigger)
                row.addWidget(made)
            row.addStretch(1)
            self.column.addLayout(row)


def facts(entry: Entry, logs: Sequence[ReadLog] = ()) -> dict[str, str]:
    """What there is to say of a source, by what it is called."""
    found, points = entry.backup_set, entry.points
    said = {**_source(entry), tr("Backups in"): str(entry.repository)}
    if found is None:
        return {**said, tr("Points"): tr("none yet")}
    stored = sum(point.stored_bytes for point in points)
    said[tr("Points")] = trn("{count} point", "{count} points", len(points))
    if points:
        newest = points[-1]
        said[tr("Newest")] = words.point_title(newest)
        said[tr("Holds")] = tr(
            "{size} stored, of {size_2}",
            size=words.size(stored),
            size_2=words.size(newest.virtual_size),
        )
    said[tr("Format")] = found.settings.format.upper()
    said[tr("Points that stay")] = policy.in_words(found.settings.policy)
    if found.settings.near is not None:
        said[tr("Near-continuous")] = written_words.near_summary(found.settings.near)
    if logs:
        said[tr("Every write")] = "\n".join(map(written_words.stored_summary, logs))
    health = entry.health
    said[tr("Backed up")] = health.schedule.timing.words if health and health.schedule else BY_HAND
    if health and health.verified:
        said[tr("Verified")] = words.when(health.verified)
    if health and health.boot_tested:
        said[tr("Booted")] = words.when(health.boot_tested)
    if health and health.rehearsed:
        said[tr("Restore")] = words.rehearsal(health.rehearsed)
    return said


def _source(entry: Entry) -> dict[str, str]:
    """What is backed up; of chosen files which, and what of them is left out."""
    choice = None
    if entry.source.is_files:
        with suppress(SourceNotFound):
            choice = Choice.parse(entry.source.rest)
    if choice is None:
        return {tr("Source"): str(entry.source)}
    left_out = list(choice.exclude)
    if choice.largest:
        left_out.append(tr("files of more than {size}", size=words.size(choice.largest)))
    if not choice.caches:
        left_out.append(tr("what is marked as a cache"))
    if not choice.crosses:
        left_out.append(tr("other file systems"))
    return {
        tr("Folders and files"): "\n".join(map(printable, choice.paths)),
        tr("Left out"): "\n".join(map(printable, left_out)),
    }
