"""The four paradigms as programs over one backbone.

A program is laid out for one batch size and prompt length. Its segments read and write tensors that
stay at their addresses, and never wait for a value on the host. So a GPU can replay them as CUDA
graphs, without the cost of launching kernels one by one, which is how the fastest engines decode.
Each decoding step is a graph of its own, because a graph has fixed shapes, and attention is to read
only the filled part of the cache.

Axes are those of the package's docstring.
"""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lame_training.model.components import ModelInputs
from lame_training.model.lame import LaMEModel
from lame_training.studies.paradigms.language_model import LanguageModel
from lame_training.studies.paradigms.prompts import Prompts

Segment = Callable[[], None]
"""A part of a program that becomes one CUDA graph: it has no arguments and no result."""


class Program(ABC):
    """One paradigm, laid out for prompts of one shape.

    Args:
        model: gives the token table, the vision tower, the latent rows and the head.
        language: the layers, shared by all programs.
        template: prompts of the shape that the program is called with.
        extra: number of positions after the prompt that the program computes.
    """

    name: str

    def __init__(
        self, model: LaMEModel, language: LanguageModel, template: Prompts, extra: int
    ) -> None:
        self.model = model
        self.language = language
        batch, self.length = template.ids_BL.shape
        # cloned, because calls write into it
        self.ids_BL = template.ids_BL.clone()
        self.feature_index_BL = template.feature_index_BL
        self.has_pictures = template.pixel_patches is not None
        features = int(template.feature_index_BL.max()) + 1
        self.features_FW = model.embed_1D.new_zeros(features, model.feature_width)
        self.rotary = language.rotary(template.positions(extra))
        # float32, the default dtype, whatever the weights have: `LaMEModel.embedding` returns it
        self.embedding_BP = torch.zeros(batch, model.dim, device=model.embed_1D.device)
        self.segments = self._list_segments()

    @abstractmethod
    def _list_segments(self) -> list[Segment]:
        """Returns the segments after the vision tower in order; the last fills `embedding_BP`."""

    def __call__(self, prompts: Prompts) -> Tensor:
        """Embeds prompts of the template's shape.

        Returns:
            Embeddings (B, P), float32, unit rows. The next call overwrites them.
        """
        # copied into place: captured graphs know the addresses only
        self.ids_BL.copy_(prompts.ids_BL)
        if self.has_pictures:
            # The tower is no segment: it reads the grid's values on the host, which a CUDA graph
            # cannot. It looks at neither ids nor positions, so these may be any tensors.
            inputs = ModelInputs(
                self.ids_BL,
                self.feature_index_BL,
                self.ids_BL,
                self.ids_BL,
                prompts.pixel_patches,
                prompts.grid_thw,
            )
            self.features_FW.copy_(self.model.vision_features(inputs))
        for segment in self.segments:
            segment()
        return self.embedding_BP

    def capture(self) -> None:
        """Replaces the segments by CUDA graphs of them. The program must have run once."""
        # one pool for all graphs: they run one after the other, so they can share memory
        pool = torch.cuda.graph_pool_handle()
        graphs = []
        # If the collector frees a graph of an earlier program during a capture, the capture breaks.
        gc.collect()
        gc.disable()
        try:
            for segment in self.segments:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool):
                    segment()
                graphs.append(graph)
        finally:
            gc.enable()
        self.segments = [graph.replay for graph in graphs]

    def prompt_rows(self) -> tuple[Tensor, list[Tensor]]:
        """Looks up the prompt's rows.

        Returns:
            The rows that the first block reads, (B, L, D), and the rows that DeepStack adds after
            the first blocks, (B, L, D) each, empty for backbones without it.
        """
        rows_BLD = F.embedding(self.ids_BL, self.language.table_VD)
        if not self.has_pictures:
            return rows_BLD, []
        # a feature row holds the final features, then those of each DeepStack level
        features_FD, *deepstack = self.features_FW.split(rows_BLD.shape[-1], dim=-1)
        is_vision_BL1 = (self.feature_index_BL > 0)[:, :, None]
        rows_BLD = torch.where(is_vision_BL1, features_FD[self.feature_index_BL], rows_BLD)
        # row 0 of the feature table is zeros, so text gets nothing added
        return rows_BLD, [level_FD[self.feature_index_BL] for level_FD in deepstack]

    def write_embedding(self, normed_BD: Tensor) -> None:
        """Fills `embedding_BP` with the embeddings of states after the final norm."""
        # the head of these models reads one state, so Z is empty: (B, 0, D)
        self.embedding_BP.copy_(self.model.embedding(normed_BD[:, None][:, :0], normed_BD))


class Discriminative(Program):
    """One prefill of L positions; the embedding is the last token's state."""

    name = "discriminative"

    def __init__(self, model: LaMEModel, language: LanguageModel, template: Prompts) -> None:
        super().__init__(model, language, template, 0)

    def _list_segments(self) -> list[Segment]:
        return [self._prefill]

    def _prefill(self) -> None:
        rows_BLD, deepstack = self.prompt_rows()
        states_BLD = self.language.prefill(rows_BLD, self.rotary, None, deepstack)
        self.write_embedding(self.language.final_norm(states_BLD[:, -1]))


class LaME(Program):
    """One prefill of L + K + 1 positions; the embedding is the state of [EMBED].

    It computes what `LaMEModel.forward` does.
    """

    name = "LaME"

    def __init__(self, model: LaMEModel, language: LanguageModel, template: Prompts) -> None:
        super().__init__(model, language, template, model.n_reason + 1)

    def _list_segments(self) -> list[Segment]:
        return [self._prefill]

    def _prefill(self) -> None:
        rows_BLD, deepstack = self.prompt_rows()
        latent_ND = torch.cat([self.model.reason_KD, self.model.embed_1D])
        rows_BND = torch.cat([rows_BLD, latent_ND.expand(len(rows_BLD), -1, -1)], dim=1)
        padded = [F.pad(level_BLD, (0, 0, 0, len(latent_ND))) for level_BLD in deepstack]
        states_BND = self.language.prefill(rows_BND, self.rotary, None, padded)
        self.write_embedding(self.language.final_norm(states_BND[:, -1]))


class Rollout(Program):
    """A prefill that fills the cache, then steps of one token each.

    This is the base of the two paradigms that reason token by token; they differ in `feed_back`.

    Args:
        model: see `Program`.
        language: see `Program`.
        template: see `Program`.
        steps: number of tokens after the prompt, with one forward pass each; the embedding is the
            last one's state.
    """

    def __init__(
        self, model: LaMEModel, language: LanguageModel, template: Prompts, steps: int
    ) -> None:
        self.steps = steps
        batch, length = template.ids_BL.shape
        self.cache = language.cache(batch, length + steps)
        self.next_B1D = language.table_VD.new_zeros(batch, 1, language.table_VD.shape[1])
        # last, because it lists the segments, which refer to the tensors above
        super().__init__(model, language, template, steps)

    def _list_segments(self) -> list[Segment]:
        return [self._prefill, *(partial(self._step, number) for number in range(self.steps))]

    def _prefill(self) -> None:
        rows_BLD, deepstack = self.prompt_rows()
        prompt_rotary = self.rotary.slice(0, self.length)
        states_BLD = self.language.prefill(rows_BLD, prompt_rotary, self.cache, deepstack)
        self.feed_back(0, self.language.final_norm(states_BLD[:, -1:]))

    def _step(self, number: int) -> None:
        """Runs step `number` (0-based)."""
        position = self.length + number
        rotary = self.rotary.slice(position, position + 1)
        normed_B1D = self.language.step(self.next_B1D, rotary, self.cache, position)
        if number + 1 < self.steps:
            self.feed_back(number + 1, normed_B1D)
        else:
            self.write_embedding(normed_B1D[:, 0])

    @abstractmethod
    def feed_back(self, number: int, normed_B1D: Tensor) -> None:
        """Fills `next_B1D`, the input of step `number`, from the state before it."""


class LatentRollout(Rollout):
    """Feeds each state back as the next input; the embedding is the last step's state."""

    name = "latent rollout"

    def feed_back(self, number: int, normed_B1D: Tensor) -> None:
        """Makes the state itself the next input."""
        del number  # all steps are alike
        self.next_B1D.copy_(normed_B1D)


class ExplicitCoT(Rollout):
    """Decodes a chain of thought greedily; the embedding is the last token's state.

    The tied head selects the tokens, which `tokens_BT` keeps. Decoding never stops early, so that
    every input costs the same number of tokens.
    """

    name = "explicit CoT"

    def __init__(
        self, model: LaMEModel, language: LanguageModel, template: Prompts, steps: int
    ) -> None:
        self.tokens_BT = torch.zeros(
            len(template.ids_BL), steps, dtype=torch.int64, device=template.ids_BL.device
        )
        super().__init__(model, language, template, steps)

    def feed_back(self, number: int, normed_B1D: Tensor) -> None:
        """Makes the likeliest token's row of the table the next input."""
        token_B1 = self.language.greedy(normed_B1D)
        self.tokens_BT[:, number : number + 1] = token_B1
        self.next_B1D.copy_(F.embedding(token_B1, self.language.table_VD))
