"""The options of a training run, besides its recipe, its data and its output folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

from lame_runtime.arguments import integer, switch
from lame_runtime.errors import UsageError, shown

from lame_training.arguments import optional_path, whole_numbers
from lame_training.published.forms.published_forms import published_form
from lame_training.published.kept.starting_contract import KeptEmbedder
from lame_training.recipes.recipe import Recipe

FolderLike = str | os.PathLike[str]
KeptOf = Literal["recipe", "published"]
"""Whose prompt or pooling a run has: the recipe's, or that of a published embedder."""


class TrainKeywords(TypedDict, total=False):
    """The keywords of `lame_training.train`; `TrainOptions` documents them."""

    backbone: FolderLike | None
    prompt: KeptOf
    pooling: KeptOf
    form: str | None
    decoder: FolderLike | None
    mixture: FolderLike | None
    allow_outside: bool
    steps: int | None
    seed: int | None
    matryoshka: Sequence[int] | None
    resume: bool
    progress: bool
    save_every: int | None
    keep: int
    threads: int | None
    device: Literal["cpu"] | None
    shard: bool


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of `lame_training.train`.

    Attributes:
        backbone: a local folder that `save_pretrained` wrote, or a PEFT adapter of one, which takes
            the place of the recipe's own backbone. None trains from random weights.
        prompt: "published" keeps the prompt of `backbone`, which is then the folder of a published
            embedder; "recipe" takes what its chat template prints, without instructions.
        pooling: "published" makes [EMBED] start as the token that the published embedder pools, and
            the head as its own; it needs the published prompt. "recipe" starts both afresh.
        form: the form of a published embedder whose folder does not describe itself, as for
            `lame-train import`.
        decoder: a local folder of the latent decoder, such as Qwen3-0.6B; None starts it from
            random weights.
        mixture: a YAML file that lists the data sets (see `lame_training.data.mixture`); None takes
            the recipe's, or those found in the data root.
        allow_outside: follow paths of the mixture, and links, that lead out of the data root.
            Otherwise they are refused, since they may come with downloaded data.
        steps: number of steps, over all stages and from the start of the run, after which to stop
            and write the model as it is then. 0 writes the initialized model; None runs all stages.
        seed: replaces the recipe's seed.
        matryoshka: replaces the recipe's lengths of the vector's prefixes that L_nce is also
            computed on.
        resume: continue from the newest state in the output folder.
        progress: show a progress bar on stderr.
        save_every: steps between two states to resume from; None for the recipe's number.
        keep: number of states that are kept.
        threads: threads that decode and resize pictures one step ahead of the model; 0 prepares
            them between the steps. None takes 8 with a GPU and 0 without.
        device: "cpu" leaves a GPU unused; None takes a GPU if there is one.
        shard: spread the parameters over the processes that `torchrun` started (FSDP2).

    Raises:
        UsageError: a value is out of range.
    """

    backbone: FolderLike | None = None
    prompt: KeptOf = "recipe"
    pooling: KeptOf = "recipe"
    form: str | None = None
    decoder: FolderLike | None = None
    mixture: FolderLike | None = None
    allow_outside: bool = False
    steps: int | None = None
    seed: int | None = None
    matryoshka: Sequence[int] | None = None
    resume: bool = False
    progress: bool = True
    save_every: int | None = None
    keep: int = 1
    threads: int | None = None
    device: Literal["cpu"] | None = None
    shard: bool = False

    def __post_init__(self) -> None:
        values: dict[str, Any] = {}
        for name, least in (("steps", 0), ("threads", 0), ("save_every", 1), ("keep", 1)):
            value = getattr(self, name)
            if value is not None or name == "keep":
                values[name] = integer(name, value, least)
        # range and length are checked by the recipe that they become part of
        if self.seed is not None:
            values["seed"] = integer("seed", self.seed, 0)
        if self.matryoshka is not None:
            values["matryoshka"] = whole_numbers("matryoshka", self.matryoshka, 1)
        for name in ("resume", "progress", "shard", "allow_outside"):
            values[name] = switch(name, getattr(self, name))
        for name in ("backbone", "decoder", "mixture"):
            optional_path(name, getattr(self, name))
        self._check_kept()
        # the type first, because an array compares with every name at once
        if self.device is not None and not (isinstance(self.device, str) and self.device == "cpu"):
            raise UsageError(
                f"`device` is {shown(repr(self.device))}: use 'cpu', or leave it out to take a GPU "
                "if there is one"
            )
        # Python's own numbers from here on: a recipe is recorded as JSON
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _check_kept(self) -> None:
        """Raises `UsageError` unless what is kept of a published embedder fits together."""
        for name in ("prompt", "pooling"):
            value = getattr(self, name)
            if not (isinstance(value, str) and value in ("recipe", "published")):
                raise UsageError(f"`{name}` is {shown(repr(value))}: use 'recipe' or 'published'")
        if self.form is not None:
            published_form(self.form)
        if self.prompt == "published":
            # a run that is resumed has its weights and its contract
            if self.backbone is None and not self.resume:
                raise UsageError(
                    "`prompt` is 'published': give the folder of a published embedder as `backbone`"
                )
            return
        # the pooled token is a part of the published prompt
        if self.pooling == "published":
            raise UsageError("`pooling` is 'published': this needs `prompt` to be 'published', too")
        if self.form is not None:
            raise UsageError(f"`form` is {self.form!r}: it needs `prompt` to be 'published'")

    @property
    def start(self) -> Path | KeptEmbedder | None:
        """The backbone's folder, or the published embedder of which more than weights is kept."""
        folder = self.backbone_folder
        if folder is None or self.prompt == "recipe":
            return folder
        return KeptEmbedder(folder, self.pooling == "published", self.form)

    @property
    def backbone_folder(self) -> Path | None:
        """The backbone's folder as a path."""
        return None if self.backbone is None else Path(self.backbone)

    @property
    def decoder_folder(self) -> Path | None:
        """The latent decoder's folder as a path."""
        return None if self.decoder is None else Path(self.decoder)

    @property
    def mixture_file(self) -> Path | None:
        """The mixture's file as a path."""
        return None if self.mixture is None else Path(self.mixture)

    def applied_to(self, recipe: Recipe) -> Recipe:
        """Returns the recipe with the seed and the prefix lengths given here.

        Raises:
            UsageError: the seed or a length does not fit the recipe.
        """
        # None means that the option was left out, not that the recipe's value is removed
        changes: dict[str, Any] = {}
        if self.seed is not None:
            changes["seed"] = self.seed
        if self.matryoshka is not None:
            # one order for one set of lengths: a run is resumed by comparing recipes
            changes["matryoshka"] = tuple(sorted(set(self.matryoshka), reverse=True))
        return replace(recipe, **changes)
