"""Finds the files of a data set and opens them with `datasets` as memory-mapped Arrow tables.

Parquet and JSONL files are converted to Arrow once, in a cache folder (embedded pictures take as
much space there as in the original), and mapped from there by every later run and every process. A
folder
that `Dataset.save_to_disk` wrote is mapped as it is. Nothing is decoded and nothing is downloaded:
the library only ever gets local paths.
"""

from __future__ import annotations

import errno
import glob
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lame_runtime.errors import (
    InputError,
    LameError,
    StorageError,
    UsageError,
    first_line,
    shown,
)
from lame_runtime.files.json_file import read_json

from lame_training.data.formats.registry import FORMATS
from lame_training.data.pairs import DataSet, Format
from lame_training.data.sources.data_root import DataRoot
from lame_training.data.sources.json_lines import SUBSTITUTED
from lame_training.data.sources.row_places import MAX_JSON_LIST_BYTES
from lame_training.data.sources.saved_folder import check_saved_folder, check_table

SUFFIXES = (".parquet", ".jsonl", ".json", ".arrow")
TEXT = "text"
"""The only column of a table that was read line by line: one JSON object per row."""


def row_files(data: Path, data_set: DataSet, *, allow_outside: bool = False) -> list[Path]:
    """Returns the files that hold a data set's rows, whose sha256 sums identify the rows.

    They are sorted by path within each entry of `data_set.path`. A data set without a path lies in
    `DATA/train/NAME.parquet` or, as in a checkout of MMEB-train, `DATA/NAME/original-*.parquet`.

    Args:
        data: the root folder of the data.
        data_set: the data set.
        allow_outside: whether paths and links may lead out of `data`.

    Raises:
        StorageError: there are no such files, or one cannot be read or is no regular file.
        UsageError: a path or a link leads out of `data`, or the files have different suffixes, or
            one that is not in `SUFFIXES`.
    """
    root = DataRoot(data.absolute(), allow_outside)
    # The digits have one file per task, MMEB-train a folder of shards per subset.
    if not data_set.path:
        single = root.join(f"train/{data_set.name}.parquet", "name")
        # Whatever is there: that a pipe or a link is no file is to be reported, not passed over.
        if _exists(single):
            files = [single]
        else:
            files = root.matching(f"{glob.escape(data_set.name)}/original-*.parquet")
        if not files:
            places = f"train/{data_set.name}.parquet or {data_set.name}/original-*.parquet"
            raise StorageError(f"{single}: no such file; `data` must name a folder with {places}")
    else:
        files = [file for pattern in data_set.path for file in _matching_files(root, pattern)]
    if len({_kind(file) for file in files}) > 1:
        raise UsageError(
            f"{data_set.name}: has files of several kinds ({files[0].name}, {files[-1].name}); "
            "make one data set of each kind"
        )
    return [root.require_file(file) for file in files]


def _matching_files(root: DataRoot, pattern: str) -> list[Path]:
    """Returns the files that one entry of `DataSet.path` names: a file, a folder, or a glob."""
    literal = root.folder / pattern
    # A path that exists is no pattern: names of real folders may hold "[" and "*".
    if glob.has_magic(pattern) and not _exists(literal):
        files = [file for file in root.matching(pattern) if not file.is_dir()]
    else:
        files = _files_of(root.join(pattern, "path"))
    if not files:
        raise StorageError(
            f"{shown(literal)}: no such file; "
            "a path names files, a folder of them, or a glob such as data/train-*.parquet"
        )
    unknown = [file for file in files if _kind(file) is None]
    if unknown:
        raise UsageError(f"{unknown[0]}: is not a file that can be read ({', '.join(SUFFIXES)})")
    return files


def _exists(path: Path) -> bool:
    """Returns whether there is anything of this name, a link that leads nowhere included."""
    try:
        return os.path.lexists(path)
    except ValueError:  # a null character
        return False


def _files_of(path: Path) -> list[Path]:
    """Returns a file, or the files of rows in a folder; an empty list if there are none."""
    try:
        if not path.is_dir():
            return [path] if _exists(path) else []
        # `DatasetDict.save_to_disk` writes one folder per split.
        folder = path / "train" if (path / "dataset_dict.json").is_file() else path
        return sorted(
            file
            for file in folder.iterdir()
            # `save_to_disk` writes these two beside its Arrow files; they hold no rows.
            if file.suffix in SUFFIXES and file.name not in ("state.json", "dataset_info.json")
        )
    except OSError as error:
        raise StorageError(
            f"{shown(path)}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from None


def _kind(file: Path) -> str | None:
    suffix = file.suffix.lower()
    return suffix if suffix in SUFFIXES else None


def open_files(files: list[Path], data_set: DataSet, cache: Path, root: DataRoot) -> Any:
    """Opens files as one `datasets.Dataset` whose items are Arrow tables of one row.

    Args:
        files: files of one kind, from `row_files`.
        data_set: its format says which columns are needed.
        cache: the folder for Arrow files.
        root: the root folder of the data.

    Raises:
        InputError: a file is damaged or lacks a column, or no file holds a row.
        StorageError: a file or the cache is not accessible, or the disk is full.
    """
    # Deferred: importing it takes half a second, which commands without rows need not wait for.
    import datasets

    row_format = FORMATS[data_set.format]
    with _quiet(), _translated(files, cache):
        kind = _kind(files[0])
        if kind == ".arrow":
            # The folder is opened as a whole: its state.json says which Arrow files belong to it.
            check_saved_folder(files[0].parent, root)
            saved = datasets.load_from_disk(str(files[0].parent))
            check_table(saved, files[0].parent)
            columns = _columns(files[0], saved.column_names, data_set, row_format)
            return saved.select_columns(columns).with_format("arrow")
        if kind == ".parquet":
            files, columns = _check_footers(files, data_set, row_format)
            table = datasets.Dataset.from_parquet(
                _patterns(files), cache_dir=str(cache), columns=columns
            )
        elif kind == ".jsonl":
            # Lines are read as text and parsed row by row. The library's JSON reader infers one
            # type per column: it would turn dates into timestamps and fail on mixed inputs.
            # `datasets` fails with a traceback if none of the files has a line.
            files = [file for file in files if file.stat().st_size] or _no_rows(files)
            table = datasets.Dataset.from_text(
                _patterns(files),
                cache_dir=str(cache),
                encoding="utf-8-sig",
                # A row with other bytes is left out; an error here would cost the whole file.
                encoding_errors=SUBSTITUTED,
                features=datasets.Features({TEXT: datasets.Value("string")}),
            )
        else:
            # The generator's arguments name the cached table. With the time of the last change
            # among them, a file that was changed is read again.
            stamps = [(str(file), file.stat().st_mtime_ns) for file in files]
            table = datasets.Dataset.from_generator(
                _json_records,
                features=datasets.Features({TEXT: datasets.Value("string")}),
                cache_dir=str(cache),
                gen_kwargs={"stamps": stamps},
            )
        return table.with_format("arrow")


def _check_footers(
    files: list[Path], data_set: DataSet, row_format: Format
) -> tuple[list[Path], list[str]]:
    """Returns the parquet shards that hold rows, and the columns to read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    filled, columns = [], []
    for file in files:
        try:
            footer = pq.read_metadata(file)
            names = footer.schema.to_arrow_schema().names
        except (OSError, pa.ArrowException) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk refused; `_translated` reports it
            problem = f"not a readable parquet file ({shown(first_line(error), 160)})"
            raise InputError(f"{shown(file)}: {problem}; write it again") from None
        columns = _columns(file, names, data_set, row_format)
        # `datasets` fails on a shard without rows, even if the others have some.
        if footer.num_rows:
            filled.append(file)
    return filled or _no_rows(files), columns


def _columns(file: Path, names: list[str], data_set: DataSet, row_format: Format) -> list[str]:
    """Returns the columns to read; raises `InputError` if a required one is missing."""
    missing = [column for column in row_format.columns if column not in names]
    if missing:
        needed = ", ".join(row_format.columns)
        raise InputError(
            f"{shown(file)}: lacks the column {missing[0]}; "
            f"rows of format {data_set.format} have {needed}"
        )
    return [column for column in (*row_format.columns, *row_format.optional) if column in names]


def _no_rows(files: list[Path]) -> list[Path]:
    raise InputError(f"{files[0]}: holds no row; check the file")


def _patterns(files: list[Path]) -> list[str]:
    """Returns the files' paths as `datasets` takes them: it reads every path as a pattern."""
    return [glob.escape(str(file.resolve())) for file in files]


def _json_records(stamps: list[tuple[str, int]]) -> Iterator[dict[str, str]]:
    """Yields the objects of JSON files that each hold a list, as lines of JSON."""
    for name, _ in stamps:
        records = read_json(name, MAX_JSON_LIST_BYTES)
        if not isinstance(records, list):
            raise ValueError(f"{name} holds no list of objects")
        for record in records:
            # Escaped: half an emoji is no UTF-8, and would cost the file rather than its row.
            yield {TEXT: json.dumps(record)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the library's progress bars and log lines, and restores its settings afterwards."""
    import datasets

    # The library logs an error and then raises it; `_translated` reports it once.
    bars_were_shown = not datasets.are_progress_bars_disabled()
    verbosity = datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if bars_were_shown:
            datasets.enable_progress_bars()


@contextmanager
def _translated(files: list[Path], cache: Path) -> Iterator[None]:
    """Translates what goes wrong inside the library into one line that names the file."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except LameError:
        raise
    # Damaged files raise errors of any class in `datasets` and pyarrow, a KeyError among them.
    except Exception as error:
        cause: BaseException = error
        # The reason may be wrapped several times.
        while isinstance(cause, DatasetsError) and cause.__cause__ is not None:
            cause = cause.__cause__
        reason = getattr(cause, "strerror", None) or shown(first_line(cause), 160)
        if _is_about_cache(cause, files):
            raise StorageError(
                f"{cache}: cannot be written ({reason}); choose another folder or free some space"
            ) from None
        others = f" (or one of the {len(files) - 1} beside it)" if len(files) > 1 else ""
        message = f"{files[0]}{others}: cannot be read ({reason}); "
        # pyarrow reports damaged files as OSError, too, but without an error number.
        if isinstance(cause, OSError) and cause.errno is not None:
            raise StorageError(f"{message}check the disk and the file's permissions") from None
        raise InputError(f"{message}write it again") from None


def _is_about_cache(cause: BaseException, files: list[Path]) -> bool:
    """Returns whether writing the cache failed, rather than reading the data."""
    # `datasets` estimates the space it needs and raises an OSError without a number.
    full = (errno.ENOSPC, errno.EDQUOT)
    if getattr(cause, "errno", None) in full or "Not enough disk space" in str(cause):
        return True
    # `files` are only ever read, so an error that names any other file is about the cache.
    names = [str(file.resolve()) for file in files]
    return isinstance(cause, OSError) and bool(cause.filename) and cause.filename not in names
