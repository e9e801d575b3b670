"""Fixtures of the tests of the adapters: encoders of the tiny bundle, and no network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from lame_runtime.contract import Preparer
from lame_runtime.encoder import Encoder

ROOT = Path(__file__).parent.parent.parent
TINY = ROOT / "examples/tiny-bundle"


@pytest.fixture(autouse=True)
def _offline(no_network: None) -> None:
    """Makes a framework that wants the network fail instead of waiting."""


@pytest.fixture(scope="session")
def folder() -> Path:
    """Returns the folder of the tiny bundle."""
    return TINY


@pytest.fixture(scope="session")
def pictures() -> list[str]:
    """Returns the paths of five pictures."""
    return [str(ROOT / f"examples/pictures/{name}.png") for name in (16, 23, 5, 88, 99)]


@pytest.fixture(scope="session")
def encoder() -> Iterator[Encoder]:
    """Loads the tiny bundle, whose contract has no instructions."""
    with Encoder.load(TINY) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def roles(encoder: Encoder) -> Encoder:
    """Returns the encoder with an instruction for each role, so that mixing them up shows."""
    contract = encoder.preparer.contract
    prompt = replace(
        contract.prompt, roles={"query": "Find the picture.", "document": "Read the digits."}
    )
    preparer = Preparer(replace(contract, prompt=prompt), encoder.preparer.tokenizer)
    return replace(encoder, preparer=preparer)
