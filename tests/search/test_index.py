"""`Index`: exact scores, two stages, conditions, and files that are not an index."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `index_folders`
from index_folders import Floats, made_index, unit_vectors, vector_facts
from lame_runtime import InputError, LameError, StorageError, UsageError
from lame_runtime.contract.vectors import quantize, restore
from lame_runtime.search import Index, hamming
from lame_runtime.search.index_writer import write_index
from lame_runtime.search.nearest import Nearest
from lame_runtime.search.sources.array_source import ArraySource

ROWS: list[dict[str, Any]] = [
    {"id": "a", "path": "x.png", "year": 2019, "share": 0.5, "good": True},
    {"id": "b", "path": "é.png", "year": 2020, "share": None, "good": False},
    {"id": "c", "path": "", "year": 2021, "share": 1.5, "good": True},
    {"id": "d", "path": None, "year": None, "share": 2.5, "good": None},
]


def wanted_rows(vectors: Floats, queries: Floats, most: int) -> Any:
    """Returns the rows in the order of their float64 cosines."""
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    return np.argsort(-scores, axis=1, kind="stable")[:, :most]


@pytest.mark.parametrize("dim", [1, 63, 64, 65, 96, 512])
def test_exact_search_equals_one_product_of_matrices(tmp_path: Path, dim: int) -> None:
    """For lengths around those of words, and over several blocks."""
    vectors = unit_vectors(300, dim)
    queries = unit_vectors(5, dim, 2)
    matches = made_index(tmp_path / "index", vectors).search(queries, top_k=7)
    wanted = np.sort(queries.astype(np.float64) @ vectors.astype(np.float64).T)[:, ::-1][:, :7]
    np.testing.assert_allclose(matches.scores, wanted, atol=1e-6)
    if dim > 1:
        np.testing.assert_array_equal(matches.rows, wanted_rows(vectors, queries, 7))


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_fewer_bits_rank_as_their_restored_values(tmp_path: Path, precision: Any) -> None:
    """The scores are cosines, up to the rounding of the stored values."""
    vectors, queries = unit_vectors(200, 70), unit_vectors(4, 70, 2)
    matches = made_index(tmp_path / "index", vectors, precision).search(queries, top_k=200)
    largest = float(np.abs(vectors).max())
    levels = restore(quantize(vectors, precision, largest), precision, 70)
    scale = 1 / np.sqrt(70) if "binary" in precision else largest / 127
    scores = queries.astype(np.float64) @ levels.astype(np.float64).T * scale
    np.testing.assert_allclose(matches.scores, np.sort(scores)[:, ::-1], atol=1e-6)


@pytest.mark.parametrize("first_stage", ["bits", "prefix"])
def test_two_stages_give_exact_scores_and_almost_all_rows(tmp_path: Path, first_stage: Any) -> None:
    """Recall at 10 of at least .99; with too few candidates it is worse, as a control."""
    vectors, queries = unit_vectors(20_000, 256), unit_vectors(50, 256, 2)
    index = made_index(tmp_path / "index", vectors, prefix=128)
    exact = index.search(queries)
    staged = index.search(queries, first_stage=first_stage)
    assert np.mean(staged.scores >= exact.scores[:, -1:]) >= 0.99
    few = index.search(queries, first_stage=first_stage, candidates=10)
    assert np.mean(few.scores >= exact.scores[:, -1:]) < 0.9
    # a row that both find has the same score to the bit
    for row in range(50):
        scores = dict(zip(exact.rows[row], exact.scores[row], strict=True))
        for number, score in zip(staged.rows[row], staged.scores[row], strict=True):
            assert scores.get(number, score) == score


def test_a_query_alone_gives_what_it_gives_among_others(tmp_path: Path) -> None:
    """To the last bit, for vectors with equal scores too, of which the first row is best."""
    vectors = np.repeat(unit_vectors(50, 32), 3, axis=0)
    queries = unit_vectors(9, 32, 2)
    index = made_index(tmp_path / "index", vectors)
    together = index.search(queries, top_k=8)
    for number, query in enumerate(queries):
        alone = index.search(query, top_k=8)
        np.testing.assert_array_equal(alone.rows[0], together.rows[number])
        np.testing.assert_array_equal(alone.scores[0], together.scores[number])
        assert sorted(alone.rows[0][:3]) == list(alone.rows[0][:3])


@pytest.mark.parametrize("words", [1, 3, 8, 16, 513])
def test_both_ways_to_count_bits_agree(words: int) -> None:
    """NumPy's own count, and the one for versions before 2."""
    rows = np.random.default_rng(0).integers(0, 2**64, (99, words), dtype=np.uint64)
    wanted = np.unpackbits(rows.view(np.uint8), axis=1).sum(axis=1)
    for count_bits in (hamming._count_bits, hamming._count_bits_in_steps):  # noqa: SLF001
        counts = np.empty(rows.shape, dtype=np.uint8)
        count_bits(rows.copy(), counts)
        assert (counts.sum(axis=1, dtype=np.int64) == wanted).all()
    zero = np.zeros((1, words), dtype=np.uint64)
    blocks = list(hamming.distances(rows, zero, None, 0, 99))
    assert np.array_equal(np.concatenate([block[2] for block in blocks]), wanted)


def test_the_best_of_blocks_are_the_best_of_all() -> None:
    """Also if the first block is long, the scores repeat, and two scans are merged."""
    scores = np.random.default_rng(0).integers(0, 50, 1000)
    wanted = np.lexsort((np.arange(1000), -scores))[:20]
    first, second = Nearest(20), Nearest(20)
    for start, end, nearest in ((0, 400, first), (400, 410, first), (410, 1000, second)):
        nearest.add(np.arange(start, end), scores[start:end])
    first.merge(second)
    np.testing.assert_array_equal(first.best()[0], wanted)


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("year>=2020", "bc"),
        ("year != 2020", "ac"),
        ({"year": [2019, 2021]}, "ac"),
        ("path=é.png", "b"),
        ("path=", "c"),
        ("path!=x.png", "bc"),
        ("good=true", "ac"),
        ("share<2", "ac"),
        (["good=true", "share>1"], "c"),
        ("id=d", "d"),
        ("year=1", ""),
    ],
)
def test_rows_meet_the_conditions(tmp_path: Path, where: Any, ids: str) -> None:
    """A row without a value meets none; the first stage sees only rows that do."""
    index = made_index(tmp_path / "index", unit_vectors(4, 8), rows=ROWS)
    for stage in ("none", "bits"):
        matches = index.search(unit_vectors(2, 8, 2), where=where, first_stage=stage)  # type: ignore[arg-type]
        for rows in matches.rows:
            assert sorted(index.row(row)["id"] for row in rows.tolist()) == list(ids)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"where": "nothing=1"}, "does not have: use id"),
        ({"where": "year"}, "write COLUMN=VALUE"),
        ({"where": "year=many"}, "type integer"),
        ({"where": "path>a"}, "compare it with ="),
        ({"where": 3}, "`where` is 3"),
        ({"top_k": 0}, "`top_k` is 0"),
        ({"first_stage": "prefix"}, "an index with prefixes"),
        ({"first_stage": "hnsw"}, "`first_stage` is 'hnsw'"),
        ({"candidates": 0}, "`candidates` is 0"),
        ({"queries": [[1.0] * 7]}, "7 values"),
        ({"queries": [[np.nan] * 8]}, "not finite"),
    ],
)
def test_a_wrong_argument_gets_one_line(
    tmp_path: Path, arguments: dict[str, Any], words: str
) -> None:
    """The line names the argument."""
    index = made_index(tmp_path / "index", unit_vectors(4, 8), rows=ROWS)
    arguments = {"queries": unit_vectors(1, 8), **arguments}
    with pytest.raises(UsageError, match=re.escape(words)):
        index.search(**arguments)


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    """With their types, and with None for what is missing."""
    index = made_index(tmp_path / "index", unit_vectors(4, 8), rows=ROWS)
    assert [index.row(number) for number in range(4)] == [
        {key: row[key] for key in index.columns} for row in ROWS
    ]
    assert index.columns[0] == "id"


def test_another_bundle_or_graph_is_refused(tmp_path: Path) -> None:
    """In one line; its own is accepted."""
    index = made_index(tmp_path / "index", unit_vectors(4, 8))
    index.require_bundle("0" * 64, "fp32")
    with pytest.raises(UsageError, match="of the bundle 000000000000"):
        index.require_bundle("1" * 64, "fp32")
    with pytest.raises(UsageError, match="of the graph fp32, and int8-cpu runs"):
        index.require_bundle("0" * 64, "int8-cpu")


def damage(folder: Path, kind: str) -> None:
    """Damages an index."""
    facts = folder / "index.json"
    if kind == "no facts":
        facts.unlink()
    elif kind == "no JSON":
        facts.write_text("{")
    elif kind == "later format":
        facts.write_text(json.dumps({**json.loads(facts.read_text()), "format": 2}))
    elif kind == "another key":
        facts.write_text(json.dumps({**json.loads(facts.read_text()), "more": 2}))
    elif kind == "cut":
        path = folder / "vectors.npy"
        path.write_bytes(path.read_bytes()[:-1])
    elif kind == "another shape":
        facts.write_text(json.dumps({**json.loads(facts.read_text()), "rows": 5}))
    elif kind == "no column":
        (folder / "column-0.utf8").unlink()


DAMAGES = (
    "no facts", "no JSON", "later format", "another key", "cut", "another shape", "no column",
)  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_index_is_refused_when_it_is_opened(tmp_path: Path, kind: str) -> None:
    """In one line that names the file and a remedy."""
    folder = tmp_path / "index"
    made_index(folder, unit_vectors(4, 8))
    damage(folder, kind)
    with pytest.raises(StorageError, match="index") as error:
        Index.open(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["not unit", "not finite", "no rows", "too few rows", "exists"])
def test_nothing_is_left_of_an_index_that_cannot_be_made(tmp_path: Path, kind: str) -> None:
    """Neither under its name nor under a temporary one; what is there stays."""
    vectors, target = unit_vectors(4, 8), tmp_path / "index"
    if kind == "not unit":
        vectors[2] *= 2
    elif kind == "not finite":
        vectors[2, 0] = np.inf
    elif kind == "no rows":
        vectors = vectors[:0]
    elif kind == "exists":
        target.mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((InputError, StorageError)):
        write_index(
            ArraySource(vectors, [{}] if kind == "too few rows" else None, vector_facts(8)), target
        )
    assert sorted(tmp_path.rglob("*")) == before


def test_errors_are_of_the_one_tree(tmp_path: Path) -> None:
    """A folder that is no index, and one that is missing."""
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(LameError, match="is not an index"):
            Index.open(folder)


@pytest.mark.parametrize("size", [2_000, 1_000_000])
def test_a_long_condition_is_refused_without_a_search(tmp_path: Path, size: int) -> None:
    """One of blanks was once read in a time that grew with the square of its length."""
    index = made_index(tmp_path / "index", unit_vectors(4, 8), rows=ROWS)
    for text in ("a" + " " * size + "b", "path=" + "a" * size):
        if size > 10_000:
            with pytest.raises(UsageError, match="use at most 10,000"):
                index.search(unit_vectors(1, 8), where=text)
        elif "=" in text:
            assert index.search(unit_vectors(1, 8), where=text).rows.shape == (1, 0)


def test_vectors_that_are_not_finite_are_seen(tmp_path: Path) -> None:
    """NaN is nearest to nothing; the row must not be missing without a word."""
    made_index(tmp_path / "index", unit_vectors(4, 8), rows=ROWS)
    path = tmp_path / "index" / "vectors.npy"
    content = bytearray(path.read_bytes())
    content[-4:] = b"\x00\x00\xc0\x7f"
    path.write_bytes(content)
    with pytest.raises(StorageError, match="not finite"):
        Index.open(tmp_path / "index").search(unit_vectors(1, 8), top_k=4)


def test_damaged_places_of_texts_are_seen(tmp_path: Path) -> None:
    """A text is never cut from the bytes of others."""
    made_index(tmp_path / "index", unit_vectors(4, 8), rows=ROWS)
    path = tmp_path / "index" / "column-0.npy"
    content = bytearray(path.read_bytes())
    # the end of the first text, behind that of the second
    content[128 + 8 : 128 + 16] = (3).to_bytes(8, "little")
    path.write_bytes(content)
    index = Index.open(tmp_path / "index")
    for call in (lambda: index.row(1), lambda: index.search(unit_vectors(1, 8), where="id=b")):
        with pytest.raises(StorageError, match="'id' is damaged"):
            call()


def test_large_integers_become_texts(tmp_path: Path) -> None:
    """A column of 64 bits does not hold them."""
    rows = [{"id": "a", "n": 10**20}, {"id": "b", "n": 3}]
    index = made_index(tmp_path / "index", unit_vectors(2, 8), rows=rows)
    assert index.row(0)["n"] == str(10**20)


def test_a_name_without_utf8_is_refused(tmp_path: Path) -> None:
    """The index would be written, and could not be opened."""
    with pytest.raises(InputError, match="has no UTF-8"):
        made_index(tmp_path / "index", unit_vectors(1, 8), rows=[{"id": "a", "\ud800": 1}])
    assert not (tmp_path / "index").exists()
