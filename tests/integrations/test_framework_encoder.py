"""Tests the part that the adapters of LangChain, LlamaIndex and Haystack share."""

from __future__ import annotations

import copy
import importlib
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lame_runtime import BundleError, UsageError
from lame_runtime.encoder import Encoder
from lame_runtime.integrations.framework_encoder import FrameworkEncoder

ADAPTERS = {
    "langchain": ("langchain_core.embeddings", "langchain-core", "langchain"),
    "llama_index": ("llama_index.core.bridge.pydantic", "llama-index-core", "llama-index"),
    "haystack": ("haystack", "haystack-ai", "haystack"),
}
"""Module of the framework, its distribution and the extra, by adapter."""
TEXT = "digits that add up to seven"


def test_rows_are_lists_of_pythons_floats(roles: Encoder) -> None:
    """They turn back into the very float32 values of `encode_query` and `encode_document`."""
    shared = FrameworkEncoder(roles)
    for rows, vectors in (
        (shared.queries([TEXT]), roles.encode_query(TEXT)),
        (shared.documents([TEXT]), roles.encode_document(TEXT)),
    ):
        assert {type(row) for row in rows} == {list}
        assert {type(value) for row in rows for value in row} == {float}
        assert np.array_equal(np.array(rows, dtype=np.float32), vectors)
    assert shared.queries([TEXT]) != shared.documents([TEXT])
    assert shared.documents([]) == []


def test_an_instruction_for_queries_leaves_documents_alone(roles: Encoder) -> None:
    """It replaces the contract's; with the instruction of documents, both sides are equal."""
    plain, same = FrameworkEncoder(roles), FrameworkEncoder(roles, None, None, "Read the digits.")
    assert same.documents([TEXT]) == plain.documents([TEXT]) == same.queries([TEXT])
    assert plain.has_roles
    assert not same.has_roles


def test_options_reach_the_encoder(folder: Path, encoder: Encoder) -> None:
    """Both kinds: of the loading, and of every call."""
    shared = FrameworkEncoder(folder, {"threads": 1}, {"truncate_dim": 8})
    rows = np.array(shared.documents([TEXT]), dtype=np.float32)
    assert np.array_equal(rows, encoder.encode_document(TEXT, truncate_dim=8))
    assert rows.shape == (1, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"load_options": "fp32"}, "`load_options` is 'fp32': give a dict"),
        ({"encode_options": [1]}, r"`encode_options` is \[1\]: give a dict"),
        ({"encode_options": {"role": "query"}}, "`role` of `encode_options`: the embedder sets"),
        ({"encode_options": {"prompt": "Find."}}, "`prompt` .* `query_instruction`; leave it out"),
        ({"encode_options": {"precision": "binary"}}, "`precision` of .* lists of floats"),
        ({"encode_options": {"batch_size": 0}}, "`batch_size` is 0: use 1 to"),
        ({"load_options": {"threads": 0}}, "`threads` is 0"),
        ({"query_instruction": 3}, "`query_instruction` is 3: give a string"),
        ({"model": 3}, "`model` is 3: give the path of a folder"),
    ],
)
def test_wrong_arguments_are_refused_at_once(
    arguments: dict[str, Any], message: str, folder: Path
) -> None:
    """With one line that names the argument, before the bundle is loaded."""
    with pytest.raises(UsageError, match=message):
        FrameworkEncoder(**{"model": folder, **arguments})


def test_an_encoder_takes_no_options_of_loading(encoder: Encoder) -> None:
    """They would be ignored silently."""
    with pytest.raises(UsageError, match=r"`model` is an Encoder: give them to `Encoder\.load`"):
        FrameworkEncoder(encoder, {"graph": "fp32"})


def test_a_pickle_loads_the_bundle_again(encoder: Encoder, folder: Path) -> None:
    """An encoder becomes the folder and graph of its bundle; a copy is the object itself."""
    shared = FrameworkEncoder(encoder, None, {"truncate_dim": 8}, "Find it.")
    again = pickle.loads(pickle.dumps(shared))
    assert again.model == str(folder)
    assert again.load_options == {"graph": encoder.graph}
    assert again.queries([TEXT]) == shared.queries([TEXT])
    assert copy.deepcopy(shared) is shared
    with pytest.raises(UsageError, match="without a bundle cannot be saved"):
        pickle.dumps(FrameworkEncoder(replace(encoder, bundle=None)))


def test_a_missing_bundle_is_reported_when_it_is_loaded(tmp_path: Path) -> None:
    """With the error of `Encoder.load`."""
    shared = FrameworkEncoder(tmp_path / "none")
    with pytest.raises(BundleError, match="none"):
        _ = shared.encoder


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_missing_framework_is_named_with_its_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import fails with one line that says what to install, and works with the framework."""
    module, package, extra = ADAPTERS[name]
    adapter = f"lame_runtime.integrations.{name}"
    importlib.import_module(adapter)
    monkeypatch.delitem(sys.modules, adapter)
    # as if the framework were not installed
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError) as failure:
        importlib.import_module(adapter)
    line = str(failure.value)
    assert line.startswith(f"{package} cannot be imported (")
    assert line.endswith(f"): pip install 'lame-runtime[{extra}]'")
    assert "\n" not in line


def test_the_adapters_need_no_torch(folder: Path) -> None:
    """Haystack imports PyTorch where it is installed; a process without it embeds all the same."""
    code = f"""
import sys
sys.modules |= dict.fromkeys(("torch", "transformers", "pyarrow"))
from lame_runtime.integrations.haystack import LameTextEmbedder
from lame_runtime.integrations.langchain import LameEmbeddings
from lame_runtime.integrations.llama_index import LameMultiModalEmbedding
rows = [
    LameEmbeddings({str(folder)!r}).embed_query({TEXT!r}),
    LameMultiModalEmbedding({str(folder)!r}).get_query_embedding({TEXT!r}),
    LameTextEmbedder({str(folder)!r}).run({TEXT!r})["embedding"],
]
print(rows[0] == rows[1] == rows[2], len(rows[0]))
"""
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert process.stdout.strip() == "True 64", process.stderr
