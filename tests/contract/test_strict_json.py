"""Dataclasses are built from JSON strictly, and a message names the place that differs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from lame_runtime.contract.strict_json import from_json_object
from lame_runtime.errors import BundleError


@dataclass(frozen=True)
class Inner:
    """Two numbers, one of each kind."""

    count: int
    share: float


@dataclass(frozen=True)
class Outer:
    """One field for each supported type hint."""

    name: str
    enabled: bool
    mode: Literal["fast", "exact"]
    inner: Inner
    rows: list[Inner]
    bounds: dict[str, tuple[str, float]] | None
    pair: tuple[int, int]
    texts: tuple[str, ...]
    figure: dict[str, int | float | None]
    anything: Any
    last: Inner | None = None
    more: dict[str, str] = field(default_factory=dict)


def valid() -> dict[str, Any]:
    """Returns a JSON object that `Outer` can be built from."""
    return {
        "name": "a",
        "enabled": True,
        "mode": "fast",
        "inner": {"count": 1, "share": 1},
        "rows": [{"count": 2, "share": 0.5}],
        "bounds": {"cosine": [">=", 1]},
        "pair": [1, 2],
        "texts": ["x", "y"],
        "figure": {"inputs": 3, "mean": 0.5, "worst": None},
        "anything": [{"as": "it is"}],
        "last": None,
        "more": {},
    }


def test_every_supported_hint_is_read() -> None:
    """Nested dataclasses, containers and unions have the types that the hints name."""
    outer = from_json_object(Outer, valid(), "x.json")
    assert outer.inner == Inner(1, 1.0)
    assert type(outer.inner.share) is float
    assert outer.rows == [Inner(2, 0.5)]
    assert outer.bounds == {"cosine": (">=", 1.0)}
    assert (outer.pair, outer.texts, outer.last) == ((1, 2), ("x", "y"), None)
    assert outer.figure == {"inputs": 3, "mean": 0.5, "worst": None}
    assert type(outer.figure["inputs"]) is int
    again = from_json_object(Outer, {**valid(), "bounds": None, "last": valid()["inner"]}, "x.json")
    assert (again.bounds, again.last) == (None, Inner(1, 1.0))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("name", 3, "x.json: name must be str, found 3"),
        ("enabled", 1, "x.json: enabled must be bool, found 1"),
        ("mode", "slow", "x.json: mode must be 'fast' or 'exact', found 'slow'"),
        ("inner", {"count": True, "share": 1}, "x.json: inner.count must be int, found True"),
        ("inner", {"count": 1, "share": False}, "x.json: inner.share must be float, found False"),
        ("inner", {"count": 1.5, "share": 1}, "x.json: inner.count must be int, found 1.5"),
        ("inner", None, "x.json: inner must be an object, found None"),
        ("rows", [{"count": 1}], r"x.json: rows\[0\] lacks share"),
        ("rows", {}, "x.json: rows must be .*, found {}"),
        ("bounds", {"cosine": [">="]}, "x.json: bounds must be"),
        ("bounds", [], "x.json: bounds must be"),
        ("pair", [1, 2, 3], "x.json: pair must be"),
        ("texts", ["x", 1], "x.json: texts must be"),
        ("figure", {"mean": "0.5"}, "x.json: figure must be"),
        ("last", {"count": "1", "share": 1}, "x.json: last.count must be int, found '1'"),
        ("last", 1, "x.json: last must be .*, found 1"),
        ("surprise", 1, "x.json: has unknown fields surprise"),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, value: object, message: str) -> None:
    """The message names the place, the type and the value, and ends in the remedy."""
    with pytest.raises(BundleError, match=f"^{message}.*; copy it again$"):
        from_json_object(Outer, {**valid(), name: value}, "x.json", "copy it again")


def test_fields_with_a_default_may_be_missing_only_on_request() -> None:
    """A field without a default is required in any case."""
    raw = valid()
    del raw["last"], raw["more"]
    with pytest.raises(BundleError, match="lacks last, more; export the bundle again"):
        from_json_object(Outer, raw, "x.json")
    assert from_json_object(Outer, raw, "x.json", defaults=True).more == {}
    del raw["name"]
    with pytest.raises(BundleError, match="lacks name;"):
        from_json_object(Outer, raw, "x.json", defaults=True)


def test_a_hint_that_json_has_no_type_for_is_an_error_of_the_program() -> None:
    """It is reported even if the file is right, and not as a damaged file."""
    kind = dataclasses.make_dataclass("Wrong", [("value", bytes)])
    with pytest.raises(TypeError, match="bytes"):
        from_json_object(kind, {"value": "x"}, "x.json")
