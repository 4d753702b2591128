"""The list of sources: what is backed up, how often it was, and whether it is high time again."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QPoint, QRect, QSize, Qt, Signal
from PySide6.QtGui import QColor, QContextMenuEvent, QFont, QPainter, QPixmap
from PySide6.QtWidgets import (
    QFrame,
    QListWidget,
    QListWidgetItem,
    QStyle,
    QStyledItemDelegate,
    QWidget,
)

from vdbackup.gui import icons, parts, words
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.theme import Theme
from vdbackup.operations.health import Concern
from vdbackup.text import printable
from vdbackup.translation import tr, trn

ENTRY = Qt.ItemDataRole.UserRole
LOWEST = 130  # pixels: two sources stay in sight beside many machines


NEEDED = {
    Concern.UNREADABLE: tr("damaged"),
    Concern.NO_POINTS: tr("no whole point"),
    Concern.LATE: tr("late!"),
    Concern.FAILED: tr("last failed!"),
    Concern.UNREAD: tr("source unreadable"),
    Concern.DAMAGED: tr("data damaged"),
    Concern.NOT_BOOTING: tr("does not boot"),
    Concern.SOON_FULL: tr("storage soon full"),
    Concern.NOT_MERGED: tr("not merged"),
    Concern.NOT_FOLLOWED_UP: tr("not all done"),
    Concern.WRITES_ENDED: tr("writes not kept"),
}
"""What needs somebody, behind the age of the last point."""
ROLES = {
    Concern.FAILED: "bad",
    Concern.DAMAGED: "bad",
    Concern.UNREAD: "bad",
    Concern.NO_POINTS: "bad",
}


def hint(entry: Entry) -> str:
    """All that is known of a source's health, in lines."""
    where = printable(str(entry.repository))
    lines = [printable(str(entry.source)), tr("backed up to {where}", where=where)]
    if entry.machine:
        lines.append(tr("Disks: {sets}", sets=printable(", ".join(entry.machine.sets))))
    found = entry.health
    if found and found.schedule:
        lines.append(tr("{words}, automatically", words=found.schedule.timing.words))
    lines += [printable(each.sentence) for each in found.findings] if found else []
    return "\n".join(lines)


def status(entry: Entry, remind_after_days: int) -> tuple[str, str, str]:
    """(first line, second line, role of the second: "muted", "warning" or "bad")."""
    if entry.problem:
        return tr("cannot be read"), printable(entry.problem.title), "bad"
    if entry.backup_set and entry.backup_set.broken:
        names = printable(", ".join(each.name for each in entry.backup_set.broken))
        refused = all(each.refused for each in entry.backup_set.broken)
        what = tr("may not be read") if refused else tr("damaged")
        return trn("{count} point", "{count} points", len(entry.points)), f"{what}: {names}", "bad"
    if not entry.points:
        return tr("no recovery points yet"), tr("never backed up"), "warning"
    if entry.machine and entry.halves:
        numbers = ", ".join(f"#{each.moment.number}" for each in entry.halves)
        return _counted(entry), tr("not whole: moment {numbers}", numbers=numbers), "warning"
    return _counted(entry), *_age(entry, remind_after_days)


def _counted(entry: Entry) -> str:
    """How many points there are; of a machine its moments."""
    if entry.machine is None:
        return trn("{count} point", "{count} points", len(entry.points))
    disks = trn("{count} disk", "{count} disks", len(entry.machine.sets))
    return trn(
        "{disks}, {count} moment", "{disks}, {count} moments", len(entry.moments), disks=disks
    )


def _age(entry: Entry, remind_after_days: int) -> tuple[str, str]:
    """How old the last backup is, or what is more urgent, and its role."""
    captured = entry.backup_set.latest_captured() if entry.backup_set else None
    last = (captured or entry.points[-1]).created
    days = words.days_since(last)
    if days >= remind_after_days:
        return trn("no backup for {count} day!", "no backup for {count} days!", days), "warning"
    findings = entry.health.findings if entry.health else ()
    if findings and findings[0].needs_somebody:
        about = findings[0].about
        return f"{words.age(last)}: {NEEDED[about]}", ROLES.get(about, "warning")
    quiet = tr(", not proven lately") if any(f.about is Concern.UNPROVEN for f in findings) else ""
    return f"{words.age(last)}{quiet}", "muted"


class SourcesList(QListWidget):
    """Sources with their number of points and the age of the last.

    Signals:
        entry_chosen(Entry): the current one changed (None when there is none).
        menu_wanted(QPoint): what can be done to it is asked for, at a place of the screen.
    """

    MARKED = 0.14  # of the accent's colour behind the chosen one
    entry_chosen = Signal(object)
    menu_wanted = Signal(QPoint)

    def __init__(self, theme: Theme, remind_after_days: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("sourcesList")
        self.setAccessibleName(tr("Sources"))
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setItemDelegate(_Delegate(self))
        self.setMinimumHeight(LOWEST)
        self.remind_after_days = remind_after_days
        self._wanted: tuple[str, ...] | None = None
        self._chosen = False  # by the user, or for them; else the first one is shown
        self.set_theme(theme)
        self.currentItemChanged.connect(self._on_current_changed)

    @property
    def entry(self) -> Entry | None:
        """The chosen source."""
        chosen: Entry | None = self.currentIndex().data(ENTRY)
        return chosen

    def set_theme(self, theme: Theme) -> None:
        """Take these colours."""
        self.theme = theme
        self.disk = icons.pixmap("icon-disk", 22, theme.muted)
        self.viewport().update()

    def set_entries(self, entries: list[Entry]) -> None:
        """Show these sources; the chosen one stays chosen."""
        before = self.entry if self._chosen else None
        self.blockSignals(True)
        self.clear()
        for entry in entries:
            item = QListWidgetItem()
            item.setData(ENTRY, entry)
            item.setText(entry.title)
            item.setToolTip(parts.hint(hint(entry)))
            self.addItem(item)
        self.show_ages()
        chosen = self._row_of(before.key) if before else None
        if self._wanted and (wanted := self._row_of(self._wanted)) is not None:
            chosen, self._wanted, self._chosen = wanted, None, True
        self.setCurrentRow(chosen or 0 if entries else -1)
        self.blockSignals(False)
        self.entry_chosen.emit(self.entry)

    def show_ages(self) -> None:
        """Say how old the last points are by now."""
        for row in range(self.count()):
            item = self.item(row)
            entry: Entry = item.data(ENTRY)
            first, second, _ = status(entry, self.remind_after_days)
            description = f"{entry.title}, {first}, {second}"
            item.setData(Qt.ItemDataRole.AccessibleTextRole, description)
        self.viewport().update()

    def choose(self, key: tuple[str, ...]) -> None:
        """Make the source with this key the chosen one, now or as soon as it is in the list."""
        row = self._row_of(key)
        if row is None:
            self._wanted = key
        else:
            self._chosen = True
            self.setCurrentRow(row)

    def _row_of(self, key: tuple[str, ...]) -> int | None:
        """Of the entry with this key, or else of one of the same source, whose set is new."""
        keys = [self.item(row).data(ENTRY).key for row in range(self.count())]
        if key in keys:
            return keys.index(key)
        return next((row for row, each in enumerate(keys) if each[:2] == key[:2]), None)

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """Offer what can be done to the chosen source; the keyboard's menu key brings this too."""
        if self.entry:
            self.menu_wanted.emit(event.globalPos())

    def _on_current_changed(self) -> None:
        self._wanted, self._chosen = None, True
        self.entry_chosen.emit(self.entry)


class _Delegate(QStyledItemDelegate):
    """Draws a source in three lines.

    `option` is Any, because the type that Qt gives it has no attributes in its stub.
    """

    def __init__(self, sources: SourcesList) -> None:
        super().__init__(sources)
        self._list = sources

    def sizeHint(self, option: Any, _index: QModelIndex | QPersistentModelIndex) -> QSize:
        """Three lines and some air."""
        return QSize(150, option.fontMetrics.height() * 3 + 20)

    def paint(
        self,
        painter: QPainter,
        option: Any,
        index: QModelIndex | QPersistentModelIndex,
    ) -> None:
        """Draw the source's name, its points, and when it was backed up."""
        theme, entry = self._list.theme, index.data(ENTRY)
        first, second, role = status(entry, self._list.remind_after_days)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        chosen = bool(option.state & QStyle.StateFlag.State_Selected)
        box = option.rect.adjusted(6, 3, -6, -3)
        if chosen:
            marked = QColor(theme.accent)
            marked.setAlphaF(SourcesList.MARKED)
            painter.setBrush(marked)
            focused = option.state & QStyle.StateFlag.State_HasFocus
            painter.setPen(QColor(theme.accent) if focused else Qt.PenStyle.NoPen)
            painter.drawRoundedRect(box, 6, 6)
        self._draw_text(painter, box, (entry.title, first, second), role)
        painter.restore()

    def _draw_text(
        self, painter: QPainter, box: QRect, lines: tuple[str, str, str], role: str
    ) -> None:
        theme: Theme = self._list.theme
        disk: QPixmap = self._list.disk
        painter.drawPixmap(box.left() + 8, box.top() + 7, disk)
        left = box.left() + 40
        bold = QFont(painter.font())
        bold.setWeight(QFont.Weight.DemiBold)
        normal = QFont(painter.font())
        colours = {"muted": theme.muted, "warning": theme.warning, "bad": theme.bad}
        styles = ((bold, theme.text), (normal, theme.muted), (normal, colours[role]))
        height = painter.fontMetrics().height()
        for row, (text, (font, colour)) in enumerate(zip(lines, styles, strict=True)):
            painter.setFont(font)
            painter.setPen(QColor(colour))
            line = QRect(left, box.top() + 6 + row * height, box.right() - left - 6, height)
            shortened = painter.fontMetrics().elidedText(
                text, Qt.TextElideMode.ElideRight, line.width()
            )
            painter.drawText(line, Qt.AlignmentFlag.AlignVCenter, shortened)
