"""The toolbar, which keeps all its buttons however narrow the window is."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QSizePolicy, QToolBar, QToolButton, QWidget

from vdbackup.gui.action import Action, Place
from vdbackup.gui.actions import Actions, in_toolbar
from vdbackup.translation import tr


class ToolBar(QToolBar):
    """Shows icons alone where the window is too narrow for names, so that none is out of reach."""

    def __init__(self, actions: Actions) -> None:
        super().__init__(tr("Actions"))
        self.setObjectName("toolbar")
        self.setMovable(False)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.PreventContextMenu)
        self.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._buttons: list[tuple[QToolButton, int]] = []
        self._add(actions, Place.DAILY)
        self.addSeparator()
        self._add(actions, Place.CARE)
        space = QWidget()
        space.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self.addWidget(space)
        self._add(actions, Place.END)

    def _add(self, actions: Actions, place: Place) -> None:
        for each in in_toolbar(place):
            self.addAction(actions[each.name])
            button = self.widgetForAction(actions[each.name])
            if isinstance(button, QToolButton):
                self._prepare(button, each)

    def _prepare(self, button: QToolButton, action: Action) -> None:
        self._buttons.append((button, action.loses_name))
        button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        button.setAccessibleName(action.text)
        if action.menu:
            button.setObjectName(f"{action.name}Button")
            button.setPopupMode(QToolButton.ToolButtonPopupMode.MenuButtonPopup)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Take as few names away as it needs."""
        super().resizeEvent(event)
        layout = self.layout()
        if layout is None:
            return
        for step in range(1 + max(step for _, step in self._buttons)):
            for button, of in self._buttons:
                style = Qt.ToolButtonStyle.ToolButtonTextBesideIcon
                if of <= step:
                    style = Qt.ToolButtonStyle.ToolButtonIconOnly
                button.setToolButtonStyle(style)
            layout.invalidate()
            if self.sizeHint().width() <= self.width():
                break
        layout.activate()
