"""What is known of one recovery point, in words."""

from __future__ import annotations

from functools import partial

from PySide6.QtCore import QEvent, QObject, QSize, Qt
from PySide6.QtGui import QAction
from PySide6.QtWidgets import (
    QFormLayout,
    QFrame,
    QLabel,
    QMenu,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from vdbackup.consistency import Consistency, How
from vdbackup.gui import parts, words
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.machines.boot_picture import BootPicture
from vdbackup.gui.timeline.points_table import check_in_words
from vdbackup.repository import long_chains
from vdbackup.repository.model import (
    ChangesFrom,
    Check,
    Pin,
    Promotion,
    Reading,
    RecoveryPoint,
)
from vdbackup.repository.written import WrittenPoint
from vdbackup.translation import tr, trn

LOWEST = 120  # pixels of facts that stay in sight
ROWS = {
    "time": tr("Time"),
    "writes": tr("Writes"),
    "state": tr("State"),
    "type": tr("Type"),
    "stored": tr("Stored"),
    "moment": tr("Moment"),
    "read": tr("Read"),
    "verified": tr("Verified"),
    "booted": tr("Boot-tested"),
    "rehearsed": tr("Restore"),
    "proven": tr("Proven"),
    "chain": tr("Chain"),
    "machine": tr("Machine"),
    "merged": tr("Stands for"),
    "promoted": tr("Made from"),
    "pinned": tr("Pinned"),
    "id": tr("Id"),
}


OF_MOMENTS = ("writes", "state")
OF_POINTS = ("type", "stored", "verified", "booted", "proven")
"""Rows that make no sense of the other."""


class Facts(QScrollArea):
    """Scrolls what is higher than the window, and is as wide as that needs."""

    def __init__(self, inside: QWidget) -> None:
        super().__init__()
        self._inside = inside
        self.setAccessibleName(tr("Facts of the recovery point"))
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidgetResizable(True)
        self.setWidget(inside)
        inside.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Need another width when other facts are shown."""
        if event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return super().eventFilter(watched, event)

    def minimumSizeHint(self) -> QSize:
        """Nothing is cut on the right where it scrolls."""
        bar = self.verticalScrollBar().sizeHint().width()
        return QSize(self._inside.minimumSizeHint().width() + bar, LOWEST)


class PointDetails(QFrame):
    """The facts about the chosen recovery point, and below them, always in sight, what to do.

    Attributes:
        point_id: whose facts are shown, "" for none.
        boot_test: the picture of its boot test.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("pointDetails")
        self.setAccessibleName(tr("Details of the recovery point"))
        self.setProperty("pane", "true")
        self.point_id = ""
        self._offered: dict[str, QPushButton] = {}
        pane = QFrame()
        pane.setProperty("pane", "true")
        self._column = QVBoxLayout(pane)
        self._column.setContentsMargins(16, 14, 16, 8)
        self._column.setSpacing(10)
        self._title = parts.label("", "heading")
        self._subtitle = parts.label("", "muted")
        self._column.addWidget(self._title)
        self._column.addWidget(self._subtitle)
        self._facts = QWidget()
        self._form = QFormLayout(self._facts)
        self._form.setContentsMargins(0, 4, 0, 4)
        self._form.setHorizontalSpacing(12)
        self._form.setVerticalSpacing(8)
        self._form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self._values = {key: self._row(name) for key, name in ROWS.items()}
        self._column.addWidget(self._facts)
        self.boot_test = BootPicture()
        self._column.addWidget(self.boot_test)
        self._warnings = parts.Notice(name="pointWarnings", role="warning")
        self._column.addWidget(self._warnings)
        self._offers = QWidget()
        self._buttons = QVBoxLayout(self._offers)
        self._buttons.setContentsMargins(16, 6, 16, 14)
        self._buttons.setSpacing(6)
        self._column.addStretch(1)
        outside = QVBoxLayout(self)
        outside.setContentsMargins(0, 0, 0, 0)
        outside.setSpacing(0)
        outside.addWidget(Facts(pane), 1)
        outside.addWidget(self._offers)
        self.show_point(None, None)

    def put(self, widget: QWidget) -> None:
        """Put more facts below those that are known of every point."""
        self._column.insertWidget(self._column.indexOf(self._facts) + 1, widget)

    def offer(self, action: QAction, *, primary: bool = False) -> None:
        """Put an action's button below the facts."""
        name = action.objectName().replace("action", "details")
        button = parts.button(action.text(), name, "primary" if primary else "")
        button.setToolTip(action.toolTip())
        button.setEnabled(action.isEnabled())
        button.clicked.connect(action.trigger)
        action.changed.connect(lambda: button.setEnabled(action.isEnabled()))
        self._buttons.addWidget(button)
        self._offered[action.objectName()] = button

    def offer_where_ready(self, *actions: QAction) -> None:
        """The same of actions of which each is shown only while it can be done."""
        for action in actions:
            self.offer(action)
            button = self._offered[action.objectName()]
            button.setVisible(action.isEnabled())
            action.changed.connect(partial(_show_where_ready, button, action))

    def prefer(self, name: str) -> None:
        """Let one of the offered actions be the one that stands out."""
        for each, button in self._offered.items():
            parts.set_primary(button, primary=each == name)

    def offer_menu(self, menu: QMenu, hint: str) -> None:
        """Put a button that opens a menu below the facts."""
        button = parts.button(menu.title(), "detailsOpenWith")
        button.setToolTip(hint)
        button.setMenu(menu)
        self._buttons.addWidget(button)

    def show_point(self, entry: Entry | None, point: RecoveryPoint | None) -> None:
        """Show a point's facts, or that none is chosen."""
        self.point_id = point.id if point else ""
        chosen = entry is not None and point is not None
        for widget in (self._facts, self._offers):
            widget.setVisible(chosen)
        self._warnings.say(_notice(entry, point) if entry and point else "")
        if entry is None or point is None:
            self._title.setText(tr("Recovery point"))
            self._subtitle.setText(tr("Choose one in the timeline to see what is known of it."))
            return
        is_moment = isinstance(point, WrittenPoint)
        name = words.point_name(point)
        self._title.setText(
            tr("Moment {name}", name=name) if is_moment else tr("Recovery point {name}", name=name)
        )
        self.show_age(point)
        for key, text in self._facts_of(entry, point).items():
            self._values[key].setMinimumHeight(0)  # what it needed for another text
            self._values[key].setText(text)
        for key in ("moment", "read"):
            self._form.setRowVisible(self._values[key], point.reading is not None)
        parts.set_role(self._values["proven"], "good" if point.proven else "muted")
        for key in OF_MOMENTS:
            self._form.setRowVisible(self._values[key], is_moment)
        for key in OF_POINTS:
            self._form.setRowVisible(self._values[key], not is_moment)
        parts.set_role(
            self._values["state"],
            "good" if isinstance(point, WrittenPoint) and point.flushed else "warning",
        )
        self._form.setRowVisible(self._values["machine"], entry.machine is not None)
        self._form.setRowVisible(self._values["merged"], bool(point.merged))
        self._form.setRowVisible(self._values["rehearsed"], point.rehearsed is not None)
        self._form.setRowVisible(self._values["promoted"], point.promoted_from is not None)
        self._form.setRowVisible(self._values["pinned"], point.id in entry.pins)
        self._values["id"].setToolTip(point.id)
        moment = entry.moment_of(point)
        is_whole = moment is not None and not moment.missing
        parts.set_role(self._values["machine"], "" if is_whole else "warning")
        self._form.invalidate()  # where rows come and go it keeps heights of another width
        self._paint_check("verified", point.verified, "bad")
        self._paint_check("booted", point.boot_tested, "warning")
        self._paint_check("rehearsed", point.rehearsed, "warning")
        chain = entry.chain(point)
        role = "bad" if _is_broken(chain) else "warning" if _is_long(chain) else ""
        parts.set_role(self._values["chain"], role)

    def show_age(self, point: RecoveryPoint | None) -> None:
        """Say how old the point is by now."""
        if point is not None:
            self._subtitle.setText(words.age(point.created))

    def fact(self, name: str) -> str:
        """What is said of one of `ROWS`."""
        return self._values[name].text()

    def _facts_of(self, entry: Entry, point: RecoveryPoint) -> dict[str, str]:
        return {
            "time": words.when_exactly(point.created),
            "writes": _writes_in_words(point),
            "state": _state_in_words(point),
            "type": tr(point.type),
            "stored": _stored_in_words(entry.chain(point)),
            "moment": _moment_in_words(point.reading.consistency) if point.reading else "",
            "read": _read_in_words(point.reading) if point.reading else "",
            "verified": check_in_words(point.verified),
            "booted": check_in_words(point.boot_tested),
            "rehearsed": words.rehearsal(point.rehearsed) if point.rehearsed else "",
            "proven": _proof_in_words(point),
            "chain": _chain_in_words(entry.chain(point)),
            "machine": _machine_in_words(entry, point),
            "merged": trn(
                "{count} older point merged into it",
                "{count} older points merged into it",
                point.merged_count,
            ),
            "promoted": _promotion_in_words(point.promoted_from),
            "pinned": _pin_in_words(entry.pins.get(point.id)),
            "id": point.id.replace("-", "-\u200b"),  # may be broken where it has a hyphen
        }

    def _paint_check(self, key: str, check: Check | None, failed: str) -> None:
        role = "muted" if check is None else "good" if check.ok else failed
        parts.set_role(self._values[key], role)

    def _row(self, name: str) -> QLabel:
        title = parts.label(name, "muted", wrap=False)
        title.setAlignment(Qt.AlignmentFlag.AlignTop)
        value = parts.label(selectable=True)
        value.setAccessibleName(name)
        value.installEventFilter(self)
        self._form.addRow(title, value)
        return value

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Have a value be as high as its text is at its width.

        The form gives it the height that it needed at another one, before a scroll bar came.
        """
        if isinstance(watched, QLabel) and event.type() == QEvent.Type.Resize:
            watched.setMinimumHeight(max(0, watched.heightForWidth(watched.width())))
        return super().eventFilter(watched, event)


def _show_where_ready(button: QPushButton, action: QAction) -> None:
    button.setVisible(action.isEnabled())


LONG_CHAIN = tr(
    "A long chain: backups, restores and machines take longer with each layer, and a damaged "
    "one costs all points after it. Let the source keep fewer points, or make the next backup "
    "a full."
)


def _writes_in_words(point: RecoveryPoint) -> str:
    """Behind which point a moment lies, and how far."""
    if not isinstance(point, WrittenPoint):
        return ""
    return trn(
        "{count} after #{point}", "{count} after #{point}", point.write, point=point.sequence
    )


def _state_in_words(point: RecoveryPoint) -> str:
    """What to expect of a moment."""
    if not isinstance(point, WrittenPoint):
        return ""
    if point.flushed:
        return tr("consistent: all that was written had been written out")
    return tr("like a power cut: not all that was written need fit together")


def _stored_in_words(chain: list[RecoveryPoint]) -> str:
    point = chain[0]
    if not point.stored_bytes and len(chain) > 1:
        return tr("nothing has changed since #{point}", point=chain[1].sequence)
    return tr(
        "{size} of {size_2}",
        size=words.size(point.stored_bytes),
        size_2=words.size(point.virtual_size),
    )


def _chain_in_words(chain: list[RecoveryPoint]) -> str:
    """What a point reads through, or that some of it is missing: then it cannot be read."""
    if _is_broken(chain):
        return tr("broken: what #{point} reads through is missing", point=chain[-1].sequence)
    parents = ", ".join(f"#{each.sequence}" for each in chain[1:5])
    if not parents:
        return tr("stands alone")
    more = "…" if len(chain) > 5 else ""
    return trn(
        "{count} layer, reads through {parents}{more}",
        "{count} layers, reads through {parents}{more}",
        len(chain),
        parents=parents,
        more=more,
    )


def _notice(entry: Entry, point: RecoveryPoint) -> str:
    """What was not as it should have been, and what will not stay so."""
    long = [LONG_CHAIN] if _is_long(entry.chain(point)) else []
    return "\n\n".join([*map(words.breakable, point.warnings), *long])


def _proof_in_words(point: RecoveryPoint) -> str:
    """Whether all that can be proven of a point is, and since when; else what is missing."""
    if point.proven:
        return words.age(point.proven)
    if point.is_of_files:
        return tr("not until it is verified with success")
    return tr("not until it is verified, and boot-tested, with success")


def _machine_in_words(entry: Entry, point: RecoveryPoint) -> str:
    """Which points of a machine's disks belong together with this one."""
    if entry.machine is None:
        return ""
    moment = entry.moment_of(point)
    if moment is None:
        return tr(
            "of this disk alone, not of a moment of {entry}", entry=words.breakable(entry.title)
        )
    disks = [f"{name} #{each.sequence}" for name, each in moment.points.items()]
    found = tr(
        "moment {moment}: {names}",
        moment=moment.moment.number,
        names=", ".join(map(words.breakable, disks)),
    )
    if moment.missing:
        return tr(
            "{found}; not whole, {missing} missing",
            found=found,
            missing=words.breakable(", ".join(moment.missing)),
        )
    return found


def _is_broken(chain: list[RecoveryPoint]) -> bool:
    return chain[-1].parent is not None


def _is_long(chain: list[RecoveryPoint]) -> bool:
    return len(chain) >= long_chains.MANY_LAYERS


def _moment_in_words(consistency: Consistency) -> str:
    """What makes a point its source as of one moment, or that nothing did."""
    if consistency.how is How.UNMOUNTED:
        return tr("not in use while it was read")
    return consistency.sentence or tr("in use while it was read")


def _read_in_words(reading: Reading) -> str:
    """How much of the source was read for it, why all of it, and what was left out as free."""
    read = words.size(reading.read_bytes)
    if reading.changes_from is ChangesFrom.TRACKER:
        read = tr("{read}: what has changed was known", read=read)
    elif reading.scan_reason:
        read = tr(
            "everything ({read}), because {scan_reason}",
            read=read,
            scan_reason=words.breakable(reading.scan_reason),
        )
    free = sum(length for _, length in reading.not_read)
    return (
        tr("{read}; {size} of free space left out", read=read, size=words.size(free))
        if free
        else read
    )


def _pin_in_words(pin: Pin | None) -> str:
    if pin is None:
        return ""
    since = tr("since {since}", since=words.when(pin.since))
    return f"{words.breakable(pin.note)} ({since})" if pin.note else since


def _promotion_in_words(promotion: Promotion | None) -> str:
    if promotion is None:
        return ""
    title = words.breakable(promotion.title)
    return tr(
        "a virtual machine on {title}, ended {ended}",
        title=title,
        ended=words.when_exactly(promotion.ended),
    )
