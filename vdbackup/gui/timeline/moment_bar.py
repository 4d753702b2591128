"""Below graph and table: the moments behind the chosen point, one by one."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QVBoxLayout, QWidget

from vdbackup.gui import parts, words, written_words
from vdbackup.gui.timeline.bands import Band, Spot
from vdbackup.operations.written_logs import ReadLog
from vdbackup.repository.kept_logs import UnreadLog
from vdbackup.repository.near_continuous import NearContinuous
from vdbackup.translation import tr, trn


class MomentBar(QFrame):
    """Says what is kept behind a point, and goes to any moment of it; hidden where nothing is.

    Attributes:
        state: what is kept, or why it cannot be read.
        logs: which of several logs.
        write: after how many writes the moment is.
        moment: its time, and whether it is consistent.

    Signals:
        wanted(str, int): go to the moment after so many writes in a session's log.
    """

    wanted = Signal(str, object)  # int would be 32 bits

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("momentBar")
        self.setAccessibleName(tr("Moments behind the recovery point"))
        self._bands: Sequence[Band] = ()
        self._spot: Spot | None = None
        self.state = parts.Elided("muted")
        self.logs = parts.ComboBox("momentLogs", tr("Whose writes"))
        self.logs.setMinimumContentsLength(10)
        self.logs.setSizeAdjustPolicy(
            parts.ComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.before = parts.button(tr("Earlier"), "momentBefore")
        self.before.setToolTip(parts.hint(tr("The consistent moment before (Alt+Left)")))
        self.after = parts.button(tr("Later"), "momentAfter")
        self.after.setToolTip(parts.hint(tr("The next consistent moment (Alt+Right)")))
        self.write = parts.SpinBox("momentWrite", tr("After how many writes"))
        self.write.setPrefix(tr("after write "))
        self.write.setGroupSeparatorShown(True)
        self.write.setKeyboardTracking(False)
        self.moment = parts.Elided("")
        self._row = QWidget()
        row = QHBoxLayout(self._row)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(6)
        for each in (self.logs, self.before, self.write, self.after):
            row.addWidget(each)
        row.addWidget(self.moment, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 2, 0, 0)
        column.setSpacing(4)
        column.addWidget(self.state)
        column.addWidget(self._row)
        self.before.clicked.connect(lambda: self._step(-1))
        self.after.clicked.connect(lambda: self._step(1))
        self.write.valueChanged.connect(self._on_write)
        self.logs.currentIndexChanged.connect(self._on_log)
        self.hide()

    def show_near(self, near: NearContinuous | None) -> None:
        """Show that the set has points every so many seconds instead, where it has."""
        self.setVisible(near is not None)
        self._row.hide()
        if near is not None:
            self.state.setText(words.breakable_lines(written_words.near_summary(near)))
            parts.set_role(self.state, "muted")

    def show_unread(self, unread: Sequence[UnreadLog]) -> None:
        """Show that there are writes of which nobody can tell behind which point they lie."""
        self.show()
        self._row.hide()
        said = " ".join(f"{each.problem} {each.advice}" for each in unread)
        self.state.setText(words.breakable_lines(said))
        parts.set_role(self.state, "bad")

    def show_moments(self, bands: Sequence[Band], spot: Spot | None) -> None:
        """Show what is kept behind a point; `spot` is the moment that is chosen, if one is."""
        self._bands, self._spot = bands, spot
        self.setVisible(bool(bands))
        if not bands:
            return
        band = self._band
        for widget in (self.logs, self.write):
            widget.blockSignals(True)
        titles = [words.when_exactly(each.log.kept.protection.since) for each in bands]
        if [self.logs.itemText(each) for each in range(self.logs.count())] != titles:
            self.logs.clear()
            self.logs.addItems(titles)
        self.logs.setCurrentIndex(list(bands).index(band))
        self.logs.setVisible(len(bands) > 1)
        self.write.setRange(0, min(band.log.writes, (1 << 31) - 1))
        self.write.setValue(spot.write if spot else 0)
        for widget in (self.logs, self.write):
            widget.blockSignals(False)
        self._say(band.log, spot)

    def _say(self, log: ReadLog, spot: Spot | None) -> None:
        trouble = log.problem is not None or bool(log.cut_short or log.set_back)
        self.state.setText(words.breakable_lines(written_words.summary(log)))
        parts.set_role(self.state, "bad" if log.problem else "warning" if trouble else "muted")
        self._row.setVisible(log.problem is None)
        if log.problem is not None:
            return
        many = trn(
            "{count} moment in it is consistent",
            "{count} moments in it are consistent",
            max(len(log.moments) - 1, 0),
        )
        if spot is None:
            self.moment.setText(many)
            parts.set_role(self.moment, "muted")
        else:
            moment = spot.moment
            self.moment.setText(f"{words.clock_of(moment)}, {words.state_of(moment)}")
            parts.set_role(self.moment, "good" if moment.flushed else "warning")

    @property
    def _band(self) -> Band:
        """That of the chosen moment; else the newest that can be read."""
        if self._spot is not None:
            for each in self._bands:
                if each.log.session == self._spot.band.log.session:
                    return each
        return next((each for each in reversed(self._bands) if not each.log.problem),
                    self._bands[-1])  # fmt: skip

    def _step(self, step: int) -> None:
        if self._bands:
            band, write = self._band, self._spot.write if self._spot else 0
            self.wanted.emit(band.log.session, band.moment_beside(write, step))

    def _on_write(self, write: int) -> None:
        if self._bands:
            log, before = self._band.log, self._spot.write if self._spot else 0
            # its arrows lead to the next one that is kept, and not back
            self.wanted.emit(log.session, log.held(write, later=write > before))

    def _on_log(self, number: int) -> None:
        if 0 <= number < len(self._bands):
            log = self._bands[number].log
            if log.problem is None:
                self.wanted.emit(log.session, int(log.moments[-1]))
