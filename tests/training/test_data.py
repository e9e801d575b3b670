"""Training data: every format is read lazily, nothing is left out in silence, what is wrong is said in one line."""

from __future__ import annotations

import errno
import json
import pickle
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lame_runtime.contract import Input, Preparer
from lame_runtime.contract.prompts import Picture, Video
from lame_runtime.errors import InputError
from lame_training.data import DataSet, Rows, data_sets, describe, open_rows, read_mixture, read_pairs, row_files
from lame_training.fixtures.training import LAYOUTS, write_training
from PIL import Image

PICTURE = Image.new("L", (28, 28))
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every published layout, and the mixture that names them."""
    root = tmp_path_factory.mktemp("published") / "data"
    write_training(root)
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may be looked up or downloaded."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def mmeb(root: Path, *rows: dict[str, Any], name: str = "x", pictures: tuple[str, ...] = ()) -> Path:
    """Writes `ROOT/train/NAME.parquet` and pictures."""
    empty = {"qry": "", "qry_image_path": "", "pos_text": "", "pos_image_path": ""}
    (root / "train").mkdir(parents=True, exist_ok=True)
    path = root / f"train/{name}.parquet"
    pq.write_table(pa.Table.from_pylist([{**empty, **row} for row in rows]), path)
    for picture in pictures:
        (root / picture).parent.mkdir(parents=True, exist_ok=True)
        PICTURE.save(root / picture)
    return path


def pages(path: Path, *pictures: bytes | None) -> None:
    """Writes a shard of embedded pages."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"query": f"page {n}", "image": {"bytes": data, "path": None}} for n, data in enumerate(pictures)]
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema([("query", pa.string()), ("image", STRUCT)])), path)


def jsonl(root: Path, *rows: Any, name: str = "own.jsonl") -> DataSet:
    """Writes our own JSONL and returns its data set."""
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return DataSet("own", "positive", format="jsonl", path=(name,))


def mixture(root: Path, text: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "mixture.yaml").write_text(text, encoding="utf-8")
    return root / "mixture.yaml"


def test_a_mixture_in_the_root_is_found_and_every_layout_it_names_is_read(published: Path, cache: Path) -> None:
    """Modalities, decoding sides and hard negatives of the ten data sets; the files are the published ones' names."""
    found = {each.name: open_rows(published, each, cache)[0] for each in data_sets(published)}
    assert {name: (pair.query.modality, pair.positive.modality) for name, pair in found.items()} == {
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
    sides = {name: (pair.query_decodes is not None, pair.positive_decodes is not None) for name, pair in found.items()}
    assert {name for name, side in sides.items() if side == (False, True)} == {
        *("MSCOCO_t2i", "VisDial", "colpali", "visrag", "video-retrieval"),
    }
    assert sides["NIGHTS"] == (False, False)
    assert {name for name, pair in found.items() if pair.negatives} == {"A-OKVQA", "VisDial", "NIGHTS"}


def test_every_published_layout_can_be_prepared(published: Path, cache: Path, preparer: Preparer) -> None:
    """Paths, embedded bytes and frames: the contract reads them all."""
    for each in data_sets(published):
        pair = open_rows(published, each, cache)[-1]
        for item in (pair.query, pair.positive, *pair.negatives):
            assert preparer(item, "query").ids.size


def test_a_checkout_of_mmeb_train_needs_no_mixture(published: Path, cache: Path) -> None:
    """Its `original` split; known subsets decode what their pictures were asked for, without the instruction."""
    root = published / "MMEB-train"
    found = {each.name: each for each in data_sets(root)}
    assert list(found) == ["A-OKVQA", "ImageNet_1K", "MSCOCO_t2i", "NIGHTS", "VisDial"]
    assert [path.name for path in row_files(root, found["VisDial"])] == ["original-00000-of-00001.parquet"]
    pair = open_rows(root, found["MSCOCO_t2i"], cache)[0]
    assert pair.query.text == f"Find me an everyday image that matches the given caption: {pair.positive_decodes}"
    assert pair.positive_decodes is not None
    assert pair.positive_decodes.startswith("digits that add up to")
    (diverse,) = read_mixture(mixture(root / "other", "data_sets: [{name: A-OKVQA, split: diverse_instruction}]"), root)
    assert open_rows(root, diverse, cache)[0].query.text.startswith("Look at the image")


def test_a_root_of_single_files_needs_no_mixture(data: Path, cache: Path) -> None:
    """The digits."""
    found = data_sets(data)
    assert {"digit", "find2", "sum3"} <= {each.name for each in found}
    assert all(len(open_rows(data, each, cache)) for each in found)


def test_hard_negatives_are_texts_pictures_or_lists_of_both(tmp_path: Path) -> None:
    """A picture without a text takes the positive's fixed sentence, which would otherwise tell it apart."""
    fixed = {"qry": "q", "pos_text": "<|image_1|>\nRepresent the given image.\n", "pos_image_path": "a.png"}
    mmeb(
        tmp_path,
        {**fixed, "neg_text": ["", ""], "neg_image_path": ["b.png", ""]},
        {**fixed, "pos_image_path": "b.png"},
        pictures=("a.png", "b.png"),
    )
    first, second = read_pairs(tmp_path, DataSet("x", "none"))
    assert first.negatives == (Input("Represent the given image.", str(tmp_path / "b.png")),)
    assert second.negatives == ()
    mmeb(tmp_path, {"qry": "q", "pos_text": "a", "neg_text": ["b", "", "c"]}, {"qry": "r", "pos_text": "d", "neg_text": []}, name="y")
    first, second = read_pairs(tmp_path, DataSet("y", "none"))
    assert first.negatives == (Input("b"), Input("c"))
    assert second.negatives == ()
    mmeb(tmp_path, {"qry": "q", "pos_text": "a", "neg_text": ["b"], "neg_image_path": ["b.png", "b.png"]}, name="z")
    with pytest.raises(InputError, match=r"z\.parquet, row 1: has 1 neg_text for 2 neg_image_path"):
        read_pairs(tmp_path, DataSet("z", "none"))


def test_what_is_left_out_is_counted_and_said_in_one_line(tmp_path: Path, cache: Path) -> None:
    """By reason, with the first missing picture."""
    rows: list[dict[str, Any]] = [{"qry": "q", "pos_text": str(n)} for n in range(1200)]
    rows[7] = {"pos_text": "no query"}
    rows[8] = {"qry": "no positive", "pos_text": "<|image_1|>\n"}
    rows[9] = {"qry": "q", "pos_text": "p", "qry_image_path": "images/gone.png"}
    rows[1100] = {"qry": "q", "pos_text": "p", "pos_image_path": "nowhere/gone.png"}
    rows[1101] = {"qry": "q", "pos_text": "p", "pos_image_path": "images\\here.png"}
    mmeb(tmp_path, *rows, pictures=("images/here.png",))
    opened = open_rows(tmp_path, DataSet("x", "positive"), cache)
    assert opened.skipped == Counter({"picture missing": 3, "empty query": 1, "empty positive": 1})
    first = tmp_path / "images/gone.png"
    assert describe(opened) == f"x: 1,195 rows (5 skipped: 3 picture missing (first: {first}), 1 empty positive, 1 empty query)"
    assert [pair.positive.text for pair in opened[6:8]] == ["6", "10"]
    assert opened[-1].positive.text == "1199"
    with pytest.raises(IndexError):
        opened[1195]


def test_a_picture_that_cannot_be_decoded_is_not_noticed_while_opening(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening decodes nothing; rows without any bytes are counted."""
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("a picture was decoded"))
    pages(tmp_path / "data/train-0.parquet", b"\x89PNG truncated", b"no picture at all", None, b"")
    opened = open_rows(tmp_path, DataSet("pages", "query", format="colpali", path=("data",)), cache)
    assert opened.skipped == Counter({"empty positive": 2})
    assert opened[0].positive == Input(image=b"\x89PNG truncated")
    assert opened[0].positive_decodes == "page 0"


def test_opening_does_not_read_embedded_pictures(tmp_path: Path, cache: Path) -> None:
    """Once the Arrow copy exists, looking at 16 MB of pictures in two shards allocates next to nothing."""
    for shard in range(2):
        pages(tmp_path / f"data/train-{shard}.parquet", *(bytes([n]) * 200_000 for n in range(40)))
    each = DataSet("pages", "query", format="visrag", path=("data/train-*.parquet",))
    assert len(open_rows(tmp_path, each, cache)) == 80
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    try:
        assert len(open_rows(tmp_path, each, cache)) == 80
    finally:
        pa.set_memory_pool(before)
    assert pool.max_memory() < 1_000_000


def test_positives_that_are_all_the_same_are_refused(tmp_path: Path, cache: Path) -> None:
    """One class: whether text, or embedded pictures; pictures of one size that differ are many classes."""
    mmeb(tmp_path, {"qry": "a", "pos_text": "yes"}, {"qry": "b", "pos_text": " yes "}, {"qry": "", "pos_text": "no"})
    with pytest.raises(InputError, match=r"x\.parquet: all 2 positives are the same, .* leave x out"):
        open_rows(tmp_path, DataSet("x", "positive"), cache)
    each = DataSet("pages", "query", format="colpali", path=("pages.parquet",))
    pages(tmp_path / "pages.parquet", b"same", b"same", b"same")
    with pytest.raises(InputError, match="all 3 positives are the same"):
        open_rows(tmp_path, each, cache)
    pages(tmp_path / "pages.parquet", b"same", b"same", b"else")
    assert len(open_rows(tmp_path, each, cache)) == 3


def test_max_rows_takes_the_same_rows_spread_over_the_set(tmp_path: Path, cache: Path) -> None:
    """Files are often sorted by class, so not the first ones."""
    mmeb(tmp_path, *({"qry": "q", "pos_text": str(n)} for n in range(100)))
    opened = open_rows(tmp_path, DataSet("x", "none", max_rows=4), cache)
    assert [pair.positive.text for pair in opened] == ["0", "25", "50", "75"]
    assert str(opened) == "x: 4 of 100 rows"
    assert len(open_rows(tmp_path, DataSet("x", "none", max_rows=1000), cache)) == 100


def test_rows_that_changed_are_read_anew(tmp_path: Path, cache: Path) -> None:
    """The Arrow copy belongs to the file as it was."""
    for word in ("one", "two"):
        mmeb(tmp_path, {"qry": "q", "pos_text": word}, {"qry": "q", "pos_text": "other"})
        assert open_rows(tmp_path, DataSet("x", "none"), cache)[0].positive.text == word
        own = jsonl(tmp_path, {"query": "q", "positive": word}, {"query": "q", "positive": "other"})
        assert open_rows(tmp_path, own, cache)[0].positive.text == word


def test_rows_can_be_sent_to_another_process(published: Path, cache: Path) -> None:
    """As a loader's workers need."""
    for each in data_sets(published):
        opened = open_rows(published, each, cache)
        copy: Rows = pickle.loads(pickle.dumps(opened))
        assert copy[5] == opened[5]
        assert describe(copy) == describe(opened)


def test_without_a_cache_the_copy_goes_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is left behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    mmeb(tmp_path, {"qry": "q", "pos_text": "a"}, {"qry": "q", "pos_text": "b"})
    opened = open_rows(tmp_path, DataSet("x", "none"))
    assert list((tmp_path / "temporary").iterdir())
    assert opened[1].positive.text == "b"
    del opened
    assert not list((tmp_path / "temporary").iterdir())


def test_our_own_lines_hold_any_input_and_may_name_the_texts_to_decode(tmp_path: Path, cache: Path) -> None:
    """Texts, pictures, videos, interleaved content; unicode as it is; a blank line is counted."""
    line = "a\u2028b 🙂 ünï"
    own = jsonl(
        tmp_path,
        {"query": {"image": "a.png", "text": "<|image_1|>\nwhat?"}, "positive": line, "negatives": ["no", {"image": "b.png"}, ""]},
        {"query": {"content": ["from", {"image": "a.png"}, "to"]}, "positive": {"image": "b.png"}, "positive_decodes": "moved"},
        {"query": {"video": ["a.png", "b.png"], "fps": 2}, "positive": "two", "query_decodes": None},
        {"query": {"video": "gone.mp4"}, "positive": "gone"},
        {"query": None, "positive": "nothing"},
    )
    text = (tmp_path / "own.jsonl").read_text(encoding="utf-8")
    (tmp_path / "own.jsonl").write_text("\ufeff" + text + "\n", encoding="utf-8")
    for picture in ("a.png", "b.png"):
        PICTURE.save(tmp_path / picture)
    opened = open_rows(tmp_path, own, cache)
    assert opened.skipped == Counter({"video missing": 1, "empty query": 1, "blank line": 1})
    a, b = str(tmp_path / "a.png"), str(tmp_path / "b.png")
    assert opened[0].query.parts == (Picture(a), "what?")
    assert (opened[0].positive.text, opened[0].query_decodes) == (line, line)
    assert [negative.parts for negative in opened[0].negatives] == [("no",), (Picture(b),)]
    assert opened[1].query.parts == ("from", Picture(a), "to")
    assert (opened[1].query_decodes, opened[1].positive_decodes) == (None, "moved")
    assert opened[2].query.parts == (Video((a, b), 2.0),)
    assert opened[2].query_decodes is None


def test_an_instruction_is_put_before_queries_that_hold_none(tmp_path: Path, cache: Path) -> None:
    """And is not decoded."""
    own = jsonl(tmp_path, {"query": "a", "positive": "b"}, {"query": {"text": "c", "instruction": "Mine."}, "positive": "d"})
    each = DataSet("own", "both", instruction="Find it.", format="jsonl", path=own.path)
    first, second = open_rows(tmp_path, each, cache)
    assert (first.query, first.positive_decodes) == (Input("a", instruction="Find it."), "a")
    assert second.query.instruction == "Mine."


def test_json_lists_and_saved_data_sets_are_read_too(tmp_path: Path, cache: Path) -> None:
    """A `.json` with a list of objects, and the folder that `save_to_disk` writes, of one set or of a dict with `train`."""
    from datasets import Dataset, DatasetDict, disable_progress_bars

    rows = [{"query": "a", "positive": "2020-01-01"}, {"query": {"text": "b"}, "positive": "c"}]
    (tmp_path / "own.json").write_text(json.dumps(rows), encoding="utf-8")
    own = DataSet("own", "positive", format="jsonl", path=("own.json",))
    assert [pair.query_decodes for pair in open_rows(tmp_path, own, cache)] == ["2020-01-01", "c"]
    disable_progress_bars()
    saved = Dataset.from_dict(
        {"qry": ["a", "b"], "qry_image_path": ["", ""], "pos_text": ["c", "d"], "pos_image_path": ["", ""], "more": [1, 2]}
    )
    saved.save_to_disk(str(tmp_path / "saved"))
    DatasetDict({"train": saved}).save_to_disk(str(tmp_path / "dict"))
    for folder in ("saved", "dict"):
        assert [pair.positive.text for pair in open_rows(tmp_path, DataSet("own", "none", path=(folder,)), cache)] == ["c", "d"]


def test_a_path_may_be_a_file_a_folder_or_a_glob_in_any_folder(tmp_path: Path, cache: Path) -> None:
    """Shards in the order of their names, an empty one among them, in a folder whose name looks like a pattern."""
    root = tmp_path / "a[1] *"
    for name, words in (("s-2", ["c"]), ("s-0", ["a", "b"]), ("s-1", [])):
        rows = [{"qry": "q", "qry_image_path": None, "pos_text": word, "pos_image_path": None} for word in words]
        schema = pa.schema([(name, pa.string()) for name in ("qry", "qry_image_path", "pos_text", "pos_image_path")])
        (root / "f").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), root / f"f/{name}.parquet")
    for path in (("f",), ("f/s-*.parquet",), ("**/*.parquet",), ("f/s-0.parquet", "f/s-2.parquet"), (str(root / "f"),)):
        each = DataSet("f", "none", path=path)
        assert [pair.positive.text for pair in open_rows(root, each, cache)] == ["a", "b", "c"], path
    assert [file.name for file in row_files(root, DataSet("f", "none", path=("f",)))] == ["s-0.parquet", "s-1.parquet", "s-2.parquet"]


def test_frames_of_a_video_are_taken_in_order_and_evenly(tmp_path: Path, cache: Path) -> None:
    """By the numbers in their names, eight of many and all of few; a video without frames is counted."""
    for video, count in (("long", 15), ("short", 3), ("empty", 0)):
        (tmp_path / "frames" / video).mkdir(parents=True)
        for number in range(count):
            (tmp_path / f"frames/{video}/f{number}.jpeg").touch()
        (tmp_path / f"frames/{video}/notes.txt").touch()
    talks = [
        {
            "id": n,
            "video": video,
            "conversations": [{"from": "human", "value": f"{ask}"}, {"from": "gpt", "value": f"about {video}"}][:turns],
        }
        for n, (video, ask, turns) in enumerate(
            [("long", "<video>\nWhat?", 2), ("short", "What?\n<video>", 2), ("empty", "", 2), ("gone", "", 2), ("long", "", 1), ("", "", 2)]
        )
    ]
    jsonl(tmp_path, *talks)
    each = DataSet("v", "positive", format="llava-hound-qa", path=("own.jsonl",), images="frames")
    opened = open_rows(tmp_path, each, cache)
    assert opened.skipped == Counter({"video missing": 2, "no answer": 1, "empty video": 1})
    assert [pair.query.text for pair in opened] == ["What?", "What?"]
    numbers = [[int(Path(str(f)).stem[1:]) for f in pair.query.video.source] for pair in opened if pair.query.video]  # type: ignore[union-attr]
    assert numbers == [[0, 2, 4, 6, 8, 10, 12, 14], [0, 1, 2]]
    found = open_rows(tmp_path, DataSet("v", "query", format="llava-hound-video", path=("own.jsonl",), images="frames"), cache)
    assert (found[1].query.text, found[1].positive.modality, found[1].positive_decodes) == ("about short", "video", "about short")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda root: mmeb(root, {"qry": "q", "pos_text": "p", "qry_image_path": "../../etc/passwd"}), "row 1: .*lies outside"),
        (lambda root: mmeb(root, {"qry": "q", "pos_text": "p", "pos_image_path": "/etc/passwd"}), "row 1: /etc/passwd lies outside"),
        (lambda root: mmeb(root, {"qry": "q", "pos_text": "p", "neg_image_path": "a/../../b.png"}), "row 1: .*lies outside"),
        (lambda root: mmeb(root, {"qry": "", "pos_text": "p"}), "no row that can be trained on .1 skipped: 1 empty query"),
        (lambda root: mmeb(root, {"qry": "q", "pos_text": "p", "qry_image_path": "a.png"}), "1 picture missing .first: .*a.png"),
        (lambda root: mmeb(root, {"qry": "q", "pos_text": ["p"]}), r"row 1: holds \['p'\] and '' where a text and a path belong"),
        (lambda root: mmeb(root), "lacks the column qry|holds no row"),
        (lambda root: mmeb(root, {"qry": "q"}).write_bytes(b"PAR1 and then nothing"), "not a readable parquet file"),
        (lambda root: _cut(mmeb(root, {"qry": "q" * 9999, "pos_text": "p"})), "cannot be read|not a readable"),
        (lambda root: None, "no such file; --data must name a folder with train/x.parquet or x/original-"),
    ],
)
def test_unusable_rows_are_one_line_that_names_the_file(write: Callable[[Path], Any], message: str, tmp_path: Path, cache: Path) -> None:
    """Missing, damaged, of another shape, or leading out of the data."""
    write(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        open_rows(tmp_path, DataSet("x", "positive"), cache)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def _cut(path: Path) -> None:
    """Overwrites the pages of a parquet file and leaves its footer whole."""
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\xff" * 60 + data[64:])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{]\n", "row 1: not JSON"),
        (b'{"query": "a", "positive": "b"}\n[1]\n', "row 2: a list; write one JSON object per line"),
        (b'{"query": "a"}\n', "row 1: lacks 'positive'"),
        (b'{"query": "a", "positive": "b", "negative": ["c"]}\n', "row 1: unknown key 'negative'"),
        (b'{"query": "a", "positive": "b", "negatives": "c"}\n', "row 1: `negatives` must be a list"),
        (b'{"query": 1, "positive": "b"}\n', "row 1: a int is not an input"),
        (b'{"query": "a", "positive": "b", "query_decodes": 1}\n', "row 1: `query_decodes` must be a text"),
        (b'{"query": {"image": "/etc/passwd"}, "positive": "b"}\n', "row 1: /etc/passwd lies outside"),
        (b'{"query": {"video": ["../a.png"]}, "positive": "b"}\n', "row 1: .*lies outside"),
        (b"", "holds no row"),
        (b"\xff\xfe\x00", "cannot be read .*codec"),
    ],
)
def test_unusable_lines_are_one_line_that_names_the_file(content: bytes, message: str, tmp_path: Path, cache: Path) -> None:
    """With the number of the line."""
    (tmp_path / "own.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=rf"own\.jsonl.*{message}") as caught:
        open_rows(tmp_path, DataSet("own", "positive", format="jsonl", path=("own.jsonl",)), cache)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("each", "message"),
    [
        (DataSet("x", "none", format="csv"), "x: unknown format 'csv'; formats are mmeb"),
        (DataSet("x", "none", path=("train/*.txt",)), r"train/\*\.txt: no such file"),
        (DataSet("x", "none", path=("notes.txt",)), r"notes\.txt: not a kind of file that is read"),
        (DataSet("x", "none", path=("train/x.parquet", "own.jsonl")), "several kinds"),
        (DataSet("x", "none", format="colpali", path=("train/x.parquet",)), "lacks the column query; rows of format colpali"),
        (DataSet("x", "none", path=("folder",)), "folder: no such file"),
    ],
)
def test_a_data_set_that_cannot_be_opened_says_why(each: DataSet, message: str, tmp_path: Path, cache: Path) -> None:
    """One line."""
    mmeb(tmp_path, {"qry": "q", "pos_text": "p"})
    jsonl(tmp_path, {"query": "a", "positive": "b"})
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=message):
        open_rows(tmp_path, each, cache)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Not the data."""
    mmeb(tmp_path, {"qry": "q", "pos_text": "p"})
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/cache: cannot be written"):
        open_rows(tmp_path, DataSet("x", "none"), tmp_path / "file/cache")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError("Not enough disk space. Needed: 3 GiB")])
def test_a_full_disk_is_not_blamed_on_the_data(error: OSError, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system says it, and as the library does."""
    import datasets

    def full(*_: object, **__: object) -> None:
        raise error

    mmeb(tmp_path, {"qry": "q", "pos_text": "p"})
    monkeypatch.setattr(datasets.Dataset, "from_parquet", full)
    with pytest.raises(InputError, match=rf"^{cache}.*: cannot be written \((No space|Not enough)"):
        open_rows(tmp_path, DataSet("x", "none"), cache)


def test_a_mixture_says_everything_a_data_set_needs(tmp_path: Path) -> None:
    """All keys, and the defaults of format and subset."""
    mmeb(tmp_path, {"qry": "q", "pos_text": "p"}, name="MSCOCO_t2i")
    jsonl(tmp_path, {"query": "a", "positive": "b"})
    text = """
data_sets:
  - {name: all, format: jsonl, path: [own.jsonl], images: pictures, weight: 0.5, target_side: both,
     instruction: Find it., begins: 0.25, max_rows: 7}
  - {name: MSCOCO_t2i}
  - {name: pages, format: colpali, path: own.jsonl}
"""
    assert data_sets(tmp_path, mixture(tmp_path / "elsewhere", text)) == (
        DataSet("all", "both", 0.5, "Find it.", 0.25, "jsonl", ("own.jsonl",), "pictures", 7),
        DataSet("MSCOCO_t2i", "query", 1.0, "Find me an everyday image that matches the given caption:"),
        DataSet("pages", "query", format="colpali", path=("own.jsonl",)),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", r"mixture\.yaml: not YAML that can be read .line 1: "),
        ("- name: x", "must hold one key, data_sets"),
        ("data_sets: []", "lists no data set"),
        ("data_sets: [x]", r"entry 1: must have keys .* not be 'x'"),
        ("data_sets: [{path: x}]", "entry 1: has no name"),
        ("data_sets: [{name: x, wieght: 2}]", r"entry 1 \(x\): unknown key 'wieght'; keys are name"),
        ("data_sets: [{name: x, weight: 2, weight: 3}]", "line 1: the key 'weight' occurs twice"),
        ("data_sets: [{name: x, format: csv}]", r"\(x\): unknown format 'csv'; formats are mmeb, colpali"),
        ("data_sets: [{name: x}, {name: nonesuch}]", r"entry 2 \(nonesuch\): unknown data set: it has no path, and .* holds x$"),
        ("data_sets: [{name: y, path: gone/*.parquet}]", r"entry 1 \(y\): .*gone/\*\.parquet: no such file"),
        ("data_sets: [{name: x, weight: -1}]", "weight is -1; use a number above 0"),
        ("data_sets: [{name: x, weight: .nan}]", "weight is nan; use a number"),
        ("data_sets: [{name: x, weight: heavy}]", "weight is 'heavy'; use a number"),
        ("data_sets: [{name: x, begins: 1}]", "begins is 1; use the share"),
        ("data_sets: [{name: x, target_side: left}]", "target_side is 'left'; use positive, query, both, shared, none"),
        ("data_sets: [{name: x, target_side: [query]}]", r"target_side is \['query'\]"),
        ("data_sets: [{name: x, max_rows: 0}]", "max_rows is 0; use a whole number above 0"),
        ("data_sets: [{name: x, split: test}]", "split is 'test'; it is original or diverse_instruction"),
        ("data_sets: [{name: x, path: 3}]", "path is 3; use a path"),
        ("data_sets: [{name: x}, {name: x}]", r"entry 2 \(x\): this name occurs twice"),
        ("data_sets: [{name: x, instruction: 3}]", "instruction is 3; use a text"),
    ],
)
def test_an_unusable_mixture_is_one_line_that_names_file_and_entry(text: str, message: str, tmp_path: Path) -> None:
    """Nothing in it is ignored."""
    mmeb(tmp_path, {"qry": "q", "pos_text": "p"})
    path = mixture(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        data_sets(tmp_path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_mixture_and_an_empty_root_are_named(tmp_path: Path) -> None:
    """One line each."""
    with pytest.raises(InputError, match=r"gone\.yaml: cannot be read"):
        data_sets(tmp_path, tmp_path / "gone.yaml")
    with pytest.raises(InputError, match=r"has no mixture\.yaml, train/TASK\.parquet or SUBSET/original-"):
        data_sets(tmp_path)


def test_fixtures_are_the_same_every_time_and_replace_nothing(tmp_path: Path) -> None:
    """Bytes and names; one by one they are what the whole holds."""
    for name in ("mmeb-train", "visrag", "llava-hound", "colpali"):
        first, second = tmp_path / name, tmp_path / f"{name}-again"
        for root in (first, second):
            LAYOUTS[name](root)
        files = {path.relative_to(first): path.read_bytes() for path in first.rglob("*") if path.is_file()}
        assert files == {path.relative_to(second): path.read_bytes() for path in second.rglob("*") if path.is_file()}
        with pytest.raises(InputError, match="already exists"):
            LAYOUTS[name](first)


def test_fixtures_have_the_published_columns_and_the_image_feature(published: Path) -> None:
    """As the real shards do, which `datasets` opens with pictures."""
    from datasets import Features
    from datasets import Image as ImageFeature

    shard = pq.read_schema(published / "colpali_train_set/data/train-00000-of-00002.parquet")
    columns = ["image", "image_filename", "query", "answer", "source", "options", "page", "model", "prompt", "answer_type"]
    assert shard.names == columns
    assert isinstance(Features.from_arrow_schema(shard)["image"], ImageFeature)
    assert pq.read_schema(published / "VisRAG-Ret-Train-In-domain-data/data/train-00001-of-00002.parquet").names == [
        "query",
        "image",
        "source",
    ]
    video = published / "train_video_and_instruction/train_300k/v_digits-Scene-000"
    assert sorted(path.name for path in video.iterdir())[0] == "c01_0001.jpeg"
