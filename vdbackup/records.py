"""Our own JSON, in a repository and beside it: frozen dataclasses, written and checked here alone.

What comes back is hostile until checked: each field has the type that its class says, and no text
and no list is longer than anything real. Fields may be

    str, int, float, bool       no number is negative, or larger than eight bytes hold
    an enumeration of strings, a Path (no empty one), a datetime (with whole seconds, in UTC where
    it does not say)
    a class of this kind, or any of these or None
    a tuple of them, of any length or of a fixed one
    Mapping[str, ...] of them, or dict[str, Any], which is kept as it stands

What a type cannot say of a value stands beside it, `Annotated[str, check]`: the check gets the
value, and returns it or raises TypeError, ValueError or an error of ours. What holds of the field
stands in its metadata: `LATER`, `SELDOM`, `LENIENT`, `written_as`.

How strictly a record is read depends on what its loss would cost. What is unknown or missing is
refused (`exact`) where all of it can be found out again, but for fields that are marked LATER.
Records that other versions write, too, may say more, and less where there is a default
(`tolerant`). Of some, what makes no sense is as if it were not there (`lenient`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import operator
import types
import typing
from collections.abc import Callable, Mapping
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

from vdbackup.errors import DamagedRecord, Remedy, VdbackupError
from vdbackup.translation import again, original, tr

MAX_LETTERS = 1 << 20
MAX_ITEMS = 1 << 20
"""More than a file of ours can hold (durable.MAX_RECORD)."""
MAX_NUMBER = (1 << 63) - 1
"""Numbers are sizes, places and counts: none is negative, or larger."""
_MAX_QUOTE = 200

LATER = {"later": True}
"""Metadata of a field that earlier versions did not write: it has a default, and may be missing."""
SELDOM = {**LATER, "seldom": True}
"""The same of a field that is not written where it is None: such a record is as it was before."""
LENIENT = {"lenient": True}
"""Metadata of a field with a record of which what makes no sense is as if it were not there: each
of its fields has a default."""

_NO_SENSE = (TypeError, ValueError, VdbackupError)
"""What a value ends in that makes no sense; the last by a check that is not here."""

Record = TypeVar("Record")
_Reader = Callable[[Any], Any]


def written_as(key: str, parse: Callable[[str], Any] | None = None) -> dict[str, Any]:
    """Metadata of a field that stands otherwise in JSON.

    Args:
        key: its name there.
        parse: where it is a text (`str`) there that this makes the value of.
    """
    return {"key": key} if parse is None else {"key": key, "parse": parse}


# --------------------------------------------------------------------------------- written


def to_json(record: Any) -> Any:
    """What `json.dumps` takes: a dataclass becomes an object, a tuple a list."""
    if isinstance(record, str):
        return record.value if isinstance(record, enum.StrEnum) else original(record)
    if record is None or isinstance(record, int | float):
        return record
    if isinstance(record, tuple | list):
        return [to_json(item) for item in record]
    if isinstance(record, Mapping):
        return {name: to_json(value) for name, value in record.items()}
    return _of_class(record)


def _of_class(record: Any) -> Any:
    if isinstance(record, datetime):
        return record.isoformat(timespec="seconds")
    if isinstance(record, Path):
        return str(record)
    kind: Any = type(record)
    return {
        key: write(value)
        for name, key, write, seldom in _writers(kind)
        if (value := getattr(record, name)) is not None or not seldom
    }


@functools.cache
def _writers(kind: Any) -> list[tuple[str, str, Callable[[Any], Any], bool]]:
    return [
        (field.name, _key(field), _writer(field), "seldom" in field.metadata)
        for field in dataclasses.fields(kind)
    ]


def _writer(field: dataclasses.Field[Any]) -> Callable[[Any], Any]:
    return str if "parse" in field.metadata else to_json


def _key(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata.get("key", field.name))


# ------------------------------------------------------------------------------------ read


def from_json(kind: type[Record], data: object) -> Record:
    """The record of class `kind` that `data`, as `json.loads` returned it, describes.

    Raises:
        RecoveryError: it describes none.
    """
    try:
        return exact(kind, data)
    except (TypeError, ValueError) as error:
        raise DamagedRecord(
            tr(
                "What was noted about the machine in this recovery point is damaged: {error}.",
                error=error,
            ),
            tr("It can be found out again from the point's disk."),
            remedy=Remedy.RETARGET,
        ) from error


def exact(kind: type[Record], data: object) -> Record:
    """The record of class `kind` with its fields and no others; raises TypeError or ValueError."""
    anything: Any = kind
    return typing.cast(Record, _reader(anything, True)(data))


def tolerant(kind: type[Record], data: object) -> Record:
    """The record of class `kind`; what else is said is passed over, and a default may be missing.

    So in the records in it. Raises TypeError or ValueError, where a field without a default is
    missing, too.
    """
    anything: Any = kind
    record: Record = _reader(anything, False)(data)
    return record


def lenient(kind: type[Record], data: object, **otherwise: object) -> Record:
    """The record of class `kind`; each field that makes no sense is as if it were not there.

    Args:
        kind: of whose fields those without a default are in `otherwise`.
        data: anything.
        otherwise: what holds then in place of the defaults.
    """
    anything: Any = kind
    record = data if isinstance(data, dict) else {}
    for field in _fields(anything, False):
        with contextlib.suppress(KeyError, *_NO_SENSE):
            otherwise[field.name] = field.read(record[field.key])
    return kind(**otherwise)


# ------------------------------------------------------------------------- values, checked


def text(value: object) -> str:
    """A text; raises TypeError or ValueError."""
    if not isinstance(value, str):
        raise TypeError(tr("{quoted} is no text", quoted=quoted(value)))
    if len(value) > MAX_LETTERS:
        raise ValueError(tr("a text is too long"))
    return value


def number(value: object) -> int:
    """A size, a place or a count; raises TypeError."""
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise TypeError(tr("{quoted} is no number that can stand here", quoted=quoted(value)))
    return value


def real(value: object) -> float:
    """A number with a fraction, or without one; raises TypeError."""
    # what is not a number (JSON's NaN) is not in the range
    if type(value) not in (int, float) or not 0 <= typing.cast(float, value) <= MAX_NUMBER:
        raise TypeError(tr("{quoted} is no number that can stand here", quoted=quoted(value)))
    return float(typing.cast(float, value))


def flag(value: object) -> bool:
    """Yes or no; raises TypeError."""
    if type(value) is not bool:
        raise TypeError(tr("{quoted} is neither true nor false", quoted=quoted(value)))
    return value


def moment(value: object) -> str:
    """A time in ISO 8601, as it stands there; raises TypeError or ValueError.

    Not of the first or last year that there is: what they are elsewhere cannot be said.
    """
    return _in_time(text(value))


def _in_time(value: str) -> str:
    if not MINYEAR < datetime.fromisoformat(value).year < MAXYEAR:
        raise ValueError(tr("{quoted} is no time that can stand here", quoted=quoted(value)))
    return value


Moment = Annotated[str, _in_time]
"""A time in ISO 8601, kept as it stands there."""
MAX_SENTENCE = 1000
"""Characters of what somebody has to say."""
OurWords = Annotated[str, again]
"""Words for a person, kept in English, and read in the language of who reads them."""
Sentence = Annotated[str, lambda sentence: again(sentence[:MAX_SENTENCE])]
"""The same, of which the beginning is kept."""
Note = Annotated[str, lambda note: note[:MAX_SENTENCE]]
"""A person's own words, of which the beginning is kept."""


def quoted(value: object) -> str:
    """What external JSON says, for a sentence: whatever it is, that is short, and no work."""
    if isinstance(value, dict | list):  # as deep as anything
        return tr("an object") if isinstance(value, dict) else tr("a list")
    shown = repr(value[:_MAX_QUOTE] if isinstance(value, str) else value)
    return shown if len(shown) <= _MAX_QUOTE else f"{shown[:_MAX_QUOTE]}..."


def _path(value: object) -> Path:
    if not text(value) or "\0" in text(value):
        raise ValueError(tr("{quoted} is no path", quoted=quoted(value)))
    return Path(text(value))


def _datetime(value: object) -> datetime:
    at = datetime.fromisoformat(moment(value))
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(tr("{quoted} is no object", quoted=quoted(value)))
    return value


def _kept(value: object) -> dict[str, Any]:
    return dict(_object(value))


_PLAIN: dict[Any, _Reader] = {
    str: text, int: number, float: real, bool: flag, Path: _path, datetime: _datetime
}  # fmt: skip


# ---------------------------------------------------------- readers, made once for each type


_NEEDED = object()


class _Field(typing.NamedTuple):
    """How one field is read.

    Attributes:
        key: its name in JSON.
        absent: what stands there, where it is missing; _NEEDED where it may not be.
    """

    name: str
    key: str
    read: _Reader
    absent: object


@functools.cache
def _reader(kind: Any, exactly: bool) -> _Reader:
    """What makes a value of type `kind` of JSON, or raises TypeError or ValueError."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is None:
        return _record(kind, exactly) if dataclasses.is_dataclass(kind) else _single(kind)
    if origin is Annotated:
        return functools.reduce(_checked, parts[1:], _reader(parts[0], exactly))
    if origin in (types.UnionType, typing.Union):
        (wanted,) = (part for part in parts if part is not types.NoneType)
        return _optional(_reader(wanted, exactly))
    if origin is tuple:
        return _tuple(parts, exactly)
    return _kept if origin is dict else _mapping(_reader(parts[1], exactly))


def _single(kind: Any) -> _Reader:
    return _PLAIN.get(kind) or _member(kind)


def _checked(read: _Reader, check: _Reader) -> _Reader:
    if read is not text:
        return lambda data: check(read(data))

    def value(data: object) -> object:  # most of what is checked: a call less
        return check(data if type(data) is str and len(data) <= MAX_LETTERS else text(data))

    return value


def _optional(read: _Reader) -> _Reader:
    return lambda data: None if data is None else read(data)


def _tuple(kinds: tuple[Any, ...], exactly: bool) -> _Reader:
    if kinds[-1] is Ellipsis:
        return _list(_reader(kinds[0], exactly))
    readers = [_reader(kind, exactly) for kind in kinds]

    def value(data: object) -> tuple[object, ...]:
        if not isinstance(data, list) or len(data) != len(readers):
            raise TypeError(
                tr("{data} is no list of {count}", data=quoted(data), count=len(readers))
            )
        return tuple(map(operator.call, readers, data))

    return value


def _list(read: _Reader) -> _Reader:
    if read is text:
        return _texts

    def value(data: object) -> tuple[object, ...]:
        if not isinstance(data, list):
            raise TypeError(tr("{data} is no list", data=quoted(data)))
        if len(data) > MAX_ITEMS:
            raise ValueError(tr("a list is too long"))
        return tuple(map(read, data))

    return value


def _texts(data: object) -> tuple[str, ...]:
    """As `_list(text)` would: most lists are of texts, and short."""
    if not isinstance(data, list):
        raise TypeError(tr("{data} is no list", data=quoted(data)))
    if len(data) > MAX_ITEMS:
        raise ValueError(tr("a list is too long"))
    for item in data:
        if type(item) is not str or len(item) > MAX_LETTERS:
            text(item)
    return tuple(data)


def _mapping(read: _Reader) -> _Reader:
    def value(data: object) -> dict[str, object]:
        members = _object(data)
        if len(members) > MAX_ITEMS:
            raise ValueError(tr("an object has too many members"))
        return dict(zip(members, map(read, members.values()), strict=True))

    return value


def _member(kind: type[enum.Enum]) -> _Reader:
    members = {member.value: member for member in kind}

    def value(data: object) -> enum.Enum:
        found = members.get(data) if isinstance(data, str) else None
        if found is None:
            raise ValueError(
                tr("{data} is none of {members}", data=quoted(data), members=", ".join(members))
            )
        return found

    return value


def _record(kind: Any, exactly: bool) -> _Reader:
    """Some 2,000 manifests are read for each command: hence what looks for no field by name."""
    fields = _fields(kind, exactly)
    keys = [field.key for field in fields]
    readers = [field.read for field in fields]
    absent = {field.key: field.absent for field in fields if field.absent is not _NEEDED}
    values_of = operator.itemgetter(*keys, keys[0])  # of two it returns a tuple, of one none

    def value(data: object) -> object:
        record = data if isinstance(data, dict) else _object(data)
        try:
            values = values_of(record)
        except KeyError:  # of another version
            record = absent | record
            values = ()
        if exactly and len(record) != len(keys):
            raise TypeError(tr("{name} has other fields", name=kind.__name__))
        try:
            return kind(*map(operator.call, readers, values or values_of(record)))
        except KeyError as error:
            raise TypeError(tr("{arg} is missing", arg=error.args[0])) from error
        except _NO_SENSE as error:
            _name_the_wrong_one(fields, record)
            raise ValueError(_sentence(error)) from error

    return value


def _name_the_wrong_one(fields: list[_Field], record: dict[str, Any]) -> None:
    """Raise ValueError, with its key, if one of the fields cannot be read."""
    for field in fields:
        try:
            field.read(record[field.key])
        except _NO_SENSE as error:
            raise ValueError(f"{field.key}: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    return error.title.rstrip(".") if isinstance(error, VdbackupError) else str(error)


@functools.cache
def _fields(kind: Any, exactly: bool) -> list[_Field]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return [
        _Field(
            f.name,
            _key(f),
            _read_of(f, hints[f.name], exactly),
            _absent(f, exactly),
        )
        for f in dataclasses.fields(kind)
    ]


def _read_of(field: dataclasses.Field[Any], kind: Any, exactly: bool) -> _Reader:
    if "parse" in field.metadata:
        return _checked(text, field.metadata["parse"])
    if "lenient" in field.metadata:
        return functools.partial(lenient, kind)
    return _reader(kind, exactly)


def _absent(field: dataclasses.Field[Any], exactly: bool) -> object:
    """What a field that is missing is as good as, in JSON; _NEEDED where it may not be missing."""
    if exactly and "later" not in field.metadata:
        return _NEEDED
    if callable(field.default_factory):
        return _writer(field)(field.default_factory())
    if field.default is dataclasses.MISSING:
        return _NEEDED
    return _writer(field)(field.default)
