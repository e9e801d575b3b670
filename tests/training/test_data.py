"""Opening training data: rows are read lazily, and none is left out in silence."""

from __future__ import annotations

import errno
import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lame_runtime.contract import Input
from lame_runtime.errors import InputError, LameError, StorageError, UsageError, shown
from lame_training.data import DataSet, Rows, data_sets, describe, open_rows, row_files
from PIL import Image
from samples import write_mmeb_rows, write_own_rows, write_page_rows

pytestmark = pytest.mark.usefixtures("no_network")


def test_left_out_rows_are_counted_and_reported_in_one_line(
    tmp_path: Path, arrow_cache: Path
) -> None:
    """The line has a count by reason, and the first missing picture."""
    # More rows than are looked at together (1,000), with some left out in both batches.
    rows: list[dict[str, Any]] = [{"qry": "q", "pos_text": str(n)} for n in range(1200)]
    # A placeholder alone is no text, and a path with backslashes names no file here.
    rows[7] = {"pos_text": "no query"}
    rows[8] = {"qry": "no positive", "pos_text": "<|image_1|>\n"}
    rows[9] = {"qry": "q", "pos_text": "p", "qry_image_path": "images/gone.png"}
    rows[1100] = {"qry": "q", "pos_text": "p", "pos_image_path": "nowhere/gone.png"}
    rows[1101] = {"qry": "q", "pos_text": "p", "pos_image_path": "images\\here.png"}
    write_mmeb_rows(tmp_path, *rows, pictures=("images/here.png",))
    opened = open_rows(tmp_path, DataSet("x", "positive"), arrow_cache)
    assert opened.skipped == Counter({"picture missing": 3, "empty query": 1, "empty positive": 1})
    first = shown(tmp_path / "images/gone.png")
    assert describe(opened) == (
        f"x: 1,195 rows (5 left out: 3 picture missing (first: x.parquet, row 10: {first}), "
        "1 empty positive (first: x.parquet, row 9), 1 empty query (first: x.parquet, row 8))"
    )
    assert [pair.positive.text for pair in opened[6:8]] == ["6", "10"]
    assert opened[-1].positive.text == "1199"
    with pytest.raises(IndexError):
        opened[1195]


def test_opening_decodes_no_picture(
    tmp_path: Path, arrow_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged picture is not noticed, but rows without any bytes are counted."""
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("a picture was decoded"))
    write_page_rows(
        tmp_path / "data/train-0.parquet", b"\x89PNG truncated", b"no picture at all", None, b""
    )
    pages = DataSet("pages", "query", format="colpali", path=("data",))
    opened = open_rows(tmp_path, pages, arrow_cache)
    assert opened.skipped == Counter({"empty positive": 2})
    assert opened[0].positive == Input(image=b"\x89PNG truncated")
    assert opened[0].positive_decodes == "page 0"


def test_opening_does_not_read_embedded_pictures(tmp_path: Path, arrow_cache: Path) -> None:
    """Opening an Arrow copy of 16 MB of pictures in two shards allocates less than 1 MB."""
    for shard in range(2):
        pictures = (bytes([n]) * 200_000 for n in range(40))
        write_page_rows(tmp_path / f"data/train-{shard}.parquet", *pictures)
    pages = DataSet("pages", "query", format="visrag", path=("data/train-*.parquet",))
    # The first time, the copy is written; that reads the pictures.
    assert len(open_rows(tmp_path, pages, arrow_cache)) == 80
    # A pool of its own counts what opening allocates, whatever other tests hold.
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    try:
        assert len(open_rows(tmp_path, pages, arrow_cache)) == 80
    finally:
        pa.set_memory_pool(before)
    assert pool.max_memory() < 1_000_000


def test_positives_that_are_all_the_same_are_refused(tmp_path: Path, arrow_cache: Path) -> None:
    """One class is refused, as text and as embedded pictures, unless only the size is the same."""
    # The row with another positive is left out, as its query is empty.
    write_mmeb_rows(
        tmp_path,
        {"qry": "a", "pos_text": "yes"},
        {"qry": "b", "pos_text": " yes "},
        {"qry": "", "pos_text": "no"},
    )
    message = r"x\.parquet: all 2 positives are the same, .* leave x out"
    with pytest.raises(InputError, match=message):
        open_rows(tmp_path, DataSet("x", "positive"), arrow_cache)
    pages = DataSet("pages", "query", format="colpali", path=("pages.parquet",))
    write_page_rows(tmp_path / "pages.parquet", b"same", b"same", b"same")
    with pytest.raises(InputError, match="all 3 positives are the same"):
        open_rows(tmp_path, pages, arrow_cache)
    # While opening, pictures are known by their size only, so these two have to be read.
    write_page_rows(tmp_path / "pages.parquet", b"same", b"same", b"else")
    assert len(open_rows(tmp_path, pages, arrow_cache)) == 3


def test_max_rows_takes_the_same_rows_spread_over_the_set(
    tmp_path: Path, arrow_cache: Path
) -> None:
    """Files are often sorted by class, so the first rows would not do."""
    write_mmeb_rows(tmp_path, *({"qry": "q", "pos_text": str(n)} for n in range(100)))
    opened = open_rows(tmp_path, DataSet("x", "none", max_rows=4), arrow_cache)
    assert [pair.positive.text for pair in opened] == ["0", "25", "50", "75"]
    assert str(opened) == "x: 4 of 100 rows"
    assert len(open_rows(tmp_path, DataSet("x", "none", max_rows=1000), arrow_cache)) == 100


def test_rows_that_changed_are_read_again(tmp_path: Path, arrow_cache: Path) -> None:
    """An Arrow copy belongs to the file as it was."""
    # Same path and same size: only the content or the time of the change can tell.
    for word in ("one", "two"):
        write_mmeb_rows(tmp_path, {"qry": "q", "pos_text": word}, {"qry": "q", "pos_text": "other"})
        assert open_rows(tmp_path, DataSet("x", "none"), arrow_cache)[0].positive.text == word
        own = write_own_rows(
            tmp_path, {"query": "q", "positive": word}, {"query": "q", "positive": "other"}
        )
        assert open_rows(tmp_path, own, arrow_cache)[0].positive.text == word


def test_rows_can_be_sent_to_another_process(published: Path, arrow_cache: Path) -> None:
    """They can be pickled, as a loader's workers need it."""
    for data_set in data_sets(published):
        opened = open_rows(published, data_set, arrow_cache)
        copy: Rows = pickle.loads(pickle.dumps(opened))
        assert copy[5] == opened[5]
        assert describe(copy) == describe(opened)


def test_without_a_cache_the_copy_goes_with_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The temporary folder lives as long as the rows, and nothing is left behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    write_mmeb_rows(tmp_path, {"qry": "q", "pos_text": "a"}, {"qry": "q", "pos_text": "b"})
    opened = open_rows(tmp_path, DataSet("x", "none"))
    assert list((tmp_path / "temporary").iterdir())
    assert opened[1].positive.text == "b"
    # The folder goes when the last reference does, without a call.
    del opened
    assert not list((tmp_path / "temporary").iterdir())


def test_json_lists_and_saved_data_sets_are_read_too(tmp_path: Path, arrow_cache: Path) -> None:
    """A `.json` file holds a list; `save_to_disk` writes one set or a dict with `train`."""
    from datasets import Dataset, DatasetDict, disable_progress_bars

    # A date, which the JSON reader of `datasets` would turn into a timestamp.
    rows = [{"query": "a", "positive": "2020-01-01"}, {"query": {"text": "b"}, "positive": "c"}]
    (tmp_path / "own.json").write_text(json.dumps(rows), encoding="utf-8")
    own = DataSet("own", "positive", format="jsonl", path=("own.json",))
    decoded = [pair.query_decodes for pair in open_rows(tmp_path, own, arrow_cache)]
    assert decoded == ["2020-01-01", "c"]
    disable_progress_bars()
    saved = Dataset.from_dict(
        {
            "qry": ["a", "b"],
            "qry_image_path": ["", ""],
            "pos_text": ["c", "d"],
            "pos_image_path": ["", ""],
            "more": [1, 2],  # a column that the format does not know
        }
    )
    saved.save_to_disk(str(tmp_path / "saved"))
    DatasetDict({"train": saved}).save_to_disk(str(tmp_path / "dict"))
    for folder in ("saved", "dict"):
        opened = open_rows(tmp_path, DataSet("own", "none", path=(folder,)), arrow_cache)
        assert [pair.positive.text for pair in opened] == ["c", "d"]


def test_a_path_may_be_a_file_a_folder_or_a_glob_in_any_folder(
    tmp_path: Path, arrow_cache: Path
) -> None:
    """Shards are read in the order of their names, and an empty one among them is passed over."""
    # The name of the folder looks like a pattern.
    root = tmp_path / "a[1] *"
    columns = ("qry", "qry_image_path", "pos_text", "pos_image_path")
    schema = pa.schema([(column, pa.string()) for column in columns])
    (root / "f").mkdir(parents=True)
    for name, words in (("s-2", ["c"]), ("s-0", ["a", "b"]), ("s-1", [])):
        rows = [
            {"qry": "q", "qry_image_path": None, "pos_text": word, "pos_image_path": None}
            for word in words
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), root / f"f/{name}.parquet")
    for path in (
        ("f",),
        ("f/s-*.parquet",),
        ("**/*.parquet",),
        ("f/s-0.parquet", "f/s-2.parquet"),
        (str(root / "f"),),
    ):
        opened = open_rows(root, DataSet("f", "none", path=path), arrow_cache)
        assert [pair.positive.text for pair in opened] == ["a", "b", "c"], path
    files = row_files(root, DataSet("f", "none", path=("f",)))
    assert [file.name for file in files] == ["s-0.parquet", "s-1.parquet", "s-2.parquet"]


@pytest.mark.parametrize(
    ("write", "kind", "message"),
    [
        # Paths that lead out of the data are refused whether or not the file exists.
        (
            lambda data: write_mmeb_rows(
                data, {"qry": "q", "pos_text": "p", "qry_image_path": "../../etc/passwd"}
            ),
            InputError,
            "row 1: .*lies outside",
        ),
        (
            lambda data: write_mmeb_rows(
                data, {"qry": "q", "pos_text": "p", "pos_image_path": "/etc/passwd"}
            ),
            InputError,
            "row 1: /etc/passwd lies outside",
        ),
        (
            lambda data: write_mmeb_rows(
                data, {"qry": "q", "pos_text": "p", "neg_image_path": "a/../../b.png"}
            ),
            InputError,
            "row 1: .*lies outside",
        ),
        (
            lambda data: write_mmeb_rows(data, {"qry": "", "pos_text": "p"}),
            InputError,
            "no row that can be trained on .1 left out: 1 empty query",
        ),
        (
            lambda data: write_mmeb_rows(
                data, {"qry": "q", "pos_text": "p", "qry_image_path": "a.png"}
            ),
            InputError,
            "1 picture missing .first: x.parquet, row 1: .*a.png",
        ),
        (
            lambda data: write_mmeb_rows(data, {"qry": "q", "pos_text": ["p"]}),
            InputError,
            r"row 1: holds \['p'\] and '' instead of a text and a path",
        ),
        (
            write_mmeb_rows,
            InputError,
            "lacks the column qry|holds no row",
        ),
        (
            lambda data: write_mmeb_rows(data, {"qry": "q"}).write_bytes(b"PAR1 and then nothing"),
            InputError,
            "not a readable parquet file",
        ),
        (
            lambda data: _damage(write_mmeb_rows(data, {"qry": "q" * 9999, "pos_text": "p"})),
            InputError,
            "cannot be read|not a readable",
        ),
        (
            lambda data: None,
            StorageError,
            "no such file; `data` must name a folder with train/x.parquet or x/original-",
        ),
    ],
)
def test_an_unusable_file_is_one_line_that_names_it(
    write: Callable[[Path], Any],
    kind: type[LameError],
    message: str,
    tmp_path: Path,
    arrow_cache: Path,
) -> None:
    """Files may be missing, damaged, of another shape, or lead out of the data."""
    write(tmp_path)
    with pytest.raises(kind, match=message) as caught:
        open_rows(tmp_path, DataSet("x", "positive"), arrow_cache)
    # the file, whose path is cut if it is longer than messages repeat, or a pattern in the folder
    names = (str(tmp_path), shown(tmp_path / "train/x.parquet"))
    assert any(name in str(caught.value) for name in names)
    assert "\n" not in str(caught.value)


def _damage(path: Path) -> None:
    """Overwrites the pages of a parquet file and leaves its footer whole."""
    # The footer is read first, so this damage shows only when the rows are converted.
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 60 + content[64:])


@pytest.mark.parametrize(
    ("data_set", "kind", "message"),
    [
        (
            DataSet("x", "none", format="csv"),
            UsageError,
            "x: unknown format 'csv'; formats are mmeb",
        ),
        (
            DataSet("x", "none", path=("train/*.txt",)),
            StorageError,
            r"train/\*\.txt: no such file",
        ),
        (
            DataSet("x", "none", path=("notes.txt",)),
            UsageError,
            r"notes\.txt: is not a file that can be read",
        ),
        (
            DataSet("x", "none", path=("train/x.parquet", "own.jsonl")),
            UsageError,
            "several kinds",
        ),
        (
            DataSet("x", "none", format="colpali", path=("train/x.parquet",)),
            InputError,
            "lacks the column query; rows of format colpali",
        ),
        (DataSet("x", "none", path=("folder",)), StorageError, "folder: no such file"),
    ],
)
def test_a_data_set_that_cannot_be_opened_says_why(
    data_set: DataSet, kind: type[LameError], message: str, tmp_path: Path, arrow_cache: Path
) -> None:
    """The kind of error says whether the data set, the disk or a file is wrong."""
    write_mmeb_rows(tmp_path, {"qry": "q", "pos_text": "p"})
    write_own_rows(tmp_path, {"query": "a", "positive": "b"})
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(kind, match=message):
        open_rows(tmp_path, data_set, arrow_cache)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The message names the cache and not the data."""
    write_mmeb_rows(tmp_path, {"qry": "q", "pos_text": "p"})
    # A file in the place of a folder cannot be written below, not even by root.
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/cache: cannot be written"):
        open_rows(tmp_path, DataSet("x", "none"), tmp_path / "file/cache")


@pytest.mark.parametrize(
    "error",
    [
        # What the system raises while writing, and `datasets` before it begins.
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("Not enough disk space. Needed: 3 GiB"),
    ],
)
def test_a_full_disk_is_not_blamed_on_the_data(
    error: OSError, tmp_path: Path, arrow_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the folder of the copy and the reason."""
    import datasets

    def full(*_: object, **__: object) -> None:
        raise error

    write_mmeb_rows(tmp_path, {"qry": "q", "pos_text": "p"})
    monkeypatch.setattr(datasets.Dataset, "from_parquet", full)
    message = rf"^{arrow_cache}.*: cannot be written \((No space|Not enough)"
    with pytest.raises(StorageError, match=message):
        open_rows(tmp_path, DataSet("x", "none"), arrow_cache)


def test_a_file_that_may_not_be_read_is_an_error_of_the_disk(
    tmp_path: Path, arrow_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data may be fine, so the message does not ask to write the file again."""
    path = write_mmeb_rows(tmp_path, {"qry": "q", "pos_text": "p"})

    # Simulated: tests may run as root, who may read everything.
    def deny(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(pq, "read_metadata", deny)
    with pytest.raises(StorageError, match=r"x\.parquet: cannot be read .*Permission denied"):
        open_rows(tmp_path, DataSet("x", "none"), arrow_cache)
