"""Compares the tokenizer and processor files beside an adapter with those of its base.

Sentence Transformers reads those beside the adapter. A checkpoint is made from the base's, as PEFT
itself saves none; so both must say the same.
"""

from __future__ import annotations

import os
from pathlib import Path

from lame_runtime.contract import Contract
from lame_runtime.errors import BundleError, first_line, shown
from lame_runtime.files.json_file import MAX_JSON_BYTES
from lame_runtime.files.regular import read_regular
from lame_runtime.files.tokenizer_json import TokenizerFile, read_tokenizer
from transformers import PreTrainedConfig

from lame_training.contract_from.budget import Budget
from lame_training.contract_from.processor_files import image_rules, video_rules
from lame_training.model.backbones import family_of
from lame_training.model.from_disk.tensors import inside, reason
from lame_training.published.rendered_prompt import published_prompt
from lame_training.published.sentence_transformers import PublishedEmbedder

_TOKENIZER = "tokenizer.json"
_PICTURES = ("processor_config.json", "preprocessor_config.json")
_TEMPLATES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")


def check_adapter_files(
    facts: PublishedEmbedder, base: Path, config: PreTrainedConfig, contract: Contract
) -> None:
    """Raises `BundleError` if a file beside an adapter gives other prompts or pictures.

    Args:
        facts: what the folder says; its backbone is an adapter.
        base: the folder of the adapter's base.
        config: the config of the base.
        contract: what was derived from the base.
    """
    adapter = facts.backbone

    def holds(*names: str) -> bool:
        return any(os.path.lexists(adapter / name) for name in names)

    is_same = True
    if holds(_TOKENIZER):
        is_same = _tokenizer(adapter) == _tokenizer(base)
        # the prompt needs the tokenizer as well
        if is_same and holds(*_TEMPLATES[:2]):
            prompt = published_prompt(
                adapter, family_of(config), facts.roles, facts.default_role, facts.variables
            )
            is_same = prompt == contract.prompt
    if is_same and holds(*_PICTURES):
        budget = Budget(contract.tokens.max_length, contract.images.max_pixels, max_frames=1 << 28)
        try:
            images = image_rules(adapter, config, budget)
            videos = video_rules(adapter, config, images, None)
        # the files hold arbitrary JSON
        except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
            raise BundleError(
                f"{adapter}: its processor files cannot be used ({shown(first_line(error))}); "
                "copy them again"
            ) from None
        is_same = (images, videos) == (contract.images, contract.videos)
    if not is_same:
        raise _differs(adapter, base, "tokenizer, chat template or processor")


def check_adapter_tokenizer(adapter: Path, base: Path) -> None:
    """Raises `BundleError` if a tokenizer beside an adapter is another than that of its base."""
    if os.path.lexists(adapter / _TOKENIZER) and _tokenizer(adapter) != _tokenizer(base):
        raise _differs(adapter, base, "tokenizer")


def _differs(adapter: Path, base: Path, files: str) -> BundleError:
    return BundleError(
        f"{adapter}: its {files} differs from that of its base {shown(base)}; merge the adapter "
        "into the base and save both together"
    )


def _tokenizer(folder: Path) -> TokenizerFile:
    """Returns the tokenizer of a folder; raises `BundleError`."""
    path = folder / _TOKENIZER
    try:
        return read_tokenizer(read_regular(inside(path), MAX_JSON_BYTES))
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{path}: cannot be read ({shown(reason(error))}); copy it again"
        ) from None
