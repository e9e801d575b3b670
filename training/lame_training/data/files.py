"""The files a data set's rows lie in, opened with `datasets` as memory-mapped Arrow tables.

Parquet and JSONL are written once as Arrow below a cache folder (where embedded pictures take as much space again) and
mapped from there, by every later run and every process; a folder that `Dataset.save_to_disk` wrote is mapped where it is.
Nothing is decoded, nothing is downloaded: only local paths are ever given to the library.
"""

from __future__ import annotations

import errno
import glob
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lame_runtime.errors import InputError

from lame_training.data.formats import FORMATS
from lame_training.data.pairs import DataSet, Format

SUFFIXES = (".parquet", ".jsonl", ".json", ".arrow")
TEXT = "text"
"""The one column of what was read as lines: a JSON object each."""


def row_files(root: Path, data_set: DataSet) -> list[Path]:
    """The files that hold the rows, sorted by path within each entry of `data_set.path`; their sha256 identify the rows.

    Without a path they are `ROOT/train/NAME.parquet` or, as in a checkout of MMEB-train, `ROOT/NAME/original-*.parquet`.

    Raises:
        InputError: there are none, or of several kinds.
    """
    if not data_set.path:
        single = root / f"train/{data_set.name}.parquet"
        files = [single] if single.is_file() else sorted((root / data_set.name).glob("original-*.parquet"))
        if not files:
            also = f"train/{data_set.name}.parquet or {data_set.name}/original-*.parquet"
            raise InputError(f"{single}: no such file; --data must name a folder with {also}")
        return files
    files = [file for pattern in data_set.path for file in _matching(root, pattern)]
    if len({_kind(file) for file in files}) > 1:
        raise InputError(f"{data_set.name}: its files are of several kinds ({files[0].name}, {files[-1].name}); make data sets of them")
    return files


def _matching(root: Path, pattern: str) -> list[Path]:
    path = root / pattern
    if path.is_dir():
        folder = path / "train" if (path / "dataset_dict.json").is_file() else path
        files = sorted(
            file for file in folder.iterdir() if file.suffix in SUFFIXES and file.name not in ("state.json", "dataset_info.json")
        )
    elif path.exists():
        files = [path]
    else:
        found = glob.glob(pattern, root_dir=root, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
        files = sorted(Path(name) for name in found)
        files = [root / file for file in files if (root / file).is_file()]
    if not files:
        raise InputError(f"{path}: no such file; a path names files, a folder of them, or a glob such as data/train-*.parquet")
    if unknown := next((file for file in files if _kind(file) is None), None):
        raise InputError(f"{unknown}: not a kind of file that is read ({', '.join(SUFFIXES)})")
    return files


def _kind(file: Path) -> str | None:
    return file.suffix.lower() if file.suffix.lower() in SUFFIXES else None


def open_files(files: list[Path], data_set: DataSet, cache: Path) -> Any:
    """The files as one `datasets.Dataset` whose items are Arrow tables of one row.

    Args:
        files: of one kind, from `row_files`.
        data_set: whose format says which columns are needed.
        cache: the folder for Arrow files.

    Raises:
        InputError: a file that cannot be read, lacks a column, or all of them are without rows.
    """
    import datasets

    layout = FORMATS[data_set.format]
    with _quiet(), _translated(files, cache):
        kind = _kind(files[0])
        if kind == ".arrow":
            found = datasets.load_from_disk(str(files[0].parent))
            return found.select_columns(_columns(files[0], found.column_names, data_set, layout)).with_format("arrow")
        if kind == ".parquet":
            files, columns = _checked(files, data_set, layout)
            found = datasets.Dataset.from_parquet(_names(files), cache_dir=str(cache), columns=columns)
        elif kind == ".jsonl":
            files = [file for file in files if file.stat().st_size] or _no_rows(files)
            found = datasets.Dataset.from_text(
                _names(files), cache_dir=str(cache), encoding="utf-8-sig", features=datasets.Features({TEXT: datasets.Value("string")})
            )
        else:
            stamps = [(str(file), file.stat().st_mtime_ns) for file in files]  # the generator's arguments name the cached table
            found = datasets.Dataset.from_generator(
                _records, features=datasets.Features({TEXT: datasets.Value("string")}), cache_dir=str(cache), gen_kwargs={"stamps": stamps}
            )
        return found.with_format("arrow")


def _checked(files: list[Path], data_set: DataSet, layout: Format) -> tuple[list[Path], list[str]]:
    """The shards that hold rows, and the columns to read, from the shards' footers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    filled, columns = [], []
    for file in files:
        try:
            footer = pq.read_metadata(file)
            columns = _columns(file, footer.schema.to_arrow_schema().names, data_set, layout)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{file}: not a readable parquet file ({_first_line(error)}); write it again") from None
        filled += [file] if footer.num_rows else []
    return filled or _no_rows(files), columns


def _columns(file: Path, names: list[str], data_set: DataSet, layout: Format) -> list[str]:
    if missing := [column for column in layout.columns if column not in names]:
        needed = ", ".join(layout.columns)
        raise InputError(f"{file}: lacks the column {missing[0]}; rows of format {data_set.format} have {needed}")
    return [column for column in (*layout.columns, *layout.optional) if column in names]


def _no_rows(files: list[Path]) -> list[Path]:
    raise InputError(f"{files[0]}: holds no row; check the file")


def _names(files: list[Path]) -> list[str]:
    """Paths as the library takes them: as patterns."""
    return [glob.escape(str(file.resolve())) for file in files]


def _records(stamps: list[tuple[str, int]]) -> Iterator[dict[str, str]]:
    """The objects of JSON files that hold a list each, as lines."""
    for name, _ in stamps:
        records = json.loads(Path(name).read_text(encoding="utf-8-sig"))
        if not isinstance(records, list):
            raise ValueError(f"{name} holds no list of objects")
        yield from ({TEXT: json.dumps(record, ensure_ascii=False)} for record in records)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the library's progress bars and log lines out of ours, and leaves its settings as they were."""
    import datasets

    shown, verbosity = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if shown:
            datasets.enable_progress_bars()


@contextmanager
def _translated(files: list[Path], cache: Path) -> Iterator[None]:
    """What goes wrong inside the library as one line that names the file."""
    import pyarrow as pa
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (OSError, ValueError, pa.ArrowException, DatasetsError) as error:
        cause: BaseException = error
        while isinstance(cause, DatasetsError) and cause.__cause__ is not None:
            cause = cause.__cause__
        elsewhere = isinstance(cause, OSError) and cause.filename and not any(str(file.resolve()) == cause.filename for file in files)
        full = getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "Not enough disk space" in str(cause)
        if elsewhere or full:
            said = getattr(cause, "strerror", None) or _first_line(cause)
            raise InputError(f"{cache}: cannot be written ({said}); choose another folder or free some space") from None
        also = f" (or one of the {len(files) - 1} beside it)" if len(files) > 1 else ""
        raise InputError(f"{files[0]}{also}: cannot be read ({_first_line(cause)}); write it again") from None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
