"""A long chain is told of where a person looks: at the point, and at the source."""

from __future__ import annotations

import pytest

from tests.gui.user import User
from vdbackup.gui import details
from vdbackup.gui.parts import Notice
from vdbackup.repository import long_chains


def test_a_long_chain_is_said_at_the_point_and_at_the_source(
    with_source: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = with_source.window
    assert not window.findChild(Notice, "pointWarnings").text
    monkeypatch.setattr(long_chains, "MANY_LAYERS", 2)
    with_source.backs_up(2)
    assert window.findChild(Notice, "pointWarnings").text == details.LONG_CHAIN
    assert "2 layers" in window.details.fact("chain")
    assert "reads through 2 layers" in window.sources.item(0).toolTip()
