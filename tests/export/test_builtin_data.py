"""The built-in data set, and an export that is given no data."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from lame_export.cli.main import main
from lame_export.parity.builtin import builtin_data, drawn_texts
from lame_export.parity.builtin.builtin_data import MOST_CALIBRATION, write_builtin_data
from lame_export.parity.builtin.drawn_texts import SNIPPETS
from lame_export.parity.builtin.languages import ENGLISH, LANGUAGES, SPANISH
from lame_export.parity.calibration_inputs import calibration_inputs, training_inputs
from lame_export.parity.golden_set import PER_MODALITY
from lame_runtime import Encoder
from lame_runtime.bundle.bundle import Bundle
from lame_runtime.bundle.certificate import Result, read_certificate
from lame_runtime.contract import Preparer
from lame_runtime.contract.prompts import Input, distinct_inputs
from lame_runtime.errors import ExportError
from lame_runtime.parity import gates
from lame_training.evaluation.retrieval import read_rows, tasks
from PIL import Image

from lame_export import export, verify

MODALITIES = {"text", "image", "image+text"}
SCRIPTS = {
    *("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "GEORGIAN", "ARABIC", "HEBREW", "DEVANAGARI"),
    *("BENGALI", "TAMIL", "THAI", "ETHIOPIC", "CJK", "HIRAGANA", "HANGUL"),
}
"""First words of the Unicode names of the letters that the set has."""


@pytest.fixture(scope="module")
def builtin(preparer: Preparer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes the set in its default size."""
    folder = tmp_path_factory.mktemp("builtin") / "data"
    write_builtin_data(folder, preparer, PER_MODALITY, 128)
    return folder


def evaluation_inputs(folder: Path) -> list[Input]:
    """Returns the distinct queries and candidates."""
    rows = [row for task in tasks(folder) for row in read_rows(folder, task)]
    return distinct_inputs(item for row in rows for item in (row.query, *row.candidates))


def counts(items: Iterable[Input]) -> dict[str, int]:
    """Returns the number of inputs of each modality."""
    modalities = [item.modality for item in items]
    return {modality: modalities.count(modality) for modality in set(modalities)}


def scripts(texts: Iterable[str]) -> set[str]:
    """Returns the first words of the Unicode names of all letters."""
    letters = {letter for text in texts for letter in text if letter.isalpha()}
    return {unicodedata.name(letter).split()[0] for letter in letters}


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the bytes of every file by its path in the folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_every_modality_has_enough_distinct_inputs(builtin: Path, preparer: Preparer) -> None:
    """Golden vectors need no training row, and calibration gets all that it asks for."""
    assert tasks(builtin) == ["builtin"]
    assert counts(evaluation_inputs(builtin)) == dict.fromkeys(MODALITIES, PER_MODALITY)
    trained = [item for _, item in training_inputs(builtin)]
    assert counts(distinct_inputs(trained)) == dict.fromkeys(MODALITIES, 128)
    drawn = counts(item for _, item in calibration_inputs(builtin, 128, preparer))
    assert drawn == dict.fromkeys((*MODALITIES, "images+text", "video+text"), 128)


def test_every_pool_asks_for_the_other_version(builtin: Path) -> None:
    """The right candidate is not the query itself; candidates are distinct."""
    rows = read_rows(builtin, "builtin")
    assert {(row.query.modality, row.candidates[0].modality) for row in rows} == {
        *((modality, modality) for modality in MODALITIES),
        *(("text", "image+text"), ("image", "image+text")),
    }
    for row in rows:
        assert len(row.candidates) == builtin_data.POOL_SIZE
        query, right = row.query, row.candidates[0]
        assert not query.text or query.text != right.text
        assert query.image is None or query.image != right.image


def test_training_and_evaluation_rows_share_nothing(builtin: Path) -> None:
    """INT8 is not judged on what it was calibrated on."""
    trained = [item for _, item in training_inputs(builtin)]
    for field in ("text", "image"):
        evaluated = {getattr(item, field) for item in evaluation_inputs(builtin)} - {"", None}
        assert evaluated
        assert evaluated.isdisjoint(getattr(item, field) for item in trained)


def test_texts_have_many_scripts_and_lengths(builtin: Path) -> None:
    """Both parts have nearly all scripts, code, digits and emoji, and one word to paragraphs."""
    for items in (evaluation_inputs(builtin), [item for _, item in training_inputs(builtin)]):
        texts = {item.text for item in items if item.text}
        assert len(scripts(texts) & SCRIPTS) >= 12
        assert not texts.isdisjoint(word for language in LANGUAGES for word in language.words)
        assert not texts.isdisjoint(line for language in LANGUAGES for line in language.sentences)
        # not longer: this tokenizer has about one token per byte, so most scripts have little room
        assert max(map(len, texts)) > 250
    texts = {item.text for _, item in training_inputs(builtin)}
    assert max(len(text) for text in texts if "\n\n" in text) > 500
    joined = "".join(texts)
    assert scripts([joined]) >= SCRIPTS
    assert sum(snippet in joined for snippet in SNIPPETS) > len(SNIPPETS) / 2


def test_languages_say_the_same_in_the_same_order() -> None:
    """Each has as many words and sentences as the others, and its own."""
    for language in LANGUAGES:
        assert len(language.words) == len(ENGLISH.words)
        assert len(language.sentences) == len(ENGLISH.sentences)
    every = [text for language in LANGUAGES for text in (*language.words, *language.sentences)]
    assert len(set(every)) == len(every)


def test_missing_scripts_are_seen(
    preparer: Preparer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: with two languages in Latin letters, no other letters are counted."""
    monkeypatch.setattr(drawn_texts, "LANGUAGES", (ENGLISH, SPANISH))
    write_builtin_data(tmp_path / "data", preparer, 32, 2)
    texts = [item.text for item in evaluation_inputs(tmp_path / "data")]
    assert scripts(texts) & SCRIPTS == {"LATIN"}


def test_pictures_have_many_shapes(builtin: Path) -> None:
    """Tiny and large, wide and tall, in color and gray, flat and noisy."""
    sizes, modes, flat = set(), set(), 0
    for path in (builtin / "images").iterdir():
        with Image.open(path) as picture:
            sizes.add(picture.size)
            modes.add(picture.mode)
            flat += picture.convert("RGB").getcolors(1) is not None
    assert modes == {"RGB", "L"}
    assert len(sizes) >= 20
    assert min(max(size) for size in sizes) <= 10
    assert max(width * height for width, height in sizes) > 900_000
    assert any(width >= 4 * height for width, height in sizes)
    assert any(height >= 4 * width for width, height in sizes)
    assert 0 < flat < len(list((builtin / "images").iterdir())) / 2
    assert sum(map(len, contents(builtin).values())) < 6_000_000


def test_the_same_arguments_give_the_same_bytes(preparer: Preparer, tmp_path: Path) -> None:
    """Rows and pictures are equal; odd counts are rounded up, large ones are limited."""
    for name in "ab":
        write_builtin_data(tmp_path / name, preparer, 5, 3)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert counts(evaluation_inputs(tmp_path / "a")) == dict.fromkeys(MODALITIES, 6)
    assert len(list(training_inputs(tmp_path / "a"))) == 3 * 4
    write_builtin_data(tmp_path / "c", preparer, 1, 10**9)
    assert len(list(training_inputs(tmp_path / "c"))) == 3 * MOST_CALIBRATION


def with_length(preparer: Preparer, length: int) -> Preparer:
    """Returns a preparer of small pictures that refuses prompts longer than `length`."""
    contract = preparer.contract
    tokens = replace(contract.tokens, max_length=length)
    images = replace(contract.images, min_pixels=28 * 28, max_pixels=16 * 28 * 28)
    return Preparer(replace(contract, tokens=tokens, images=images), preparer.tokenizer)


def test_a_contract_with_little_room_gets_what_it_takes(preparer: Preparer, tmp_path: Path) -> None:
    """Inputs that it refuses are not in the set; one that takes nearly none is named."""
    small = with_length(preparer, 110)
    write_builtin_data(tmp_path / "small", small, PER_MODALITY, 128)
    items = evaluation_inputs(tmp_path / "small")
    assert counts(items) == dict.fromkeys(MODALITIES, PER_MODALITY)
    for role, item in [("query", item) for item in items] + list(
        training_inputs(tmp_path / "small")
    ):
        small(item, role)
    assert len(scripts(item.text for item in items) & SCRIPTS) >= 12
    with pytest.raises(ExportError, match=r"takes 0 inputs of .*, 10 are needed; .* `data`"):
        write_builtin_data(tmp_path / "none", with_length(preparer, 30), 4, 6)


@pytest.fixture(scope="module")
def without_data(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Result]]:
    """Exports a bundle with neither data nor options that name it; returns its rows as well."""
    bundle = tmp_path_factory.mktemp("without") / "bundle"
    return bundle, export(checkpoint, bundle, graphs=["fp32"], per_modality=4, calibration=4)


def test_an_export_without_data_gives_a_bundle_that_verifies(
    without_data: tuple[Path, list[Result]], checkpoint: Path
) -> None:
    """It embeds, its certificate is repeated, and nothing else is left."""
    bundle, rows = without_data
    assert all(row.passed is not False for row in rows)
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
    golden = Bundle.open(bundle).golden()
    assert {modality: len(golden.of(modality)) for modality in golden.modalities} == {
        **dict.fromkeys((*MODALITIES, "images+text", "video+text"), 4),
        **{"longest text": 1, "largest picture": 1},
    }
    with Encoder.load(bundle) as encoder:
        assert encoder.encode("seven").shape == (1, encoder.dim)
    assert all(row.passed is not False for row in verify(bundle, checkpoint))


def test_the_certificate_says_that_the_data_was_built_in(
    without_data: tuple[Path, list[Result]],
) -> None:
    """It names the data, and so does every row that was measured on its evaluation rows."""
    certificate = read_certificate(without_data[0])
    assert certificate.environment["data"] == "built-in"
    assert "data" in {cost.name for cost in certificate.passes}
    on_rows = [row for row in certificate.rows if "→" in row.modality]
    assert {row.comparison.split(" ")[0] for row in on_rows} == {"retrieval", "vectors"}
    assert all(row.comparison.endswith(", built-in data") for row in on_rows)


def test_the_command_needs_no_data(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """INT8 rows on built-in data have no gate, although the model is trained."""
    command = ["bundle", str(checkpoint), str(tmp_path / "bundle"), "--graphs", "int8", "--json"]
    few = ["--golden", "2", "--calibration", "16", "--strength", "0.5"]
    with pytest.MonkeyPatch.context() as patch:
        # as if there were enough queries for the gate
        patch.setattr(gates, "RETRIEVAL_QUERIES", 1)
        assert main([*command, *few]) == 0
    rows = [row for row in json.loads(capsys.readouterr().out) if "→" in row["modality"]]
    retrieval = [row for row in rows if row["graph"] == "int8"]
    assert retrieval
    for row in retrieval:
        assert row["comparison"] == "retrieval vs PyTorch, built-in data, emulated"
        assert row["gate"] is None
