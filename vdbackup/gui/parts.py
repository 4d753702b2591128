"""The small parts that every page and dialog is put together from."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QEvent, QObject, QSize, Qt
from PySide6.QtGui import QPainter, QPaintEvent, QShowEvent, QWheelEvent
from PySide6.QtWidgets import (
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QFrame,
    QLabel,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QSpinBox,
    QTimeEdit,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from vdbackup.gui import words
from vdbackup.text import printable
from vdbackup.translation import tr, trn

TIP = Qt.ItemDataRole.ToolTipRole
FRAME = 40  # pixels that a window's title takes, before the desktop has said how many


class Label(QLabel):
    """A text that is shown as it is: names of disks, files and points are not ours."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setText(text)

    def setText(self, text: str) -> None:
        """Show a text: neither markup in it nor marks that turn the direction are obeyed."""
        super().setText(words.shown_lines(text))

    def setToolTip(self, text: str) -> None:
        """Show a hint, as `hint` makes it."""
        super().setToolTip(hint(text))


def hint(text: str) -> str:
    """A tool tip that shows a text as it is: Qt reads as HTML what looks like it."""
    plain = words.shown_lines(text)
    if "<" not in plain:  # then Qt does not, either
        return plain
    return f'<p style="white-space: pre-wrap">{html.escape(plain)}</p>'


def label(text: str = "", role: str = "", *, wrap: bool = True, selectable: bool = False) -> QLabel:
    """A text; `role` is one of the theme's (heading, title, strong, muted, good, bad, warning)."""
    made = Label(text)
    made.setProperty("role", role)
    made.setWordWrap(wrap)
    if selectable:
        made.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return made


class Elided(Label):
    """A text in one line that ends in an ellipsis where it has no room."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self.setProperty("role", role)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Draw what there is room for; all of it is the hint."""
        end = Qt.TextElideMode.ElideRight
        text = self.fontMetrics().elidedText(self.text(), end, self.width())
        self.setToolTip(self.text() if text != self.text() else "")
        with QPainter(self) as painter:
            painter.drawText(self.rect(), Qt.AlignmentFlag.AlignVCenter, text)


def set_role(widget: QWidget, role: str) -> None:
    """Change the role of a text, or of what frames it."""
    if widget.property("role") != role:
        widget.setProperty("role", role)
        widget.style().polish(widget)


def button(text: str, name: str, style: str = "") -> QPushButton:
    """A button; `style` is "primary", "danger" or nothing."""
    made = QPushButton(text)
    made.setObjectName(name)
    if style:
        made.setProperty(style, "true")
    return made


def set_primary(made: QPushButton, *, primary: bool) -> None:
    """Let a button stand out, or not any more."""
    wanted = "true" if primary else None
    if made.property("primary") != wanted:
        made.setProperty("primary", wanted)
        made.style().polish(made)


def field(name: str, hint: str, accessible_name: str) -> QLineEdit:
    """A line to type in."""
    made = QLineEdit()
    made.setObjectName(name)
    made.setPlaceholderText(hint)
    made.setAccessibleName(accessible_name)
    return made


def path_in(edit: QLineEdit) -> Path | None:
    """The path that is typed in a field, `~` being the user's home folder; None while it is empty.

    Not by `Path.expanduser`: that raises while one types `~somebody`.
    """
    text = edit.text().strip()
    return Path(os.path.expanduser(text)).absolute() if text else None


if TYPE_CHECKING:
    _Widget = QWidget
else:
    _Widget = object  # beside a widget no second one can be a base


class _Clicked(_Widget):
    """A field that a wheel which passes over it does not change: it has to be clicked first."""

    def __init__(self, name: str, accessible_name: str) -> None:
        super().__init__()
        self.setObjectName(name)
        self.setAccessibleName(accessible_name)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)  # Qt's own one takes it from the wheel

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Leave the wheel to what is scrolled."""
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()


class ComboBox(_Clicked, QComboBox):
    """A choice; a wheel passes over it."""


class SpinBox(_Clicked, QSpinBox):
    """A number; a wheel passes over it."""


def name_number(field: SpinBox, one: str, many: str) -> None:
    """Let a field say what its number counts, of one in the singular, too."""

    def show(number: int) -> None:
        field.setSuffix(trn(one, many, number))

    field.valueChanged.connect(show)
    show(field.value())


class TimeField(_Clicked, QTimeEdit):
    """A time of day; a wheel passes over it."""


def card(content: QWidget) -> QFrame:
    """A frame that holds together what belongs together."""
    made = QFrame()
    made.setProperty("card", "true")
    column = QVBoxLayout(made)
    column.setContentsMargins(20, 18, 20, 18)
    column.addWidget(content)
    return made


class Scrolled(QScrollArea):
    """Holds what may be higher than the screen."""

    def __init__(self, inside: QWidget, accessible_name: str) -> None:
        super().__init__()
        self._inside = inside
        self.setAccessibleName(accessible_name)
        self.setWidget(inside)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def sizeHint(self) -> QSize:
        """All of it; a dialog takes no more than the screen has."""
        inside, layout = self._inside.sizeHint(), self._inside.layout()
        height = inside.height()
        if self.isVisible() and layout is not None and layout.hasHeightForWidth():
            height = layout.totalHeightForWidth(self.viewport().width())  # its texts wrap
        return QSize(inside.width() + self._bar, height)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Let the dialog grow with what it holds."""
        if watched is self._inside and event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return super().eventFilter(watched, event)

    def minimumSizeHint(self) -> QSize:
        """As wide as what it holds has to be: it scrolls to no side, so that would be cut off."""
        usual = super().minimumSizeHint()
        return QSize(
            max(usual.width(), self._inside.minimumSizeHint().width() + self._bar), usual.height()
        )

    @property
    def _bar(self) -> int:
        """Pixels that its scroll bar takes."""
        return self.verticalScrollBar().sizeHint().width()


class Notice(QFrame):
    """A sentence that must not be overlooked; hidden while there is none.

    Its bar has the colour of its role, so that only what warns looks like a warning.
    """

    def __init__(self, text: str = "", name: str = "notice", role: str = "") -> None:
        super().__init__()
        self.setObjectName(name)
        self.setProperty("notice", "true")
        self.setProperty("role", role)
        self._label = label(role=role)
        QVBoxLayout(self).addWidget(self._label)
        self.say(text)

    @property
    def text(self) -> str:
        """What it says."""
        return self._label.text()

    def say(self, text: str, role: str | None = None) -> None:
        """Show a text, or nothing; `role` stays as it was where none is given."""
        self._label.setText(text)
        if role is not None:
            set_role(self._label, role)
            set_role(self, role)
        self.setVisible(bool(text))


class Fold(QToolButton):
    """A button that shows and hides `content`."""

    def __init__(self, text: str, content: QWidget) -> None:
        super().__init__()
        self._content = content
        self.setText(text)
        self.setAutoRaise(True)
        self.setCheckable(True)
        self.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.toggled.connect(self._on_toggled)
        self._on_toggled(opened=False)

    def _on_toggled(self, opened: bool) -> None:
        self.setArrowType(Qt.ArrowType.DownArrow if opened else Qt.ArrowType.RightArrow)
        self._content.setVisible(opened)


class Dialog(QDialog):
    """A dialog that goes when it is closed; show it by `open()`, never `exec()`.

    Attributes:
        column: what it holds, from top to bottom.
        fits: it is as high as what it holds; set it to False before resizing the dialog.
    """

    def __init__(self, name: str, title: str, width: int, parent: QWidget | None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setWindowTitle(printable(title).replace("[*]", "[*][*]"))  # Qt's mark of changes
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setMinimumWidth(width)
        self.fits = True
        self.column = QVBoxLayout(self)
        self.column.setContentsMargins(22, 20, 22, 18)
        self.column.setSpacing(12)

    def add_buttons(
        self, accept: QPushButton, cancel: str = tr("Cancel"), *others: QPushButton
    ) -> QPushButton:
        """Add the row of buttons at the end, in the desktop's order; returns the cancelling one.

        Enter presses `accept` unless `press_by_enter` says otherwise.
        """
        box = QDialogButtonBox()
        refuse = button(cancel, "cancelButton")
        box.addButton(refuse, QDialogButtonBox.ButtonRole.RejectRole)
        for other in others:
            box.addButton(other, QDialogButtonBox.ButtonRole.ActionRole)
        box.addButton(accept, QDialogButtonBox.ButtonRole.AcceptRole)
        refuse.clicked.connect(self.reject)
        self.column.addSpacing(4)
        self.column.addWidget(box)
        self.press_by_enter(accept)
        return refuse

    def add_close_button(self) -> None:
        """Add the one button of a dialog that only shows something."""
        close = button(tr("Close"), "closeButton", "primary")
        close.clicked.connect(self.accept)
        box = QDialogButtonBox()
        box.addButton(close, QDialogButtonBox.ButtonRole.AcceptRole)
        self.column.addWidget(box)
        self.press_by_enter(close)

    def press_by_enter(self, wanted: QPushButton) -> None:
        """Let Enter press this button, wherever in the dialog the focus is, and no other one."""
        for each in self.findChildren(QPushButton):
            each.setAutoDefault(False)
        wanted.setDefault(True)

    def showEvent(self, event: QShowEvent) -> None:
        """Take the height that wrapped texts need at this width, which Qt only guesses.

        What does not fit on the screen has to scroll.
        """
        super().showEvent(event)
        self.fit()

    def event(self, event: QEvent) -> bool:
        """Grow with a text that has come: what stands below it would cover it else."""
        done = super().event(event)
        if event.type() == QEvent.Type.LayoutRequest and self.fits and self.isVisible():
            width = self.width()
            needed = min(self._height_at(width), self._most())
            if needed > self.height():
                self.resize(width, needed)
                self._stay_on_screen()
        return done

    def fit(self) -> None:
        """Take that height again, after texts have changed."""
        if self.fits and self.isVisible():
            for child in self.findChildren(QWidget):
                child.ensurePolished()
            width = max(self.minimumWidth(), self.minimumSizeHint().width())
            self.resize(width, min(self._height_at(width), self._most()))
            self._stay_on_screen()

    def _stay_on_screen(self) -> None:
        """Grown, it need not be where it was placed before: its buttons would be out of sight."""
        room, frame = self.screen().availableGeometry(), self.frameGeometry()
        wanted = frame.translated(0, 0)
        wanted.moveRight(min(frame.right(), room.right()))
        wanted.moveBottom(min(frame.bottom(), room.bottom()))
        wanted.moveLeft(max(wanted.left(), room.left()))
        wanted.moveTop(max(wanted.top(), room.top()))
        if wanted != frame:
            self.move(wanted.topLeft())

    def _most(self) -> int:
        """How high it may be on this screen."""
        frame = self.frameGeometry().height() - self.height()
        return self.screen().availableGeometry().height() - max(frame, FRAME)

    def _height_at(self, width: int) -> int:
        """How high what it holds is at this width."""
        height = self.column.totalHeightForWidth(width)  # -1 where no text wraps
        return height if height >= 0 else self.column.totalSizeHint().height()


def choose_folder(
    parent: QWidget, title: str, edit: QLineEdit, written: Callable[[str], str] = str
) -> None:
    """Let the user choose a folder for a field, in which it is then as `written` has it."""
    dialog = QFileDialog(parent, title, edit.text())
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.setFileMode(QFileDialog.FileMode.Directory)
    dialog.setOption(QFileDialog.Option.ShowDirsOnly)
    dialog.fileSelected.connect(lambda path: edit.setText(written(path)))
    dialog.open()


def choose_files(
    parent: QWidget,
    title: str,
    edit: QLineEdit,
    filters: Sequence[str],
    written: Callable[[Sequence[str]], str],
) -> None:
    """Let the user choose files that exist for a field, in which they are as `written` has them."""
    dialog = QFileDialog(parent, title, edit.text())
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.setFileMode(QFileDialog.FileMode.ExistingFiles)
    dialog.setNameFilters(list(filters))
    dialog.filesSelected.connect(lambda paths: edit.setText(written(paths)))
    dialog.open()


def choose_file(
    parent: QWidget, title: str, edit: QLineEdit, filters: Sequence[str], *, new: bool = False
) -> None:
    """Let the user choose a file for a field: one that exists, or the name of a `new` one."""
    dialog = QFileDialog(parent, title, edit.text())
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    mode = QFileDialog.FileMode.AnyFile if new else QFileDialog.FileMode.ExistingFile
    dialog.setFileMode(mode)
    if new:
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setOption(QFileDialog.Option.DontConfirmOverwrite)  # we ask in our own words
    dialog.setNameFilters(list(filters))
    dialog.fileSelected.connect(edit.setText)
    dialog.open()
