"""One server that many tests share, and an encoder to compare it with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lame_runtime import Encoder

sys.path.insert(0, str(Path(__file__).parent))  # for `running_server`
from lame_runtime.serving.settings import ServeOptions
from running_server import RunningServer, load_tiny, running


@pytest.fixture(scope="session")
def encoder() -> Iterator[Encoder]:
    """Returns an encoder of the tiny bundle, in this process."""
    with load_tiny() as encoder:
        yield encoder


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    """Returns a server that reads no videos and fetches nothing, as by default."""
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def video_server() -> Iterator[RunningServer]:
    """Returns a server that reads videos."""
    with running(ServeOptions(port=0, allow_video=True)) as server:
        yield server
