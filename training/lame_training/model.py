"""The LaME model: backbone, K reason tokens, [EMBED], projection head, connector and latent decoder.

Axes: B batch, L padded length, K reason tokens, D backbone width, E decoder width, P embedding length,
T target tokens, V decoder vocabulary, F vision features of the batch, W width of a feature row: D, and D more
for each deepstack level of Qwen3-VL. Source: arXiv 2606.13061; what the paper leaves open is marked "ours".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, Qwen3ForCausalLM

from lame_training.backbones import FAMILIES, deepstack_levels, family_of

EmbedAttends = Literal["everything", "reason"]
"""What [EMBED] may attend to besides itself: everything before it, or the reason tokens alone."""
RecFrom = Literal["reason", "embed", "both"]
"""Which states the latent decoder reads: those of the reason tokens, of [EMBED], or of both."""
Pooling = Literal["embed", "concat"]
"""What the head W reads: the [EMBED] state, or the K + 1 latent states side by side."""


@dataclass(frozen=True)
class ModelInputs:
    """The arrays of `lame_runtime.backends.base.Batch` as tensors, pictures packed as the backbone wants them."""

    input_ids_BL: Tensor
    feature_index_BL: Tensor
    position_ids_3BL: Tensor
    embed_index_B: Tensor
    pixel_patches: Tensor | None
    """float32 (all patches of the batch, patch_dim), or None without pictures."""
    grid_thw: Tensor | None
    """int64 (pictures, 3)."""


class LatentConnector(nn.Module):
    """C: maps reason states into the decoder's space. LayerNorm → Linear(D, E) → GELU → Linear(E, E)."""

    def __init__(self, width_D: int, width_E: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width_D)
        self.up = nn.Linear(width_D, width_E)
        self.out = nn.Linear(width_E, width_E)

    def forward(self, states_BKD: Tensor) -> Tensor:
        """(B, K, D) → (B, K, E)."""
        return self.out(F.gelu(self.up(self.norm(states_BKD))))


class LaMEModel(nn.Module):
    """A vision-language backbone that thinks in K latent rows and answers with one vector, in one forward pass.

    Args:
        backbone: one of `backbones.FAMILIES`; what is new takes its dtype.
        decoder: the latent decoder; None for a model without L_rec.
        n_reason: K; 0 leaves a plain embedder with one [EMBED] row.
        dim: P; the head W is the identity where it reads D numbers and P = D.
        embed_attends: "reason" hides the prompt from [EMBED] in every layer, in training and inference alike.
        rec_from: the states the decoder reads; without reason tokens only "embed" leaves it any.
        pooling: what the head reads.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        decoder: PreTrainedModel | None,
        n_reason: int,
        dim: int,
        embed_attends: EmbedAttends = "everything",
        rec_from: RecFrom = "reason",
        pooling: Pooling = "embed",
    ) -> None:
        super().__init__()
        width_D, dtype = backbone.config.text_config.hidden_size, backbone.dtype
        self.backbone = backbone
        self.levels = deepstack_levels(backbone.config)
        self.reason_KD = nn.Parameter(torch.empty(n_reason, width_D, dtype=dtype))
        self.embed_1D = nn.Parameter(torch.empty(1, width_D, dtype=dtype))
        read = width_D * (1 if pooling == "embed" else n_reason + 1)
        self.head: nn.Module = nn.Identity() if dim == read else nn.Linear(read, dim, bias=False, dtype=dtype)
        self.connector: LatentConnector | None = None
        self.decoder: PreTrainedModel | None = None
        if decoder is not None and decodes(n_reason, rec_from):
            self.connector = LatentConnector(width_D, decoder.config.hidden_size).to(dtype)
            self.decoder = decoder
        self.n_reason = n_reason
        self.dim = dim
        self.embed_attends = embed_attends
        self.rec_from = rec_from
        self.pooling = pooling
        self.compute_dtype = dtype
        """What activations are computed in: the weights' dtype, unless `upcast.compute_in_fp32` says otherwise."""

    @staticmethod
    def from_configs(
        backbone: PreTrainedConfig,
        decoder: PreTrainedConfig | None,
        n_reason: int,
        dim: int,
        embed_attends: EmbedAttends = "everything",
        rec_from: RecFrom = "reason",
        pooling: Pooling = "embed",
    ) -> LaMEModel:
        """A freshly initialised model; the arguments are those of the constructor, as configs."""
        made = FAMILIES[family_of(backbone)].model(backbone)
        read = decoder if decodes(n_reason, rec_from) else None
        return LaMEModel(made, None if read is None else Qwen3ForCausalLM(read), n_reason, dim, embed_attends, rec_from, pooling)

    @torch.no_grad()
    def initialise_latents(self, start_id: int) -> None:
        """Latent rows begin at the embedding of token `start_id` (end of turn) plus small noise (ours)."""
        start_D = self.backbone.get_input_embeddings().weight[start_id].float()
        for rows in (self.reason_KD, self.embed_1D):
            rows.copy_(start_D + 0.02 * torch.randn(rows.shape))

    @property
    def feature_width(self) -> int:
        """W, the width of a feature row."""
        return int(self.backbone.config.text_config.hidden_size) * (1 + self.levels)

    def visual(self, pixel_patches: Tensor, grid_thw: Tensor) -> Tensor:
        """Vision tower and merger over packed pictures: (F, W), deepstack features beside the final ones."""
        output = self.backbone.visual(pixel_patches.to(self.compute_dtype), grid_thw=grid_thw)
        return torch.cat([output.pooler_output, *(output.deepstack_features if self.levels else ())], dim=-1)

    def vision_features(self, inputs: ModelInputs) -> Tensor:
        """Features of the batch's pictures: (1 + F, W), row 0 zeros."""
        nothing_1W = self.embed_1D.new_zeros(1, self.feature_width, dtype=self.compute_dtype)
        if inputs.pixel_patches is None or inputs.grid_thw is None:
            return nothing_1W
        return torch.cat([nothing_1W, self.visual(inputs.pixel_patches, inputs.grid_thw)])

    def hidden_states(self, inputs: ModelInputs, features_FW: Tensor, visible_B1LL: Tensor | None = None) -> Tensor:
        """The backbone's last hidden states over prompt and latent rows: (B, L, D).

        Args:
            inputs: the batch.
            features_FW: from `vision_features`.
            visible_B1LL: a bool mask in place of the model's own, for experiments.
        """
        if visible_B1LL is None and self.embed_attends == "reason":
            visible_B1LL = self.reason_only_mask(inputs)
        table_VD = self.backbone.get_input_embeddings().weight
        latent_BL = inputs.input_ids_BL - len(table_VD)  # the latent rows' ids follow the table's; joining the two would copy it
        latent_BLD = F.embedding(latent_BL.clamp(min=0), torch.cat([self.reason_KD, self.embed_1D]))
        tokens_BLD = F.embedding(inputs.input_ids_BL.clamp(max=len(table_VD) - 1), table_VD)
        tokens_BLD = torch.where(latent_BL[:, :, None] >= 0, latent_BLD, tokens_BLD).to(self.compute_dtype)
        features_FD, *deepstack = features_FW.to(self.compute_dtype).split(table_VD.shape[1], dim=-1)
        seen_BL = inputs.feature_index_BL > 0
        rows_BLD = torch.where(seen_BL[:, :, None], features_FD[inputs.feature_index_BL], tokens_BLD)
        extra = {}
        if deepstack:
            index = inputs.feature_index_BL[seen_BL]
            extra = {"visual_pos_masks": seen_BL, "deepstack_visual_embeds": [level[index] for level in deepstack]}
        return self.backbone.language_model(
            inputs_embeds=rows_BLD, position_ids=inputs.position_ids_3BL, attention_mask=visible_B1LL, use_cache=False, **extra
        ).last_hidden_state

    def reason_only_mask(self, inputs: ModelInputs) -> Tensor:
        """The causal mask, but [EMBED] sees the K rows before it and itself alone: (B, 1, L, L) bool."""
        b, length = inputs.input_ids_BL.shape
        column_L = torch.arange(length, device=inputs.input_ids_BL.device)
        visible_BLL = (column_L[:, None] >= column_L).expand(b, -1, -1).clone()
        latent_BL = column_L >= inputs.embed_index_B[:, None] - self.n_reason
        visible_BLL[torch.arange(b), inputs.embed_index_B] &= latent_BL
        return visible_BLL[:, None]

    def latents(self, inputs: ModelInputs) -> tuple[Tensor, Tensor]:
        """One forward pass. Returns reason states Z (B, K, D) and the [EMBED] state h (B, D)."""
        hidden_BLD = self.hidden_states(inputs, self.vision_features(inputs))
        return self.take_latents(hidden_BLD, inputs.embed_index_B)

    def take_latents(self, hidden_BLD: Tensor, embed_index_B: Tensor) -> tuple[Tensor, Tensor]:
        """Z (B, K, D) and h (B, D): the K + 1 consecutive rows that end at `embed_index_B`."""
        rows_B = torch.arange(len(hidden_BLD), device=hidden_BLD.device)
        offsets_K = torch.arange(-self.n_reason, 0, device=hidden_BLD.device)
        z_BKD = hidden_BLD[rows_B[:, None], embed_index_B[:, None] + offsets_K]
        return z_BKD, hidden_BLD[rows_B, embed_index_B]

    def embedding(self, z_BKD: Tensor, h_BD: Tensor) -> Tensor:
        """E = l2norm(W h), or l2norm(W [Z; h]) where the head reads all latent states: (B, P) float32."""
        read = h_BD if self.pooling == "embed" else torch.cat([z_BKD, h_BD[:, None]], dim=1).flatten(1)
        return F.normalize(self.head(read).float(), dim=-1)

    def forward(self, inputs: ModelInputs) -> tuple[Tensor, Tensor]:
        """Embeddings e (B, P) and the states the decoder reads, Z (B, K, D) unless `rec_from` says otherwise, of one batch."""
        z_BKD, h_BD = self.latents(inputs)
        return self.embedding(z_BKD, h_BD), self.decoder_reads(z_BKD, h_BD)

    def decoder_reads(self, z_BKD: Tensor, h_BD: Tensor) -> Tensor:
        """What `rec_from` names: (B, K, D), (B, 1, D) or (B, K + 1, D)."""
        if self.rec_from == "reason":
            return z_BKD
        return h_BD[:, None] if self.rec_from == "embed" else torch.cat([z_BKD, h_BD[:, None]], dim=1)

    def reconstruction_logits(self, z_BKD: Tensor, prefix_ids: Tensor, target_ids_BT: Tensor) -> Tensor:
        """The decoder's logits over the target given the latent states alone: (B, T + 1, V).

        Position t predicts target token t; the last position predicts what follows the target.

        Args:
            z_BKD: the states to decode from, as `forward` returns them.
            prefix_ids: (n,) ids between latents and target, n ≥ 1.
            target_ids_BT: right-padded target ids.
        """
        assert self.connector is not None
        assert self.decoder is not None
        table = self.decoder.get_input_embeddings()
        prefix_BnE = table(prefix_ids).expand(len(z_BKD), -1, -1)
        rows_BUE = torch.cat([self.connector(z_BKD), prefix_BnE, table(target_ids_BT)], dim=1)
        first = z_BKD.shape[1] + len(prefix_ids) - 1
        hidden_BUE = self.decoder.model(inputs_embeds=rows_BUE, use_cache=False).last_hidden_state
        return self.decoder.lm_head(hidden_BUE[:, first:])

    def part(self, name: str) -> list[tuple[str, nn.Parameter]]:
        """Named parameters of one trainable part, the vocabulary of `stages.Stage.rates`.

        Parts: vision, merger, language_model, reason, embed, head, connector, decoder.
        """
        return [(key, value) for key, value in self.named_parameters() if part_of(key) == name]

    def trim(self) -> LaMEModel:
        """Drops connector and decoder, which inference does not need. Returns self."""
        self.connector = self.decoder = None
        return self


def decodes(n_reason: int, rec_from: RecFrom) -> bool:
    """Whether there are states for a latent decoder to read."""
    return n_reason > 0 or rec_from == "embed"


PARTS = {
    "backbone.visual.merger.": "merger",
    "backbone.visual.deepstack_merger_list.": "merger",
    "backbone.visual.": "vision",
    "backbone.language_model.": "language_model",
    "reason_KD": "reason",
    "embed_1D": "embed",
    "head.": "head",
    "connector.": "connector",
    "decoder.": "decoder",
}


def part_of(parameter: str) -> str:
    """The part a parameter belongs to."""
    return next(part for prefix, part in PARTS.items() if parameter.startswith(prefix))
