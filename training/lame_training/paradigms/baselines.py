"""The four paradigms as programs over one backbone: same inputs, dtype, attention kernel and layers.

A program is laid out for one batch size and prompt length. Its stages work on memory that stays in place and ask nothing
of the host, so that a GPU can replay them as CUDA graphs: no launch costs, as the fastest engines decode. Each step is a
graph of its own, so that attention reads the valid slice of the cache and no more.
"""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lame_training.model import LaMEModel, ModelInputs
from lame_training.paradigms.language_model import LanguageModel
from lame_training.paradigms.prompts import Prompts

Stage = Callable[[], None]


class Program(ABC):
    """One paradigm for one shape of prompts.

    Args:
        model: for the token table, the vision tower, the latent rows and the head.
        language: the layers, shared by all programs.
        like: prompts of the shape to come.
        behind: positions behind the prompt that are computed in any form.
    """

    name: str

    def __init__(self, model: LaMEModel, language: LanguageModel, like: Prompts, behind: int) -> None:
        self.model, self.language = model, language
        batch, self.length = like.ids_BL.shape
        self.ids_BL, self.feature_index_BL = like.ids_BL.clone(), like.feature_index_BL
        self.has_pictures = like.pixel_patches is not None
        features = int(like.feature_index_BL.max()) + 1
        self.features_FW = model.embed_1D.new_zeros(features, model.feature_width)
        self.rotary = language.rotary(like.positions(behind))
        self.embedding_BP = torch.zeros(batch, model.dim, device=model.embed_1D.device)
        self.stages = self._stages()

    @abstractmethod
    def _stages(self) -> list[Stage]:
        """What runs after the vision tower, in order; the last one fills `embedding_BP`."""

    def __call__(self, prompts: Prompts) -> Tensor:
        """Embeddings (B, P) float32, unit rows; overwritten by the next call."""
        self.ids_BL.copy_(prompts.ids_BL)
        if self.has_pictures:
            self.features_FW.copy_(
                self.model.vision_features(
                    ModelInputs(self.ids_BL, self.feature_index_BL, self.ids_BL, self.ids_BL, prompts.pixel_patches, prompts.grid_thw)
                )
            )
        for stage in self.stages:
            stage()
        return self.embedding_BP

    def capture(self) -> None:
        """Replaces the stages by CUDA graphs of them; the program must have run once."""
        pool = torch.cuda.graph_pool_handle()
        graphs = []
        gc.collect()
        gc.disable()  # a graph of an earlier program that is freed during a capture breaks it
        try:
            for stage in self.stages:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool):
                    stage()
                graphs.append(graph)
        finally:
            gc.enable()
        self.stages = [graph.replay for graph in graphs]

    def prompt_rows(self) -> tuple[Tensor, list[Tensor]]:
        """The rows that the first block reads, (B, L, D), and what deepstack adds behind the first blocks."""
        rows_BLD = F.embedding(self.ids_BL, self.language.table_VD)
        if not self.has_pictures:
            return rows_BLD, []
        features_FD, *deepstack = self.features_FW.split(rows_BLD.shape[-1], dim=-1)
        seen_BL1 = (self.feature_index_BL > 0)[:, :, None]
        return torch.where(seen_BL1, features_FD[self.feature_index_BL], rows_BLD), [level[self.feature_index_BL] for level in deepstack]

    def answer(self, normed_BD: Tensor) -> None:
        """The embedding of a state after the final norm."""
        self.embedding_BP.copy_(self.model.embedding(normed_BD[:, None][:, :0], normed_BD))


class Discriminative(Program):
    """One prefill of L positions, the last token's state."""

    name = "discriminative"

    def __init__(self, model: LaMEModel, language: LanguageModel, like: Prompts) -> None:
        super().__init__(model, language, like, 0)

    def _stages(self) -> list[Stage]:
        return [self._prefill]

    def _prefill(self) -> None:
        rows_BLD, deepstack = self.prompt_rows()
        states_BLD = self.language.prefill(rows_BLD, self.rotary, None, deepstack)
        self.answer(self.language.normed(states_BLD[:, -1]))


class LaME(Program):
    """One prefill of L + K + 1 positions, the state of [EMBED]. The same as `LaMEModel.forward`."""

    name = "LaME"

    def __init__(self, model: LaMEModel, language: LanguageModel, like: Prompts) -> None:
        super().__init__(model, language, like, model.n_reason + 1)

    def _stages(self) -> list[Stage]:
        return [self._prefill]

    def _prefill(self) -> None:
        rows_BLD, deepstack = self.prompt_rows()
        latent_KD = torch.cat([self.model.reason_KD, self.model.embed_1D])
        rows_BND = torch.cat([rows_BLD, latent_KD.expand(len(rows_BLD), -1, -1)], dim=1)
        padded = [F.pad(level, (0, 0, 0, len(latent_KD))) for level in deepstack]
        states_BND = self.language.prefill(rows_BND, self.rotary, None, padded)
        self.answer(self.language.normed(states_BND[:, -1]))


class Rollout(Program):
    """A prefill that fills the cache, then steps; the base of the two paradigms that think token by token.

    Args:
        model: as in `Program`.
        language: as in `Program`.
        like: as in `Program`.
        steps: tokens behind the prompt, one forward pass each; the embedding is the last one's state.
    """

    def __init__(self, model: LaMEModel, language: LanguageModel, like: Prompts, steps: int) -> None:
        self.steps = steps
        batch, length = like.ids_BL.shape
        self.cache = language.cache(batch, length + steps)
        self.next_B1D = language.table_VD.new_zeros(batch, 1, language.table_VD.shape[1])
        super().__init__(model, language, like, steps)

    def _stages(self) -> list[Stage]:
        return [self._prefill, *(partial(self._step, number) for number in range(self.steps))]

    def _prefill(self) -> None:
        rows_BLD, deepstack = self.prompt_rows()
        states_BLD = self.language.prefill(rows_BLD, self.rotary.at(0, self.length), self.cache, deepstack)
        self.think(0, self.language.normed(states_BLD[:, -1:]))

    def _step(self, number: int) -> None:
        position = self.length + number
        normed_B1D = self.language.step(self.next_B1D, self.rotary.at(position, position + 1), self.cache, position)
        if number + 1 < self.steps:
            self.think(number + 1, normed_B1D)
        else:
            self.answer(normed_B1D[:, 0])

    @abstractmethod
    def think(self, number: int, normed_B1D: Tensor) -> None:
        """Fills `next_B1D`, the input of step `number`, from the state before it."""


class LatentRollout(Rollout):
    """The state is fed back as the next input; the last step's state is the embedding."""

    name = "latent rollout"

    def think(self, number: int, normed_B1D: Tensor) -> None:
        """The state itself."""
        self.next_B1D.copy_(normed_B1D)


class ExplicitCoT(Rollout):
    """Greedy tokens by the tied head, never stopped early; the state of the last token is the embedding."""

    name = "explicit CoT"

    def __init__(self, model: LaMEModel, language: LanguageModel, like: Prompts, steps: int) -> None:
        self.tokens_BT = torch.zeros(len(like.ids_BL), steps, dtype=torch.int64, device=like.ids_BL.device)
        super().__init__(model, language, like, steps)

    def think(self, number: int, normed_B1D: Tensor) -> None:
        """The likeliest token's row of the table."""
        token_B1 = self.language.greedy(normed_B1D)
        self.tokens_BT[:, number : number + 1] = token_B1
        self.next_B1D.copy_(F.embedding(token_B1, self.language.table_VD))
