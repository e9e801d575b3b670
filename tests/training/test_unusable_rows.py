"""Rows that cannot be encoded are left out, counted and named, and `--dry-run` agrees."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lame_runtime.contract.tokens import TextTokenizer
from lame_runtime.errors import BundleError, InputError
from lame_training.__main__ import main
from lame_training.contract_from import tokenizer_training
from lame_training.contract_from.tokenizer_training import train_tokenizer
from lame_training.data import DataSet, data_sets, open_rows
from lame_training.data import rows as rows_module
from lame_training.data.pairs import training_texts
from lame_training.run.progress import read_dropped
from PIL import Image

GOOD: list[dict[str, Any]] = [
    {"query": f"query {number}", "positive": {"text": f"positive {number}"}} for number in range(30)
]
HALF = "half an emoji \ud83d"
UNUSABLE: dict[str, dict[str, Any]] = {
    "query": {"query": HALF, "positive": "b"},
    "positive": {"query": "a", "positive": HALF},
    "instruction": {"query": {"text": "a", "instruction": HALF}, "positive": "b"},
    "content": {"query": {"content": ["a", HALF]}, "positive": "b"},
    "negative": {"query": "a", "positive": "b", "negatives": ["c", HALF]},
    "query_decodes": {"query": "a", "positive": "b", "query_decodes": HALF},
    "positive_decodes": {"query": "a", "positive": "b", "positive_decodes": HALF},
    "pipe": {"query": "a", "positive": {"image": "pipe.png"}},
    "folder": {"query": "a", "positive": {"image": "."}},
    "frame": {"query": {"video": ["pipe.png"]}, "positive": "b"},
    "null": {"query": "a", "positive": {"image": "a\0b.png"}},
}
"""Rows that are noticed when they are opened."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Returns a data root with a mixture, a pipe and a damaged picture."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mixture.yaml").write_text(
        "data_sets: [{name: mine, format: jsonl, path: rows.jsonl}]", encoding="utf-8"
    )
    os.mkfifo(tmp_path / "data/pipe.png")
    (tmp_path / "data/damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    Image.new("RGB", (30, 30), "red").save(tmp_path / "data/good.png")
    return tmp_path / "data"


def write(root: Path, *rows: dict[str, Any]) -> DataSet:
    """Writes `rows.jsonl`; half an emoji is escaped, as JSON has it."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "rows.jsonl").write_text(text, encoding="utf-8")
    return DataSet("mine", "positive", format="jsonl", path=("rows.jsonl",))


@pytest.mark.parametrize("row", UNUSABLE.values(), ids=UNUSABLE)
def test_a_row_that_cannot_be_encoded_is_left_out_and_named(
    row: dict[str, Any], root: Path, arrow_cache: Path
) -> None:
    """The line has its number, file and line."""
    opened = open_rows(root, write(root, *GOOD[:7], row, *GOOD[7:]), arrow_cache)
    assert len(opened) == 30
    assert re.match(r"mine: 30 rows \(1 left out: 1 .* \(first: rows\.jsonl, row 8", str(opened)), (
        str(opened)
    )


def test_without_the_check_half_an_emoji_reaches_the_tokenizer(
    root: Path, arrow_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is the control: taken out, the guard lets the row through, and no tokenizer takes it."""
    monkeypatch.setattr(rows_module, "check_texts", lambda _: None)
    opened = open_rows(root, write(root, *GOOD, UNUSABLE["query"]), arrow_cache)
    assert len(opened) == 31
    with pytest.raises(UnicodeEncodeError):
        (opened[30].query.text or str(opened[30].query.content)).encode()


@pytest.mark.parametrize("own_tokenizer", [True, False])
def test_a_run_leaves_them_out_and_a_dry_run_agrees(
    *,
    own_tokenizer: bool,
    root: Path,
    backbones: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A damaged picture and a text that is too long are noticed in advance, too."""
    damaged = {"query": "a", "positive": {"image": "damaged.png"}}
    long = {"query": "words " * 50_000, "positive": "b"}
    picture = {"query": "a picture", "positive": {"image": "good.png"}}
    write(root, *GOOD, picture, *UNUSABLE.values(), damaged, long)
    command = ["run", "digits-tiny", "--data", str(root), "--mixture", str(root / "mixture.yaml")]
    if not own_tokenizer:
        command += ["--backbone", str(backbones["qwen2_vl"])]
    assert main([*command, "--dry-run"]) == 0
    output = capsys.readouterr().out
    total = len(UNUSABLE) + 2
    assert f"mine: 31 rows ({total} left out: 7 text that is not Unicode (first: rows" in output
    assert "2 cannot be prepared (first: rows.jsonl, row 43: " in output
    out = tmp_path / "run"
    # all steps: the first stage embeds only the inputs that decode a text
    assert main([*command, "--output", str(out)]) == 0
    shown = capsys.readouterr()
    assert f"left out: {total} of mine" in shown.out
    assert f"({len(UNUSABLE)} left out: 7 text that is not Unicode" in shown.err
    dropped = read_dropped(out / "skipped.jsonl")
    places = {row.place for row in dropped}
    assert places == {f"{root / 'rows.jsonl'}, row {number}" for number in range(32, 32 + total)}


def test_a_run_of_unusable_rows_ends_in_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is trained, and no folder is left."""
    write(root, *UNUSABLE.values())
    command = ["run", "digits-tiny", "--data", str(root), "--mixture", str(root / "mixture.yaml")]
    for extra in (["--dry-run"], ["--output", str(tmp_path / "out")]):
        assert main([*command, *extra]) == 2
        error = capsys.readouterr().err
        assert "holds no row that can be trained on (11 left out: " in error
        assert error.count("\n") == 1
    damaged = [{"query": text, "positive": {"image": "damaged.png", "text": text}} for text in "ab"]
    write(root, *damaged, *UNUSABLE.values())
    assert main([*command, "--dry-run"]) == 2
    assert "2 cannot be prepared" in capsys.readouterr().err


def test_half_an_emoji_in_a_list_of_rows(root: Path, arrow_cache: Path) -> None:
    """A `.json` file is one document; one row of it is left out, not the file."""
    (root / "rows.json").write_text(json.dumps([*GOOD, UNUSABLE["query"]]), encoding="utf-8")
    data_set = DataSet("mine", "none", format="jsonl", path=("rows.json",))
    opened = open_rows(root, data_set, arrow_cache)
    assert opened.skipped == Counter({"text that is not Unicode": 1})
    assert "rows.json, row 31" in str(opened)


@pytest.mark.parametrize(
    "bad", [b'{"query":"caf\xe9","positive":"p"}', b'{"query":"\\\xe9","positive":"p"}', b"\xff"]
)
def test_a_line_that_is_no_utf8_is_left_out_and_named(
    bad: bytes, root: Path, arrow_cache: Path
) -> None:
    """The other lines of the file are read as they are."""
    data_set = write(root, *GOOD)
    lines = (root / "rows.jsonl").read_bytes().splitlines()
    good = '{"query": "café 😀", "positive": "\\u001a"}'.encode()
    (root / "rows.jsonl").write_bytes(b"\n".join([*lines, bad, good]) + b"\n")
    opened = open_rows(root, data_set, arrow_cache)
    assert opened.skipped == Counter({"text that is not Unicode": 1})
    assert "rows.jsonl, row 31" in str(opened)
    assert opened[30].query.text == "café 😀"
    assert opened[30].positive.text == "\x1a"


@pytest.mark.parametrize("run", ["-" * 1500, "😀" * 700, "ab" * 900])
def test_a_long_run_of_characters_trains_a_tokenizer_that_is_read_back(
    run: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One such line would else make a token that is longer than the runtime reads."""
    write(root, *GOOD, {"query": run, "positive": "b"})
    command = ["run", "digits-tiny", "--data", str(root), "--mixture", str(root / "mixture.yaml")]
    assert main([*command, "--dry-run"]) == 0
    texts = [run] * 3 + [str(row["query"]) for row in GOOD]
    train_tokenizer(texts, 1500, tmp_path / "tokenizer.json")
    assert TextTokenizer(tmp_path / "tokenizer.json").encode_start(run, 10_000)[1]
    monkeypatch.setattr(tokenizer_training, "MAX_TOKEN_LENGTH", 10_000)
    train_tokenizer(texts, 1500, tmp_path / "long.json")
    with pytest.raises(BundleError, match="a token of more than 1024 characters"):
        TextTokenizer(tmp_path / "long.json")


def test_the_limit_of_tokens_changes_no_tokenizer_of_ordinary_texts(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrow_cache: Path
) -> None:
    """The bytes are those of a training without a limit."""
    rows = [open_rows(data, task, arrow_cache) for task in data_sets(data)]
    texts = [*training_texts(rows), "a line" + "-" * 80]
    written = []
    for most in (tokenizer_training.MAX_TOKEN_LENGTH, None):
        monkeypatch.setattr(tokenizer_training, "MAX_TOKEN_LENGTH", most)
        train_tokenizer(texts, 512, tmp_path / "tokenizer.json")
        written.append((tmp_path / "tokenizer.json").read_bytes())
    assert written[0] == written[1]


def test_bytes_that_are_no_text_in_parquet(root: Path, arrow_cache: Path) -> None:
    """Arrow does not look at the bytes of a text; Python does, once the row is read."""
    names = ("qry", "qry_image_path", "pos_text", "pos_image_path")
    for bad in (b"\xff\xfe", HALF.encode("utf-8", "surrogatepass")):
        texts = [*(f"text {number}".encode() for number in range(1500)), bad]
        column = pa.array(texts, pa.binary())
        # cast without a look at the bytes, as other programs write them
        column = pa.StringArray.from_buffers(len(column), *column.buffers()[1:])
        empty = pa.array([""] * len(texts))
        positives = pa.array([str(number) for number in range(len(texts))])
        columns = dict.fromkeys(names, empty) | {"qry": column, "pos_text": positives}
        pq.write_table(pa.table(columns), root / "x.parquet")
        opened = open_rows(root, DataSet("x", "none", path=("x.parquet",)), arrow_cache)
        assert len(opened) == 1500
        assert "1 text that is not Unicode (first: x.parquet, row 1501)" in str(opened)


def test_the_place_of_a_row_names_its_shard(root: Path, arrow_cache: Path) -> None:
    """With several files, the line says which one, and counts the rows of that one."""
    for shard in range(3):
        rows = [*GOOD[shard * 10 : shard * 10 + 10], UNUSABLE["query"]]
        write(root, *rows)
        (root / "rows.jsonl").rename(root / f"shard-{shard}.jsonl")
    data_set = DataSet("mine", "none", format="jsonl", path=("shard-*.jsonl",))
    opened = open_rows(root, data_set, arrow_cache)
    assert [opened.places.of(row) for row, *_ in opened.named] == [
        f"{root / f'shard-{shard}.jsonl'}, row 11" for shard in range(3)
    ]
    assert opened.place(10) == f"{root / 'shard-1.jsonl'}, row 1"
    write(root, *GOOD[:3], {"query": "a", "positive": "b", "wrong": 1})
    (root / "rows.jsonl").rename(root / "shard-1.jsonl")
    with pytest.raises(InputError, match=r"shard-1\.jsonl, row 4: unknown key"):
        open_rows(root, data_set, arrow_cache)


def test_equal_queries_with_other_positives_are_a_warning(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are no negatives of each other, so a batch of them teaches little; it is said once."""
    rows = [{"query": "the same", "positive": f"positive {number}"} for number in range(40)]
    write(root, *rows, *GOOD)
    command = ["run", "digits-tiny", "--data", str(root), "--mixture", str(root / "mixture.yaml")]
    line = "mine: 40 of 70 rows have the query of another row with another positive"
    assert main([*command, "--output", str(tmp_path / "run"), "--steps", "2"]) == 0
    assert capsys.readouterr().err.count(line) == 1
    assert main([*command, "--dry-run"]) == 0
    assert line in capsys.readouterr().out
    # few are usual, and equal rows are one row
    write(root, *rows[:3], *GOOD, *GOOD)
    assert main([*command, "--output", str(tmp_path / "other"), "--steps", "2"]) == 0
    assert "have the query of another" not in capsys.readouterr().err


def test_a_dry_run_of_many_rows_says_how_many_it_prepared(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows beyond the limit are counted, but their pictures are not decoded."""
    monkeypatch.setattr("lame_training.run.dry_run.input_check.MOST_ROWS", 10)
    write(root, *GOOD)
    command = ["run", "digits-tiny", "--data", str(root), "--mixture", str(root / "mixture.yaml")]
    assert main([*command, "--dry-run"]) == 0
    assert "damaged pictures and long texts in 10 of the rows" in capsys.readouterr().out
