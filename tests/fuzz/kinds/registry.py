"""All kinds by name."""

from __future__ import annotations

from fuzz.kinds.arguments import Arguments
from fuzz.kinds.base import Kind
from fuzz.kinds.bundle_files import Bundles, Certificates, Contracts, Files, Flips
from fuzz.kinds.graphs import Graphs
from fuzz.kinds.inputs import Inputs
from fuzz.kinds.media import Large, Media
from fuzz.kinds.rows import Rows
from fuzz.kinds.tokenizers import Tokenizers
from fuzz.kinds.training_files import Adapters, Checkpoints
from fuzz.kinds.training_rows import Mixtures, TrainingArguments, TrainingRows

_CLASSES: tuple[type[Kind], ...] = (
    Inputs, Media, Rows, Arguments, Large, Bundles, Contracts, Certificates, Tokenizers, Graphs,
    Flips, Files, Adapters, Checkpoints, TrainingRows, Mixtures, TrainingArguments,
)  # fmt: skip


def all_kinds() -> dict[str, Kind]:
    """Returns a new object of every kind by its name, in the order of the table."""
    return {kind.name: kind() for kind in _CLASSES}
