"""Which data sets a run reads: a YAML file that lists them, or what lies in the data root.

    data_sets:
      - name: MSCOCO_t2i                  # every other key may be left out
        format: mmeb                      # see formats.registry.FORMATS
        path: MMEB-train/MSCOCO_t2i/original-*.parquet  # or a list: files, folders, globs
        images: MMEB-train                # folder that the rows' paths are relative to
        weight: 2.0
        target_side: query                # positive, query, both, shared or none; by format
        instruction: "Find me an everyday image that matches the given caption:"
        begins: 0.2                       # joins in after a fifth of the stage
        max_rows: 100000
      - name: ChartQA
        split: diverse_instruction        # ROOT/ChartQA/diverse_instruction-*.parquet

Paths start at the data root. They, and links, must not lead out of it unless the user allows it.
"""

from __future__ import annotations

import glob
import math
import os
from pathlib import Path
from typing import Any, get_args

from lame_runtime.errors import LameError, StorageError, UsageError, shown

from lame_training.data.files import row_files
from lame_training.data.formats.mmeb import SUBSETS
from lame_training.data.formats.registry import FORMATS
from lame_training.data.pairs import DataSet, TargetSide
from lame_training.data.sources.data_root import DataRoot
from lame_training.data.sources.yaml_file import load_yaml

MIXTURE = "mixture.yaml"
SPLITS = ("original", "diverse_instruction")
_KEYS = (
    *("name", "format", "path", "split", "images", "weight"),
    *("target_side", "instruction", "begins", "max_rows"),
)
MIN_WEIGHT, MAX_WEIGHT = 1e-9, 1e9
"""Range of weights; sums of larger ones would not be finite."""
MAX_ROWS = 1 << 62
"""Largest `max_rows`; row numbers are 64-bit integers."""
SHOWN_NAMES = 30
"""Number of data sets that a message names."""
MAX_NAME = 200
"""Longest name, in characters; names of files may have 255 bytes."""


def data_sets(
    data: Path, mixture: Path | None = None, *, allow_outside: bool = False
) -> tuple[DataSet, ...]:
    """Returns the data sets of `mixture`, of `DATA/mixture.yaml`, or all that lie in `data`.

    Without a mixture these are every `DATA/train/NAME.parquet`, whose positive's text is
    reconstructed, or else every `DATA/SUBSET/original-*.parquet`, as in a checkout of MMEB-train.
    All have the same weight.

    Args:
        data: the root folder of the data.
        mixture: the mixture's file; it may lie anywhere.
        allow_outside: whether paths and links may lead out of `data`.

    Raises:
        StorageError: the mixture cannot be read, or `data` holds nothing of the above.
        UsageError: the mixture is not valid; see `read_mixture`.
    """
    root = DataRoot(data.absolute(), allow_outside)
    if mixture is not None:
        return read_mixture(mixture, data, allow_outside=allow_outside)
    # whatever has this name: a pipe or a dangling link is to be reported, not passed over
    if os.path.lexists(data / MIXTURE):
        path = root.require_file(data / MIXTURE)
        return read_mixture(path, data, allow_outside=allow_outside)
    # Not both: a root with `train/*.parquet` is a data set of its own, such as the digits.
    if names := _single_files(root):
        return tuple(DataSet(name, "positive") for name in names)
    if names := _subsets(root):
        defaults = {name: _subset_defaults(name) for name in names}
        return tuple(
            DataSet(name, side, instruction=instruction)
            for name, (side, instruction) in defaults.items()
        )
    raise StorageError(
        f"{data}: has no {MIXTURE}, train/TASK.parquet or SUBSET/original-*.parquet; "
        "`data` must name the root of an MMEB-style data set"
    )


def _single_files(root: DataRoot) -> list[str]:
    return [path.stem for path in root.matching("train/*.parquet", pass_links=True)]


def _subsets(root: DataRoot) -> list[str]:
    shards = root.matching("*/original-*.parquet", pass_links=True)
    return sorted({path.parent.name for path in shards})


def _subset_defaults(name: str) -> tuple[TargetSide, str]:
    """Returns the target side and instruction of a subset of MMEB-train."""
    return SUBSETS.get(name, ("positive", ""))


def read_mixture(path: Path, data: Path, *, allow_outside: bool = False) -> tuple[DataSet, ...]:
    """Reads and checks a mixture, including that every data set has files below `data`.

    Args:
        path: the mixture's file, in YAML or JSON.
        data: the root folder of the data.
        allow_outside: whether paths and links may lead out of `data`.

    Raises:
        StorageError: the mixture cannot be read, or a data set has no files.
        UsageError: the mixture is no YAML or no list of data sets, has an unknown key, format or
            data set, a name that occurs twice, a value that does not fit, or a path that leads out
            of `data`. The message names the file and the entry.
    """
    root = DataRoot(data.absolute(), allow_outside)
    document = load_yaml(path)
    # Exactly one key, so that a misspelled or misplaced key is an error and not ignored.
    if (
        not isinstance(document, dict)
        or set(document) != {"data_sets"}
        or not isinstance(document["data_sets"], list)
    ):
        raise UsageError(f"{shown(path)}: must hold one key, data_sets, with a list of data sets")
    if not document["data_sets"]:
        raise UsageError(f"{shown(path)}: lists no data set")
    mixture: list[DataSet] = []
    names: set[str] = set()
    for number, entry in enumerate(document["data_sets"], 1):
        try:
            data_set = _read_entry(entry, root)
            if data_set.name in names:
                raise UsageError("this name occurs twice; give each data set its own")
            names.add(data_set.name)
            # a missing file, or a path that leads out, is reported now, not hours into the run
            row_files(data, data_set, allow_outside=allow_outside)
            root.join(data_set.images, "images")
        except LameError as error:
            name = entry.get("name") if isinstance(entry, dict) else None
            title = (
                f"entry {number} ({shown(name)})" if isinstance(name, str) else f"entry {number}"
            )
            # The class stays: it says whether the mixture or the disk is to be mended.
            raise type(error)(f"{shown(path)}, {title}: {error}") from None
        mixture.append(data_set)
    return tuple(mixture)


def _read_entry(entry: Any, root: DataRoot) -> DataSet:
    """Reads one entry of the list; raises `UsageError` if a key or a value does not fit."""
    if not isinstance(entry, dict):
        raise UsageError(f"must have keys ({', '.join(_KEYS)}), not be {shown(repr(entry))}")
    unknown = [key for key in entry if key not in _KEYS]
    if unknown:
        raise UsageError(f"unknown key {shown(repr(unknown[0]))}; keys are {', '.join(_KEYS)}")
    name = _name(entry)
    format_name = _text(entry, "format", "mmeb")
    if format_name not in FORMATS:
        raise UsageError(
            f"unknown format {shown(repr(format_name))}; formats are {', '.join(FORMATS)}"
        )
    side, instruction = FORMATS[format_name].target_side, FORMATS[format_name].instruction
    if format_name == "mmeb":  # the defaults differ by subset
        side, instruction = _subset_defaults(name)
    side = entry.get("target_side", side)
    if side not in get_args(TargetSide):
        raise UsageError(
            f"target_side is {shown(repr(side))}; use {', '.join(get_args(TargetSide))}"
        )
    # Checked as types come out of YAML: `weight: two` is a text, `.nan` a number, `yes` a bool.
    weight = _number(entry, "weight", 1.0)
    if not MIN_WEIGHT <= weight <= MAX_WEIGHT:
        raise UsageError(
            f"weight is {weight:g}; use a number above 0, from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}, "
            "or leave the data set out"
        )
    begins = _number(entry, "begins", 0.0)
    if not 0 <= begins < 1:
        raise UsageError(
            f"begins is {begins:g}; "
            "use the share of the stage after which it joins in, from 0 to below 1"
        )
    max_rows = entry.get("max_rows")
    # `True` is an int in Python, and `max_rows: yes` would mean one row.
    is_whole = isinstance(max_rows, int) and not isinstance(max_rows, bool)
    if max_rows is not None and (not is_whole or not 1 <= max_rows <= MAX_ROWS):
        raise UsageError(f"max_rows is {shown(repr(max_rows))}; use a whole number above 0")
    return DataSet(
        name,
        side,
        weight,
        _text(entry, "instruction", instruction),
        begins,
        format_name,
        _paths(entry, name, format_name, root),
        _text(entry, "images", ""),
        max_rows,
    )


def _name(entry: dict[str, Any]) -> str:
    """Returns the name of a data set; raises `UsageError` if it has none, or an unusable one."""
    name = _text(entry, "name", "")
    if not name:
        raise UsageError("has no name; every data set needs one")
    # names stand in logs, in the record of a run, and in paths
    if not name.isprintable() or len(name) > MAX_NAME:
        raise UsageError(
            f"its name is {shown(repr(name))}; use up to {MAX_NAME} printable characters"
        )
    return name


def _paths(entry: dict[str, Any], name: str, format_name: str, root: DataRoot) -> tuple[str, ...]:
    """Returns the value of `DataSet.path`, from the keys `path` and `split`."""
    path, split = entry.get("path"), entry.get("split")
    paths = [path] if isinstance(path, str) else path
    is_list = isinstance(paths, list) and all(isinstance(item, str) and item for item in paths)
    if path is not None and not (is_list and paths):
        raise UsageError(f"path is {shown(repr(path))}; use a path, a glob or a list of them")
    if split is not None:
        if split not in SPLITS or path is not None or format_name != "mmeb":
            raise UsageError(
                f"split is {shown(repr(split))}; "
                f"it is {' or '.join(SPLITS)} of a subset of MMEB-train, in place of a path"
            )
        # The shards' own numbers are left open: subsets have one shard or several.
        return (f"{glob.escape(name)}/{split}-*.parquet",)
    if path is None:
        known = sorted({*_single_files(root), *_subsets(root)})
        if name not in known:
            listed = ", ".join(known[:SHOWN_NAMES]) + (", …" if len(known) > SHOWN_NAMES else "")
            raise UsageError(
                f"unknown data set: it has no path, "
                f"and {root.folder} holds {listed or 'none of that kind'}"
            )
    return tuple(paths or ())


def _text(entry: dict[str, Any], key: str, default: str) -> str:
    value = entry.get(key, default)
    if not isinstance(value, str):
        raise UsageError(f"{key} is {shown(repr(value))}; use a text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # YAML can hold half an emoji, and no tokenizer takes it
        raise UsageError(f"{key} is {shown(value)!r}, which is not Unicode; correct it") from None
    return value


def _number(entry: dict[str, Any], key: str, default: float) -> float:
    value = entry.get(key, default)
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    if isinstance(value, bool) or not math.isfinite(number):
        raise UsageError(f"{key} is {shown(repr(value))}; use a number")
    return number
