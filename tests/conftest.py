"""Fixtures that many tests share.

They are small but real: the tiny digits, a checkpoint trained on them, a bundle exported from it.
Their names are those of the artifacts; those with session scope must not be changed by a test.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from lame_runtime.contract import (
    Contract,
    ImageRules,
    Limits,
    Preparer,
    PromptLayout,
    TokenRules,
    TowerRules,
)
from lame_runtime.contract.tokens import TextTokenizer

# For `samples`, `oracle`, `floor` and `published_folders`, which tests in every folder import.
sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # tests import ONNX Runtime themselves
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # else it writes to the home folder
import oracle

# Before any test imports transformers, whose video processors need the torchvision it sets up.
oracle.prepare()

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
TOKENIZER_TEXTS = [
    "digits that add up to fifteen",
    "What do the digits add up to?",
    "Name the digit.",
    "seven",
] * 4


def pytest_configure(config: pytest.Config) -> None:
    """Silences messages of other libraries that are not about LaME."""
    # Transformers logs an error because our vocabulary is smaller than Qwen's.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings(
        "ignore", category=DeprecationWarning, module="torchvision|transformers"
    )


LONGEST_FILES = (
    "test_docs.py",
    "test_family_export.py",
    "test_plan.py",
    "test_processes.py",
    "test_endurance.py",
    "test_slice.py",
    "test_embedders_bench.py",
    "test_gradient.py",
    "test_demo.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take longest first, so that no worker waits for another at the end."""
    ranks = {name: rank for rank, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Restores PyTorch's number of threads, which some commands set for the whole process."""
    # With another number of threads, sums are taken in another order and differ in the last bits.
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else None
    yield
    if torch is not None and before is not None and torch.get_num_threads() != before:
        torch.set_num_threads(before)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Returns a folder that the first worker that needs it makes, and all others share.

    Args:
        factory: of the session.
        name: the folder's name.
        make: makes the folder, which does not exist yet.
    """
    base = factory.getbasetemp()
    # each worker of xdist has a folder of its own in that of the session
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "made-once" / name
    folder.parent.mkdir(exist_ok=True)
    # the lock also holds up a worker while the folder is half made
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            try:
                make(folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
    return folder


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains a tokenizer of 300 tokens and returns its file."""
    from lame_training.contract_from.tokenizer_training import train_tokenizer

    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(TOKENIZER_TEXTS, 300, path)
    return path


@pytest.fixture(scope="session")
def contract(tokenizer_file: Path) -> Contract:
    """Returns a contract with Qwen2-VL's published picture rules and a layout like a chat's."""
    from lame_training.contract_from.published_rules import published_videos

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
            first_latent=300,  # the ids of latent tokens follow those of the tokenizer
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
    """Returns a preparer that applies the contract and the tokenizer."""
    return Preparer(contract, TextTokenizer(tokenizer_file))


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Writes a small backbone folder of each family and returns the folders."""
    from lame_training.fixtures.sample_backbone import write_sample

    def write(root: Path) -> None:
        for family in FAMILIES:
            write_sample(family, root / family)

    root = made_once(tmp_path_factory, "backbones", write)
    return {family: root / family for family in FAMILIES}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes the digits data set in its tiny size and returns its root."""
    from lame_training.data.digits import TINY, write_digits

    return made_once(tmp_path_factory, "digits", lambda root: write_digits(root, TINY))


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes training data in every published layout and a mixture; returns the root."""
    from lame_training.fixtures.training_sets import write_training

    root = tmp_path_factory.mktemp("published") / "data"
    write_training(root)
    return root


@pytest.fixture(scope="session")
def arrow_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder for Arrow copies of rows."""
    # Shared, because a copy is found by the path and the content of the file it was made from.
    return tmp_path_factory.mktemp("arrow")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every look-up of a host and every connection fail."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def checkpoint(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains the tiny recipe to its end and returns the checkpoint."""
    from lame_training import train

    # once for all workers: its 16 steps take longer than most tests
    return made_once(
        tmp_path_factory,
        "checkpoint",
        lambda out: train("digits-tiny", data, out, progress=False),
    )


@pytest.fixture(scope="session")
def exported(data: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exports a bundle with every graph. A test that changes one takes `bundle`."""
    from lame_export.plan import export

    # fewer calibration inputs and SmoothQuant strengths than by default, to save time
    return made_once(
        tmp_path_factory,
        "bundle",
        lambda target: export(checkpoint, target, data, calibration=32, strengths=(0.0, 0.5)),
    )


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """Returns a copy of the exported bundle that a test may damage."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def published_backbone(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Returns a function that gives the folder of a family's backbone, for published embedders."""
    import published_folders

    folders: dict[tuple[str, bool], Path] = {}

    def folder_of(family: str, end_token: bool = False) -> Path:
        if (family, end_token) not in folders:
            folder = tmp_path_factory.mktemp("backbone") / family
            published_folders.write_backbone(family, folder, end_token=end_token)
            folders[family, end_token] = folder
        return folders[family, end_token]

    return folder_of


@pytest.fixture(scope="session")
def good_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a published embedder; tests change copies of it."""
    from lame_training.published.sample_embedder import write_sample_embedder

    folder = tmp_path_factory.mktemp("published") / "good"
    write_sample_embedder("qwen3_vl", folder)
    return folder
