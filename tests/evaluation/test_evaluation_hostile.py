"""Benchmarks, caches and results as hostile input: nothing outside is read, damage is repaired."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lame_runtime.encoder import Encoder
from lame_runtime.errors import InputError, LameError, StorageError
from lame_training.evaluation import result_files
from lame_training.evaluation.embedding.vector_cache import EmbeddingCache
from lame_training.evaluation.leaderboard import leaderboard_report, means, notes, table
from lame_training.evaluation.mmeb import document_tasks
from lame_training.evaluation.mmeb.mmeb_v2 import mmeb_v2
from lame_training.evaluation.result_files import ResultFolder
from lame_training.evaluation.retrieval import read_rows
from lame_training.evaluation.runner import EvaluationOptions, SuiteRun, run_suite
from lame_training.evaluation.suites import tables
from lame_training.evaluation.suites.tables import place_below, read_table


def run(data: Path, encoder: Encoder, folder: Path, *names: str) -> SuiteRun:
    """Runs tasks of MMEB-V2; the runs of a test share cache and results."""
    options = EvaluationOptions(cache=folder / "cache", output=folder / "out", tasks=names)
    return run_suite(mmeb_v2(), data, encoder, "one", options)


@pytest.fixture
def data(mmeb: Path, tmp_path: Path) -> Path:
    """Returns a copy of MMEB-V2's layout that a test may damage."""
    ignored = shutil.ignore_patterns("video_mret", "video_qa", "video_ret")
    return Path(shutil.copytree(mmeb, tmp_path / "mmeb", ignore=ignored))


def change_rows(path: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Changes the rows of a parquet file."""
    rows = pq.read_table(path).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize("way", ["dots", "absolute", "link", "folder"])
def test_a_picture_outside_is_not_read(way: str, data: Path, fake: Encoder, tmp_path: Path) -> None:
    """Its row is skipped with a reason; the picture is a real one, which could be embedded."""
    pictures = data / "image-tasks/MMEB"
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copyfile(pictures / "VOC2007/Test/0003.png", outside / "p.png")
    (pictures / "link.png").symlink_to(outside / "p.png")
    (pictures / "folder").symlink_to(outside, target_is_directory=True)
    name = {
        "dots": os.path.relpath(outside / "p.png", pictures),
        "absolute": str(outside / "p.png"),
        "link": "link.png",
        "folder": "folder/p.png",
    }[way]
    (path,) = (data / "image-query/VOC2007").glob("*.parquet")
    change_rows(path, lambda rows: rows[3].update(qry_img_path=name))
    result = run(data, fake, tmp_path, "VOC2007").outcomes["VOC2007"].result
    assert result["run"]["skipped_queries"]["count"] == 1
    assert "leads out of" in result["run"]["skipped_queries"]["first"][0]


def test_without_the_check_it_would_be_read(
    data: Path, fake: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is the control: taken out, the guard lets the row through."""
    shutil.copyfile(data / "image-tasks/MMEB/VOC2007/Test/0003.png", tmp_path / "p.png")
    (path,) = (data / "image-query/VOC2007").glob("*.parquet")
    change_rows(path, lambda rows: rows[3].update(qry_img_path=str(tmp_path / "p.png")))
    monkeypatch.setattr(
        "lame_training.evaluation.mmeb.image_tasks.existing",
        lambda folder, name: str(folder / name),
    )
    result = run(data, fake, tmp_path, "VOC2007").outcomes["VOC2007"].result
    assert result["run"]["skipped_queries"]["count"] == 0


def test_the_folder_of_a_layout_may_be_a_link(data: Path, fake: Encoder, tmp_path: Path) -> None:
    """The user put it there; only what rows name must stay below it."""
    (data / "image-tasks").rename(tmp_path / "elsewhere")
    (data / "image-tasks").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    result = run(data, fake, tmp_path, "VOC2007").outcomes["VOC2007"].result
    assert result["run"]["skipped_queries"]["count"] == 0


@pytest.mark.parametrize("name", ["../HMDB51", "/etc", "..", "a\0b", "x/../../y"])
def test_the_name_of_a_video_is_no_way_out(
    name: str, data: Path, fake: Encoder, tmp_path: Path
) -> None:
    """It names a folder of frames and a file."""
    path = next((data / "video-tasks/data").glob("hmdb51*"))
    if path.is_dir():
        (path,) = path.glob("*.parquet")
        change_rows(path, lambda rows: rows[0].update(video_id=name))
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({**row, "video_id": name}) + "\n" for row in rows[:1])
                        + "".join(json.dumps(row) + "\n" for row in rows[1:]))  # fmt: skip
    result = run(data, fake, tmp_path, "HMDB51").outcomes["HMDB51"].result
    assert "leads out of" in result["run"]["skipped_queries"]["first"][0]


WRONG: dict[str, Any] = {
    "number": 3,
    "list": ["a", ["b"]],
    "object": {"a": 1},
    "bool": True,
    "null": None,
    "list of numbers": [1, 2],
    "long": "x" * 100_000,
    "half an emoji": "\ud83d",
}


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
def test_a_cell_of_a_wrong_type_skips_its_row(
    value: Any, data: Path, fake: Encoder, tmp_path: Path
) -> None:
    """In any column of three kinds of tasks; no error but the project's own."""
    folder = data / "video-tasks/data"
    for task, columns in (
        ("HMDB51", ("video_id", "pos_text")),
        ("SmthSmthV2", ("video_id", "pos_text", "neg_text")),
        ("VOC2007", ("qry_inst", "qry_text", "qry_img_path", "tgt_text", "tgt_img_path")),
    ):
        source = {"HMDB51": "hmdb51", "SmthSmthV2": "ssv2"}.get(task)
        place = folder / source if source else data / "image-query" / task
        rows = list(read_table(place, ()))
        for file in tables.table_files(place):
            file.unlink()
        place.mkdir(exist_ok=True)
        for column in columns:
            damaged = [{**rows[0], column: value}, *rows[1:]]
            (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in damaged))
            outcome = run(data, fake, tmp_path / f"{task}{column}", task)
            assert set(outcome.outcomes) | set(outcome.failed) == {task}
            json.dumps(leaderboard_report(outcome, fake, "x"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"a": NaN}',
        b"3",
        b"9" * 5000,
        b'{"a": 1e400',
        b"PAR1" * 9,
    ],
)
def test_garbage_as_a_table_is_one_line(content: bytes, tmp_path: Path) -> None:
    """As parquet, JSON Lines and JSON; the line names the file."""
    for suffix in tables.SUFFIXES:
        path = tmp_path / f"t{suffix}"
        path.write_bytes(content)
        if content or suffix != ".jsonl":
            with pytest.raises(InputError, match=rf"t\{suffix}") as caught:
                list(read_table(path, ("x",)))
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 500


def test_a_pipe_as_a_table_is_refused_at_once(tmp_path: Path) -> None:
    """A folder may hold one; by its own name it counts as missing."""
    for suffix in tables.SUFFIXES:
        (tmp_path / suffix[1:]).mkdir()
        os.mkfifo(tmp_path / suffix[1:] / f"t{suffix}")
        with pytest.raises(StorageError, match="is a pipe"):
            list(read_table(tmp_path / suffix[1:], ()))


@pytest.mark.parametrize("score", [float("inf"), 10**9, "many", None, [1], 1e300])
def test_a_grade_is_a_small_number(score: Any, tmp_path: Path) -> None:
    """NDCG with exponential gains is two to the power of a grade."""
    row = {"query-id": "a", "corpus-id": "b", "score": score}
    (tmp_path / "qrels.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match=r"row 1|not readable"):
        document_tasks.read_grades(tmp_path / "qrels")


ROW = {"qry_inst": "", "qry_text": "a", "qry_img_path": "", "tgt_inst": "",
       "tgt_text": ["b", "c"], "tgt_img_path": ["", ""]}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"qry_img_path": "../p.png"},
        {"qry_img_path": "/etc/p.png"},
        {"qry_img_path": "link.png"},
        {"tgt_img_path": ["", "a\0b.png"]},
        # a text is a sequence of texts, too
        {"tgt_text": "bc", "tgt_img_path": "bc"},
        {"tgt_text": {"b": 1, "c": 2}},
        {"tgt_text": ["b"] * 3},
        {"tgt_text": [["b"], 3]},
        {"qry_text": 3},
        {"qry_text": {"x" * 1000: "y" * 100_000}},
        {"tgt_text": [], "tgt_img_path": []},
    ],
)
def test_a_row_of_the_digits_that_is_none_is_one_line(
    change: dict[str, Any], tmp_path: Path
) -> None:
    """It names file and line, and repeats little of the row."""
    (tmp_path / "p.png").touch()
    root = tmp_path / "root"
    (root / "eval").mkdir(parents=True)
    (root / "link.png").symlink_to(tmp_path / "p.png")
    text = json.dumps(ROW) + "\n" + json.dumps({**ROW, **change}) + "\n"
    (root / "eval/t.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"t\.jsonl, line 2: ") as caught:
        read_rows(root, "t")
    assert len(str(caught.value)) < 500


def shard_bytes(**arrays: Any) -> bytes:
    """Returns the bytes of an .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


KEYS = np.array([f"{number:064}" for number in range(3)])
VECTORS, CUT = np.ones((3, 4), np.float32), np.zeros(3, bool)


def compressed() -> bytes:
    """Returns a shard of a few bytes whose vectors take 400 MB."""
    header = shard_bytes(keys=KEYS, vectors=np.zeros((0, 4), np.float32), cut=CUT)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(header)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "vectors.npy":
                content = content.replace(b"(0, 4)", b"(25000000, 4)") + bytes(400_000_000)
            new.writestr(name, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def flipped() -> bytes:
    """Returns a shard with one bit of a vector changed; only its checksum can tell."""
    content = bytearray(shard_bytes(keys=KEYS, vectors=VECTORS, cut=CUT))
    content[bytes(content).index(VECTORS.tobytes()) + 2] ^= 1
    return bytes(content)


def claiming() -> bytes:
    """Returns a shard whose header claims 48 terabytes of vectors."""
    content = shard_bytes(keys=KEYS, vectors=VECTORS, cut=CUT)
    claim = b"(3000000000000, 4), }"
    start = content.index(b"(3, 4), }")
    return content[:start] + claim + content[start + len(claim) :]


def encrypted() -> bytes:
    """Returns a shard whose members have the flag of encryption, in both of their headers."""
    content = bytearray(shard_bytes(keys=KEYS, vectors=VECTORS, cut=CUT))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for match in re.finditer(re.escape(signature), bytes(content)):
            content[match.start() + offset] |= 1
    return bytes(content)


SHARDS: dict[str, Callable[[], bytes]] = {
    "a claim of terabytes": claiming,
    "encrypted": encrypted,
    "nothing": lambda: b"",
    "garbage": lambda: b"PK\x03\x04" + bytes(range(256)),
    "cut": lambda: shard_bytes(keys=KEYS, vectors=VECTORS, cut=CUT)[:-40],
    "one bit": flipped,
    "compressed": compressed,
    "a pickle": lambda: shard_bytes(keys=KEYS, vectors=np.array([{}] * 3, object), cut=CUT),
    "keys that are a pickle": lambda: shard_bytes(
        keys=np.array(list(KEYS), object), vectors=VECTORS, cut=CUT
    ),
    "no vectors": lambda: shard_bytes(keys=KEYS, cut=CUT),
    "fewer vectors": lambda: shard_bytes(keys=KEYS, vectors=VECTORS[:2], cut=CUT),
    "longer vectors": lambda: shard_bytes(keys=KEYS, vectors=np.ones((3, 5), "f4"), cut=CUT),
    "float64": lambda: shard_bytes(keys=KEYS, vectors=VECTORS.astype(np.float64), cut=CUT),
    "one number": lambda: shard_bytes(keys=KEYS, vectors=np.float32(1), cut=CUT),
    "no numbers": lambda: shard_bytes(keys=KEYS, vectors=VECTORS * np.float32("nan"), cut=CUT),
    "fewer flags": lambda: shard_bytes(keys=KEYS, vectors=VECTORS, cut=CUT[:2]),
    "flags that are none": lambda: shard_bytes(keys=KEYS, vectors=VECTORS, cut=np.arange(3)),
    "keys that are numbers": lambda: shard_bytes(keys=np.arange(3), vectors=VECTORS, cut=CUT),
    "keys in rows": lambda: shard_bytes(keys=KEYS[:, None], vectors=VECTORS, cut=CUT),
}


@pytest.mark.parametrize("content", SHARDS.values(), ids=SHARDS)
def test_a_damaged_or_foreign_shard_counts_as_missing(
    content: Callable[[], bytes], tmp_path: Path
) -> None:
    """Nothing of it is used, no code runs, and the shard beside it still counts."""
    cache = EmbeddingCache(tmp_path, 4)
    cache.put([f"{9:064}"], VECTORS[:1], CUT[:1])
    (tmp_path / "bad.npz").write_bytes(content())
    opened = EmbeddingCache(tmp_path, 4)
    assert [key for key in KEYS.tolist() if key in opened] == []
    assert opened.unreadable == [tmp_path / "bad.npz"]
    assert f"{9:064}" in opened
    assert opened.get([f"{9:064}"]).tolist() == [[1.0] * 4]


def test_a_whole_shard_counts(tmp_path: Path) -> None:
    """This is the control of the test above."""
    (tmp_path / "good.npz").write_bytes(shard_bytes(keys=KEYS, vectors=VECTORS, cut=CUT))
    opened = EmbeddingCache(tmp_path, 4)
    assert all(key in opened for key in KEYS.tolist())
    assert not opened.unreadable
    # without the length of the model's vectors, those of another model would be put together
    assert KEYS[0] not in EmbeddingCache(tmp_path, 5)


def test_memory_that_runs_out_is_no_damaged_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with that error, instead of embedding everything again."""
    (tmp_path / "good.npz").write_bytes(shard_bytes(keys=KEYS, vectors=VECTORS, cut=CUT))

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np.lib.format, "read_magic", full)
    with pytest.raises(MemoryError):
        EmbeddingCache(tmp_path, 4)


def test_a_pipe_as_a_shard_counts_as_missing(tmp_path: Path) -> None:
    """Nothing waits for it."""
    os.mkfifo(tmp_path / "pipe.npz")
    assert EmbeddingCache(tmp_path, 4).unreadable == [tmp_path / "pipe.npz"]


def test_a_shard_that_is_damaged_inside_is_embedded_again(
    data: Path, fake: Encoder, tmp_path: Path
) -> None:
    """A changed bit of a vector is noticed before the figures are, and costs its shard only."""
    first = run(data, fake, tmp_path, "VOC2007")
    for shard in (tmp_path / "cache/embeddings/one").iterdir():
        content = bytearray(shard.read_bytes())
        content[content.index(b"vectors.npy") + 200] ^= 1
        shard.write_bytes(content)
    shutil.rmtree(tmp_path / "out")
    again = run(data, fake, tmp_path, "VOC2007")
    assert again.counts.embedded == first.counts.embedded
    assert again.outcomes["VOC2007"].result == first.outcomes["VOC2007"].result


RESULTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no figure": lambda result: result.pop("hit@1"),
    "a figure that is a text": lambda result: result.update({"hit@1": "1.0"}),
    "a figure above 1": lambda result: result.update({"hit@1": 7}),
    "a figure that is a bool": lambda result: result.update({"hit@1": True}),
    "no count": lambda result: result.pop("num_pred"),
    "a count that is a text": lambda result: result.update(num_pred="8"),
    "no chance": lambda result: result["run"].pop("chance"),
    "parts of another task": lambda result: result["run"].update(parts={"x": {"hit@1": 1}}),
    "parts that are a list": lambda result: result["run"].update(parts=[1]),
    "no reasons": lambda result: result["run"].update(skipped_queries={"count": 3, "first": []}),
    "reasons that are numbers": lambda result: result["run"].update(
        missing_documents={"count": 1, "first": [1]}
    ),
    "data that are a number": lambda result: result["run"].update(data=3),
    "another version": lambda result: result["run"].update(version=99),
    "no run": lambda result: result.update(run=None),
}


@pytest.mark.parametrize("change", RESULTS.values(), ids=RESULTS)
def test_a_damaged_result_is_measured_again(
    change: Callable[[dict[str, Any]], object], data: Path, fake: Encoder, tmp_path: Path
) -> None:
    """With the task's data it is replaced; as another task's earlier result it does not count."""
    whole = run(data, fake, tmp_path, "VOC2007").outcomes["VOC2007"].result
    path = tmp_path / "out/image/VOC2007_score.json"
    damaged = json.loads(path.read_text())
    change(damaged)
    path.write_text(json.dumps(damaged))
    other = run(data, fake, tmp_path, "HMDB51")
    assert "VOC2007" in other.missing
    again = run(data, fake, tmp_path, "VOC2007")
    assert again.outcomes["VOC2007"].result == whole == json.loads(path.read_text())
    assert not again.reused
    assert [*table(again), *means(again), *notes(again)]


def test_without_the_check_a_damaged_result_is_reported(
    data: Path, fake: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: taken out, a figure of 700 % goes into the means."""
    run(data, fake, tmp_path, "VOC2007")
    path = tmp_path / "out/image/VOC2007_score.json"
    damaged = json.loads(path.read_text())
    RESULTS["a figure above 1"](damaged)
    path.write_text(json.dumps(damaged))
    monkeypatch.setattr(result_files, "_is_whole", lambda *_: True)
    again = run(data, fake, tmp_path, "VOC2007")
    assert again.reused
    assert again.outcomes["VOC2007"].figures == {"VOC2007": 7}


@pytest.mark.parametrize("text", ["", "{", "[" * 50_000, "null", "3", '{"run": NaN}', "\x00"])
def test_garbage_as_a_result_is_measured_again(text: str, tmp_path: Path) -> None:
    """The file is read without an error, and counts as absent."""
    suite = mmeb_v2()
    spec = next(spec for spec in suite.specs if spec.name == "VOC2007")
    (tmp_path / "image").mkdir()
    (tmp_path / "image/VOC2007_score.json").write_text(text)
    assert ResultFolder(suite, "one", None, tmp_path).read(spec) is None


@pytest.mark.parametrize(
    "text",
    ["", "[" * 50_000, "null", "[]", '{"metadata": 3}', '{"metadata": {"suite": ["mmeb-v2"]}}',
     '{"metadata": {"suite": "mmeb-v2", "visdoc_convention": {}}}'],
)  # fmt: skip
def test_garbage_as_a_report_is_not_written_over(text: str, tmp_path: Path) -> None:
    """It may be something else that the user keeps in this folder."""
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(LameError, match=r"report\.json"):
        ResultFolder(mmeb_v2(), "one", None, tmp_path).check_convention()


def test_a_place_below_a_folder(tmp_path: Path) -> None:
    """The folder itself, siblings that begin like it, and names that are none lead out of it."""
    folder = tmp_path / "a"
    folder.mkdir()
    assert place_below(folder, "b/../c.png") == folder / "b/../c.png"
    for name in ("..", ".", "../ab/c", "../a", "\0", "/"):
        with pytest.raises(ValueError, match="leads out of"):
            place_below(folder, name)
