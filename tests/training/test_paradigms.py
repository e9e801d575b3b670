"""The four paradigms compute what they say, whichever family and modality; the protocol measures, saves and judges."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lame_training.__main__ import main
from lame_training.backbones import FAMILIES, load_backbone
from lame_training.model import LaMEModel
from lame_training.paradigms import measure
from lame_training.paradigms.baselines import Discriminative, ExplicitCoT, LaME, LatentRollout
from lame_training.paradigms.goals import dependence, goals, reason
from lame_training.paradigms.language_model import LanguageModel
from lame_training.paradigms.measure import NAMES, Bench, Cell, Protocol, Timing
from lame_training.paradigms.memory import PeakMemory
from lame_training.paradigms.prompts import Prompts, make_prompts, picture_side
from lame_training.paradigms.shapes import head_share, random_backbone, shape_config
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
    StaticCache,
)

GENERATING: dict[str, Any] = {
    "qwen2_vl": Qwen2VLForConditionalGeneration,
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
    "qwen3_vl": Qwen3VLForConditionalGeneration,
}
MODALITIES = ("text", "image+text")
LENGTH, STEPS = 24, 6
CASES = [(family, modality) for family in FAMILIES for modality in MODALITIES]


@dataclasses.dataclass(frozen=True)
class Laid:
    """A model, its layers and two different batches of prompts."""

    model: LaMEModel
    language: LanguageModel
    first: Prompts
    second: Prompts


def lay(backbone: Path, modality: str) -> Laid:
    torch.manual_seed(3)
    loaded = load_backbone(backbone, torch.float32).eval()
    with torch.no_grad():  # with a plain norm, the tied head of random weights says the same token for ever
        loaded.language_model.norm.weight.copy_(torch.randn(loaded.config.text_config.hidden_size))
    model = LaMEModel(loaded, None, 8, 32)
    model.initialise_latents(5)
    first, second = make_prompts(model, 2, 2, LENGTH, modality)  # type: ignore[arg-type]
    return Laid(model, LanguageModel(loaded.language_model), first, second)


@pytest.fixture(params=CASES, ids=["-".join(case) for case in CASES])
def laid(request: pytest.FixtureRequest, backbones: dict[str, Path]) -> Laid:
    family, modality = request.param
    return lay(backbones[family], modality)


@pytest.fixture(params=FAMILIES)
def text(request: pytest.FixtureRequest, backbones: dict[str, Path]) -> Laid:
    return lay(backbones[request.param], "text")


def uncached(laid: Laid, behind: Tensor | None = None) -> Tensor:
    """States (B, N, D) of transformers' forward over the first prompts and rows behind them, from scratch, no cache."""
    model, prompts = laid.model, laid.first
    features = model.vision_features(prompts.with_latents(model))
    features_FD, *deepstack = features.split(model.embed_1D.shape[1], dim=-1)
    seen = prompts.feature_index_BL > 0
    rows = torch.where(seen[:, :, None], features_FD[prompts.feature_index_BL], model.backbone.get_input_embeddings()(prompts.ids_BL))
    if behind is not None:
        rows = torch.cat([rows, behind], dim=1)
        seen = torch.cat([seen, torch.zeros(behind.shape[:2], dtype=torch.bool)], dim=1)
    extra = rows.shape[1] - LENGTH
    more = {}
    if deepstack:
        index = prompts.feature_index_BL[prompts.feature_index_BL > 0]
        more = {"visual_pos_masks": seen, "deepstack_visual_embeds": [level[index] for level in deepstack]}
    positions = prompts.positions(extra)[:, None].expand(-1, len(rows), -1)
    return model.backbone.language_model(inputs_embeds=rows, position_ids=positions, use_cache=False, **more).last_hidden_state


@torch.inference_mode()
def test_lame_computes_what_its_model_computes(laid: Laid) -> None:
    """`LaMEModel.forward` on the same prompts, latent ids in place."""
    expected = laid.model(laid.first.with_latents(laid.model))[0]
    assert torch.allclose(LaME(laid.model, laid.language, laid.first)(laid.first), expected, atol=2e-6)
    assert not torch.allclose(LaME(laid.model, laid.language, laid.first)(laid.second), expected, atol=1e-3)


@torch.inference_mode()
def test_discriminative_is_a_plain_forward(laid: Laid) -> None:
    """The last prompt token's state."""
    states = uncached(laid)
    expected = laid.model.embedding(states[:, :0], states[:, -1])
    assert torch.allclose(Discriminative(laid.model, laid.language, laid.first)(laid.first), expected, atol=2e-6)


@torch.inference_mode()
def test_a_rollout_equals_recomputing_everything_for_each_step(laid: Laid) -> None:
    """Cached steps give the states of whole forward passes whose last rows are the states before."""
    behind = uncached(laid)[:, -1:]
    for _ in range(STEPS - 1):
        behind = torch.cat([behind, uncached(laid, behind)[:, -1:]], dim=1)
    states = uncached(laid, behind)
    expected = laid.model.embedding(states[:, :0], states[:, -1])
    assert torch.allclose(LatentRollout(laid.model, laid.language, laid.first, STEPS)(laid.first), expected, atol=1e-5)


@torch.inference_mode()
def test_a_chain_of_thought_equals_recomputing_everything_for_each_token(laid: Laid) -> None:
    """The tokens, and the state of the last one."""
    program = ExplicitCoT(laid.model, laid.language, laid.first, STEPS)
    found = program(laid.first)
    table = laid.model.backbone.get_input_embeddings()
    states = uncached(laid, table(program.tokens_BT))
    assert torch.equal((states[:, LENGTH - 1 : -1] @ table.weight.T).argmax(-1), program.tokens_BT)
    assert torch.allclose(found, laid.model.embedding(states[:, :0], states[:, -1]), atol=1e-5)
    assert len(program.tokens_BT.unique()) > 3


@torch.inference_mode()
def test_tokens_are_those_that_transformers_generates(text: Laid) -> None:
    """Greedy `generate` on the same weights."""
    config = text.model.backbone.config
    theirs = GENERATING[config.model_type](config)
    theirs.model, theirs.lm_head = text.model.backbone, nn.Linear(1, 1, bias=False)
    theirs.lm_head.weight = text.model.backbone.get_input_embeddings().weight
    theirs.generation_config.eos_token_id = None
    ids = text.first.ids_BL
    generated = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=STEPS, do_sample=False, pad_token_id=0)
    expected = generated[:, LENGTH:]
    program = ExplicitCoT(text.model, text.language, text.first, STEPS)
    program(text.first)
    assert torch.equal(program.tokens_BT, expected)


@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
@torch.inference_mode()
def test_our_cache_steps_as_transformers_caches_do(text: Laid, kind: Any) -> None:
    """A dynamic and a static one, each token's state."""
    rows = text.model.backbone.get_input_embeddings()(torch.cat([text.first.ids_BL, text.second.ids_BL[:, :3]], dim=1))
    rotary = text.language.rotary(text.first.positions(3))
    cache = text.language.cache(2, LENGTH + 3)
    text.language.prefill(rows[:, :LENGTH], rotary.at(0, LENGTH), cache)
    forward = text.model.backbone.language_model
    theirs = kind(config=forward.config, **({"max_cache_len": LENGTH + 7} if kind is StaticCache else {}))
    positions = text.first.positions(3)[:, None].expand(-1, 2, -1)
    forward(inputs_embeds=rows[:, :LENGTH], position_ids=positions[:, :, :LENGTH], past_key_values=theirs, use_cache=True)
    for place in range(LENGTH, LENGTH + 3):
        row, at = rows[:, place : place + 1], positions[:, :, place : place + 1]
        expected = forward(inputs_embeds=row, position_ids=at, past_key_values=theirs, use_cache=True).last_hidden_state
        assert torch.allclose(text.language.step(row, rotary.at(place, place + 1), cache, place), expected, atol=1e-5)


@torch.inference_mode()
def test_a_program_remembers_nothing_of_the_batch_before(laid: Laid) -> None:
    """Its memory stays in place, which replaying it needs; the answer is that of a fresh one."""
    for kind in (LatentRollout, ExplicitCoT):
        used = kind(laid.model, laid.language, laid.first, STEPS)
        used(laid.first)
        stages = used.stages
        again = used(laid.second).clone()
        assert torch.equal(kind(laid.model, laid.language, laid.second, STEPS)(laid.second), again)
        assert used.stages is stages
        assert len(stages) == 1 + STEPS


@torch.inference_mode()
def test_joint_weights_leave_the_backbone_as_it_was(backbones: dict[str, Path]) -> None:
    """The same values, and no second copy of the projections."""
    backbone = load_backbone(backbones["qwen3_vl"], torch.float32)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    language = LanguageModel(backbone.language_model)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    attention = backbone.language_model.layers[0].self_attn
    attention.v_proj.weight.fill_(7)
    assert torch.equal(language.layers[0].qkv[-len(attention.v_proj.weight) :], attention.v_proj.weight)


def test_prompts_have_exactly_their_length(backbones: dict[str, Path]) -> None:
    """With a picture, half of it is vision tokens whose positions are those of transformers; too short is refused."""
    model = LaMEModel(load_backbone(backbones["qwen2_vl"], torch.float32), None, 8, 64)
    (prompts,) = make_prompts(model, 1, 2, 64, "image+text")
    side = picture_side(64)
    assert prompts.ids_BL.shape == (2, 64)
    assert (prompts.feature_index_BL > 0).sum() == 2 * side * side
    with torch.no_grad():
        assert len(model.vision_features(prompts.with_latents(model))) == 1 + 2 * side * side
    pad = model.backbone.config.image_token_id
    ids = torch.where(prompts.feature_index_BL > 0, pad, prompts.ids_BL.clamp(min=pad + 1))
    theirs, _ = model.backbone.get_rope_index(
        input_ids=ids, mm_token_type_ids=(ids == pad).int(), image_grid_thw=prompts.grid_thw, video_grid_thw=None
    )
    assert torch.equal(theirs[:, 0], prompts.position_ids_3L)
    with pytest.raises(Exception, match="too short for a picture"):
        make_prompts(model, 1, 1, 5, "image+text")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reduced_shape_keeps_the_share_of_the_lm_head(family: str) -> None:
    """Within three points of the published 2B shapes; its forward runs in every family."""
    config = shape_config("reduced", family)
    for published in ("qwen2_vl", "qwen3_vl"):
        assert abs(head_share(config) - head_share(shape_config("2b", published))) < 0.05
    backbone = random_backbone(config, torch.device("cpu"), torch.float32)
    model = LaMEModel(backbone, None, 8, 256)
    model.initialise_latents(0)
    (prompts,) = make_prompts(model, 1, 1, 16, "image+text")
    with torch.inference_mode():
        assert LaME(model, LanguageModel(backbone.language_model), prompts)(prompts).norm().item() == pytest.approx(1, abs=1e-5)


def test_peak_memory_counts_what_is_given_back_before_the_end() -> None:
    """40 MiB for a moment; nothing for nothing."""
    with PeakMemory(torch.device("cpu")) as nothing:
        pass
    if nothing.mib is None:
        pytest.skip("the system does not let a process reset its peak memory")
    with PeakMemory(torch.device("cpu")) as peak:
        block = torch.ones(40 << 18)
        del block
    assert peak.mib is not None
    assert 39 < peak.mib < 60
    assert nothing.mib < 5


def bench(backbones: dict[str, Path], monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Bench:
    monkeypatch.setattr(measure, "SHORTEST_DRAW", 0.0)
    model = LaMEModel(load_backbone(backbones["qwen2_vl"], torch.float32), None, 8, 64)
    model.initialise_latents(5)
    return Bench(model, Protocol(**{"tokens": 3, "latent_steps": 2, "inputs": 4, "warmup": 2, "draws": 2, **changes}), compiled=False)


def test_a_cell_has_every_paradigm_and_ticks_as_announced(backbones: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The progress bar ends where it says; each draw is kept."""
    measured = bench(backbones, monkeypatch)
    ticks: list[float] = []
    cell = measured.measure(2, 16, ticks.append)
    assert tuple(cell.timings) == NAMES
    assert all(len(timing.draws_ms) == 2 for timing in cell.timings.values())
    assert sum(ticks) == measured.runs(2) * sum(measured.work(2, 16).values())
    assert cell.ratio(LaME.name, LaME.name) == 1


def test_what_does_not_fit_is_said_and_the_rest_is_measured(backbones: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory when a cache is made; any other error is no such thing."""
    measured = bench(backbones, monkeypatch)

    def refuse(batch: int, positions: int) -> None:
        raise RuntimeError(f"[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: not enough memory: you tried to allocate {positions}")

    monkeypatch.setattr(measured.language, "cache", refuse)
    cell = measured.measure(1, 16)
    assert [name for name in NAMES if not cell.timings[name].draws_ms] == [LatentRollout.name, ExplicitCoT.name]
    assert cell.ratio(ExplicitCoT.name, LaME.name) is None
    assert [goal.met for goal in goals([cell], 8) if "discriminative" not in goal.what] == [False, False]

    def fail(batch: int, positions: int) -> None:
        raise RuntimeError("another fault")

    monkeypatch.setattr(measured.language, "cache", fail)
    with pytest.raises(RuntimeError, match="another fault"):
        measured.measure(1, 16)


def cell_of(batch: int, length: int, *ms: float) -> Cell:
    return Cell(batch, length, {name: Timing((each, 2 * each), 1.0) for name, each in zip(NAMES, ms, strict=True)})


def test_goals_are_judged_by_the_methods_bounds() -> None:
    """60 and 2 at batch 1 alone; L / (L + 9) less 3 % of discriminative's throughput everywhere."""
    judged = goals([cell_of(1, 64, 1.0, 1.17, 2.4, 70.0), cell_of(8, 64, 1.0, 1.18, 2.3, 71.0)], 8)
    assert [(goal.batch_size, round(goal.bound, 3), goal.met) for goal in judged] == [
        (1, 60.0, False),
        (1, 2.0, True),
        (1, 0.85, True),
        (8, 0.85, False),
    ]


def test_it_is_said_what_a_ratio_depends_on() -> None:
    """The range with its places, and the two axes apart."""
    cells = [cell_of(1, 64, 1, 1, 1, 40), cell_of(1, 256, 1, 1, 1, 20), cell_of(8, 64, 1, 1, 1, 10)]
    sentence = dependence(cells)[0]
    assert sentence.startswith("explicit CoT takes 10.00 (batch 8, L 64) to 40.00 (batch 1, L 64) times")
    assert "up to 2.0-fold with length" in sentence
    assert "up to 4.0-fold with batch size" in sentence


def test_it_is_said_what_a_token_costs_in_prompt_positions() -> None:
    """Ten tokens that take three prompts of 64 are 19.2 positions each; 60 times LaME takes 431.6."""
    (sentence,) = reason([cell_of(1, 64, 1, 1, 1, 4)], 10, 8)
    assert "batch 1: 19.2 (L 64). 60 times LaME's time needs 431.6 (L 64)" in sentence
    assert reason([], 10, 8) == []


TINY = ["--tokens", "2", "--latent-steps", "2", "--draws", "1", "--device", "cpu"]


def paradigms(backbones: dict[str, Path], *arguments: str) -> int:
    return main(["paradigms", "--backbone", str(backbones["qwen3_vl"]), *TINY, *arguments])


def test_the_command_writes_data_tables_and_a_plot(
    backbones: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And continues where it was stopped, keeping what was measured; --check turns a missed goal into exit code 1."""
    monkeypatch.setattr(measure, "SHORTEST_DRAW", 0.0)
    out = ["--out", str(tmp_path / "out")]
    real, calls = Bench.measure, []

    def stopped(self: Bench, *place: int, tick: Any) -> Cell:
        calls.append(place)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, *place, tick=tick)

    monkeypatch.setattr(Bench, "measure", stopped)
    assert paradigms(backbones, *out, "--batch-sizes", "2", "1", "--lengths", "16", "--modality", "image+text") == 130
    first = json.loads((tmp_path / "out/paradigms.json").read_text())["cells"]
    assert [cell["batch_size"] for cell in first] == [1]
    assert "explicit CoT" in capsys.readouterr().out
    again = [*out, "--batch-sizes", "2", "1", "--lengths", "16", "--modality", "image+text", "--resume", "--check", "--json"]
    assert paradigms(backbones, *again) == 1
    assert calls == [(1, 16), (2, 16), (2, 16)]
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out/paradigms.json").read_text())
    assert printed["cells"][0] == first[0]
    assert printed["cells"][1]["timings"]["LaME"]["times_lame"] == 1
    assert (tmp_path / "out/paradigms.png").read_bytes().startswith(b"\x89PNG")
    assert "| 2 | 16 | explicit CoT |" in (tmp_path / "out/paradigms.md").read_text()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"paradigms.json", "paradigms.md", "paradigms.png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lengths", "0"], "--lengths 0: use 1 or more"),
        (["--latent-steps", "0"], "--latent-steps 0: use 1 or more"),
        (["--resume"], "name the folder to continue with --out"),
        (["--out", "OUT"], "already exists; continue it with --resume"),
        (["--out", "OUT", "--resume"], "was measured with backbone 'another', not 'qwen2_vl, reduced"),
        (["--backbone", "nowhere"], "has no config.json"),
        (["--shape", "2b", "--family", "qwen2_5_vl"], "has no shape 2b"),
    ],
)
def test_wrong_use_gets_one_line(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and nothing is measured."""
    settings = {"backbone": "another", "date": "2026-01-01"}
    (tmp_path / "paradigms.json").write_text(json.dumps({"settings": settings, "cells": []}))
    arguments = [str(tmp_path) if each == "OUT" else each for each in arguments]
    assert main(["paradigms", *TINY, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
