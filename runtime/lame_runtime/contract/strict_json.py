"""Builds frozen dataclasses from parsed JSON, strictly by their type hints.

Python's `json` gives back whatever the file holds. A field that was renamed, mistyped or edited by
hand would then show up far from the file, as a wrong shape or a `KeyError`. The files that a bundle
is made of are therefore read through this module, which reports the first difference by its place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import reprlib
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lame_runtime.errors import BundleError

T = TypeVar("T")


def from_json_object(
    kind: type[T],
    raw: object,
    where: str,
    remedy: str = "export the bundle again",
    *,
    defaults: bool = False,
) -> T:
    """Builds the dataclass `kind` from the parsed JSON object `raw`.

    Type hints may be `str`, `int`, `float`, `bool`, `None`, `Any`, `Literal[…]`, other dataclasses,
    `list[X]`, `dict[str, X]`, `tuple[X, ...]`, `tuple[X, Y]` and unions such as `X | None`.
    JSON has one kind of number, so a `float` field takes an integer and converts it. An `int` field
    refuses a number with a fraction. `true` and `false` are not numbers.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Size:
    ...     width: int
    ...     height: int | None
    >>> from_json_object(Size, {"width": 3, "height": None}, "size.json")
    Size(width=3, height=None)

    Args:
        kind: a dataclass; its type hints must be resolvable in its module.
        raw: what `json.loads` returned.
        where: the place that messages begin with, usually the file's path.
        remedy: how to get a file that can be read; messages end with it.
        defaults: accept objects that leave out fields with a default; by default they are required.

    Raises:
        BundleError: `raw` is not an object, lacks a field, has an unknown one, or a value has
            another type than its field. The message names the place of the value in the file.
        TypeError: a type hint of `kind` is none of the above, which is a mistake in the program.
    """
    return _Reader(remedy, defaults).build(kind, raw, where)


class _MismatchError(Exception):
    """A value does not have the type of its field."""


@dataclasses.dataclass(frozen=True)
class _Reader:
    remedy: str
    defaults: bool

    def build(self, kind: type[T], raw: object, where: str) -> T:
        """Builds a dataclass, and the dataclasses inside it."""
        fields: dict[str, dataclasses.Field[Any]] = {
            field.name: field
            for field in dataclasses.fields(kind)  # type: ignore[arg-type]
        }
        if not isinstance(raw, dict):
            raise self._error(f"{where}: must be an object, found {reprlib.repr(raw)}")
        missing = sorted(
            name
            for name, field in fields.items()
            if name not in raw and not (self.defaults and _has_default(field))
        )
        unknown = sorted(set(raw) - set(fields))
        # A renamed field is both; what is missing says more about the file that is expected.
        if missing:
            raise self._error(f"{where}: lacks {', '.join(missing)}")
        if unknown:
            raise self._error(f"{where}: has unknown fields {', '.join(unknown)}")
        # Resolves the strings that `from __future__ import annotations` turns type hints into.
        hints = get_type_hints(kind)
        values = {name: self._field(hints[name], value, where, name) for name, value in raw.items()}
        return kind(**values)

    def _field(self, hint: Any, value: object, where: str, name: str) -> Any:
        try:
            return self._convert(hint, value, f"{where}: {name}")
        except _MismatchError:
            raise self._error(
                f"{where}: {name} must be {_spelled(hint)}, found {reprlib.repr(value)}"
            ) from None

    def _convert(self, hint: Any, value: object, where: str) -> Any:
        """Returns `value` as the type `hint`; raises `_MismatchError` if it has another one."""
        origin, arguments = get_origin(hint), get_args(hint)
        if hint is Any:
            return value
        if dataclasses.is_dataclass(hint):
            return self.build(hint, value, where)  # type: ignore[arg-type]
        if origin in (Union, types.UnionType):
            return self._member(arguments, value, where)
        if origin is Literal:
            # `1 == True`, so equality alone would take the one for the other
            if not any(type(value) is type(choice) and value == choice for choice in arguments):
                raise _MismatchError
            return value
        if origin in (list, tuple, dict):
            return self._container(origin, arguments, value, where)
        return _scalar(hint, value)

    def _member(self, members: tuple[Any, ...], value: object, where: str) -> Any:
        """Returns `value` as the member of a union that it belongs to."""
        if type(value) in members:
            return value  # without this, 3 would become 3.0 under `float | int`
        for member in members:
            if dataclasses.is_dataclass(member):
                if isinstance(value, dict):
                    return self.build(member, value, where)  # type: ignore[arg-type]
                continue
            with contextlib.suppress(_MismatchError):
                return self._convert(member, value, where)
        raise _MismatchError

    def _container(self, origin: type, items: tuple[Any, ...], value: object, where: str) -> Any:
        if origin is dict:
            if not isinstance(value, dict):
                raise _MismatchError
            return {
                key: self._convert(items[1], part, f"{where}: {key}") for key, part in value.items()
            }
        if not isinstance(value, list):
            raise _MismatchError
        # JSON has one kind of array: a `tuple[X, ...]` field takes any length, `tuple[X, Y]` two.
        if origin is list or items[-1] is Ellipsis:
            items = (items[0],) * len(value)
        if len(items) != len(value):
            raise _MismatchError
        return origin(
            self._convert(item, part, f"{where}[{index}]")
            for index, (item, part) in enumerate(zip(items, value, strict=True))
        )

    def _error(self, message: str) -> BundleError:
        return BundleError(f"{message}; {self.remedy}")


def _scalar(hint: Any, value: object) -> Any:
    if hint is float:
        # `bool` is a subclass of `int`, hence `type` and not `isinstance`
        if type(value) not in (int, float):
            raise _MismatchError
        return float(value)  # type: ignore[arg-type]
    if hint not in (str, int, bool, types.NoneType):
        raise TypeError(f"{hint!r} cannot be read from JSON")
    if type(value) is not hint:
        raise _MismatchError
    return value


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return (
        field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    )


def _spelled(hint: Any) -> str:
    """Returns a type hint as one writes it: `int`, not `<class 'int'>`."""
    if get_origin(hint) is Literal:
        return " or ".join(repr(choice) for choice in get_args(hint))
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
