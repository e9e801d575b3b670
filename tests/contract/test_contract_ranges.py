"""Every field of the files of a bundle has a range, and a contract out of range is refused."""

from __future__ import annotations

import dataclasses
import itertools
import json
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from lame_runtime.backends.tensorrt.plans import PlanFacts
from lame_runtime.bundle.certificate import Certificate
from lame_runtime.bundle.engine_files import DeviceReport
from lame_runtime.bundle.manifest import Manifest
from lame_runtime.contract import Contract, Limits, Preparer, TokenRules, TowerRules
from lame_runtime.contract.fields.vocabulary import check_vocabulary
from lame_runtime.contract.preparer import Preparer as Loader
from lame_runtime.contract.strict_json import from_json_object
from lame_runtime.errors import BundleError
from lame_runtime.files.constraints import Between, Length, Text
from lame_training.contract_from.published_rules import published_images, published_videos
from lame_training.model.published_shapes import SHAPES
from lame_training.recipes.published import PUBLISHED
from PIL import Image

TINY = Path(__file__).parents[2] / "examples/tiny-bundle"
ROOM = 10
"""Factor by which every upper bound lies above the largest published value."""


def leaves(hint: Any, place: str, ranges: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any, Any]]:
    """Yields place, type and ranges of every value that a type hint allows."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        yield from leaves(arguments[0], place, tuple(arguments[1:]))
    elif dataclasses.is_dataclass(hint):
        for name, inner in get_type_hints(hint, include_extras=True).items():
            yield from leaves(inner, f"{place}.{name}".lstrip("."))
    elif origin in (list, dict) or (origin is tuple and Ellipsis in arguments):
        yield f"{place}[]", origin, ranges
        for part in arguments:
            yield from leaves(part, f"{place}[]")
    elif origin in (tuple, Union, types.UnionType):
        for number, part in enumerate(arguments):
            yield from leaves(part, f"{place}[{number}]" if origin is tuple else place)
    elif origin is not Literal:
        yield place, hint, ranges


def unbounded(kind: Any) -> list[str]:
    """Returns the places of a dataclass that hold a number or a text without a range."""
    wanted = {int: Between, float: Between, str: Text}
    return [
        place
        for place, hint, ranges in leaves(kind, "")
        if hint in wanted and not any(isinstance(part, wanted[hint]) for part in ranges)
    ]


@pytest.mark.parametrize("kind", [Contract, Manifest, Certificate, PlanFacts, DeviceReport])
def test_every_number_and_text_of_a_file_has_a_range(kind: type) -> None:
    """A field that is added without a range fails here."""
    assert unbounded(kind) == []


def test_a_field_without_a_range_is_seen() -> None:
    """The walk over the type hints finds bare numbers and texts, wherever they are nested."""

    class Bare:
        width: int
        names: Annotated[dict[str, list[float | None]], Length(3)]
        ranged: Annotated[int, Between(0, 1)]

    hints = get_type_hints(Bare, include_extras=True)
    kind = dataclasses.make_dataclass("Bare", hints.items())
    assert unbounded(kind) == ["width", "names[]", "names[][]"]


def contract_json() -> dict[str, Any]:
    """Returns a valid contract as parsed JSON."""
    raw: dict[str, Any] = json.loads((TINY / "contract.json").read_text(encoding="utf-8"))
    return raw


def with_value(place: str, value: Any) -> str:
    """Returns a contract's text with another value at a place such as "images.mean[1]"."""
    raw = contract_json()
    *parents, last = place.replace("[", ".").replace("]", "").split(".")
    target: Any = raw
    for name in parents:
        target = target[int(name) if name.isdigit() else name]
    target[int(last) if last.isdigit() else last] = value
    return json.dumps(raw)


def numbers() -> list[tuple[str, Between]]:
    """Returns place and range of every number of a contract."""
    return [
        (place, part)
        for place, _, ranges in leaves(Contract, "")
        for part in ranges
        if isinstance(part, Between) and place != "contract_version"
    ]


def test_every_number_out_of_its_range_is_refused_by_name() -> None:
    """Just below, just above, far above, NaN and infinite: the message names the field."""
    for place, bounds in numbers():
        step = 1 if isinstance(bounds.least, int) else 1e-4
        outside = [bounds.least - step, bounds.most + 1, 10**400, -(10**400)]
        for value in (*outside, float("nan"), float("inf"), "1", None, True, [1]):
            with pytest.raises(BundleError) as refusal:
                Contract.from_json(with_value(place, value))
            assert place.split("[")[0] in str(refusal.value), (place, value)
            assert str(refusal.value).isprintable()
            assert len(str(refusal.value)) < 300


def test_a_contract_without_ranges_divides_by_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: with ranges and relations taken out, the contract is read, and embedding ends in an
    error of Python.
    """
    text = with_value("images.patch_size", 0)
    monkeypatch.setattr(Between, "complaint", lambda *_: None)
    monkeypatch.setattr("lame_runtime.contract.rules.contradictions", lambda _: ())
    contract = Contract.from_json(text)
    preparer = Preparer(contract, Loader.load(TINY).tokenizer)
    with pytest.raises(ZeroDivisionError):
        preparer(_picture())


def _picture() -> Any:
    from lame_runtime.inputs import as_input

    return as_input({"image": Image.new("RGB", (60, 40))})


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            "tokens.image_pad",
            320,
            "tokens.image_pad is 320: .* tokens.first_latent - 1",
        ),
        ("tokens.pad", 400, "tokens.pad is 400: must be at most tokens.first_latent"),
        ("tokens.video_pad", 6, "tokens.image_pad, tokens.video_pad and tokens.pad are 6, 6 and 0"),
        ("images.max_pixels", 100, "must be at most images.max_pixels"),
        ("videos.max_pixels", 100, "must be at most videos.max_pixels"),
        (
            "images.min_pixels",
            20_000,
            "images.min_pixels is 20,000: .* images.max_pixels",
        ),
        (
            "videos.min_pixels",
            20_000,
            "videos.min_pixels is 20,000: .* videos.max_pixels",
        ),
        ("videos.min_frames", 17, "videos.min_frames is 17: must be at most videos.max_frames"),
        ("videos.max_frames", 1, "must be at most videos.max_frames"),
        ("limits.patches", 3, "must be at most limits.patches"),
        ("tower.window", 3, "tower.window is 3: must be a multiple of images.merge_size"),
        ("prompt.prefix", "<|image_pad|>", r"prompt.prefix holds <\|image_pad\|>"),
        ("prompt.video_close", "a<|video_pad|>b", r"prompt.video_close holds <\|video_pad\|>"),
        ("prompt.suffix", "end", "prompt.suffix is 'end': must begin with a special token"),
        ("prompt.suffix", "x" * 65_537, "prompt.suffix has 65,537 characters"),
        ("prompt.separator", "\ud800", "prompt.separator is .*without lone surrogates"),
        ("prompt.roles.query", "\udfff", "prompt.roles.query is .*without lone surrogates"),
        ("prompt.roles", {"\x1b[2J": ""}, "prompt.roles: a key .*control characters"),
        ("family", "\x1b]0;title\x07", "family is .*control characters"),
        ("contract_version", 4.0, "contract_version 4.0 is not known here"),
        ("videos.mean", [0.1, 0.2, 0.3], "videos.mean is .*: must be images.mean, .* both alike"),
        ("videos.std", [0.1, 0.2, 0.3], "videos.std is .*: must be images.std, .* both alike"),
    ],
)
def test_fields_that_contradict_each_other_are_refused_by_name(
    place: str, value: object, message: str
) -> None:
    """Most values are in their own range; the message then names both fields."""
    with pytest.raises(BundleError, match=message):
        Contract.from_json(with_value(place, value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"dim": ' + "9" * 5000 + "}", "not JSON|a number with thousands"),
        ('{"dim": 1, "dim": 2}', "the key 'dim' occurs twice"),
        ("", "not JSON"),
        ("\ufeff{}", "not JSON|contract_version"),
    ],
)
def test_a_text_that_is_no_contract_is_one_line(text: str, message: str) -> None:
    """Depth, digits and repeated keys are bounded before a field is looked at."""
    with pytest.raises(BundleError, match=message):
        Contract.from_json(text)


def test_a_contract_that_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    """A folder, a missing file and a file of gigabytes are refused by name."""
    (tmp_path / "folder").mkdir()
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 33)  # takes no space
    for name, message in (("folder", "is a folder"), ("gone", "No such"), ("large", "is larger")):
        with pytest.raises(BundleError, match=f"{name}: cannot be read .*{message}"):
            Contract.load(tmp_path / name)


def published_contracts() -> Iterator[Contract]:
    """Yields a contract for every published model and recipe, with its largest limits."""
    base = Contract.from_json((TINY / "contract.json").read_text(encoding="utf-8"))
    for ((family, _), shape), recipe in itertools.product(SHAPES.items(), PUBLISHED):
        tower = TowerRules(8, 0) if family == "qwen2_5_vl" else TowerRules(0, 48)
        images, length = published_images(family), recipe.budget.max_length
        yield replace(
            base,
            family=family,
            dim=recipe.dim,
            images=images,
            videos=published_videos(family),
            tower=tower if family != "qwen2_vl" else TowerRules(),
            tokens=TokenRules(
                image_pad=151_655,
                video_pad=151_656,
                pad=151_643,
                first_latent=shape["text_config"]["vocab_size"],
                n_reason=recipe.n_reason,
                max_length=length,
            ),
            # enough for the largest published picture
            limits=Limits(recipe.budget.visuals, max(4 * length, images.max_pixels // 14**2)),
        )


def test_published_models_are_in_range_with_ample_room() -> None:
    """Their contracts are written, and every number may be ten times as large."""
    for contract in published_contracts():
        assert Contract.from_json(contract.to_json()) == contract
        for place, bounds in numbers():
            value: Any = contract
            for name in place.split("[")[0].split("."):
                value = getattr(value, name)
            for number in value if isinstance(value, tuple) else (value,):
                assert bounds.least <= number * ROOM <= bounds.most, place


def test_a_contract_out_of_range_is_not_written(contract: Contract) -> None:
    """A contract that no runtime would read ends a training before it begins."""
    wrong = replace(contract, tokens=replace(contract.tokens, max_length=0))
    with pytest.raises(BundleError, match=r"tokens.max_length is 0: .*; choose other settings"):
        wrong.to_json()


@pytest.mark.parametrize(
    ("tokens", "prompt", "message"),
    [
        ({"image_pad": 1}, {}, r"tokens.image_pad is 1: must be \d+, the tokenizer's id"),
        ({"video_pad": 2}, {}, "tokens.video_pad is 2: must be"),
        ({"first_latent": 298}, {}, "tokens.first_latent is 298: must be 299 to"),
        ({"first_latent": 10**6}, {}, "tokens.first_latent is 1000000: must be 299 to"),
        ({}, {"prefix": "<|unknown|>"}, r"prompt.prefix: .*has no token <\|unknown\|>"),
        ({}, {"image_open": "a<|unknown|>"}, "prompt.image_open: .*has no token"),
    ],
)
def test_a_contract_of_another_tokenizer_is_refused(
    tokens: dict[str, int], prompt: dict[str, str], message: str, preparer: Preparer
) -> None:
    """Ids that are not those of their tokens would forge pictures or latent rows."""
    wrong = replace(
        preparer.contract,
        tokens=replace(preparer.contract.tokens, **tokens),
        prompt=replace(preparer.contract.prompt, **prompt),
    )
    check_vocabulary(preparer.contract, preparer.tokenizer, Path("contract.json"))
    with pytest.raises(BundleError, match=message):
        check_vocabulary(wrong, preparer.tokenizer, Path("contract.json"))


@dataclass(frozen=True)
class _Sizes:
    width: Annotated[int, Between(1, 10)]
    share: Annotated[float, Between(0, 1)] | None
    names: Annotated[list[Annotated[str, Text(3, 1, printable=True)]], Length(2, 1)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "x.json: width is 0: must be 1 to 10; again"),
        ({"width": 10**5000}, "x.json: width is .*: must be 1 to 10; again"),
        ({"share": 1.5}, "x.json: share is 1.5: must be 0 to 1"),
        ({"names": []}, "x.json: names has 0 entries: must have 1 to 2"),
        ({"names": ["abcd"]}, r"x.json: names\[0\] has 4 characters: must have 1 to 3"),
        ({"names": ["\x1b"]}, r"x.json: names\[0\] is .*: must not hold control characters"),
        ({"names": {"a": 1}}, r"x.json: names must be list\[str\], found"),
    ],
)
def test_a_value_outside_its_range_is_refused(change: dict[str, Any], message: str) -> None:
    """The message names place, value and range, and ends in the remedy."""
    make: Callable[[dict[str, Any]], _Sizes] = lambda raw: from_json_object(  # noqa: E731
        _Sizes, raw, "x.json", "again"
    )
    valid: dict[str, Any] = {"width": 10, "share": None, "names": ["a"]}
    assert make(valid) == _Sizes(10, None, ["a"])
    with pytest.raises(BundleError, match=message):
        make({**valid, **change})
