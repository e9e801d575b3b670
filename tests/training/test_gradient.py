"""With GradCache and several processes the gradient is that of one process with the whole batch."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gradient_worker import RECIPE, gradient, rows
from lame_training.distributed.processes import ProcessGroup
from lame_training.model.adapters import LoRA
from lame_training.recipes.recipe import Recipe

WORLD = ProcessGroup("cpu")
WHOLE = dataclasses.replace(RECIPE, gradcache=False, chunk=1000)
"""The reference: one forward pass and one graph."""
# dropout is off: chunks draw other numbers than one graph does
ADAPTERS = {
    "full": None,
    "LoRA": LoRA(rank=2, dropout=0.0, dora=False),
    "DoRA": LoRA(rank=2, dropout=0.0),
}


def same(gradients: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    """Returns whether gradients are equal up to the order of sums."""
    assert set(gradients) == set(expected)
    # a parameter with tiny gradients is compared on the scale of the largest ones
    scale = max(float(value.abs().max()) for value in expected.values())
    return all(
        torch.allclose(gradients[name], expected[name], rtol=1e-3, atol=1e-5 * scale)
        for name in expected
    )


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_gradcache_gives_the_gradient_of_the_whole_batch(
    adapter: str, checkpoint: Path, data: Path
) -> None:
    """The batch has every special case (see `rows`) and ends with a smaller chunk."""
    batch = rows(data)
    whole, losses = gradient(
        checkpoint, batch, dataclasses.replace(WHOLE, lora=ADAPTERS[adapter]), WORLD
    )
    cached, others = gradient(
        checkpoint, batch, dataclasses.replace(RECIPE, lora=ADAPTERS[adapter]), WORLD
    )
    assert same(cached, whole)
    assert losses.nce == pytest.approx(others.nce, rel=1e-5)
    assert losses.rec == pytest.approx(others.rec, rel=1e-5)


def test_the_comparison_sees_a_chunk_with_the_wrong_weight(
    checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control weighs L_rec of a chunk by the texts of the chunk instead of the batch."""
    from lame_training.objective import gradcache as module

    whole, _ = gradient(checkpoint, rows(data), WHOLE, WORLD)
    original = module.ForwardContext.reconstruction
    monkeypatch.setattr(
        module.ForwardContext,
        "reconstruction",
        lambda self, chunk, z: original(self, chunk, z) / max(1, len(chunk.targets.row_R)) * 4,
    )
    cached, _ = gradient(checkpoint, rows(data), RECIPE, WORLD)
    assert not same(cached, whole)


@pytest.mark.parametrize(
    "change", [{"matryoshka": (16, 32)}, {"precision": "bf16"}, {"gradient_checkpointing": True}]
)
def test_gradcache_holds_with_each_option(
    change: dict[str, object], checkpoint: Path, data: Path
) -> None:
    """The options are prefixes of the embedding, BF16 (compared less strictly) and recomputing."""
    whole, losses = gradient(checkpoint, rows(data), dataclasses.replace(WHOLE, **change), WORLD)  # type: ignore[arg-type]
    cached, others = gradient(checkpoint, rows(data), dataclasses.replace(RECIPE, **change), WORLD)  # type: ignore[arg-type]
    if "precision" in change:
        flat = [
            torch.cat([gradients[name].flatten() for name in sorted(gradients)])
            for gradients in (whole, cached)
        ]
        assert torch.cosine_similarity(*flat, dim=0) > 0.9999
        assert losses.nce == pytest.approx(others.nce, rel=1e-3)
    else:
        assert same(cached, whole)
    # recomputing activations must change nothing, the other two must
    plain, _ = gradient(checkpoint, rows(data), WHOLE, WORLD)
    assert same(whole, plain) == ("gradient_checkpointing" in change), (
        "the option changes what it should"
    )


def test_phase_b_drops_what_phase_a_dropped(checkpoint: Path, data: Path) -> None:
    """With dropout a single chunk's cached gradient is that of one graph.

    The control has several chunks, which draw other numbers than one graph does.
    """
    dropping = LoRA(rank=2, dropout=0.5)
    whole, _ = gradient(checkpoint, rows(data), dataclasses.replace(WHOLE, lora=dropping), WORLD)
    cached, _ = gradient(
        checkpoint, rows(data), dataclasses.replace(WHOLE, gradcache=True, lora=dropping), WORLD
    )
    assert same(cached, whole)
    # the same seed, but chunks of five
    chunked, _ = gradient(checkpoint, rows(data), dataclasses.replace(RECIPE, lora=dropping), WORLD)
    assert not same(chunked, whole)


def by_two_processes(
    form: str, checkpoint: Path, data: Path, out: Path
) -> tuple[dict[str, torch.Tensor], float, float]:
    """Runs `gradient_worker.py` in two processes; returns gradients, L_nce and L_rec."""
    # a free port is chosen by `--standalone`, so tests can run side by side
    script = Path(__file__).with_name("gradient_worker.py")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
    ]
    process = subprocess.run(
        [*command, str(checkpoint), str(data), str(out), form],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    result: tuple[dict[str, torch.Tensor], float, float] = torch.load(out)
    return result


@pytest.mark.parametrize(
    "form", ["plain", "lora", "sharded", "sharded-update", "one-empty", "sharded-one-empty"]
)
def test_two_processes_give_the_gradient_of_one(
    form: str, checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """Over gloo, with all parameters, with adapters, and with FSDP2.

    Each process has negatives of the other, and the two have different numbers of chunks, down to
    none at all.
    """
    # one process that is not sharded is the reference of every form
    recipe: Recipe = dataclasses.replace(
        WHOLE, lora=LoRA(rank=2, dropout=0.0) if form == "lora" else None
    )
    whole, losses = gradient(checkpoint, rows(data), recipe, WORLD, update=form.endswith("update"))
    result, nce, rec = by_two_processes(form, checkpoint, data, tmp_path / "result.pt")
    if form.endswith("update"):
        # Adam's first step is the rate times the gradient's sign, which rounding decides if the
        # gradient is nearly zero
        different = sum(
            int((~torch.isclose(result[name], whole[name], rtol=1e-4, atol=1e-6)).sum())
            for name in whole
        )
        assert different < 0.002 * sum(value.numel() for value in whole.values())
    else:
        assert same(result, whole)
    assert nce == pytest.approx(losses.nce, rel=1e-4)
    assert rec == pytest.approx(losses.rec, rel=1e-4)
