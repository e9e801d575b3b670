"""Tests `lame-runtime embed` with a Parquet output: rows, errors, resumption and the audit."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import pickle
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lame_runtime import BackendError, Encoder, InputError, ProofError
from lame_runtime.bulk import EmbedBatch
from lame_runtime.bulk.audit import IdSum, audit
from lame_runtime.bulk.one_machine import corpus_run, part_files
from lame_runtime.bulk.row_vectors import embed_rows
from lame_runtime.bulk.source.rows import make_row
from lame_runtime.bulk.vector_table import VectorTable, vector_rows
from lame_runtime.cli.main import main
from lame_runtime.options import EncodeOptions

sys.path.insert(0, str(Path(__file__).parent))
import kills

EXAMPLES = Path(__file__).parents[2] / "examples"
BUNDLE = EXAMPLES / "tiny-bundle"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Returns a folder of 22 pictures, one below, one broken, and one of a known content."""
    folder = Path(shutil.copytree(EXAMPLES / "pictures", tmp_path / "pictures"))
    (folder / "below").mkdir()
    shutil.copy(folder / "0.png", folder / "below" / "same.png")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:99])
    return folder


def embed(*words: object) -> int:
    return main(["embed", str(BUNDLE), *map(str, words)])


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Returns the only line that was printed on stderr."""
    text = capsys.readouterr().err.strip()
    assert len(text.splitlines()) == 1, text
    return text


def test_a_folder_becomes_a_table(pictures: Path, tmp_path: Path) -> None:
    """Every file has a row; vectors are the encoder's, and ids are those of `sha256sum`."""
    assert embed(pictures, "--text", "fifteen", "-o", tmp_path / "out.parquet") == 0
    table = pq.read_table(tmp_path / "out.parquet")
    vectors, has_vector = vector_rows(table["vector"])
    paths = table["path"].to_pylist()
    assert (len(paths), has_vector.sum()) == (25, 24)
    with Encoder.load(BUNDLE) as encoder:
        inputs = [Path(path) for path in paths if path and "broken" not in path]
        assert np.array_equal(vectors, encoder.encode([*inputs, "fifteen"]))
        assert VectorTable(tmp_path / "out.parquet").facts.bundle == encoder.bundle.manifest.sha256
    rows = {Path(row["path"] or "").name: row for row in table.drop(["vector"]).to_pylist()}
    content = hashlib.sha256((pictures / "0.png").read_bytes()).hexdigest()
    # equal contents are two rows
    assert {rows["0.png"]["id"], rows["same.png"]["id"]} == {content, f"{content}-2"}
    assert "decoded" in rows["broken.png"]["error"]
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_tables_keep_their_columns(kind: str, tmp_path: Path) -> None:
    """Ids, texts, paths and further columns of JSONL, CSV and Parquet are kept."""
    picture = str(EXAMPLES / "pictures" / "1.png")
    records = [
        {"id": "a", "text": "one", "image": None, "label": "x"},
        {"id": "b", "text": None, "image": picture, "label": "y"},
        {"id": "c", "text": "three", "image": "missing.png", "label": None},
    ]
    source = tmp_path / f"in.{kind}"
    if kind == "jsonl":
        source.write_text("\n".join(map(json.dumps, records)))
    elif kind == "csv":
        with source.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
    else:
        pq.write_table(pa.Table.from_pylist(records), source)
    assert embed(source, "-o", tmp_path / "out.parquet") == 0
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["id"].to_pylist() == ["a", "b", "c"]
    assert table["text"].to_pylist() == ["one", None, "three"]
    assert table["label"].to_pylist() == ["x", "y", None]
    assert table["path"].to_pylist()[1] == picture
    assert [error is None for error in table["error"].to_pylist()] == [True, True, False]


def test_lines_that_are_no_inputs_are_rows_with_errors(tmp_path: Path) -> None:
    """A line that is not JSON, or of unlike types, stops nothing."""
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "a", "n": 1}\n{oops\n{"text": 7}\n{"text": "b", "n": "two"}\n[1]\n')
    assert embed(source, "-o", tmp_path / "out.parquet") == 0
    table = pq.read_table(tmp_path / "out.parquet")
    assert [error is None for error in table["error"].to_pylist()] == [1, 0, 0, 1, 0]
    assert table["n"].to_pylist() == ["1", None, None, "two", None]


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_fewer_bits_are_those_of_the_encoder(precision: Any, tmp_path: Path) -> None:
    """Vectors of fewer bits are the encoder's, and the audit accepts them."""
    words = ("--precision", precision, "--text", "a", "--text", "b")
    assert embed(*words, "-o", tmp_path / "out.parquet") == 0
    with Encoder.load(BUNDLE) as encoder:
        expected = encoder.encode(["a", "b"], precision=precision)
    vectors, _ = vector_rows(pq.read_table(tmp_path / "out.parquet")["vector"])
    assert vectors.dtype == expected.dtype
    assert np.array_equal(vectors, expected)


def test_kills_lose_and_repeat_nothing(tmp_path: Path) -> None:
    """After three kills the table is that of an uninterrupted run, to the bit."""
    corpus = kills.write_corpus(tmp_path, 200)
    kills.run_with_kills(corpus, tmp_path / "killed.parquet", 3)
    assert embed(corpus, "--batch-size", 1, "-o", tmp_path / "whole.parquet") == 0
    assert not kills.differences(tmp_path / "killed.parquet", tmp_path / "whole.parquet")
    table = pq.read_table(tmp_path / "whole.parquet")
    assert table["id"].to_pylist() == [f"row{number}" for number in range(200)]
    assert table["error"].null_count == 190


@pytest.fixture
def interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[Path, Path]:
    """Returns a corpus and an output whose disk was full after two parts."""
    corpus, output = kills.write_corpus(tmp_path, 64), tmp_path / "out.parquet"
    monkeypatch.setattr(corpus_run, "PART_ROWS", 16)
    write, left = part_files.write_table, [0, 0]

    def fail(table: Any, file: Any) -> None:
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        left.pop()
        write(table, file)

    with monkeypatch.context() as patch:
        patch.setattr(part_files, "write_table", fail)
        assert embed(corpus, "--batch-size", 1, "-o", output) == 2
    assert "No space left" in error_line(capsys)
    return corpus, output


def test_a_full_disk_costs_nothing_that_was_written(
    interrupted: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk is one line; with --resume, the rest is embedded."""
    corpus, output = interrupted
    assert not output.exists()
    assert embed(corpus, "-o", output) == 2
    assert "--resume" in error_line(capsys)
    assert embed(corpus, "--batch-size", 1, "-o", output, "--resume") == 0
    assert pq.read_table(output)["id"].to_pylist() == [f"row{number}" for number in range(64)]
    # complete, so that there is nothing to do
    before = output.stat().st_mtime_ns
    assert embed(corpus, "-o", output, "--resume") == 0
    assert output.stat().st_mtime_ns == before


def test_another_run_is_not_resumed(
    interrupted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A changed bundle, option or source is refused in one line, and the parts stay."""
    corpus, output = interrupted
    bundle = Path(shutil.copytree(BUNDLE, tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    from lame_runtime.bundle.manifest import canonical_hash

    manifest["model"]["exported_by"] = "another"
    manifest["sha256"] = canonical_hash(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert main(["embed", str(bundle), str(corpus), "-o", str(output), "--resume"]) == 2
    assert "another BUNDLE" in error_line(capsys)
    assert embed(corpus, "-o", output, "--resume", "--role", "query") == 2
    assert "another --role" in error_line(capsys)
    lines = corpus.read_text().splitlines()
    corpus.write_text("\n".join(lines[1:]))
    assert embed(corpus, "-o", output, "--resume") == 2
    assert "changed" in error_line(capsys)
    assert len(list(output.with_name("out.parquet.parts").glob("0*.parquet"))) == 2


def test_two_writers_do_not_share_an_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second writer of an output is refused, and the first is not disturbed."""
    output = tmp_path / "out.parquet"
    with part_files.PartFiles(output, {}, resume=False).open():
        assert embed("--text", "a", "-o", output, "--resume") == 2
        assert "another process" in error_line(capsys)


def test_wrong_sources_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty folder, a missing file, a missing column and a wrong output are named at once."""
    table = tmp_path / "in.parquet"
    pq.write_table(pa.table({"caption": ["a"]}), table)
    (tmp_path / "empty").mkdir()
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1")
    output = tmp_path / "out.parquet"
    for words, part in (
        ((tmp_path / "empty",), "a folder without pictures"),
        ((tmp_path / "nothing.jsonl",), "No such file"),
        ((table,), "--text-column"),
        ((table, "--text-column", "title"), "'title', which --text-column names; it has caption"),
        ((damaged,), "cannot be read as Parquet"),
    ):
        assert embed(*words, "-o", output) == 2
        assert part in error_line(capsys)
    assert embed(table, "--text-column", "caption", "-o", output) == 0
    capsys.readouterr()
    assert embed("--text", "a", "--resume", "-o", tmp_path / "out.npy") == 2
    assert "--resume is for tables" in error_line(capsys)
    assert [path.name for path in tmp_path.glob("out*")] == ["out.parquet"]


def test_errors_may_stop_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --errors stop the first bad row ends the run, and what is before it stays."""
    corpus, output = kills.write_corpus(tmp_path, 20), tmp_path / "out.parquet"
    assert embed(corpus, "-o", output, "--errors", "stop") == 2
    assert "row7" in error_line(capsys)
    (part,) = output.with_name("out.parquet.parts").glob("0*.parquet")
    assert pq.read_table(part).num_rows == 7


def test_the_audit_sees_what_is_wrong(tmp_path: Path) -> None:
    """A lost, repeated or long row, or another bundle, is a problem of its own."""
    output = tmp_path / "out.parquet"
    assert embed("--text", "a", "--text", "b", "-o", output) == 0
    facts, table = VectorTable(output).facts, pq.read_table(output)
    ids = IdSum()
    ids.add(table["id"].to_pylist())
    assert not audit(output, facts, ids).problems

    def problems(changed: Any) -> str:
        pq.write_table(changed, output)
        return "; ".join(audit(output, facts, ids).problems)

    assert "not those of the source" in problems(table.slice(1))
    assert "occur twice" in problems(pa.concat_tables([table, table.slice(0, 1)]))
    vectors, _ = vector_rows(table["vector"])
    longer = pa.FixedSizeListArray.from_arrays(pa.array(2 * vectors.reshape(-1)), 64)
    place = table.column_names.index("vector")
    assert "unit length" in problems(table.set_column(place, table.field(place), longer))
    other = {b"lame": table.schema.metadata[b"lame"].replace(b"fp32", b"fp16")}
    assert "not those of the run" in problems(table.replace_schema_metadata(other))


def test_a_batch_keeps_its_kind_and_bad_rows(tmp_path: Path) -> None:
    """`EmbedBatch` takes and returns dicts, tables and frames, and survives pickling."""
    picture = (EXAMPLES / "pictures" / "2.png").read_bytes()
    columns = {"image": [picture, b"no picture", None], "text": [None, None, "two"], "n": [1, 2, 3]}
    batch = pickle.loads(pickle.dumps(EmbedBatch(BUNDLE, encoding={"role": "document"})))
    result = batch(columns)
    assert list(result) == ["id", "path", "page", "text", "n", "vector", "error"]
    assert [vector is None for vector in result["vector"]] == [False, True, False]
    assert result["id"][0] == hashlib.sha256(picture).hexdigest()
    table = batch(pa.table(columns))
    assert table.to_pydict() == result
    assert table.schema.metadata[b"lame"] == batch.facts.to_metadata()[b"lame"]
    assert next(iter(batch(table.to_pandas()[["text", "n"]]).columns)) == "id"
    assert batch({"text": []})["id"] == []
    with pytest.raises(InputError, match="has no column"):
        batch({"caption": ["a"]})
    batch.close()


class _Failing:
    """Wraps a backend so that it fails on batches that `is_bad` names."""

    def __init__(self, run: Any, is_bad: Any) -> None:
        self._run, self._is_bad = run, is_bad

    def __call__(self, batch: Any) -> Any:
        if self._is_bad(batch):
            raise BackendError("failed")
        return self._run(batch)


def failing_blocks(monkeypatch: pytest.MonkeyPatch, texts: Sequence[str], is_bad: Any) -> list[Any]:
    with Encoder.load(BUNDLE) as encoder:
        backend = encoder.backend
        monkeypatch.setattr(backend, "run", _Failing(backend.run, is_bad), raising=False)
        rows = [make_row({"text": text}, {}, None, None) for text in texts]
        return list(embed_rows(encoder, rows, EncodeOptions()))


def test_an_input_that_the_model_fails_on_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One input that the model fails on is a row with an error."""
    texts = ["a", "a long text of many words that is longer than the others", "b"]
    (block,) = failing_blocks(monkeypatch, texts, lambda batch: batch.input_ids.shape[1] > 20)
    assert [error is None for error in block.errors] == [True, False, True]


def test_a_backend_that_fails_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost device is no error of rows: nothing is written for them."""
    with pytest.raises((BackendError, ProofError)):
        failing_blocks(monkeypatch, ["a", "b"], lambda batch: True)


def test_a_folder_of_others_is_not_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither before the run nor at its end."""
    folder = tmp_path / "out.parquet.parts"
    folder.mkdir()
    (folder / "thesis.txt").write_text("x")
    assert embed("--text", "a", "-o", tmp_path / "out.parquet") == 2
    assert "thesis.txt" in error_line(capsys)
    assert (folder / "thesis.txt").read_text() == "x"
    assert not (tmp_path / "out.parquet").exists()


def test_a_changed_row_with_a_given_id_is_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The id says nothing of the content, so the text is compared."""
    source, out = tmp_path / "a.jsonl", tmp_path / "out.parquet"
    rows = [{"id": f"k{number}", "text": f"word {number}"} for number in range(6)]
    source.write_text("\n".join(map(json.dumps, [*rows, {"id": "bad"}])))
    assert embed(source, "-o", out, "--errors", "stop") == 2
    capsys.readouterr()
    rows[2]["text"] = "another word"
    source.write_text("\n".join(map(json.dumps, rows)))
    assert embed(source, "-o", out, "--resume") == 2
    assert "has changed" in error_line(capsys)


def test_the_column_that_is_named_is_embedded(tmp_path: Path) -> None:
    """A key of the usual name gives way; `path` is a picture, as in tables."""
    source, out = tmp_path / "a.jsonl", tmp_path / "out.parquet"
    lines = [{"caption": "apple", "text": "zebra"}, {"path": str(EXAMPLES / "pictures/0.png")}]
    source.write_text("\n".join(map(json.dumps, lines)))
    assert embed(source, "-o", out, "--text-column", "caption") == 0
    rows = pq.read_table(out).to_pylist()
    assert [row["text"] for row in rows] == ["apple", None]
    assert [row["error"] for row in rows] == [None, None]
    assert rows[1]["path"].endswith("0.png")


def test_odd_keys_and_values_do_not_end_a_run(tmp_path: Path) -> None:
    """Objects without keys, and half surrogate pairs in names and ids."""
    source, out = tmp_path / "a.jsonl", tmp_path / "out.parquet"
    lines = ['{"text":"a","meta":{}}', '{"text":"b","\\ud800":1}', '{"text":"c","id":"\\ud800x"}']
    source.write_text("\n".join(lines))
    assert embed(source, "-o", out) == 0
    assert pq.read_table(out)["error"].to_pylist() == [None] * 3


def test_columns_of_unequal_length_are_refused() -> None:
    """No row of a batch is lost."""
    with pytest.raises(InputError, match="equal length"):
        EmbedBatch(BUNDLE)({"x": [1], "text": ["a", "b", "c"]})


@pytest.mark.parametrize("content", ["[]", "x", "", "{}"])
def test_a_damaged_run_file_gets_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    """With the remedy; the parts stay."""
    folder = tmp_path / "out.parquet.parts"
    folder.mkdir()
    (folder / "run.json").write_text(content)
    assert embed("--text", "a", "-o", tmp_path / "out.parquet", "--resume") == 2
    assert "is damaged" in error_line(capsys)
