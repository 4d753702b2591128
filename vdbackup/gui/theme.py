"""The window's colours, light and dark, and how they get into Qt."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QGuiApplication, QPalette
from PySide6.QtWidgets import QApplication

from vdbackup.gui.drawings import drawing
from vdbackup.repository.naming import PointType
from vdbackup.settings import ThemeChoice


@dataclass(frozen=True)
class Theme:
    """Named colours ("#rrggbb"); text colours reach a contrast of 4.5 on `window` and `base`.

    Attributes:
        dark: whether this is the dark one.
        window, base, raised: behind everything, behind content, behind what can be pressed.
        text, muted, border, accent: in and around content; `on_accent` is text on `accent`.
        full, incremental, differential: recovery points by type.
        edge, bar: lines from child to parent, bars of changed data.
        good, bad, warning, session: what is known of a point, and a running VM.
    """

    dark: bool
    window: str
    base: str
    raised: str
    text: str
    muted: str
    border: str
    accent: str
    on_accent: str
    full: str
    incremental: str
    differential: str
    edge: str
    bar: str
    good: str
    bad: str
    warning: str
    session: str

    def of_type(self, kind: PointType) -> str:
        """The colour of a type of recovery point."""
        return {
            PointType.FULL: self.full,
            PointType.INCREMENTAL: self.incremental,
            PointType.DIFFERENTIAL: self.differential,
        }[kind]


LIGHT = Theme(
    dark=False,
    window="#f1f3f6",
    base="#ffffff",
    raised="#ffffff",
    text="#1c2430",
    muted="#566070",
    border="#d5dae2",
    accent="#2459d6",
    on_accent="#ffffff",
    full="#2459d6",
    incremental="#0a7a6c",
    differential="#a85a00",
    edge="#9aa5b5",
    bar="#a9bde6",
    good="#18794a",
    bad="#b91c27",
    warning="#954a00",
    session="#7a33c9",
)

DARK = Theme(
    dark=True,
    window="#1b1e23",
    base="#23272e",
    raised="#2d323b",
    text="#e7eaef",
    muted="#a0a9b8",
    border="#3b424d",
    accent="#6ea2ff",
    on_accent="#10151d",
    full="#6ea2ff",
    incremental="#3cc8b2",
    differential="#f3a83c",
    edge="#6b7686",
    bar="#46618f",
    good="#57c98a",
    bad="#ff767b",
    warning="#f0ab4a",
    session="#bf93ff",
)

STYLE = """
QToolTip {{ color: {text}; background: {raised}; border: 1px solid {border}; padding: 4px; }}
QMenuBar {{ background: {window}; }}
QMenuBar::item {{ padding: 4px 9px; background: transparent; border-radius: 4px; }}
QMenuBar::item:selected {{ background: {border}; }}
QToolBar {{ background: {window}; border: none; border-bottom: 1px solid {border};
            padding: 5px 8px; spacing: 4px; }}
QToolBar QToolButton {{ padding: 5px 7px; border: 1px solid transparent; border-radius: 5px; }}
QToolBar QToolButton:hover:enabled {{ background: {raised}; border-color: {border}; }}
QToolBar QToolButton:focus {{ border-color: {accent}; }}
QToolBar QToolButton:pressed, QToolBar QToolButton:checked {{ background: {border}; }}
QToolBar QToolButton[popupMode="1"] {{ padding-right: 22px; }}
QToolBar QToolButton[popupMode="1"]::menu-button {{ width: 18px; border: none; }}
QToolBar QToolButton#actionBackUpButton {{ background: {raised};
            border-color: {border}; }}
QToolBar QToolButton#actionBackUpButton:hover:enabled {{ border-color: {muted}; }}
QToolBar QToolButton#actionBackUpButton:focus {{ border-color: {accent}; }}
QToolBar::separator {{ background: {border}; width: 1px; margin: 6px 5px; }}
QSplitter::handle {{ background: {border}; }}
QPushButton {{ padding: 5px 14px; border: 1px solid {border}; border-radius: 5px;
               background: {raised}; color: {text}; min-height: 18px; }}
QPushButton::menu-indicator {{ subcontrol-origin: padding; subcontrol-position: center right;
               right: 8px; }}
QPushButton:hover:enabled {{ border-color: {muted}; }}
QPushButton:focus {{ border-color: {accent}; }}
QPushButton:disabled {{ color: {muted}; background: {window}; }}
QPushButton[primary="true"]:enabled {{ background: {accent}; color: {on_accent};
               border-color: {accent}; font-weight: 600; }}
QPushButton[primary="true"]:focus {{ border-color: {text}; }}
QPushButton[danger="true"]:enabled {{ background: {bad}; color: {base}; border-color: {bad};
               font-weight: 600; }}
QPushButton[danger="true"]:focus {{ border-color: {text}; }}
QPushButton[segment="true"] {{ padding: 3px 8px; border: 1px solid {border};
               background: {raised}; border-radius: 4px; min-height: 0; }}
QPushButton[segment="true"]:checked {{ background: {accent}; color: {on_accent};
               border-color: {accent}; }}
QPushButton[segment="true"]:focus {{ border-color: {text}; }}
QLineEdit {{ padding: 4px 6px; border: 1px solid {border};
               border-radius: 5px; background: {base}; color: {text}; }}
QLineEdit:focus {{ border-color: {accent}; }}
QSpinBox, QTimeEdit, QComboBox {{ min-height: 24px; }}
QCheckBox {{ spacing: 7px; }}
QCheckBox::indicator {{ width: 14px; height: 14px; border: 1px solid {muted};
               border-radius: 3px; background: {base}; }}
QCheckBox::indicator:checked {{ background: {accent}; border-color: {accent};
               image: url({check}); }}
QCheckBox::indicator:focus {{ border-color: {text}; }}
QProgressBar {{ border: none; border-radius: 4px; background: {border}; max-height: 8px;
               min-height: 8px; }}
QProgressBar::chunk {{ background: {accent}; border-radius: 4px; }}
QHeaderView::section {{ background: {window}; color: {muted}; padding: 5px 8px; border: none;
               border-bottom: 1px solid {border}; }}
QTableView, QTreeView, QListView {{ background: {base}; border: 1px solid {border};
               border-radius: 5px; gridline-color: {border}; }}
QTableView::item {{ padding: 3px 5px; }}
QTreeView::item {{ padding: 3px 5px; }}
QListView#sourcesList, QListView#sessionsList {{ border: none; background: transparent; }}
QListWidget#candidatesList::item {{ padding: 6px 8px; }}
QListWidget#candidatesList::item:selected {{ background: {accent}; color: {on_accent}; }}
QFrame[card="true"] {{ background: {base}; border: 1px solid {border}; border-radius: 8px; }}
QFrame[pane="true"] {{ background: {base}; }}
QFrame[notice="true"] {{ background: {window}; border: 1px solid {border};
               border-left: 3px solid {accent}; border-radius: 4px; }}
QFrame[notice="true"][role="good"] {{ border-left-color: {good}; }}
QFrame[notice="true"][role="bad"] {{ border-left-color: {bad}; }}
QFrame[notice="true"][role="warning"] {{ border-left-color: {warning}; }}
QFrame[notice="true"][role="muted"] {{ border-left-color: {border}; }}
QLabel[role="heading"] {{ font-size: 15px; font-weight: 600; color: {text}; }}
QLabel[role="title"] {{ font-size: 24px; font-weight: 600; color: {text}; }}
QLabel[role="strong"] {{ font-weight: 600; color: {text}; }}
QLabel[role="muted"] {{ color: {muted}; }}
QLabel[role="good"] {{ color: {good}; }}
QLabel[role="bad"] {{ color: {bad}; }}
QLabel[role="warning"] {{ color: {warning}; }}
"""


def chosen(choice: ThemeChoice) -> Theme:
    """The theme that a choice means here and now; AUTO follows the desktop."""
    if choice is ThemeChoice.AUTO:
        scheme = QGuiApplication.styleHints().colorScheme()
        return DARK if scheme == Qt.ColorScheme.Dark else LIGHT
    return DARK if choice is ThemeChoice.DARK else LIGHT


def apply(application: QApplication, theme: Theme) -> None:
    """Make the whole application look like `theme`.

    Where it does, nothing is done: Qt would polish every widget anew, which takes longer than to
    build the window.
    """
    check = drawing("check-dark" if theme.dark else "check-light").as_posix()
    sheet = STYLE.format(check=check, **vars(theme))
    if application.styleSheet() == sheet:
        return
    if not application.styleSheet():  # which hides what style lies below it
        application.setStyle("Fusion")  # the only one that takes a palette everywhere
    application.setPalette(palette(theme))
    application.setStyleSheet(sheet)


def palette(theme: Theme) -> QPalette:
    """The theme as Qt's palette."""
    role = QPalette.ColorRole
    colours = {
        role.Window: theme.window,
        role.WindowText: theme.text,
        role.Base: theme.base,
        role.AlternateBase: theme.window,
        role.Text: theme.text,
        role.Button: theme.raised,
        role.ButtonText: theme.text,
        role.BrightText: theme.bad,
        role.Highlight: theme.accent,
        role.HighlightedText: theme.on_accent,
        role.ToolTipBase: theme.raised,
        role.ToolTipText: theme.text,
        role.PlaceholderText: theme.muted,
        role.Link: theme.accent,
        role.LinkVisited: theme.accent,
        role.Accent: theme.accent,
        role.Mid: theme.border,
        role.Dark: theme.border,
    }
    made = QPalette()
    for name, colour in colours.items():
        made.setColor(name, QColor(colour))
    faint = QColor(theme.muted)
    faint.setAlphaF(0.65)
    for name in (role.WindowText, role.Text, role.ButtonText):
        made.setColor(QPalette.ColorGroup.Disabled, name, faint)
    return made
