"""Mixtures: which data sets a run reads, with or without a YAML file; every mistake is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from lame_runtime.contract import Preparer
from lame_runtime.errors import LameError, StorageError, UsageError, shown
from lame_training.data import DataSet, data_sets, open_rows, read_mixture, row_files
from lame_training.data.sources import yaml_file
from samples import write_mixture, write_mmeb_rows, write_own_rows

pytestmark = pytest.mark.usefixtures("no_network")


def test_a_mixture_in_the_root_is_found_and_every_layout_it_names_is_read(
    published: Path, arrow_cache: Path
) -> None:
    """The first rows have the expected modalities, texts to decode and hard negatives."""
    pairs = {
        data_set.name: open_rows(published, data_set, arrow_cache)[0]
        for data_set in data_sets(published)
    }
    assert {
        name: (pair.query.modality, pair.positive.modality) for name, pair in pairs.items()
    } == {
        "ImageNet_1K": ("image+text", "text"),
        "A-OKVQA": ("image+text", "text"),
        "MSCOCO_t2i": ("text", "image+text"),
        "VisDial": ("text", "image+text"),
        "NIGHTS": ("image+text", "image+text"),
        "colpali": ("text", "image"),
        "visrag": ("text", "image"),
        "video-caption": ("video+text", "text"),
        "video-retrieval": ("text", "video"),
        "video-qa": ("video+text", "text"),
    }
    # (the query decodes a text, the positive decodes a text)
    sides = {
        name: (pair.query_decodes is not None, pair.positive_decodes is not None)
        for name, pair in pairs.items()
    }
    assert {name for name, side in sides.items() if side == (False, True)} == {
        *("MSCOCO_t2i", "VisDial", "colpali", "visrag", "video-retrieval"),
    }
    # Pictures on both sides, with one fixed sentence each: there is nothing to decode.
    assert sides["NIGHTS"] == (False, False)
    assert {name for name, pair in pairs.items() if pair.negatives} == {
        *("A-OKVQA", "VisDial", "NIGHTS"),
    }


def test_every_published_layout_can_be_prepared(
    published: Path, arrow_cache: Path, preparer: Preparer
) -> None:
    """The contract reads paths, embedded bytes and frames."""
    for data_set in data_sets(published):
        # The last row, since the test above looks at the first ones.
        pair = open_rows(published, data_set, arrow_cache)[-1]
        for item in (pair.query, pair.positive, *pair.negatives):
            assert preparer(item, "query").ids.size


def test_a_checkout_of_mmeb_train_needs_no_mixture(published: Path, arrow_cache: Path) -> None:
    """Its `original` split is read; known subsets decode the query without its instruction."""
    root = published / "MMEB-train"
    subsets = {data_set.name: data_set for data_set in data_sets(root)}
    assert list(subsets) == ["A-OKVQA", "ImageNet_1K", "MSCOCO_t2i", "NIGHTS", "VisDial"]
    assert [path.name for path in row_files(root, subsets["VisDial"])] == [
        "original-00000-of-00001.parquet"
    ]
    pair = open_rows(root, subsets["MSCOCO_t2i"], arrow_cache)[0]
    instruction = "Find me an everyday image that matches the given caption:"
    assert pair.query.text == f"{instruction} {pair.positive_decodes}"
    assert pair.positive_decodes is not None
    assert pair.positive_decodes.startswith("digits that add up to")
    # The other split has to be asked for, as its rows are the same.
    text = "data_sets: [{name: A-OKVQA, split: diverse_instruction}]"
    (diverse,) = read_mixture(write_mixture(root / "other", text), root)
    assert open_rows(root, diverse, arrow_cache)[0].query.text.startswith("Look at the image")


def test_a_root_of_single_files_needs_no_mixture(data: Path, arrow_cache: Path) -> None:
    """The digits data set has one file per task."""
    tasks = data_sets(data)
    assert {"digit", "find2", "sum3"} <= {task.name for task in tasks}
    assert all(len(open_rows(data, task, arrow_cache)) for task in tasks)


def test_a_mixture_says_everything_a_data_set_needs(tmp_path: Path) -> None:
    """One entry has every key; the others take the defaults of their subset and format."""
    write_mmeb_rows(tmp_path, {"qry": "q", "pos_text": "p"}, name="MSCOCO_t2i")
    write_own_rows(tmp_path, {"query": "a", "positive": "b"})
    text = """
data_sets:
  - {name: all, format: jsonl, path: [own.jsonl], images: pictures, weight: 0.5, target_side: both,
     instruction: Find it., begins: 0.25, max_rows: 7}
  - {name: MSCOCO_t2i}
  - {name: pages, format: colpali, path: own.jsonl}
"""
    instruction = "Find me an everyday image that matches the given caption:"
    # A mixture may lie anywhere: its paths begin at the root of the data.
    assert data_sets(tmp_path, write_mixture(tmp_path / "elsewhere", text)) == (
        DataSet("all", "both", 0.5, "Find it.", 0.25, "jsonl", ("own.jsonl",), "pictures", 7),
        DataSet("MSCOCO_t2i", "query", 1.0, instruction),
        DataSet("pages", "query", format="colpali", path=("own.jsonl",)),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", r"mixture\.yaml: is not valid YAML .line 1: "),
        ("- name: x", "must hold one key, data_sets"),
        ("data_sets: []", "lists no data set"),
        ("data_sets: [x]", r"entry 1: must have keys .* not be 'x'"),
        # An entry without a name can only be named by its number.
        ("data_sets: [{path: x}]", "entry 1: has no name"),
        (
            "data_sets: [{name: x, wieght: 2}]",
            r"entry 1 \(x\): unknown key 'wieght'; keys are name",
        ),
        # YAML itself would take the last of the two.
        ("data_sets: [{name: x, weight: 2, weight: 3}]", "line 1: the key 'weight' occurs twice"),
        (
            "data_sets: [{name: x, format: csv}]",
            r"\(x\): unknown format 'csv'; formats are mmeb, colpali",
        ),
        (
            "data_sets: [{name: x}, {name: nonesuch}]",
            r"entry 2 \(nonesuch\): unknown data set: it has no path, and .* holds x$",
        ),
        ("data_sets: [{name: x, weight: -1}]", "weight is -1; use a number above 0"),
        ("data_sets: [{name: x, weight: .nan}]", "weight is nan; use a number"),
        ("data_sets: [{name: x, weight: heavy}]", "weight is 'heavy'; use a number"),
        ("data_sets: [{name: x, begins: 1}]", "begins is 1; use the share"),
        (
            "data_sets: [{name: x, target_side: left}]",
            "target_side is 'left'; use positive, query, both, shared, none",
        ),
        # A list cannot be looked up in a set, so it needs a check of its own.
        ("data_sets: [{name: x, target_side: [query]}]", r"target_side is \['query'\]"),
        ("data_sets: [{name: x, max_rows: 0}]", "max_rows is 0; use a whole number above 0"),
        (
            "data_sets: [{name: x, split: test}]",
            "split is 'test'; it is original or diverse_instruction",
        ),
        ("data_sets: [{name: x, path: 3}]", "path is 3; use a path"),
        ("data_sets: [{name: x}, {name: x}]", r"entry 2 \(x\): this name occurs twice"),
        ("data_sets: [{name: x, instruction: 3}]", "instruction is 3; use a text"),
    ],
)
def test_a_mistake_in_a_mixture_is_one_line_that_names_file_and_entry(
    text: str, message: str, tmp_path: Path
) -> None:
    """Nothing in a mixture is ignored."""
    assert_refused(text, UsageError, message, tmp_path)


LONG_NUMBERS = {
    "hexadecimal": f"0x{'f' * 5000}",
    "binary": f"-0b{'1' * 20_000}",
    "octal": f"0{'7' * 9000}",
    "base 60": "1" + ":59" * 200_000,
    "base 60 with a fraction": "1" + ":59" * 100_000 + ".5",
    "tagged": f'!!int "0x{"f" * 5000}"',
    "decimal": "9" * 5000,
}


@pytest.mark.parametrize("number", LONG_NUMBERS)
@pytest.mark.parametrize("field", ["name", "max_rows", "weight", "path", "instruction", "[5]"])
def test_a_number_of_thousands_of_digits_is_refused_with_its_line(
    field: str, number: str, tmp_path: Path
) -> None:
    """Python refuses to write it in a message, and base 60 would take minutes to compute."""
    text = f"data_sets:\n  - {{name: x, {field}: {LONG_NUMBERS[number]}}}"
    if field == "name":
        text = f"data_sets:\n  - {{name: {LONG_NUMBERS[number]}}}"
    assert_refused(text, UsageError, "is not valid YAML", tmp_path)


def test_without_the_limit_a_long_number_ends_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the number is read, and the message about it cannot be written."""
    monkeypatch.setattr(yaml_file, "MAX_NUMBER", 10_000)
    text = f"data_sets: [{{name: x, weight: {LONG_NUMBERS['hexadecimal']}}}]"
    with pytest.raises(ValueError, match="integer string conversion"):
        read_mixture(write_mixture(tmp_path, text), tmp_path)


def test_a_data_set_without_files_is_one_line_that_names_file_and_entry(tmp_path: Path) -> None:
    """The mixture may be right and the data missing, so the error is of another kind."""
    message = r"entry 1 \(y\): .*gone/\*\.parquet: no such file"
    assert_refused("data_sets: [{name: y, path: gone/*.parquet}]", StorageError, message, tmp_path)


def assert_refused(text: str, kind: type[LameError], message: str, data: Path) -> None:
    """Asserts that a mixture beside one data set "x" raises one line of this kind."""
    write_mmeb_rows(data, {"qry": "q", "pos_text": "p"})
    path = write_mixture(data, text)
    with pytest.raises(kind, match=message) as caught:
        data_sets(data)
    # Programs print the message as it is, so it has to be one line and to begin with the file,
    # whose path is cut if it is longer than messages repeat.
    assert str(caught.value).startswith(shown(path))
    assert "\n" not in str(caught.value)


def test_a_missing_mixture_and_an_empty_root_are_named(tmp_path: Path) -> None:
    """The message says which file is missing, or what a root has to hold."""
    with pytest.raises(StorageError, match=r"gone\.yaml: cannot be read"):
        data_sets(tmp_path, tmp_path / "gone.yaml")
    message = r"has no mixture\.yaml, train/TASK\.parquet or SUBSET/original-"
    with pytest.raises(StorageError, match=message):
        data_sets(tmp_path)
