"""Which data sets a run draws from: a YAML file that lists them, or what lies in the data root.

data_sets:
  - name: MSCOCO_t2i                      # everything else may be left out
    format: mmeb                          # see formats.FORMATS
    path: MMEB-train/MSCOCO_t2i/original-*.parquet    # or a list; files, folders, globs below the data root
    images: MMEB-train                    # where paths in the rows begin, below the data root
    weight: 2.0
    target_side: query                    # positive, query, both, shared or none; each format has its own default
    instruction: "Find me an everyday image that matches the given caption:"
    begins: 0.2                           # joins in after a fifth of the stage
    max_rows: 100000
  - name: ChartQA
    split: diverse_instruction            # ROOT/ChartQA/diverse_instruction-*.parquet instead of original-*
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

from lame_runtime.errors import InputError

from lame_training.data.files import row_files
from lame_training.data.formats import FORMATS
from lame_training.data.mmeb import SUBSETS
from lame_training.data.pairs import DataSet, TargetSide

MIXTURE = "mixture.yaml"
SPLITS = ("original", "diverse_instruction")
_KEYS = ("name", "format", "path", "split", "images", "weight", "target_side", "instruction", "begins", "max_rows")


def data_sets(root: Path, mixture: Path | None = None) -> tuple[DataSet, ...]:
    """The data sets of `mixture`, of `ROOT/mixture.yaml`, or all that lie in `root`, equally weighted.

    The last are every `ROOT/train/NAME.parquet`, whose positive's text is reconstructed, or else every
    `ROOT/SUBSET/original-*.parquet`, as a checkout of MMEB-train has them.

    Raises:
        InputError: an unusable mixture, or a root with nothing of all this.
    """
    if mixture is not None or (root / MIXTURE).is_file():
        return read_mixture(mixture or root / MIXTURE, root)
    if names := _single_files(root):
        return tuple(DataSet(name, "positive") for name in names)
    if names := _subsets(root):
        return tuple(DataSet(name, side, 1.0, instruction) for name, (side, instruction) in zip(names, map(_subset, names), strict=True))
    raise InputError(
        f"{root}: has no {MIXTURE}, train/TASK.parquet or SUBSET/original-*.parquet; --data must name the root of an MMEB-style data set"
    )


def _single_files(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / "train").glob("*.parquet"))


def _subsets(root: Path) -> list[str]:
    return sorted({path.parent.name for path in root.glob("*/original-*.parquet")})


def _subset(name: str) -> tuple[TargetSide, str]:
    """Target side and instruction of a subset of MMEB-train."""
    return SUBSETS.get(name, ("positive", ""))


def read_mixture(path: Path, root: Path) -> tuple[DataSet, ...]:
    """Reads and checks a mixture, down to whether every data set has files below `root`.

    Raises:
        InputError: not readable, no list of data sets, an unknown key, format or data set, a name that occurs twice, or
            a value of another kind; the message names file and entry.
    """
    document = _load(path)
    if not isinstance(document, dict) or set(document) != {"data_sets"} or not isinstance(document["data_sets"], list):
        raise InputError(f"{path}: must hold one key, data_sets, with a list of data sets")
    if not document["data_sets"]:
        raise InputError(f"{path}: lists no data set")
    found: list[DataSet] = []
    for number, entry in enumerate(document["data_sets"], 1):
        name = entry.get("name") if isinstance(entry, dict) else None
        try:
            data_set = _entry(entry, root)
            if any(data_set.name == other.name for other in found):
                raise InputError("this name occurs twice; give each data set its own")
            row_files(root, data_set)
        except InputError as error:
            raise InputError(f"{path}, entry {number}{f' ({name})' if isinstance(name, str) else ''}: {error}") from None
        found.append(data_set)
    return tuple(found)


def _entry(entry: Any, root: Path) -> DataSet:
    if not isinstance(entry, dict):
        raise InputError(f"must have keys ({', '.join(_KEYS)}), not be {entry!r}")
    if unknown := [key for key in entry if key not in _KEYS]:
        raise InputError(f"unknown key {unknown[0]!r}; keys are {', '.join(_KEYS)}")
    name = _text(entry, "name", "")
    if not name:
        raise InputError("has no name; every data set needs one")
    layout = FORMATS.get(kind := _text(entry, "format", "mmeb"))
    if layout is None:
        raise InputError(f"unknown format {kind!r}; formats are {', '.join(FORMATS)}")
    side, instruction = _subset(name) if kind == "mmeb" else (layout.target_side, layout.instruction)
    if (side := entry.get("target_side", side)) not in get_args(TargetSide):
        raise InputError(f"target_side is {side!r}; use {', '.join(get_args(TargetSide))}")
    weight = _number(entry, "weight", 1.0)
    if weight <= 0:
        raise InputError(f"weight is {weight:g}; use a number above 0, or leave the data set out")
    begins = _number(entry, "begins", 0.0)
    if not 0 <= begins < 1:
        raise InputError(f"begins is {begins:g}; use the share of the stage after which it joins in, from 0 to below 1")
    most = entry.get("max_rows")
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
        raise InputError(f"max_rows is {most!r}; use a whole number above 0")
    return DataSet(
        name,
        side,
        weight,
        _text(entry, "instruction", instruction),
        begins,
        kind,
        _paths(entry, name, kind, root),
        _text(entry, "images", ""),
        most,
    )


def _paths(entry: dict[str, Any], name: str, kind: str, root: Path) -> tuple[str, ...]:
    path, split = entry.get("path"), entry.get("split")
    paths = [path] if isinstance(path, str) else path
    if path is not None and not (isinstance(paths, list) and paths and all(isinstance(each, str) and each for each in paths)):
        raise InputError(f"path is {path!r}; use a path, a glob or a list of them")
    if split is not None:
        if split not in SPLITS or path is not None or kind != "mmeb":
            raise InputError(f"split is {split!r}; it is {' or '.join(SPLITS)} of a subset of MMEB-train, in place of a path")
        return (f"{name}/{split}-*.parquet",)
    if path is None:
        known = sorted({*_single_files(root), *_subsets(root)})
        if name not in known:
            raise InputError(f"unknown data set: it has no path, and {root} holds {', '.join(known) or 'none of that kind'}")
    return tuple(paths or ())


def _text(entry: dict[str, Any], key: str, otherwise: str) -> str:
    value = entry.get(key, otherwise)
    if not isinstance(value, str):
        raise InputError(f"{key} is {value!r}; use a text")
    return value


def _number(entry: dict[str, Any], key: str, otherwise: float) -> float:
    value = entry.get(key, otherwise)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"{key} is {value!r}; use a number")
    return float(value)


def _load(path: Path) -> Any:
    """The document, with a key that occurs twice refused instead of the first being lost."""
    import yaml

    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader: Strict, node: yaml.MappingNode) -> dict[Any, Any]:
        pairs = loader.construct_pairs(node, deep=True)
        keys = [key for key, _ in pairs]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} occurs twice", node.start_mark)
        return dict(pairs)

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=Strict)  # a SafeLoader
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        said = (
            f"line {mark.line + 1}: {error.problem}" if isinstance(error, yaml.MarkedYAMLError) and mark else " ".join(str(error).split())
        )
        raise InputError(f"{path}: not YAML that can be read ({said}); correct it there") from None
