"""Adapts a bundle to `mteb`, so that its text, picture and mixed tasks can evaluate it.

    import mteb
    from lame_runtime.integrations.mteb import LameModel

    mteb.evaluate(LameModel("bundle"), tasks=mteb.get_tasks(["…"]))

`mteb` (2.x, `pip install mteb`) depends on PyTorch, but this module does not import it: the graph
of the bundle computes the vectors. `mteb` stores results by model name and revision; the revision
is the hash of the manifest.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lame_runtime.arguments import folder_path, optional_text
from lame_runtime.bundle.manifest import read_manifest
from lame_runtime.encoder import Encoder
from lame_runtime.errors import InputError
from lame_runtime.inputs import as_input
from lame_runtime.options import EncodeKeywords, EncodeOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

UNSUPPORTED = ("video", "audio")
SUPPORTED = ("text", "image")


class LameModel:
    """Implements `mteb`'s encoder protocol with an `Encoder`.

    Queries of a task are embedded with the role "query", documents with the role "document", and
    other inputs without a role. The prompt of a task becomes the instruction of the role that it
    names, or of queries if it names none; without a prompt, the contract's instruction is used.

    Args:
        model: a bundle's folder, or a loaded `Encoder`.
        graph: graph of the bundle; see `LoadOptions`.
        name: "organization/model" in `mteb`'s results; derived from folder and graph by default.
        options: fields of `EncodeOptions` for every call, such as `truncate=True` for tasks with
            texts that exceed the model's limit.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Encoder,
        graph: str | None = None,
        name: str | None = None,
        **options: Unpack[EncodeKeywords],
    ) -> None:
        # validated here, because a benchmark may run for hours before it first embeds
        EncodeOptions(**options)
        self.options = options
        self.revision: str | None = None
        folder_name = "model"
        if isinstance(model, Encoder):
            self.encoder = model
        else:
            folder = folder_path("model", model)
            self.encoder = Encoder.load(folder, graph=graph)
            self.revision = read_manifest(folder).sha256
            folder_name = folder.resolve().name
        self.name = optional_text("name", name) or f"lame/{folder_name}-{self.encoder.graph}"

    @cached_property
    def mteb_model_meta(self) -> Any:
        """The `ModelMeta` that `mteb` records about the model."""
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
        hf_split: str = "",  # noqa: ARG002 - mteb passes it by name
        hf_subset: str = "",  # noqa: ARG002 - mteb passes it by name
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> npt.NDArray[np.float32]:
        """Embeds the batches of `mteb`'s loader.

        Args:
            inputs: batches, each a list per column; the columns `text` and `image` are read.
            task_metadata: its `prompt` is the instruction.
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
        # other keywords of mteb are for other kinds of models
        options: EncodeKeywords = {"role": role}
        if "batch_size" in kwargs:
            options["batch_size"] = kwargs["batch_size"]
        # the user's options take precedence over those of the benchmark
        options.update(self.options)
        show_progress_bar = bool(kwargs.get("show_progress_bar", False))
        return self.encoder.encode(items, show_progress_bar=show_progress_bar, **options)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Returns the cosine of every pair as a tensor (n, m), which `mteb` expects."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Returns the cosine of row i with row i as a tensor (n,)."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)


def _instruction(prompt: Any, role: str | None) -> str | None:
    """Returns a task's prompt for one role; None if the contract's instruction applies."""
    if isinstance(prompt, Mapping):
        return prompt.get(role) or None
    # a plain prompt is meant for queries; mteb does not add it to documents either
    return str(prompt) if prompt and role != "document" else None


def _rows(batch: Mapping[str, Any], instruction: str | None) -> Iterable[dict[str, Any]]:
    """Yields the inputs of a batch; raises `InputError` for unsupported modalities."""
    kinds = "this wrapper embeds texts and pictures"
    for column in UNSUPPORTED:
        if column in batch:
            raise InputError(f"the task's inputs hold {column}; {kinds}")
    columns = {column: batch[column] for column in SUPPORTED if column in batch}
    if not columns:
        present = ", ".join(sorted(batch)) or "nothing"
        raise InputError(f"the task's inputs hold {present}; {kinds}")
    for values in zip(*columns.values(), strict=True):
        # a row of a mixed task may lack its text or its picture
        pairs = zip(columns, values, strict=True)
        row = {column: value for column, value in pairs if value is not None}
        yield row if instruction is None else {**row, "instruction": instruction}
