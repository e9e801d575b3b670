"""A published embedder becomes a proven bundle with one command, and without any data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lame_export.cli.main import main as export_main
from lame_export.memory_plan import MemoryPlan
from lame_export.passes.proof import prove_published
from lame_export.state import ExportOptions, ExportState
from lame_runtime import Encoder
from lame_runtime.cli.main import main as runtime_main
from lame_runtime.errors import UsageError
from lame_training.__main__ import main as train_main
from lame_training.published.sample_embedder import INSTRUCTION, write_sample_embedder
from published_folders import Form, load_published, mixed_inputs, write_published

from lame_export import export, verify

SMALL = {"per_modality": 2, "calibration": 4, "max_length": 1024, "max_pixels": 65_536}


def rows_of(bundle: Path, comparison: str) -> list[dict[str, Any]]:
    """Returns the rows of a certificate with one name."""
    rows = json.loads((bundle / "parity.json").read_text(encoding="utf-8"))["rows"]
    return [row for row in rows if row["comparison"] == comparison]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes a published embedder with the command, and returns its folder."""
    folder = tmp_path_factory.mktemp("published") / "embedder"
    assert train_main(["sample-backbone", "qwen3_vl", str(folder), "--embedder"]) == 0
    return folder


@pytest.fixture(scope="module")
def bundle(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exports the published embedder with the command, and returns the bundle."""
    target = tmp_path_factory.mktemp("bundle") / "bundle"
    options = ["--graphs", "fp32-cpu", "--golden", "2", "--calibration", "4"]
    options += ["--max-length", "1024", "--max-pixels", "65536"]
    assert export_main(["bundle", str(published), str(target), *options]) == 0
    return target


def test_the_bundle_returns_what_sentence_transformers_returns(
    published: Path, bundle: Path
) -> None:
    """Without a role, as a query, with a prompt; and under the names that its users know."""
    theirs, pairs = load_published(published), mixed_inputs()[:40:3]
    inputs = [pair[0] for pair in pairs]
    # the folder's own limit is higher
    size = {"shortest_edge": 65_536, "longest_edge": 65_536}
    theirs[0].processor.image_processor.size = size
    with Encoder.load(bundle) as encoder:
        assert encoder.prompts == theirs.prompts == dict.fromkeys(theirs.prompts, INSTRUCTION)
        assert encoder.get_embedding_dimension() == theirs.get_embedding_dimension()
        assert set(encoder.modalities) <= set(theirs.modalities)
        for arguments in ({}, {"prompt_name": "query"}, {"prompt": "Find it."}, {"prompt": ""}):
            reference = theirs.encode(inputs, **arguments)
            vectors = encoder.encode(inputs, **arguments)  # type: ignore[arg-type]
            assert (vectors * reference).sum(1).min() > 0.99999
            similar = np.asarray(theirs.similarity(reference, reference))
            assert np.abs(encoder.similarity(vectors, vectors) - similar).max() < 1e-4


def test_the_certificate_compares_with_the_published_pipeline(bundle: Path) -> None:
    """A row for each modality without videos; all of them pass."""
    rows = rows_of(bundle, prove_published.COMPARISON)
    assert {row["modality"] for row in rows} >= {"text", "image", "image+text", "images+text"}
    assert all(row["passed"] and row["figure"]["min_cosine"] > 0.99999 for row in rows)


def test_the_bundle_verifies_against_the_published_folder(published: Path, bundle: Path) -> None:
    """With the limits that it was exported with; another folder is not its source."""
    assert all(row.passed is not False for row in verify(bundle, published))
    settings = published / "config_sentence_transformers.json"
    before = settings.read_text(encoding="utf-8")
    try:
        settings.write_text(before.replace("Represent", "Present"), encoding="utf-8")
        rows = verify(bundle, published)
    finally:
        settings.write_text(before, encoding="utf-8")
    assert any(row.passed is False for row in rows)


def test_mean_pooling_and_tanh_are_in_the_graphs(
    published_backbone: Callable[..., Path], tmp_path: Path
) -> None:
    """FP32 and FP16 meet their gates, TensorRT-RTX builds FP16, and the pipeline agrees."""
    form = Form("mean", dense="tanh", prompts={"query": "Find it."})
    folder = write_published(published_backbone("qwen2_vl"), tmp_path / "published", form)
    target = tmp_path / "bundle"
    export(folder, target, graphs=("fp32-cpu", "fp16"), **SMALL)  # type: ignore[arg-type]
    assert all(row["passed"] for row in rows_of(target, prove_published.COMPARISON))
    assert len(rows_of(target, prove_published.COMPARISON)) >= 4


def test_a_pipeline_that_does_not_load_is_reported(
    published: Path, bundle: Path, tmp_path: Path
) -> None:
    """The row says why, and does not claim that a gate is met."""
    broken = tmp_path / "broken"
    write_sample_embedder("qwen3_vl", broken)
    (broken / "processor_config.json").write_text("[]", encoding="utf-8")
    with Encoder.load(bundle) as encoder:
        assert encoder.bundle is not None
        golden = encoder.bundle.golden()
        rows = prove_published.published_rows(broken, encoder, "fp32-cpu", golden)
        (row,) = rows
        assert row.passed is None
        assert "Sentence Transformers cannot load the folder" in row.describe()
        # the control: the weights of another seed give other vectors
        other = tmp_path / "other"
        write_sample_embedder("qwen3_vl", other)
        name = other / "1_Pooling/config.json"
        name.write_text(name.read_text().replace("lasttoken", "mean"), encoding="utf-8")
        rows = prove_published.published_rows(other, encoder, "fp32-cpu", golden)
        assert not any(row.passed for row in rows)


def test_too_little_memory_is_reported(published: Path, tmp_path: Path) -> None:
    """Sentence Transformers would need as much as all weights in FP32."""
    options = ExportOptions(graphs=("fp32-cpu",))
    state = ExportState(published, published, tmp_path, options, published=published)
    state.model = torch.nn.Linear(25_000, 10_000, bias=False, device="meta")  # type: ignore[assignment]
    state.memory = MemoryPlan(limit=1 << 30, needed=1 << 30)
    prove_published.ProvePublished().run(state)
    (row,) = state.rows
    assert row.passed is None
    assert "Sentence Transformers needs 1.0 GB more than the export" in row.describe()


def test_the_commands_say_what_they_wrote(
    published: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`import` names the roles, and `info` what a vector is made from."""
    assert train_main(["import", str(published), str(tmp_path / "checkpoint")]) == 0
    assert "qwen3_vl, vectors of 64 values, up to 8,192 tokens, roles document, query" in (
        capsys.readouterr().out
    )
    assert runtime_main(["info", str(bundle)]) == 0
    assert "64 values, from the states of the prompt in one pass" in capsys.readouterr().out
    assert train_main(["import", str(tmp_path / "checkpoint"), str(tmp_path / "x")]) == 2
    assert "is not a Sentence Transformers folder" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_limits_are_for_published_embedders(checkpoint: Path, tmp_path: Path) -> None:
    """A checkpoint's own are those that it was trained with."""
    with pytest.raises(UsageError, match="`max_length` is for published embedders"):
        export(checkpoint, tmp_path / "bundle", max_length=16)
    assert not (tmp_path / "bundle").exists()
