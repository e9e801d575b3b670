"""The commands `index` and `search`, from Parquet and `.npy` to a table, JSON and a page."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `index_folders`
from index_folders import unit_vectors, vector_facts
from lame_runtime import Encoder
from lame_runtime.bulk.vector_facts import VectorFacts
from lame_runtime.bulk.vector_table import table_schema, vector_column
from lame_runtime.cli.main import main

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

TINY = Path(__file__).parent.parent.parent / "examples/tiny-bundle"
PICTURES = sorted((TINY.parent / "pictures").glob("*.png"))
QUERY = "digits that add up to seven"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Returns a function that runs the program: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


def write_table(path: Path, encoder: Encoder, role: str | None = "document") -> None:
    """Writes a table of the example pictures, in which the second row has no vector."""
    assert encoder.bundle is not None
    sha256 = encoder.bundle.manifest.sha256
    facts = VectorFacts(sha256, encoder.graph, role, None, encoder.dim, "float32")
    has_vector = np.arange(len(PICTURES)) != 1
    kept = [path for path, flag in zip(PICTURES, has_vector, strict=True) if flag]
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in PICTURES]
    fields = [
        pa.field("path", pa.string()),
        pa.field("digits", pa.int32()),
        pa.field("tags", pa.list_(pa.string())),
    ]
    columns = [
        pa.array(hashes),
        pa.array(map(str, PICTURES)),
        pa.array([len(path.stem) for path in PICTURES], pa.int32()),
        pa.array([["a", "é"]] * len(PICTURES)),
        vector_column(encoder.encode_document(kept), has_vector),
        pa.array([None if flag else "not a picture" for flag in has_vector]),
    ]
    parquet.write_table(pa.table(columns, schema=table_schema(facts, fields)), path)


@pytest.fixture(scope="module")
def encoder() -> Any:
    """Returns an encoder of the tiny bundle."""
    with Encoder.load(TINY, threads=1) as encoder:
        yield encoder


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Path:
    """Returns a table of the example pictures."""
    path = tmp_path_factory.mktemp("table") / "pictures.parquet"
    write_table(path, encoder)
    return path


def test_a_table_becomes_an_index_that_is_searched(
    run: Run, table: Path, tmp_path: Path, encoder: Encoder
) -> None:
    """With the scores of the encoder, as a table, as JSON and as a page with pictures."""
    index, page = tmp_path / "index", tmp_path / "page.html"
    code, out, err = run("index", table, "--output", index, "--prefix", 32)
    assert (code, err) == (0, "")
    assert "21 × 64 float32" in out
    assert "left out 1 rows" in out
    kept = [path for number, path in enumerate(PICTURES) if number != 1]
    scores = (encoder.encode_query([QUERY]) @ encoder.encode_document(kept).T)[0]
    order = np.argsort(-scores)
    for stage in ("none", "bits", "prefix"):
        code, out, _ = run(
            "search", index, TINY, QUERY, "--json", "--first-stage", stage, "--html", page
        )
        results = json.loads(out)["results"]
        assert [row["path"] for row in results] == [str(kept[row]) for row in order[:10]]
        np.testing.assert_allclose([row["score"] for row in results], scores[order[:10]], 1e-4)
    assert results[0]["tags"] == '["a", "é"]'
    assert page.read_text().count("data:image/jpeg;base64,") == 10
    code, out, _ = run("search", index, TINY, PICTURES[5], "--where", "digits=1", "--top-k", 3)
    assert code == 0
    assert len(out.splitlines()) == 3
    assert run("search", index, TINY, QUERY, "--where", "digits=7")[1].startswith("nothing meets")
    # a picture with a text is another query than either
    tops = [
        json.loads(run("search", index, TINY, *query, "--json", "--top-k", 1)[1])["results"][0]
        for query in ((PICTURES[5],), (QUERY,), (PICTURES[5], QUERY))
    ]
    assert len({row["score"] for row in tops}) == 3


def test_markup_in_an_index_is_text_in_the_page(run: Run, tmp_path: Path, table: Path) -> None:
    """In the query too; a picture that was changed is not shown, and the page says so."""
    hostile = "<script>alert(1)</script>"
    index, page = tmp_path / "index", tmp_path / "page.html"
    vectors = tmp_path / "v.npy"
    np.save(vectors, unit_vectors(2, 64))
    picture = tmp_path / "x.png"
    picture.write_bytes(PICTURES[0].read_bytes())
    rows = [
        {"id": "0" * 64, "path": str(picture), "note": hostile},
        {"id": "b", "path": str(tmp_path / "no.png"), "note": hostile},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, _, err = run(
        "index", vectors, "--bundle", TINY, "--graph", "fp32",
        "--rows", tmp_path / "rows.jsonl", "-o", index,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert run("search", index, TINY, "--text", hostile, "--html", page)[0] == 0
    text = page.read_text()
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 3
    assert "was changed since it was indexed" in text
    assert "cannot be read" in text
    assert "data:image/jpeg" not in text


def test_bad_input_gets_one_line_and_leaves_nothing(
    run: Run, table: Path, tmp_path: Path, encoder: Encoder
) -> None:
    """Each of these mistakes, with exit code 2."""
    index = tmp_path / "index"
    assert run("index", table, "-o", index)[0] == 0
    query_table, query_index = tmp_path / "q.parquet", tmp_path / "query.index"
    write_table(query_table, encoder, "query")
    assert run("index", query_table, "-o", query_index)[0] == 0
    facts = json.loads((index / "index.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    for path in index.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    facts["vectors"]["bundle"] = "1" * 64
    (other / "index.json").write_text(json.dumps(facts))
    np.save(tmp_path / "v.npy", unit_vectors(3, 64))
    np.save(tmp_path / "flat.npy", np.zeros(3))
    np.save(tmp_path / "i8.npy", np.zeros((3, 64), np.int8))
    (tmp_path / "rows.jsonl").write_text("{}\n")
    plain = tmp_path / "plain.parquet"
    parquet.write_table(pa.table({"x": [1]}), plain)
    empty = tmp_path / "empty"
    empty.mkdir()
    new = tmp_path / "new"
    npy = ("--bundle", TINY, "--graph", "fp32", "-o", new)
    before = sorted(tmp_path.iterdir())
    for arguments, words in (
        (("index", table, "-o", index), "already exists"),
        (("index", tmp_path / "no.parquet", "-o", new), "no.parquet"),
        (("index", plain, "-o", new), "has no vectors of LaME"),
        (("index", empty, "-o", new), "without Parquet files"),
        (("index", table, "-o", new, "--prefix", 64), "--prefix is 64"),
        (("index", table, "-o", new, "--graph", "fp32"), "already names its bundle"),
        (("index", tmp_path / "v.npy", "-o", new), "give --bundle and --graph"),
        (("index", tmp_path / "flat.npy", *npy), "two axes"),
        (("index", tmp_path / "i8.npy", *npy), "only float32"),
        (("index", tmp_path / "rows.jsonl", *npy[4:]), "cannot be read as Parquet"),
        (("index", tmp_path / "v.npy", *npy, "--rows", tmp_path / "rows.jsonl"), "3 vectors and 1"),
        (("search", tmp_path, TINY, QUERY), "is not an index"),
        (("search", other, TINY, QUERY), "of the bundle 111111111111"),
        (("search", index, TINY, QUERY, "--graph", "int8"), "int8"),
        (("search", query_index, TINY, QUERY), "embedded with the role query"),
        (("search", index, TINY), "nothing to search for"),
        (("search", index, TINY, "one", "two"), "one text, not 2"),
        (("search", index, TINY, "missing.png"), "no such file"),
        (("search", index, TINY, QUERY, "--where", "x=1"), "--where asks for"),
        (("search", index, TINY, QUERY, "--first-stage", "prefix"), "--first-stage prefix"),
        (("search", index, TINY, QUERY, "--html", tmp_path), "not a regular file"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, ""), arguments
        assert words in err, (words, err)
        assert err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
    assert run("search", query_index, TINY, QUERY, "--role", "query")[0] == 0


def test_facts_of_signs_have_an_eighth_of_the_bytes() -> None:
    """The control of the widths that tables and indexes share."""
    assert (vector_facts(70, "binary").width, vector_facts(70).width) == (9, 70)
