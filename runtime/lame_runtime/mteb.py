"""A bundle as a model of `mteb`, so that any of its text, picture and mixed tasks runs on it:

    import mteb
    from lame_runtime.mteb import LameModel

    mteb.evaluate(LameModel("bundle"), tasks=mteb.get_tasks(["…"]))

`mteb` (2.x, `pip install mteb`) brings PyTorch; neither is imported before `mteb` itself asks for something that needs it, and
what embeds is the bundle's graph alone. `mteb` keeps results by model name and revision: the revision is the manifest's hash.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lame_runtime.contract.manifest import read_manifest
from lame_runtime.encoder import Encoder
from lame_runtime.errors import InputError
from lame_runtime.inputs import as_input

UNSUPPORTED = ("video", "audio")
READ = ("text", "image")


class LameModel:
    """`mteb`'s encoder protocol over an `Encoder`.

    A task's queries are embedded in the role "query", its documents in the role "document", everything else in none. A task's
    own prompt becomes the instruction of the side it is written for (of queries, where it does not say); without one the
    contract's instruction of that role is used.

    Args:
        model: a bundle's folder, or an open `Encoder`.
        graph: of the bundle; see `Encoder.load`.
        name: "organisation/model" in `mteb`'s results; by default from the folder and the graph.
        options: of `Encoder.encode` for every call, such as `truncate=True` where texts are longer than the model takes.
    """

    def __init__(self, model: str | os.PathLike[str] | Encoder, graph: str | None = None, name: str | None = None, **options: Any) -> None:
        self.encoder = model if isinstance(model, Encoder) else Encoder.load(model, graph=graph)
        self.options = options
        folder = None if isinstance(model, Encoder) else Path(model)
        self.revision: str | None = None if folder is None else str(read_manifest(folder)["sha256"])
        self.name = name or f"lame/{'model' if folder is None else folder.resolve().name}-{self.encoder.graph}"

    @cached_property
    def mteb_model_meta(self) -> Any:
        """What `mteb` records about the model, a `ModelMeta`."""
        from mteb.models.model_meta import ModelMeta, ScoringFunction

        contract = self.encoder.preparer.contract
        return ModelMeta(
            loader=None,
            name=self.name,
            revision=self.revision,
            release_date=None,
            languages=None,
            n_parameters=None,
            memory_usage_mb=None,
            max_tokens=contract.tokens.max_length,
            embed_dim=contract.dim,
            license=None,
            open_weights=True,
            public_training_code=None,
            public_training_data=None,
            framework=["ONNX"],
            similarity_fn_name=ScoringFunction.COSINE,
            use_instructions=True,
            training_datasets=None,
            modalities=["text", "image"],
        )

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> npt.NDArray[np.float32]:
        """Embeds the batches of `mteb`'s loader.

        Args:
            inputs: batches, each a list per column; `text` and `image` are read.
            task_metadata: whose `prompt` is the instruction.
            hf_split: not used.
            hf_subset: not used.
            prompt_type: query, document or None.
            kwargs: `batch_size` and `show_progress_bar` are used.

        Returns:
            float32 (n, dim), unit rows.

        Raises:
            InputError: an input has neither text nor picture, or the task needs video or audio.
        """
        role = None if prompt_type is None else str(getattr(prompt_type, "value", prompt_type))
        instruction = _instruction(getattr(task_metadata, "prompt", None), role)
        items = [as_input(row) for batch in inputs for row in _rows(batch, instruction)]
        options: dict[str, Any] = {key: kwargs[key] for key in ("batch_size", "show_progress_bar") if key in kwargs}
        return self.encoder.encode(items, role=role, **(options | self.options))

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosine of every pair, as `mteb` wants it: a tensor (n, m)."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosine of row i with row i: a tensor (n,)."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)


def _instruction(prompt: Any, role: str | None) -> str | None:
    """A task's prompt for one side; None where it has none, so that the contract's is used."""
    if isinstance(prompt, Mapping):
        return prompt.get(role) or None
    return str(prompt) if prompt and role != "document" else None


def _rows(batch: Mapping[str, Any], instruction: str | None) -> Iterable[dict[str, Any]]:
    """The inputs of a batch; raises `InputError` where it holds what the model cannot read."""
    if other := [column for column in UNSUPPORTED if column in batch]:
        raise InputError(f"the task's inputs hold {other[0]}; this wrapper embeds texts and pictures")
    columns = {column: batch[column] for column in READ if column in batch}
    if not columns:
        raise InputError(f"the task's inputs hold {', '.join(sorted(batch)) or 'nothing'}; this wrapper embeds texts and pictures")
    for values in zip(*columns.values(), strict=True):
        row = {column: value for column, value in zip(columns, values, strict=True) if value is not None}
        yield row if instruction is None else {**row, "instruction": instruction}
