"""What an action of the window is: its words, its keys, what it does, and what that needs."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from vdbackup.gui.needs import Chosen, Operation


class Place(enum.Enum):
    """Where in the toolbar an action stands."""

    DAILY = enum.auto()
    CARE = enum.auto()
    END = enum.auto()


@dataclass(frozen=True)
class Action:
    """Something that the user can ask for.

    Attributes:
        name: of the object that scripts look for.
        text: what it is called.
        hint: what it does.
        operation: does it, and knows what that needs.
        icon: the drawing's name.
        keys: what to press.
        place: its place in the toolbar, None where it stands elsewhere.
        hides: it is left out of menus where it cannot be done, and not only grey.
        loses_name: in which step, as the window becomes narrower, its button is left with its icon
            alone; what is used most does last.
        text_of: what it is called where that names what is chosen.
        hint_of: what it does to what is chosen.
        menu: other ways to ask for it.
    """

    name: str
    text: str
    hint: str
    operation: Operation
    icon: str = ""
    keys: str = ""
    place: Place | None = None
    hides: bool = False
    loses_name: int = 2
    text_of: Callable[[Chosen], str] | None = None
    hint_of: Callable[[Chosen], str] | None = None
    menu: tuple[Action, ...] = ()
