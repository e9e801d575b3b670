"""GradCache and several processes: the gradient is that of one process that holds the whole batch."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gradient_worker import RECIPE, gradient, rows
from lame_training.adapters import LoRA
from lame_training.recipes import Recipe
from lame_training.world import World

WORLD = World("cpu")
WHOLE = dataclasses.replace(RECIPE, gradcache=False, chunk=1000)
"""One forward pass, one graph."""
ADAPTERS = {"full": None, "LoRA": LoRA(rank=2, dropout=0.0, dora=False), "DoRA": LoRA(rank=2, dropout=0.0)}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    """Equal up to the order of sums."""
    assert set(ours) == set(theirs)
    scale = max(float(value.abs().max()) for value in theirs.values())
    return all(torch.allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-5 * scale) for name in theirs)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_gradcache_gives_the_gradient_of_the_whole_batch(adapter: str, checkpoint: Path, data: Path) -> None:
    """With chunks of 5, the last one smaller, rows without a text to decode, hard negatives, doubles."""
    batch = rows(data)
    whole, losses = gradient(checkpoint, batch, dataclasses.replace(WHOLE, lora=ADAPTERS[adapter]), WORLD)
    cached, others = gradient(checkpoint, batch, dataclasses.replace(RECIPE, lora=ADAPTERS[adapter]), WORLD)
    assert same(cached, whole)
    assert losses.nce == pytest.approx(others.nce, rel=1e-5)
    assert losses.rec == pytest.approx(others.rec, rel=1e-5)


def test_the_comparison_sees_a_chunk_that_is_left_out(checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: L_rec of a chunk weighed by the chunk instead of the batch."""
    import lame_training.gradient as module

    whole, _ = gradient(checkpoint, rows(data), WHOLE, WORLD)
    right = module.Pass.reconstruction
    monkeypatch.setattr(module.Pass, "reconstruction", lambda run, chunk, z: right(run, chunk, z) / max(1, len(chunk.targets.row_R)) * 4)
    cached, _ = gradient(checkpoint, rows(data), RECIPE, WORLD)
    assert not same(cached, whole)


@pytest.mark.parametrize("change", [{"matryoshka": (16, 32)}, {"precision": "bf16"}, {"gradient_checkpointing": True}])
def test_gradcache_holds_with_each_option(change: dict[str, object], checkpoint: Path, data: Path) -> None:
    """Prefixes of the embedding, half precision (coarser), recomputed activations."""
    whole, losses = gradient(checkpoint, rows(data), dataclasses.replace(WHOLE, **change), WORLD)  # type: ignore[arg-type]
    cached, others = gradient(checkpoint, rows(data), dataclasses.replace(RECIPE, **change), WORLD)  # type: ignore[arg-type]
    if "precision" in change:
        both = [torch.cat([each[name].flatten() for name in sorted(each)]) for each in (whole, cached)]
        assert torch.cosine_similarity(*both, dim=0) > 0.9999
        assert losses.nce == pytest.approx(others.nce, rel=1e-3)
    else:
        assert same(cached, whole)
    plain, _ = gradient(checkpoint, rows(data), WHOLE, WORLD)
    assert same(whole, plain) == ("gradient_checkpointing" in change), "the option changes what it should"


def test_phase_b_drops_what_phase_a_dropped(checkpoint: Path, data: Path) -> None:
    """With dropout in the adapters, a single chunk's cached gradient is that of one graph, and another seed's is not."""
    dropping = LoRA(rank=2, dropout=0.5)
    whole, _ = gradient(checkpoint, rows(data), dataclasses.replace(WHOLE, lora=dropping), WORLD)
    cached, _ = gradient(checkpoint, rows(data), dataclasses.replace(WHOLE, gradcache=True, lora=dropping), WORLD)
    assert same(cached, whole)
    chunked, _ = gradient(checkpoint, rows(data), dataclasses.replace(RECIPE, lora=dropping), WORLD)
    assert not same(chunked, whole)


def by_two_processes(form: str, checkpoint: Path, data: Path, out: Path) -> tuple[dict[str, torch.Tensor], float, float]:
    script = Path(__file__).with_name("gradient_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run([*command, str(checkpoint), str(data), str(out), form], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: tuple[dict[str, torch.Tensor], float, float] = torch.load(out)
    return found


@pytest.mark.parametrize("form", ["plain", "lora", "sharded", "sharded-update", "one-empty", "sharded-one-empty"])
def test_two_processes_give_the_gradient_of_one(form: str, checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """Over gloo: negatives of both, chunks of different numbers, even none; pictures and texts; plain, with adapters, and FSDP2."""
    recipe: Recipe = dataclasses.replace(WHOLE, lora=LoRA(rank=2, dropout=0.0) if form == "lora" else None)
    whole, losses = gradient(checkpoint, rows(data), recipe, WORLD, update=form.endswith("update"))
    found, nce, rec = by_two_processes(form, checkpoint, data, tmp_path / "found.pt")
    if form.endswith("update"):  # Adam's first step is the rate times the sign: where a gradient is nearly zero, rounding decides
        off = sum(int((~torch.isclose(found[name], whole[name], rtol=1e-4, atol=1e-6)).sum()) for name in whole)
        assert off < 0.002 * sum(value.numel() for value in whole.values())
    else:
        assert same(found, whole)
    assert nce == pytest.approx(losses.nce, rel=1e-4)
    assert rec == pytest.approx(losses.rec, rel=1e-4)
