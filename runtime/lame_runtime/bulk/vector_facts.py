"""The facts of a table of vectors: what made them, as JSON in the metadata of Parquet files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np

from lame_runtime.contract.strict_json import from_json_object
from lame_runtime.contract.vectors import Precision
from lame_runtime.errors import BundleError, InputError, first_line, shown
from lame_runtime.files.constraints import Between, Sha256
from lame_runtime.files.json_file import parse_json

FORMAT = 1
METADATA_KEY = b"lame"
EMBED_AGAIN = "give a Parquet file that `lame-runtime embed` wrote, or embed again"


@dataclass(frozen=True)
class VectorFacts:
    """Tells where the vectors of a table come from; only vectors of equal facts can be compared."""

    bundle: Sha256
    """Hash of the bundle, as in its manifest."""
    graph: str
    """The bundle's graph that ran, such as "fp32"."""
    role: str | None
    instruction: str | None
    """The instruction of the call, if it replaced that of the role."""
    dim: Annotated[int, Between(1, 65_536)]
    """Number of values of a vector; signs take an eighth as many bytes."""
    precision: Precision
    range: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """The lowest and the highest value of each dimension that 8 bits stand for; None otherwise."""
    options: dict[str, Any] = field(default_factory=dict)
    """Other options that change vectors, such as `max_pixels`; those of the contract are left
    out."""
    format: Annotated[int, Between(FORMAT, FORMAT)] = FORMAT

    @property
    def width(self) -> int:
        """Number of elements that a vector is stored as."""
        return -(-self.dim // 8) if self.precision in ("binary", "ubinary") else self.dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return np.dtype({"binary": "int8", "ubinary": "uint8"}.get(self.precision, self.precision))

    def to_metadata(self) -> dict[bytes, bytes]:
        """Returns the metadata of a Parquet file."""
        # sorted, so that equal facts are equal bytes
        return {METADATA_KEY: json.dumps(asdict(self), sort_keys=True).encode()}

    @staticmethod
    def from_metadata(metadata: Mapping[bytes, bytes] | None, name: str) -> VectorFacts:
        """Returns the facts in the metadata of a Parquet file.

        Args:
            metadata: of the file's schema; None if it has none.
            name: the file, for messages.

        Raises:
            InputError: the metadata are missing or damaged, or of a later format.
        """
        text = (metadata or {}).get(METADATA_KEY)
        if text is None:
            raise InputError(f"{shown(name)}: has no vectors of LaME; {EMBED_AGAIN}")
        try:
            raw = parse_json(text, strict=True)
            version = raw.get("format") if isinstance(raw, dict) else None
            if type(version) is int and version > FORMAT:
                raise InputError(
                    f"{shown(name)}: has format {shown(version)}, but this version reads only "
                    f"{FORMAT}; upgrade lame-runtime"
                )
            facts: VectorFacts = from_json_object(VectorFacts, raw, name, remedy=EMBED_AGAIN)
        except ValueError as error:
            raise InputError(
                f"{shown(name)}: its metadata cannot be read ({first_line(error)}); {EMBED_AGAIN}"
            ) from None
        except BundleError as error:
            raise InputError(str(error)) from None
        return facts


def difference(first: VectorFacts, second: VectorFacts) -> str:
    """Returns the names of the facts in which two tables differ."""
    others = asdict(second)
    return ", ".join(name for name, value in asdict(first).items() if value != others[name])
