"""Fixtures of the tests of Triton: a written model, and golden inputs as clients send them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from lame_export.cli.main import main
from lame_runtime.bundle.bundle import Bundle
from lame_runtime.bundle.golden import as_json

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "examples/tiny-bundle"


def data_uri(path: Path) -> str:
    """Returns a picture's file as a `data:` URI."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


@pytest.fixture(scope="session")
def picture() -> Path:
    """Returns the file of a picture."""
    return next(iter(sorted((ROOT / "examples/pictures").glob("*.png"))))


@pytest.fixture(scope="session")
def picture_uri(picture: Path) -> str:
    """Returns that picture as a `data:` URI."""
    return data_uri(picture)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes the example bundle as the model `tiny`; 24 requests may wait for it."""
    repository = tmp_path_factory.mktemp("repository") / "models"
    arguments = [str(EXAMPLE), str(repository), "--name", "tiny", "--max-queue", "24"]
    assert main(["triton", *arguments]) == 0
    return repository / "tiny"


@pytest.fixture(scope="session")
def golden_items() -> list[tuple[dict[str, Any], str]]:
    """Returns the golden inputs as dicts with `data:` URIs, and their roles."""
    golden = Bundle.open(EXAMPLE).golden()
    return [
        (as_json(entry.item, lambda path: data_uri(Path(path))), entry.role)
        for entry in golden.inputs
    ]
