"""Small, real artefacts that many tests share: the tiny digits, a checkpoint trained on them, a bundle exported from it."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from lame_runtime.contract import Contract, ImageRules, Limits, Preparer, PromptLayout, TokenRules, TowerRules
from lame_runtime.contract.tokens import TextTokenizer

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # tests import ONNX Runtime themselves
import oracle

oracle.prepare()

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
TOKENIZER_TEXTS = ["digits that add up to fifteen", "What do the digits add up to?", "Name the digit.", "seven"] * 4


def pytest_configure(config: pytest.Config) -> None:
    """Transformers announces, through logging, that our vocabulary is smaller than Qwen's."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="torchvision|transformers")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Commands that set PyTorch's threads set them for the process; another number of threads sums in another order."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else None
    yield
    if torch is not None and before is not None and torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from lame_training.vocabulary import train_tokenizer

    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(TOKENIZER_TEXTS, 300, path)
    return path


@pytest.fixture(scope="session")
def contract(tokenizer_file: Path) -> Contract:
    """A contract with Qwen2-VL's published picture rules and a chat-like layout."""
    from lame_training.derive import published_videos

    tokenizer = TextTokenizer(tokenizer_file)
    return Contract(
        family="qwen2_vl",
        dim=16,
        prompt=PromptLayout(
            prefix="<|im_start|>user\n",
            suffix="<|im_end|>\n<|im_start|>assistant\n",
            separator="\n",
            roles={"query": "Find it.", "document": ""},
        ),
        tokens=TokenRules(
            image_pad=tokenizer.special("<|image_pad|>"),
            video_pad=tokenizer.special("<|video_pad|>"),
            pad=tokenizer.special("<|endoftext|>"),
            first_latent=300,
            n_reason=8,
            max_length=2048,
        ),
        images=ImageRules(
            patch_size=14,
            temporal_patch_size=2,
            merge_size=2,
            min_pixels=56 * 56,
            max_pixels=28 * 28 * 1280,
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
        ),
        videos=published_videos("qwen2_vl"),
        tower=TowerRules(),
        limits=Limits(visuals=8, patches=40_000),
    )


@pytest.fixture(scope="session")
def preparer(contract: Contract, tokenizer_file: Path) -> Preparer:
    return Preparer(contract, TextTokenizer(tokenizer_file))


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small backbone of each family, as a `save_pretrained` folder."""
    from lame_training.sample_backbone import write_sample

    root = tmp_path_factory.mktemp("backbones")
    for family in FAMILIES:
        write_sample(family, root / family)
    return {family: root / family for family in FAMILIES}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits data set in its tiny size."""
    from lame_training.digits import TINY, write_digits

    root = tmp_path_factory.mktemp("digits") / "data"
    write_digits(root, TINY)
    return root


@pytest.fixture(scope="session")
def checkpoint(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe, trained to its end."""
    from lame_training.loop import run
    from lame_training.recipes import find_recipe

    out = tmp_path_factory.mktemp("run") / "checkpoint"
    run(find_recipe("digits-tiny"), data, out, progress=False)
    return out


@pytest.fixture(scope="session")
def exported(data: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with every graph. Shared, so read-only: tests that change one take `bundle`."""
    from lame_export.plan import export

    target = tmp_path_factory.mktemp("export") / "bundle"
    export(checkpoint, target, data, calibration=32, strengths=(0.0, 0.5))
    return target


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy of the exported bundle that a test may damage."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))
