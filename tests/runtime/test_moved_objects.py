"""Tests of objects that were pickled, copied, forked or whose working folder changed."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lame_runtime import BackendError, Encoder, Input, UsageError
from lame_runtime.backends.fake import FakeBackend
from lame_runtime.contract import Preparer
from lame_runtime.contract.tokens import TextTokenizer
from tokenizers import Tokenizer

BUNDLE = Path(__file__).parent.parent.parent / "examples/tiny-bundle"
TEXTS = ("plain words", "see <|im_end|> here", "<|image_pad|>", "<|endoftext|><|vision_start|>")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def ids_of(preparer: Preparer) -> list[list[int]]:
    return [preparer(Input(text=text)).ids.tolist() for text in TEXTS]


def moved(value: Preparer) -> dict[str, Preparer]:
    """Returns copies of a preparer by the way they were made."""
    return {
        **{
            f"pickle {protocol}": pickle.loads(pickle.dumps(value, protocol))
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        },
        "deepcopy": copy.deepcopy(value),
        "copy": copy.copy(value),
        "deepcopy of a copy": copy.deepcopy(copy.copy(value)),
        "limits": pickle.loads(pickle.dumps(value.with_budget(max_pixels=10_000))),
    }


def test_a_moved_preparer_gives_the_same_ids(preparer: Preparer) -> None:
    """A typed `<|image_pad|>` stays text, also after pickling and copying."""
    for copied in moved(preparer).values():
        assert ids_of(copied) == ids_of(preparer)
    contract = pickle.loads(pickle.dumps(preparer.contract))
    assert contract == preparer.contract == copy.deepcopy(contract)


def test_a_moved_tokenizer_would_read_special_tokens(
    preparer: Preparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: if `__setstate__` forgets a setting, a copy makes special tokens of a text."""

    def restored(tokenizer: TextTokenizer, state: dict[str, Any]) -> None:
        tokenizer.__dict__.update(state, _tokenizer=Tokenizer.from_str(state["_tokenizer"]))

    monkeypatch.setattr(TextTokenizer, "__setstate__", restored)
    tokenizer = copy.deepcopy(preparer.tokenizer)
    ids = tokenizer._tokenizer.encode("<|image_pad|>", add_special_tokens=False).ids  # noqa: SLF001
    assert ids == [tokenizer.special("<|image_pad|>")]
    assert len(preparer.tokenizer.encode("<|image_pad|>")) > 1


def test_a_preparer_works_in_other_processes(preparer: Preparer) -> None:
    """Workers of a data loader are forked or spawned, and get the same ids."""
    for method in multiprocessing.get_all_start_methods():
        if method == "forkserver":
            continue
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.apply(ids_of, (preparer,)) == ids_of(preparer)


def test_an_encoder_cannot_be_pickled(preparer: Preparer) -> None:
    """The error says what to do instead; a shallow copy is the encoder itself."""
    encoder = Encoder(preparer, FakeBackend(), "fp32")
    for move in (pickle.dumps, copy.deepcopy, lambda value: copy.deepcopy([value])):
        with pytest.raises(UsageError, match=r"call `Encoder\.load` in each process"):
            move(encoder)
    assert copy.copy(encoder) is encoder
    assert replace(encoder, graph="fp16").encode("a").tolist() == encoder.encode("a").tolist()


PICKLE = """
import copy, pickle, sys
from dataclasses import asdict
from lame_runtime import Encoder, UsageError
encoder = Encoder.load(sys.argv[1], threads=1)
moves = [lambda value, p=p: pickle.dumps(value, p) for p in range(pickle.HIGHEST_PROTOCOL + 1)]
for move in (*moves, copy.deepcopy):
    for value in (encoder, encoder.backend, [encoder.backend]):
        try:
            move(value)
        except UsageError as error:
            assert "call `Encoder.load` in each process" in str(error)
        else:
            raise AssertionError
try:
    asdict(encoder)
except UsageError:
    print("refused")
assert copy.copy(encoder.backend) is encoder.backend
"""


@pytest.mark.parametrize("guard", ["", "from lame_runtime.backends.base import Backend\n"])
def test_a_backend_cannot_be_pickled(guard: str) -> None:
    """By no protocol. Control: without the guard, ONNX Runtime raises or ends the process."""
    remove = f"{guard}del Backend.__reduce_ex__\n" if guard else ""
    done = subprocess.run(
        [sys.executable, "-c", remove + PICKLE, str(BUNDLE)], capture_output=True, check=False
    )
    assert (done.returncode == 0) is not bool(guard), done.stderr
    assert (done.stdout == b"refused\n") is not bool(guard)


@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary"])
def test_a_bundle_with_a_relative_path_outlives_chdir(
    precision: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The golden vectors, whose range 8 bits have, are read when they are first needed."""
    monkeypatch.chdir(BUNDLE.parent)
    with Encoder.load(BUNDLE.name, threads=1) as encoder:
        monkeypatch.chdir(tmp_path)
        with Encoder.load(BUNDLE, threads=1) as other:
            expected = other.encode("a", precision=precision)  # type: ignore[arg-type]
        assert np.array_equal(encoder.encode("a", precision=precision), expected)  # type: ignore[arg-type]


FORK = """
import os, sys
from lame_runtime import BackendError, Encoder
encoder = Encoder.load(sys.argv[1])
before = encoder.encode("seven")
stream = encoder.stream(["a", "b"])
pid = os.fork()
if pid == 0:
    for call in (lambda: encoder.encode("seven"), lambda: next(stream),
                 lambda: encoder.with_backend(encoder.backend).encode("seven")):
        try:
            call()
        except BackendError as error:
            print(error, flush=True)
    encoder.close()
    # ends like any program, with destructors of everything
    sys.exit(7)
status = os.waitpid(pid, 0)[1]
assert os.waitstatus_to_exitcode(status) == 7, status
assert (encoder.encode("seven") == before).all()
"""


@needs_fork
def test_a_forked_process_is_refused_and_ends() -> None:
    """Neither a run nor the end of the process waits for threads that only the parent has."""
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(BUNDLE)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("`Encoder.load` in each process") == 3


@needs_fork
def test_a_fork_is_noticed_by_the_process_of_the_backend(
    preparer: Preparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: a backend that does not know its process embeds in the fork."""
    encoder = Encoder(preparer, FakeBackend())
    monkeypatch.setattr(encoder.backend, "process", -1)
    with pytest.raises(BackendError, match="another process"):
        encoder.encode("seven")
    closed: list[bool] = []
    monkeypatch.setattr(encoder.backend, "close", lambda: closed.append(True))
    encoder.close()
    assert not closed
    monkeypatch.setattr(type(encoder.backend), "require_own_process", lambda _: None)
    assert encoder.encode("seven").shape == (1, 16)


def test_threads_share_an_encoder() -> None:
    """Parallel calls give the vectors of calls one after the other."""
    texts = [f"text number {number}" for number in range(24)]
    with Encoder.load(BUNDLE, threads=1) as encoder:
        alone = [encoder.encode(text) for text in texts]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(encoder.encode, texts))
        assert np.allclose(np.concatenate(together), np.concatenate(alone), atol=1e-6)


def test_a_closed_encoder_says_so() -> None:
    encoder = Encoder.load(BUNDLE, threads=1)
    encoder.close()
    encoder.close()
    with pytest.raises(BackendError, match="was closed"):
        encoder.encode("seven")
