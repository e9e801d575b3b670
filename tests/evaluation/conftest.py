"""Fixtures in the published layouts, and an encoder that needs no model."""

from __future__ import annotations

from pathlib import Path

import pytest
from lame_runtime.backends.fake import FakeBackend
from lame_runtime.contract import Preparer
from lame_runtime.encoder import Encoder


@pytest.fixture(scope="session")
def mmeb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MMEB-V2's layout. Shared, so read-only."""
    from lame_training.fixtures.evaluation import write_mmeb_v2

    root = tmp_path_factory.mktemp("mmeb")
    write_mmeb_v2(root)
    return root


@pytest.fixture(scope="session")
def mrmr_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MRMR's layout. Shared, so read-only."""
    from lame_training.fixtures.evaluation import write_mrmr

    root = tmp_path_factory.mktemp("mrmr")
    write_mrmr(root)
    return root


@pytest.fixture
def fake(preparer: Preparer) -> Encoder:
    """Vectors that depend on an input's tokens and pictures, in no time."""
    return Encoder(preparer, FakeBackend(), "fake")
