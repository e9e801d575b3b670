"""Provides data sets in the published layouts, and an encoder that needs no model."""

from __future__ import annotations

from pathlib import Path

import pytest
from lame_runtime.backends.fake import FakeBackend
from lame_runtime.contract import Preparer
from lame_runtime.encoder import Encoder


@pytest.fixture(scope="session")
def mmeb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes MMEB-V2's layout; tests share it, so they must not change it."""
    # Imported here: collecting tests must not cost the import of pyarrow.
    from lame_training.fixtures.evaluation_sets import write_mmeb_v2

    root = tmp_path_factory.mktemp("mmeb")
    write_mmeb_v2(root)
    return root


@pytest.fixture(scope="session")
def mrmr_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes MRMR's layout; tests share it, so they must not change it."""
    from lame_training.fixtures.evaluation_sets import write_mrmr

    root = tmp_path_factory.mktemp("mrmr")
    write_mrmr(root)
    return root


@pytest.fixture
def fake(preparer: Preparer) -> Encoder:
    """Returns an encoder without a model, whose vectors depend on tokens and pictures."""
    return Encoder(preparer, FakeBackend(), "fake")
