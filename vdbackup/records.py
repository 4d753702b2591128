"""Values that go into a JSON file beside a backup and come back: frozen dataclasses, checked.

What comes back is hostile until checked: each field has the type that its class says, and no text
and no list is longer than anything real. Fields may be str, int, bool, an enumeration of strings,
another such class, any of these or None, or a tuple of them, of any length or of a fixed one.

Two classes of records: of those that can be found out again, what is unknown or missing is refused
(`exact`), but for fields that are marked LATER; those that other versions write, too, may say more
or less (`tolerant`). What is spelled out field by field elsewhere (manifests, sessions) is made of
the same checks: `text`, `number`, `flag`, `moment`.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Mapping
from datetime import MAXYEAR, MINYEAR, datetime
from typing import Any, TypeVar

from vdbackup.errors import DamagedRecord, Remedy

MAX_LETTERS = 65_536
MAX_ITEMS = 100_000
MAX_NUMBER = 1 << 62
"""Numbers are sizes, places and counts: none is negative, or larger."""

LATER = {"later": True}
"""Metadata of a field that earlier versions did not write: it has a default, and may be missing."""

Record = TypeVar("Record")


def to_json(record: Any) -> Any:
    """What `json.dumps` takes: a dataclass becomes an object, a tuple a list."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {
            field.name: to_json(getattr(record, field.name)) for field in dataclasses.fields(record)
        }
    if isinstance(record, tuple):
        return [to_json(item) for item in record]
    return record.value if isinstance(record, enum.Enum) else record


def from_json(kind: type[Record], data: object) -> Record:
    """The record of class `kind` that `data`, as `json.loads` returned it, describes.

    Raises:
        RecoveryError: it describes none.
    """
    try:
        return exact(kind, data)
    except (TypeError, ValueError) as error:
        raise DamagedRecord(
            f"What was noted about the machine in this recovery point is damaged: {error}.",
            "It can be found out again from the point's disk.",
            remedy=Remedy.RETARGET,
        ) from error


def exact(kind: type[Record], data: object) -> Record:
    """The record of class `kind` with its fields and no others; raises TypeError or ValueError."""
    return typing.cast(Record, _value(kind, data))


def tolerant(kind: type[Record], data: object) -> Record:
    """The record of class `kind`; what else is said is passed over, and a default may be missing.

    Raises TypeError or ValueError, where a field without a default is missing, too.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"{kind.__name__} is no object")
    fields = _fields(typing.cast(Any, kind))
    known = {name: _value(type_, data[name]) for name, type_ in fields.items() if name in data}
    return kind(**known)


def text(value: object) -> str:
    """A text; raises TypeError."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def number(value: object) -> int:
    """A size, a place or a count; raises TypeError."""
    if type(value) is not int or not 0 <= value < 2**63:
        raise TypeError(f"{value!r} is no number that can stand here")
    return value


def flag(value: object) -> bool:
    """Yes or no; raises TypeError."""
    if type(value) is not bool:
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def moment(value: object) -> str:
    """A time in ISO 8601, as it stands there; raises TypeError or ValueError.

    Not of the first or last year that there is: what they are elsewhere cannot be said.
    """
    if not MINYEAR < datetime.fromisoformat(text(value)).year < MAXYEAR:
        raise ValueError(f"{value!r} is no time that can stand here")
    return text(value)


def _value(kind: Any, data: object) -> object:
    origin = typing.get_origin(kind)
    if origin is tuple:
        return _items(typing.get_args(kind), data)
    if origin is types.UnionType:
        wanted = next(part for part in typing.get_args(kind) if part is not types.NoneType)
        return None if data is None else _value(wanted, data)
    if dataclasses.is_dataclass(kind):
        return _record(kind, data)
    if issubclass(kind, enum.Enum):
        return kind(data)
    return _plain(kind, data)


def _items(kinds: tuple[Any, ...], data: object) -> tuple[object, ...]:
    if not isinstance(data, list) or len(data) > MAX_ITEMS:
        raise TypeError("a list is none, or too long")
    if kinds[-1] is Ellipsis:
        return tuple(_value(kinds[0], item) for item in data)
    return tuple(_value(kind, item) for kind, item in zip(kinds, data, strict=True))


def _record(kind: Any, data: object) -> object:
    wanted = _fields(kind)
    if not isinstance(data, Mapping) or set(data) | _later(kind) != set(wanted):
        raise TypeError(f"{kind.__name__} has other fields")
    return kind(**{name: _value(wanted[name], value) for name, value in data.items()})


def _plain(kind: Any, data: object) -> object:
    if type(data) is not kind:
        raise TypeError(f"a value is not {kind.__name__}")
    if isinstance(data, str) and len(data) > MAX_LETTERS:
        raise ValueError("a text is too long")
    if isinstance(data, int) and not 0 <= data <= MAX_NUMBER:
        raise ValueError("a number is impossible")
    return data


@functools.cache
def _fields(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


@functools.cache
def _later(kind: Any) -> frozenset[str]:
    fields = dataclasses.fields(kind)
    return frozenset(field.name for field in fields if "later" in field.metadata)
