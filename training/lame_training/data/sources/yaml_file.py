"""Reads YAML of unknown origin: bounded in size, depth and aliases, and without repeated keys.

PyYAML's safe loader runs no code, but it recurses per level of nesting, and aliases of aliases
make a few lines stand for billions of values, which shows as soon as anything walks over them.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lame_runtime.errors import StorageError, UsageError, first_line, shown
from lame_runtime.files.regular import read_regular

MAX_BYTES = 1 << 20
"""Largest file that is read; a thousand data sets take a fifth of it."""
MAX_DEPTH = 20
"""Deepest nesting; a mixture has four levels."""
MAX_NUMBER = 1_000
"""Longest number in characters. Python writes no longer ones of other bases in decimal, and numbers
of base 60 take time with the square of their length."""
MAX_VALUES = 100_000
"""Number of values, each alias counted with everything that it stands for."""


def load_yaml(path: Path) -> Any:
    """Returns the value of a YAML file; JSON is YAML as well.

    Raises:
        StorageError: the file cannot be read, or is no regular file.
        UsageError: it is too large, no valid YAML, nested too deeply, or has too many values, a
            number that is too long or a key twice. The message names the line.
    """
    import yaml

    try:
        text = _read(path).decode("utf-8-sig")
        _check_size(yaml.parse(text, Loader=yaml.SafeLoader))
        # The loader is a SafeLoader, so this is `yaml.safe_load` with the check above.
        return yaml.load(text, Loader=_strict_loader())
    except OSError as error:
        raise StorageError(
            f"{shown(path)}: cannot be read ({error.strerror}); check the path"
        ) from None
    # Python's own errors are those of PyYAML's constructors: `!!bool maybe` is a KeyError.
    except (
        *(yaml.YAMLError, ValueError, TypeError, KeyError),
        *(AttributeError, OverflowError, IndexError, RecursionError),
    ) as error:
        reason = shown(first_line(error))
        mark = getattr(error, "problem_mark", None)
        if isinstance(error, yaml.MarkedYAMLError) and mark:
            reason = f"line {mark.line + 1}: {shown(error.problem)}"
        raise UsageError(f"{shown(path)}: is not valid YAML ({reason}); correct it there") from None


def _strict_loader() -> Any:
    """Returns PyYAML's safe loader without repeated keys and numbers of thousands of digits."""
    import yaml

    class StrictLoader(yaml.SafeLoader):
        pass

    def construct_mapping(loader: StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        # Deep, because a constructor that does not yield has to build nested values at once.
        for key, value in loader.construct_pairs(node, deep=True):
            # PyYAML itself would take the last of the two.
            if key in mapping:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {shown(key)!r} occurs twice", node.start_mark
                )
            mapping[key] = value
        return mapping

    def construct_number(loader: StrictLoader, node: yaml.ScalarNode) -> int | float:
        if len(loader.construct_scalar(node)) > MAX_NUMBER:
            raise yaml.constructor.ConstructorError(
                None, None, f"a number of {len(node.value):,} characters", node.start_mark
            )
        if node.tag.endswith("int"):
            return loader.construct_yaml_int(node)
        return loader.construct_yaml_float(node)

    for kind in ("int", "float"):
        StrictLoader.add_constructor(f"tag:yaml.org,2002:{kind}", construct_number)
    StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, construct_mapping)
    return StrictLoader


def _read(path: Path) -> bytes:
    """Returns the bytes of a regular file, or of what a shell handed over as `<(…)`."""
    # a name that only the user's own command line has: no path of a data set is read here
    if not str(path).startswith(("/dev/fd/", "/proc/self/fd/", "/dev/stdin")):
        return read_regular(path, MAX_BYTES)
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"is larger than {MAX_BYTES:,} bytes")
    return content


def _check_size(events: Any) -> None:
    """Raises `ValueError` for a document that is too deep or stands for too many values.

    Args:
        events: from `yaml.parse`, which does not recurse.
    """
    size = _Size()
    for event in events:
        size.count(event)
        if len(size.collections) > MAX_DEPTH:
            raise ValueError(f"line {event.start_mark.line + 1}: nested too deeply")
        if size.values > MAX_VALUES:
            raise ValueError(f"line {event.start_mark.line + 1}: too many values and aliases")


@dataclass
class _Size:
    """The size of a document so far."""

    values: int = 0
    """Number of values, each alias counted with everything that it stands for."""
    anchors: dict[str | None, int] = field(default_factory=dict)
    """Number of values by anchor, of the anchors whose value is complete."""
    collections: list[tuple[str | None, int]] = field(default_factory=list)
    """Anchor of each collection that is not complete, and number of values before it."""

    def count(self, event: Any) -> None:
        """Counts an event; raises `ValueError` for an alias of a collection that it lies in."""
        import yaml

        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = self.collections.pop()
            if anchor is not None:
                self.anchors[anchor] = self.values - before
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in self.collections):
                raise ValueError(f"the alias {shown(event.anchor)} holds itself")
            self.values += self.anchors.get(event.anchor, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            self.collections.append((event.anchor, self.values))
            self.values += 1
        elif isinstance(event, yaml.ScalarEvent):
            self.values += 1
            if event.anchor is not None:
                self.anchors[event.anchor] = 1
