"""Which data sets a run reads: a YAML file that lists them, or what lies in the data root.

data_sets:
  - name: MSCOCO_t2i                      # every other key may be left out
    format: mmeb                          # see formats.registry.FORMATS
    path: MMEB-train/MSCOCO_t2i/original-*.parquet    # or a list: files, folders, globs below the
    root images: MMEB-train                    # folder that the rows' paths are relative to, below
    the root weight: 2.0 target_side: query                    # positive, query, both, shared or
    none; default by format instruction: "Find me an everyday image that matches the given caption:"
    begins: 0.2                           # joins in after a fifth of the stage max_rows: 100000
  - name: ChartQA
    split: diverse_instruction            # ROOT/ChartQA/diverse_instruction-*.parquet, not
    original-*
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

from lame_runtime.errors import LameError, StorageError, UsageError

from lame_training.data.files import row_files
from lame_training.data.formats.mmeb import SUBSETS
from lame_training.data.formats.registry import FORMATS
from lame_training.data.pairs import DataSet, TargetSide

MIXTURE = "mixture.yaml"
SPLITS = ("original", "diverse_instruction")
_KEYS = (
    *("name", "format", "path", "split", "images", "weight"),
    *("target_side", "instruction", "begins", "max_rows"),
)


def data_sets(data: Path, mixture: Path | None = None) -> tuple[DataSet, ...]:
    """Returns the data sets of `mixture`, of `DATA/mixture.yaml`, or all that lie in `data`.

    Without a mixture these are every `DATA/train/NAME.parquet`, whose positive's text is
    reconstructed, or else every `DATA/SUBSET/original-*.parquet`, as in a checkout of MMEB-train.
    All have the same weight.

    Raises:
        StorageError: the mixture cannot be read, or `data` holds nothing of the above.
        UsageError: the mixture is not valid; see `read_mixture`.
    """
    if mixture is not None or (data / MIXTURE).is_file():
        return read_mixture(mixture or data / MIXTURE, data)
    # Not both: a root with `train/*.parquet` is a data set of its own, such as the digits.
    if names := _single_files(data):
        return tuple(DataSet(name, "positive") for name in names)
    if names := _subsets(data):
        defaults = {name: _subset_defaults(name) for name in names}
        return tuple(
            DataSet(name, side, instruction=instruction)
            for name, (side, instruction) in defaults.items()
        )
    raise StorageError(
        f"{data}: has no {MIXTURE}, train/TASK.parquet or SUBSET/original-*.parquet; "
        "`data` must name the root of an MMEB-style data set"
    )


def _single_files(data: Path) -> list[str]:
    return sorted(path.stem for path in (data / "train").glob("*.parquet"))


def _subsets(data: Path) -> list[str]:
    return sorted({path.parent.name for path in data.glob("*/original-*.parquet")})


def _subset_defaults(name: str) -> tuple[TargetSide, str]:
    """Returns the target side and instruction of a subset of MMEB-train."""
    return SUBSETS.get(name, ("positive", ""))


def read_mixture(path: Path, data: Path) -> tuple[DataSet, ...]:
    """Reads and checks a mixture, including that every data set has files below `data`.

    Raises:
        StorageError: the mixture cannot be read, or a data set has no files.
        UsageError: the mixture is no YAML or no list of data sets, has an unknown key, format or
            data set, a name that occurs twice, or a value that does not fit. The message names the
            file and the entry.
    """
    document = _load_yaml(path)
    # Exactly one key, so that a misspelled or misplaced key is an error and not ignored.
    if (
        not isinstance(document, dict)
        or set(document) != {"data_sets"}
        or not isinstance(document["data_sets"], list)
    ):
        raise UsageError(f"{path}: must hold one key, data_sets, with a list of data sets")
    if not document["data_sets"]:
        raise UsageError(f"{path}: lists no data set")
    mixture: list[DataSet] = []
    for number, entry in enumerate(document["data_sets"], 1):
        try:
            data_set = _read_entry(entry, data)
            if any(data_set.name == other.name for other in mixture):
                raise UsageError("this name occurs twice; give each data set its own")
            row_files(data, data_set)  # a missing file is reported now, not hours into the run
        except LameError as error:
            name = entry.get("name") if isinstance(entry, dict) else None
            title = f"entry {number} ({name})" if isinstance(name, str) else f"entry {number}"
            # The class stays: it says whether the mixture or the disk is to be mended.
            raise type(error)(f"{path}, {title}: {error}") from None
        mixture.append(data_set)
    return tuple(mixture)


def _read_entry(entry: Any, data: Path) -> DataSet:
    """Reads one entry of the list; raises `UsageError` if a key or a value does not fit."""
    if not isinstance(entry, dict):
        raise UsageError(f"must have keys ({', '.join(_KEYS)}), not be {entry!r}")
    unknown = [key for key in entry if key not in _KEYS]
    if unknown:
        raise UsageError(f"unknown key {unknown[0]!r}; keys are {', '.join(_KEYS)}")
    name = _text(entry, "name", "")
    if not name:
        raise UsageError("has no name; every data set needs one")
    format_name = _text(entry, "format", "mmeb")
    if format_name not in FORMATS:
        raise UsageError(f"unknown format {format_name!r}; formats are {', '.join(FORMATS)}")
    side, instruction = FORMATS[format_name].target_side, FORMATS[format_name].instruction
    if format_name == "mmeb":  # the defaults differ by subset
        side, instruction = _subset_defaults(name)
    side = entry.get("target_side", side)
    if side not in get_args(TargetSide):
        raise UsageError(f"target_side is {side!r}; use {', '.join(get_args(TargetSide))}")
    # Checked as types come out of YAML: `weight: two` is a text, `.nan` a number, `yes` a bool.
    weight = _number(entry, "weight", 1.0)
    if weight <= 0:
        raise UsageError(f"weight is {weight:g}; use a number above 0, or leave the data set out")
    begins = _number(entry, "begins", 0.0)
    if not 0 <= begins < 1:
        raise UsageError(
            f"begins is {begins:g}; "
            "use the share of the stage after which it joins in, from 0 to below 1"
        )
    max_rows = entry.get("max_rows")
    # `True` is an int in Python, and `max_rows: yes` would mean one row.
    is_whole = isinstance(max_rows, int) and not isinstance(max_rows, bool)
    if max_rows is not None and (not is_whole or max_rows < 1):
        raise UsageError(f"max_rows is {max_rows!r}; use a whole number above 0")
    return DataSet(
        name,
        side,
        weight,
        _text(entry, "instruction", instruction),
        begins,
        format_name,
        _paths(entry, name, format_name, data),
        _text(entry, "images", ""),
        max_rows,
    )


def _paths(entry: dict[str, Any], name: str, format_name: str, data: Path) -> tuple[str, ...]:
    """Returns the value of `DataSet.path`, from the keys `path` and `split`."""
    path, split = entry.get("path"), entry.get("split")
    paths = [path] if isinstance(path, str) else path
    is_list = isinstance(paths, list) and all(isinstance(item, str) and item for item in paths)
    if path is not None and not (is_list and paths):
        raise UsageError(f"path is {path!r}; use a path, a glob or a list of them")
    if split is not None:
        if split not in SPLITS or path is not None or format_name != "mmeb":
            raise UsageError(
                f"split is {split!r}; "
                f"it is {' or '.join(SPLITS)} of a subset of MMEB-train, in place of a path"
            )
        # The shards' own numbers are left open: subsets have one shard or several.
        return (f"{name}/{split}-*.parquet",)
    if path is None:
        known = sorted({*_single_files(data), *_subsets(data)})
        if name not in known:
            raise UsageError(
                f"unknown data set: it has no path, "
                f"and {data} holds {', '.join(known) or 'none of that kind'}"
            )
    return tuple(paths or ())


def _text(entry: dict[str, Any], key: str, default: str) -> str:
    value = entry.get(key, default)
    if not isinstance(value, str):
        raise UsageError(f"{key} is {value!r}; use a text")
    return value


def _number(entry: dict[str, Any], key: str, default: float) -> float:
    value = entry.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise UsageError(f"{key} is {value!r}; use a number")
    return float(value)


def _load_yaml(path: Path) -> Any:
    """Parses a YAML file; a key that occurs twice is an error instead of the first being lost."""
    import yaml

    class StrictLoader(yaml.SafeLoader):
        pass

    def construct_mapping(loader: StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        # Deep, because a constructor that does not yield has to build nested values at once.
        pairs = loader.construct_pairs(node, deep=True)
        keys = [key for key, _ in pairs]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice[0]!r} occurs twice", node.start_mark
            )
        return dict(pairs)

    StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, construct_mapping)
    try:
        # The loader is a SafeLoader, so this is `yaml.safe_load` with the check above.
        return yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader)
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        # TypeError: a key that cannot be one in Python, such as a list.
        reason = " ".join(str(error).split())
        mark = getattr(error, "problem_mark", None)
        if isinstance(error, yaml.MarkedYAMLError) and mark:
            reason = f"line {mark.line + 1}: {error.problem}"
        raise UsageError(f"{path}: is not valid YAML ({reason}); correct it there") from None
