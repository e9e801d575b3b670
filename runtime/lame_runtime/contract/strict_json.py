"""Builds frozen dataclasses from parsed JSON, strictly by their type hints.

Python's `json` gives back whatever the file holds. A field that was renamed, mistyped or edited by
hand would then show up far from the file, as a wrong shape or a `KeyError`. The files that a bundle
is made of are therefore read through this module, which reports the first difference by its place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import reprlib
import types
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lame_runtime.errors import BundleError, shown
from lame_runtime.files.constraints import Constraint

LONGEST_PLACE = 160
"""Number of characters of a file's name, and of a place in it, that a message repeats."""

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
    refuses a number with a fraction. `true` and `false` are not numbers. `Annotated[X, …]` with a
    range of `files.constraints` also bounds the value.

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
            another type than its field or lies outside its range. The message names the place of
            the value in the file.
        TypeError: a type hint of `kind` is none of the above, which is a mistake in the program.
    """
    return _Reader(where, remedy, defaults).build(kind, raw, "")


class _MismatchError(Exception):
    """A value does not have the type of its field."""


@dataclasses.dataclass(frozen=True)
class _Reader:
    where: str
    remedy: str
    defaults: bool

    def build(self, kind: type[T], raw: object, place: str) -> T:
        """Builds a dataclass, and the dataclasses inside it; `place` is empty for the outermost."""
        fields: dict[str, dataclasses.Field[Any]] = {
            field.name: field
            for field in dataclasses.fields(kind)  # type: ignore[arg-type]
        }
        if not isinstance(raw, dict):
            raise self._error(place, f"must be an object, found {_found(raw)}")
        missing = sorted(
            name
            for name, field in fields.items()
            if name not in raw and not (self.defaults and _has_default(field))
        )
        unknown = sorted(set(raw) - set(fields))
        # A renamed field is both; what is missing says more about the file that is expected.
        if missing:
            raise self._error(place, f"lacks {', '.join(missing)}")
        if unknown:
            raise self._error(place, f"has unknown fields {shown(', '.join(unknown))}")
        # Resolves the strings that `from __future__ import annotations` turns type hints into.
        hints = get_type_hints(kind, include_extras=True)
        values = {
            name: self._field(hints[name], value, f"{place}.{name}" if place else name)
            for name, value in raw.items()
        }
        return kind(**values)

    def _field(self, hint: Any, value: object, place: str) -> Any:
        try:
            return self._convert(hint, value, place)
        except _MismatchError:
            problem = f"must be {_spelled(hint)}, found {_found(value)}"
            raise self._error(place, problem) from None

    def _convert(self, hint: Any, value: object, place: str) -> Any:
        """Returns `value` as the type `hint`; raises `_MismatchError` if it has another one."""
        origin, arguments = get_origin(hint), get_args(hint)
        if hint is Any:
            return value
        if origin is Annotated:
            return self._bounded(arguments, value, place)
        if dataclasses.is_dataclass(hint):
            return self.build(hint, value, place)  # type: ignore[arg-type]
        if origin in (Union, types.UnionType):
            return self._member(arguments, value, place)
        if origin is Literal:
            # `1 == True`, so equality alone would take the one for the other
            if not any(type(value) is type(choice) and value == choice for choice in arguments):
                raise _MismatchError
            return value
        if origin in (list, tuple, dict):
            return self._container(origin, arguments, value, place)
        return _scalar(hint, value)

    def _bounded(self, arguments: tuple[Any, ...], value: object, place: str) -> Any:
        """Returns `value` as the first argument of `Annotated`, within the ranges after it."""
        hint, *constraints = arguments
        # Before the entries are converted: a list of millions of entries is refused at once.
        sized = isinstance(value, list | dict) and get_origin(hint) is type(value)
        converted = value if sized else self._convert(hint, value, place)
        for constraint in constraints:
            if isinstance(constraint, Constraint):
                complaint = constraint.complaint(converted)  # type: ignore[arg-type]
                if complaint is not None:
                    raise self._error(place, complaint)
        return self._convert(hint, value, place) if sized else converted

    def _member(self, members: tuple[Any, ...], value: object, place: str) -> Any:
        """Returns `value` as the member of a union that it belongs to."""
        # First the exact types: 3 would otherwise become 3.0 under `float | int`.
        for member in sorted(members, key=lambda member: type(value) is not _bare(member)):
            if dataclasses.is_dataclass(member) and not isinstance(value, dict):
                continue
            with contextlib.suppress(_MismatchError):
                return self._convert(member, value, place)
        raise _MismatchError

    def _container(self, origin: type, items: tuple[Any, ...], value: object, place: str) -> Any:
        if origin is dict:
            if not isinstance(value, dict):
                raise _MismatchError
            return {
                self._convert(items[0], key, f"{place}: a key"): self._convert(
                    items[1], part, f"{place}.{shown(key)}"
                )
                for key, part in value.items()
            }
        if not isinstance(value, list):
            raise _MismatchError
        # JSON has one kind of array: a `tuple[X, ...]` field takes any length, `tuple[X, Y]` two.
        if origin is list or items[-1] is Ellipsis:
            items = (items[0],) * len(value)
        if len(items) != len(value):
            raise _MismatchError
        return origin(
            self._convert(item, part, f"{place}[{index}]")
            for index, (item, part) in enumerate(zip(items, value, strict=True))
        )

    def _error(self, place: str, problem: str) -> BundleError:
        # a place has no colon before it, so that a message reads "images.patch_size is 0"
        where = shown(self.where, LONGEST_PLACE)
        subject = f"{where}: {place} {problem}" if place else f"{where}: {problem}"
        return BundleError(f"{subject}; {self.remedy}")


def _scalar(hint: Any, value: object) -> Any:
    if hint is float:
        # `bool` is a subclass of `int`, hence `type` and not `isinstance`
        if type(value) not in (int, float):
            raise _MismatchError
        try:
            return float(value)  # type: ignore[arg-type]
        except OverflowError:
            # an integer of hundreds of digits; no range holds an infinity
            return math.inf
    if hint not in (str, int, bool, types.NoneType):
        raise TypeError(f"{hint!r} cannot be read from JSON")
    if type(value) is not hint:
        raise _MismatchError
    return value


def _bare(hint: Any) -> Any:
    """Returns a type hint without its ranges."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return (
        field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    )


def _found(value: object) -> str:
    """Returns a value of any type and size in a few characters."""
    try:
        return shown(reprlib.repr(value))
    except ValueError:  # an integer of thousands of digits has no text
        return shown(value)


def _spelled(hint: Any) -> str:
    """Returns a type hint as one writes it: `int`, not `<class 'int'>`; ranges are left out."""
    hint = _bare(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(repr(choice) for choice in arguments)
    if origin in (Union, types.UnionType):
        return " | ".join(_spelled(member) for member in arguments)
    if hint in (Ellipsis, types.NoneType):
        return "..." if hint is Ellipsis else "None"
    if arguments:
        return f"{origin.__name__}[{', '.join(_spelled(part) for part in arguments)}]"
    return hint.__name__ if isinstance(hint, type) else str(hint)
