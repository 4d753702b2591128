"""What the window says of errors: in words of its own, by what to press, never by options."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.test_architecture import PACKAGE, button_names, modules, spoken_commands
from tests.test_errors import classes
from vdbackup.errors import Remedy, VdbackupError
from vdbackup.gui import remedies

ANYTHING = "X"


def text(node: ast.expr | None) -> str:
    """What a sentence says wherever it is not put together while the program runs."""
    match node:
        case ast.Constant(value=str(said)):
            return said
        case ast.JoinedStr(values=values):
            return "".join(text(each) for each in values)
        case ast.BinOp(left=left, right=right):
            return text(left) + text(right)
        case ast.IfExp(body=body, orelse=other):
            return f"{text(body)} {text(other)}"
        case ast.Constant(value=None) | None:
            return ""
    return ANYTHING


def raised(names: set[str]) -> Iterator[tuple[str, VdbackupError]]:
    """Every error that the engine makes, with where it stands."""
    for module in modules(outside=("cli", "gui")):
        for call in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or ast.unparse(call.func) not in names:
                continue
            remedy = next((each.value for each in call.keywords if each.arg == "remedy"), None)
            ours = isinstance(remedy, ast.Attribute) and remedy.attr in Remedy.__members__
            chosen = Remedy[remedy.attr] if ours else None  # or it is passed on with its words
            title, advice = (*map(text, call.args[:2]), "", "")[:2]
            where = f"{module.relative_to(PACKAGE)}:{call.lineno}"
            yield where, VdbackupError(title, advice, remedy=chosen, about=ANYTHING)


def test_the_window_shows_no_option_in_the_advice_of_any_error():
    spoken = spoken_commands()
    found = list(raised({each.__name__ for each in classes()}))
    assert len(found) > 200
    shown = [(where, remedies.sentences(error)) for where, error in found]
    assert [each for each in shown if spoken.search(each[1])] == []


@pytest.mark.parametrize("remedy", Remedy)
def test_the_window_words_a_remedy_without_options(remedy: Remedy):
    said = remedies.advice(VdbackupError("It is so.", "Do that.", remedy=remedy, about="7f3a"))
    assert said.startswith("Do that.")
    assert not spoken_commands().search(said)
    assert "{" not in said


def test_what_the_window_advises_to_press_is_there():
    pressed = {
        name for words in remedies.WORDS.values() for name in re.findall(r"“([^”]+)”", words)
    }
    assert len(pressed) > 5
    there = button_names()
    assert [name for name in pressed if not any(each.startswith(name) for each in there)] == []
