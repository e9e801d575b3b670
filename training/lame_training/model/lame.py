"""The LaME model: backbone, reason tokens, [EMBED], projection head, connector, latent decoder.

One forward pass reads the prompt and, after it, K + 1 learned latent tokens:

    prompt (texts, pictures, videos)   [REASON]_0 … [REASON]_{K-1}   [EMBED]

Only the backbone's last hidden states at the latent tokens are used:

    Z (B, K, D)   reason states: the hidden states at the K reason tokens
    h (B, D)      the hidden state at [EMBED]
    e (B, P)      the embedding, l2norm(head(h)); the head is a matrix or the identity

In training, a latent decoder must also write a target text from Z alone; its error is the
reconstruction loss L_rec ("rec" in names). So Z is an information bottleneck: whatever the text
requires has to fit into K vectors. The decoder, and the connector that maps Z into its space, are
dropped at inference.

Tensors carry their axes at the end of their names:

    B  batch                                  F  rows of the feature table (see `vision_features`)
    L  padded length, latent tokens included  W  width of its rows: D, plus D per DeepStack level
    K  reason tokens                          T  target tokens, padded
    D  width of the backbone                  U  decoder positions: K + prefix + T
    E  width of the decoder                   V  vocabulary
    P  length of the embedding                3  M-RoPE axes: time, row, column

Source: arXiv 2606.13061. Choices that the paper leaves open are marked "ours".
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from lame_runtime.errors import UsageError
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, Qwen3ForCausalLM

from lame_training.model import components
from lame_training.model.backbones import FAMILIES, deepstack_levels, family_of
from lame_training.model.components import LatentConnector, ModelInputs, decodes

EmbedAttends = Literal["everything", "reason"]
"""The tokens that [EMBED] attends to besides itself: all before it, or the reason tokens alone."""
RecFrom = Literal["reason", "embed", "both"]
"""The states that the latent decoder reads: Z, h, or Z and h."""
Pooling = Literal["embed", "concat", "mean"]
"""The states that the head reads: h, Z and h side by side, or the mean of all states up to h."""
Head = Literal["projection", "dense", "dense_tanh"]
"""The last layer: a matrix, or the identity if P fits; or an affine layer, tanh after it or not."""


class LaMEModel(nn.Module):
    """A vision-language backbone that reasons in K latent tokens and returns one vector per input.

    Args:
        backbone: a model of one of `backbones.FAMILIES`; new parameters take its dtype.
        decoder: the latent decoder; None for a model without L_rec.
        n_reason: K; 0 makes a plain embedder with [EMBED] alone.
        dim: P; the head is the identity if P is also the number of values that it reads.
        embed_attends: "reason" hides the prompt from [EMBED] in every layer, at inference as well.
        rec_from: the states that the decoder reads. Without reason tokens there are some only for
            "embed"; otherwise the decoder is dropped.
        pooling: the states that the head reads.
        head: the last layer before vectors get unit length.
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
        head: Head = "projection",
    ) -> None:
        super().__init__()
        width_D, dtype = backbone.config.text_config.hidden_size, backbone.dtype
        self.backbone = backbone
        self.levels = deepstack_levels(backbone.config)
        # two parameters, because the warm-up stage trains the reason tokens without [EMBED]
        self.reason_KD = nn.Parameter(torch.empty(n_reason, width_D, dtype=dtype))
        self.embed_1D = nn.Parameter(torch.empty(1, width_D, dtype=dtype))
        pooled_width = width_D * (n_reason + 1 if pooling == "concat" else 1)
        self.head = components.make_head(head, pooled_width, dim, dtype)
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
        self.head_kind = head
        self.compute_dtype = dtype
        """The dtype of activations: that of the weights, or FP32 if `upcast` widens them."""

    @staticmethod
    def from_configs(
        backbone: PreTrainedConfig,
        decoder: PreTrainedConfig | None,
        n_reason: int,
        dim: int,
        embed_attends: EmbedAttends = "everything",
        rec_from: RecFrom = "reason",
        pooling: Pooling = "embed",
        head: Head = "projection",
    ) -> LaMEModel:
        """Builds a newly initialized model; the arguments are the constructor's, with configs."""
        backbone_model = FAMILIES[family_of(backbone)].model(backbone)
        decoder_model = None
        if decoder is not None and decodes(n_reason, rec_from):
            decoder_model = Qwen3ForCausalLM(decoder)
        switches = (embed_attends, rec_from, pooling, head)
        return LaMEModel(backbone_model, decoder_model, n_reason, dim, *switches)

    @torch.no_grad()
    def initialize_latents(self, start_id: int) -> None:
        """Sets all latent embeddings to that of token `start_id` (end of turn) plus noise (ours).

        The noise makes them distinct: equal rows would differ by positions alone.
        """
        start_D = self.backbone.get_input_embeddings().weight[start_id].float()
        for rows in (self.reason_KD, self.embed_1D):
            rows.copy_(start_D + 0.02 * torch.randn(rows.shape))

    @property
    def feature_width(self) -> int:
        """Returns W, the width of a row of the feature table."""
        return int(self.backbone.config.text_config.hidden_size) * (1 + self.levels)

    def visual(self, pixel_patches: Tensor, grid_thw: Tensor) -> Tensor:
        """Runs the vision tower and its merger over packed pictures.

        Returns:
            (vision tokens, W): the final features, followed by those of the DeepStack levels.
        """
        output = self.backbone.visual(pixel_patches.to(self.compute_dtype), grid_thw=grid_thw)
        return torch.cat(
            [output.pooler_output, *(output.deepstack_features if self.levels else ())], dim=-1
        )

    def vision_features(self, inputs: ModelInputs) -> Tensor:
        """Returns the feature table (F, W): a row of zeros, then the batch's vision features.

        `ModelInputs.feature_index_BL` points into it. All other tokens point to row 0, which is
        looked up and then discarded, so a batch without pictures takes the same path.
        """
        zeros_1W = self.embed_1D.new_zeros(1, self.feature_width, dtype=self.compute_dtype)
        if inputs.pixel_patches is None or inputs.grid_thw is None:
            return zeros_1W
        return torch.cat([zeros_1W, self.visual(inputs.pixel_patches, inputs.grid_thw)])

    def hidden_states(
        self, inputs: ModelInputs, features_FW: Tensor, visible_B1LL: Tensor | None = None
    ) -> Tensor:
        """Returns the backbone's last hidden states (B, L, D), after the final norm.

        Args:
            inputs: the batch.
            features_FW: the feature table of `vision_features`.
            visible_B1LL: a bool attention mask in place of the model's own, for experiments.
        """
        if visible_B1LL is None and self.embed_attends == "reason":
            visible_B1LL = self.reason_only_mask(inputs)
        table_VD = self.backbone.get_input_embeddings().weight
        # The ids of the latent tokens follow those of the table. Appending their rows to the table
        # would copy it (several GB in large backbones), so ids are looked up in both and selected
        # afterwards; `clamp` keeps the ids in range whose row is discarded.
        latent_BL = inputs.input_ids_BL - len(table_VD)
        latent_BLD = F.embedding(latent_BL.clamp(min=0), torch.cat([self.reason_KD, self.embed_1D]))
        tokens_BLD = F.embedding(inputs.input_ids_BL.clamp(max=len(table_VD) - 1), table_VD)
        tokens_BLD = torch.where(latent_BL[:, :, None] >= 0, latent_BLD, tokens_BLD)
        # a feature row holds the final features, then those of each DeepStack level
        features_FD, *deepstack = features_FW.to(self.compute_dtype).split(
            table_VD.shape[1], dim=-1
        )
        is_vision_BL = inputs.feature_index_BL > 0
        rows_BLD = torch.where(
            is_vision_BL[:, :, None],
            features_FD[inputs.feature_index_BL],
            tokens_BLD.to(self.compute_dtype),
        )
        extra = {}
        if deepstack:
            # transformers adds level i after block i, at the vision tokens in their order
            index = inputs.feature_index_BL[is_vision_BL]
            extra = {
                "visual_pos_masks": is_vision_BL,
                "deepstack_visual_embeds": [level_FD[index] for level_FD in deepstack],
            }
        # Without a mask transformers attends causally. Inputs are padded on the right, and no token
        # attends to what follows it, so padding needs no mask of its own. A cache of keys would
        # only cost memory: there is one prefill and no decoding.
        return self.backbone.language_model(
            inputs_embeds=rows_BLD,
            position_ids=inputs.position_ids_3BL,
            attention_mask=visible_B1LL,
            use_cache=False,
            **extra,
        ).last_hidden_state

    def reason_only_mask(self, inputs: ModelInputs) -> Tensor:
        """Returns a causal mask in which [EMBED] sees only the reason tokens and itself.

        Returns:
            (B, 1, L, L) bool; True if the token of the row attends to that of the column.
        """
        batch, length = inputs.input_ids_BL.shape
        column_L = torch.arange(length, device=inputs.input_ids_BL.device)
        # cloned, because the rows of an expanded tensor share their memory
        visible_BLL = (column_L[:, None] >= column_L).expand(batch, -1, -1).clone()
        # columns after [EMBED] are True here as well; the causal mask has hidden them already
        not_prompt_BL = column_L >= inputs.embed_index_B[:, None] - self.n_reason
        visible_BLL[torch.arange(batch), inputs.embed_index_B] &= not_prompt_BL
        return visible_BLL[:, None]

    def latents(self, inputs: ModelInputs) -> tuple[Tensor, Tensor]:
        """Runs the backbone and returns Z (B, K, D) and h (B, D)."""
        hidden_BLD = self.hidden_states(inputs, self.vision_features(inputs))
        return self.take_latents(hidden_BLD, inputs.embed_index_B)

    def take_latents(self, hidden_BLD: Tensor, embed_index_B: Tensor) -> tuple[Tensor, Tensor]:
        """Returns Z (B, K, D) and h (B, D): the K + 1 hidden states that end at `embed_index_B`.

        The index differs between rows, because padding follows a row's last token. With the pooling
        "mean", h is the mean of all states up to it.
        """
        rows_B = torch.arange(len(hidden_BLD), device=hidden_BLD.device)
        offsets_K = torch.arange(-self.n_reason, 0, device=hidden_BLD.device)
        z_BKD = hidden_BLD[rows_B[:, None], embed_index_B[:, None] + offsets_K]
        if self.pooling == "mean":
            return z_BKD, components.mean_upto(hidden_BLD, embed_index_B)
        return z_BKD, hidden_BLD[rows_B, embed_index_B]

    def embedding(self, z_BKD: Tensor, h_BD: Tensor) -> Tensor:
        """Returns e (B, P) in float32: l2norm(head(h)), or l2norm(head([Z; h])) if concatenated."""
        pooled = h_BD
        if self.pooling == "concat":
            pooled = torch.cat([z_BKD, h_BD[:, None]], dim=1).flatten(1)
        # normalized in FP32: in half precision the vectors would not have unit length
        return F.normalize(self.head(pooled).float(), dim=-1)

    def forward(self, inputs: ModelInputs) -> tuple[Tensor, Tensor]:
        """Returns the embeddings (B, P) and the states the decoder reads, see `decoder_reads`."""
        z_BKD, h_BD = self.latents(inputs)
        return self.embedding(z_BKD, h_BD), self.decoder_reads(z_BKD, h_BD)

    def decoder_reads(self, z_BKD: Tensor, h_BD: Tensor) -> Tensor:
        """Returns the states that `rec_from` names: (B, K, D), (B, 1, D) or (B, K + 1, D)."""
        if self.rec_from == "reason":
            return z_BKD
        if self.rec_from == "embed":
            return h_BD[:, None]
        return torch.cat([z_BKD, h_BD[:, None]], dim=1)

    def reconstruction_logits(
        self, z_BKD: Tensor, prefix_ids: Tensor, target_ids_BT: Tensor
    ) -> Tensor:
        """Returns the decoder's logits (B, T + 1, V) over the target, from the latent states alone.

        Position t predicts target token t, and the last position what follows the target. The
        decoder reads [connector(Z); prefix; target] with teacher forcing.

        Args:
            z_BKD: the states to decode from, as `forward` returns them.
            prefix_ids: (n,) ids between latent states and target, n ≥ 1.
            target_ids_BT: target ids, padded on the right.

        Raises:
            UsageError: the model has no latent decoder.
        """
        if self.connector is None or self.decoder is None:
            raise UsageError("the model has no latent decoder; use a recipe that has one")
        table = self.decoder.get_input_embeddings()
        prefix_BnE = table(prefix_ids).expand(len(z_BKD), -1, -1)
        rows_BUE = torch.cat([self.connector(z_BKD), prefix_BnE, table(target_ids_BT)], dim=1)
        # the last prefix position predicts target token 0
        first = z_BKD.shape[1] + len(prefix_ids) - 1
        hidden_BUE = self.decoder.model(inputs_embeds=rows_BUE, use_cache=False).last_hidden_state
        # logits only of the positions that are trained on: V is large
        return self.decoder.lm_head(hidden_BUE[:, first:])

    def part(self, name: str) -> list[tuple[str, nn.Parameter]]:
        """Returns the named parameters of one part, which is a value of `components.PARTS`."""
        return [
            (key, value)
            for key, value in self.named_parameters()
            if components.part_of(key) == name
        ]

    def trim(self) -> LaMEModel:
        """Drops connector and decoder, which inference does not need. Returns self."""
        self.connector = self.decoder = None
        return self
