"""The contract that a run on a backbone's folder begins with.

The prompt is the recipe's, which the chat template prints, or that of a published embedder with its
instructions and positions. The limits are the recipe's, as far as the folder's are not lower.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lame_runtime.contract import Contract
from lame_runtime.contract.tokens import TextTokenizer
from lame_runtime.errors import BundleError, UsageError
from lame_runtime.files.json_file import MAX_JSON_BYTES
from lame_runtime.files.regular import read_regular

from lame_training.contract_from.backbone import derive_contract
from lame_training.contract_from.budget import within_budget
from lame_training.model.backbones import config_folder, family_of, read_config
from lame_training.model.from_disk.tensors import inside
from lame_training.published.adapter_files import check_adapter_files
from lame_training.published.folder_kind import folder_kind
from lame_training.published.forms.form_folder import form_tokenizer, read_form, with_form
from lame_training.published.forms.published_forms import PublishedForm, published_form
from lame_training.published.kept.kept_pooling import (
    KeptPooling,
    kept_pooling,
    without_last_token,
)
from lame_training.published.rendered_prompt import published_prompt
from lame_training.published.sentence_transformers import (
    PublishedEmbedder,
    read_sentence_transformers,
)
from lame_training.recipes.recipe import Recipe

ROLES = {"query": "", "document": ""}
"""Instructions of a recipe's own prompt."""


@dataclass(frozen=True)
class KeptEmbedder:
    """Holds a published embedder of which a run keeps the prompt, and perhaps the pooling.

    Attributes:
        folder: its folder.
        pooling: whether [EMBED] starts as the pooled token, and the head as the published one.
        form: the form of a folder that does not describe itself, see `published_forms`.
    """

    folder: Path
    pooling: bool = False
    form: str | None = None


@dataclass(frozen=True)
class Beginning:
    """Holds contract, tokenizer and pooling that a run begins with, besides the weights.

    Attributes:
        folder: the folder that was given.
        backbone: the folder of the weights, which may lie inside of it.
        contract: the run's contract.
        tokenizer: the contract's tokenizer.
        content: its file.
        pooling: the published pooling, if it is kept.
    """

    folder: Path
    backbone: Path
    contract: Contract
    tokenizer: TextTokenizer
    content: bytes
    pooling: KeptPooling | None = None


def starting_contract(recipe: Recipe, backbone: Path | KeptEmbedder) -> Beginning:
    """Derives the contract of a run.

    Args:
        recipe: the recipe that is trained.
        backbone: the folder of a backbone, of a PEFT adapter of one, or of a published embedder; or
            a published embedder of which more than the weights is kept.

    Raises:
        BundleError: a file cannot be used, or the folder is no published embedder.
        UsageError: the form does not exist, or the recipe cannot keep the pooling.
    """
    if isinstance(backbone, KeptEmbedder):
        return _published(recipe, backbone)
    contract = derive_contract(backbone, recipe.budget, recipe.n_reason, recipe.dim, ROLES)
    file = config_folder(backbone) / "tokenizer.json"
    content = read_regular(inside(file), MAX_JSON_BYTES)
    tokenizer = TextTokenizer(file, content=content)
    return Beginning(backbone, backbone, contract, tokenizer, content)


def _published(recipe: Recipe, embedder: KeptEmbedder) -> Beginning:
    """Returns what a run begins with on a published embedder."""
    folder = embedder.folder
    form = None if embedder.form is None else published_form(embedder.form)
    facts = _facts(embedder, form)
    files = config_folder(facts.backbone)
    config = read_config(files)
    file = files / "tokenizer.json"
    if form is None:
        content = read_regular(inside(file), MAX_JSON_BYTES)
        prompt = published_prompt(
            files, family_of(config), facts.roles, facts.default_role, facts.variables
        )
    else:
        content = form_tokenizer(files, form)
        prompt = form.prompt
    tokenizer = TextTokenizer(file, content=content)
    budget, dim, roles = recipe.budget, recipe.dim, facts.roles
    if facts.max_length is not None:
        budget = replace(budget, max_length=min(budget.max_length, facts.max_length))
    if form is None and files != facts.backbone:
        # compared without the recipe's limits for videos, which only one of the two would have
        whole = derive_contract(files, budget, 0, dim, roles, prompt, content, has_embed=False)
        check_adapter_files(facts, files, config, whole)
    pooling = None
    if embedder.pooling:
        prompt, token = without_last_token(prompt, tokenizer, folder)
        pooling = kept_pooling(facts, recipe, folder, token)
    contract = derive_contract(files, budget, recipe.n_reason, dim, roles, prompt, content)
    if form is not None:
        contract = with_form(contract, form, contract.images.max_pixels)
        # the videos of a form are those of its script, which may be above the recipe's limits
        videos = within_budget(contract.videos, contract.images, budget)
        contract = replace(contract, videos=videos)
    return Beginning(folder, facts.backbone, contract, tokenizer, content, pooling)


def _facts(embedder: KeptEmbedder, form: PublishedForm | None) -> PublishedEmbedder:
    """Reads the folder of a published embedder; raises `BundleError` if it is none."""
    if form is not None:
        return read_form(embedder.folder, str(embedder.form), form)
    if folder_kind(embedder.folder) != "sentence-transformers":
        raise BundleError(
            f"{embedder.folder}: is not a published embedder, so it has no prompt to keep; leave "
            "`prompt` out"
        )
    return read_sentence_transformers(embedder.folder)


def check_same_contract(output: Path, contract: Contract) -> None:
    """Raises `UsageError` if a run that begins again would have another contract than before."""
    path = output / "contract.json"
    try:
        before = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    if before != contract.to_json():
        raise UsageError(
            f"{output}: was started with another prompt, `pooling` or `form`; resume with the same "
            "ones"
        )
