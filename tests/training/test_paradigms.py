"""The four paradigms: what they compute, and how they are measured, saved and compared.

The programs are compared with transformers, in every family and with text and pictures.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lame_runtime.errors import UsageError
from lame_training.__main__ import main
from lame_training.fixtures.random_backbone import head_share, random_backbone, shape_config
from lame_training.model.backbones import FAMILIES, load_backbone
from lame_training.model.lame import LaMEModel
from lame_training.studies.paradigms import measure
from lame_training.studies.paradigms.baselines import (
    Discriminative,
    ExplicitCoT,
    LaME,
    LatentRollout,
)
from lame_training.studies.paradigms.goals import (
    describe_ratios,
    describe_token_cost,
    goals,
)
from lame_training.studies.paradigms.language_model import LanguageModel
from lame_training.studies.paradigms.measure import (
    NAMES,
    Cell,
    CellBenchmark,
    Protocol,
    Timing,
)
from lame_training.studies.paradigms.peak_memory import PeakMemory
from lame_training.studies.paradigms.prompts import Prompts, make_prompts, picture_side
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
# what routing costs a decode step would be another study
PLAIN = tuple(family for family in FAMILIES if family != "qwen3_vl_moe")
CASES = [(family, modality) for family in PLAIN for modality in MODALITIES]


@dataclasses.dataclass(frozen=True)
class Sample:
    """A model, its layers and two different batches of prompts."""

    model: LaMEModel
    language: LanguageModel
    first: Prompts
    second: Prompts


def make_sample(backbone: Path, modality: str) -> Sample:
    torch.manual_seed(3)
    loaded = load_backbone(backbone, torch.float32).eval()
    with torch.no_grad():
        # with a norm of ones, the tied head of random weights repeats one token
        loaded.language_model.norm.weight.copy_(torch.randn(loaded.config.text_config.hidden_size))
    model = LaMEModel(loaded, None, 8, 32)
    model.initialize_latents(5)
    first, second = make_prompts(model, 2, 2, LENGTH, modality)  # type: ignore[arg-type]
    return Sample(model, LanguageModel(loaded.language_model), first, second)


@pytest.fixture(params=CASES, ids=["-".join(case) for case in CASES])
def sample(request: pytest.FixtureRequest, backbones: dict[str, Path]) -> Sample:
    """Makes a sample of every family, with text and with pictures."""
    family, modality = request.param
    return make_sample(backbones[family], modality)


@pytest.fixture(params=PLAIN)
def text(request: pytest.FixtureRequest, backbones: dict[str, Path]) -> Sample:
    """Makes a sample of every family, with text alone."""
    return make_sample(backbones[request.param], "text")


def uncached(sample: Sample, extra_rows: Tensor | None = None) -> Tensor:
    """Returns transformers' states (B, N, D) of the first prompts and rows behind them.

    Everything is computed from scratch, without a cache.
    """
    model, prompts = sample.model, sample.first
    features = model.vision_features(prompts.with_latents(model))
    features_FD, *deepstack = features.split(model.embed_1D.shape[1], dim=-1)
    is_vision = prompts.feature_index_BL > 0
    rows = torch.where(
        is_vision[:, :, None],
        features_FD[prompts.feature_index_BL],
        model.backbone.get_input_embeddings()(prompts.ids_BL),
    )
    if extra_rows is not None:
        rows = torch.cat([rows, extra_rows], dim=1)
        is_text = torch.zeros(extra_rows.shape[:2], dtype=torch.bool)
        is_vision = torch.cat([is_vision, is_text], dim=1)
    options = {}
    if deepstack:
        index = prompts.feature_index_BL[prompts.feature_index_BL > 0]
        options = {
            "visual_pos_masks": is_vision,
            "deepstack_visual_embeds": [level[index] for level in deepstack],
        }
    extra = rows.shape[1] - LENGTH
    positions = prompts.positions(extra)[:, None].expand(-1, len(rows), -1)
    return model.backbone.language_model(
        inputs_embeds=rows, position_ids=positions, use_cache=False, **options
    ).last_hidden_state


@torch.inference_mode()
def test_lame_computes_what_its_model_computes(sample: Sample) -> None:
    """It equals `LaMEModel.forward` on the same prompts with latent ids, and depends on them."""
    expected = sample.model(sample.first.with_latents(sample.model))[0]
    assert torch.allclose(
        LaME(sample.model, sample.language, sample.first)(sample.first), expected, atol=2e-6
    )
    assert not torch.allclose(
        LaME(sample.model, sample.language, sample.first)(sample.second), expected, atol=1e-3
    )


@torch.inference_mode()
def test_discriminative_is_a_plain_forward(sample: Sample) -> None:
    """The embedding is that of the last prompt token's state."""
    states = uncached(sample)
    expected = sample.model.embedding(states[:, :0], states[:, -1])
    assert torch.allclose(
        Discriminative(sample.model, sample.language, sample.first)(sample.first),
        expected,
        atol=2e-6,
    )


@torch.inference_mode()
def test_a_rollout_equals_recomputing_everything_for_each_step(sample: Sample) -> None:
    """Steps with a cache give the states of whole forward passes without one."""
    fed_back = uncached(sample)[:, -1:]
    for _ in range(STEPS - 1):
        fed_back = torch.cat([fed_back, uncached(sample, fed_back)[:, -1:]], dim=1)
    states = uncached(sample, fed_back)
    expected = sample.model.embedding(states[:, :0], states[:, -1])
    assert torch.allclose(
        LatentRollout(sample.model, sample.language, sample.first, STEPS)(sample.first),
        expected,
        atol=1e-5,
    )


@torch.inference_mode()
def test_a_chain_of_thought_equals_recomputing_everything_for_each_token(sample: Sample) -> None:
    """The tokens are the same, and so is the state of the last one."""
    program = ExplicitCoT(sample.model, sample.language, sample.first, STEPS)
    embeddings = program(sample.first)
    table = sample.model.backbone.get_input_embeddings()
    states = uncached(sample, table(program.tokens_BT))
    assert torch.equal((states[:, LENGTH - 1 : -1] @ table.weight.T).argmax(-1), program.tokens_BT)
    assert torch.allclose(
        embeddings, sample.model.embedding(states[:, :0], states[:, -1]), atol=1e-5
    )
    # a chain of one repeated token would pass whatever the cache holds
    assert len(program.tokens_BT.unique()) > 3


@torch.inference_mode()
def test_tokens_are_those_that_transformers_generates(text: Sample) -> None:
    """Greedy `generate` on the same weights gives the same tokens."""
    config = text.model.backbone.config
    theirs = GENERATING[config.model_type](config)
    theirs.model, theirs.lm_head = text.model.backbone, nn.Linear(1, 1, bias=False)
    theirs.lm_head.weight = text.model.backbone.get_input_embeddings().weight
    # our chain of thought never stops early
    theirs.generation_config.eos_token_id = None
    ids = text.first.ids_BL
    generated = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=STEPS,
        do_sample=False,
        pad_token_id=0,
    )
    expected = generated[:, LENGTH:]
    program = ExplicitCoT(text.model, text.language, text.first, STEPS)
    program(text.first)
    assert torch.equal(program.tokens_BT, expected)


@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
@torch.inference_mode()
def test_our_cache_steps_as_transformers_caches_do(text: Sample, kind: Any) -> None:
    """Each token's state is that with a dynamic cache and with a static one."""
    rows = text.model.backbone.get_input_embeddings()(
        torch.cat([text.first.ids_BL, text.second.ids_BL[:, :3]], dim=1)
    )
    rotary = text.language.rotary(text.first.positions(3))
    cache = text.language.cache(2, LENGTH + 3)
    text.language.prefill(rows[:, :LENGTH], rotary.slice(0, LENGTH), cache)
    forward = text.model.backbone.language_model
    theirs = kind(
        config=forward.config, **({"max_cache_len": LENGTH + 7} if kind is StaticCache else {})
    )
    positions = text.first.positions(3)[:, None].expand(-1, 2, -1)
    forward(
        inputs_embeds=rows[:, :LENGTH],
        position_ids=positions[:, :, :LENGTH],
        past_key_values=theirs,
        use_cache=True,
    )
    for index in range(LENGTH, LENGTH + 3):
        row = rows[:, index : index + 1]
        expected = forward(
            inputs_embeds=row,
            position_ids=positions[:, :, index : index + 1],
            past_key_values=theirs,
            use_cache=True,
        ).last_hidden_state
        state = text.language.step(row, rotary.slice(index, index + 1), cache, index)
        assert torch.allclose(state, expected, atol=1e-5)


@torch.inference_mode()
def test_a_program_does_not_depend_on_the_batch_before(sample: Sample) -> None:
    """Its tensors stay in place, as CUDA graphs need, but the result is that of a new program."""
    for kind in (LatentRollout, ExplicitCoT):
        used = kind(sample.model, sample.language, sample.first, STEPS)
        used(sample.first)
        segments = used.segments
        again = used(sample.second).clone()
        assert torch.equal(
            kind(sample.model, sample.language, sample.second, STEPS)(sample.second), again
        )
        assert used.segments is segments
        assert len(segments) == 1 + STEPS


@torch.inference_mode()
def test_joined_weights_leave_the_backbone_as_it_was(backbones: dict[str, Path]) -> None:
    """The values stay the same, and the projections are not copied."""
    backbone = load_backbone(backbones["qwen3_vl"], torch.float32)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    language = LanguageModel(backbone.language_model)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    attention = backbone.language_model.layers[0].self_attn
    # a change shows on the other side only if both share memory
    attention.v_proj.weight.fill_(7)
    assert torch.equal(
        language.layers[0].qkv[-len(attention.v_proj.weight) :], attention.v_proj.weight
    )


def test_prompts_have_exactly_their_length(backbones: dict[str, Path]) -> None:
    """A picture fills half of a prompt, and the positions are those of transformers.

    A prompt that is too short for a picture is refused.
    """
    model = LaMEModel(load_backbone(backbones["qwen2_vl"], torch.float32), None, 8, 64)
    (prompts,) = make_prompts(model, 1, 2, 64, "image+text")
    side = picture_side(64)
    assert prompts.ids_BL.shape == (2, 64)
    assert (prompts.feature_index_BL > 0).sum() == 2 * side * side
    with torch.no_grad():
        assert len(model.vision_features(prompts.with_latents(model))) == 1 + 2 * side * side
    # transformers recognizes vision tokens by their id
    pad = model.backbone.config.image_token_id
    ids = torch.where(prompts.feature_index_BL > 0, pad, prompts.ids_BL.clamp(min=pad + 1))
    theirs, _ = model.backbone.get_rope_index(
        input_ids=ids,
        mm_token_type_ids=(ids == pad).int(),
        image_grid_thw=prompts.grid_thw,
        video_grid_thw=None,
    )
    assert torch.equal(theirs[:, 0], prompts.position_ids_3L)
    with pytest.raises(UsageError, match="`lengths` has 5: too short for a picture"):
        make_prompts(model, 1, 1, 5, "image+text")


def test_a_backbone_with_experts_is_refused(backbones: dict[str, Path]) -> None:
    """The comparison runs the language model itself, and knows no router."""
    backbone = load_backbone(backbones["qwen3_vl_moe"], torch.float32)
    with pytest.raises(UsageError, match="has experts, which this comparison does not time"):
        LanguageModel(backbone.language_model)


@pytest.mark.parametrize("family", PLAIN)
def test_the_reduced_shape_keeps_the_share_of_the_lm_head(family: str) -> None:
    """It is within five points of the published 2B shapes, and its model runs in every family."""
    config = shape_config("reduced", family)
    for published in ("qwen2_vl", "qwen3_vl"):
        assert abs(head_share(config) - head_share(shape_config("2b", published))) < 0.05
    backbone = random_backbone(config, torch.device("cpu"), torch.float32)
    model = LaMEModel(backbone, None, 8, 256)
    model.initialize_latents(0)
    (prompts,) = make_prompts(model, 1, 1, 16, "image+text")
    with torch.inference_mode():
        assert LaME(model, LanguageModel(backbone.language_model), prompts)(
            prompts
        ).norm().item() == pytest.approx(1, abs=1e-5)


def test_peak_memory_counts_what_is_freed_before_the_end() -> None:
    """A block of 40 MiB counts although it is freed; an empty block counts nothing."""
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


def make_benchmark(
    backbones: dict[str, Path], monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> CellBenchmark:
    # a draw of one pass, however short
    monkeypatch.setattr(measure, "SHORTEST_DRAW", 0.0)
    model = LaMEModel(load_backbone(backbones["qwen2_vl"], torch.float32), None, 8, 64)
    model.initialize_latents(5)
    return CellBenchmark(
        model,
        Protocol(
            **{"tokens": 3, "latent_steps": 2, "inputs": 4, "warmup": 2, "draws": 2, **changes}
        ),
        compiled=False,
    )


def test_a_cell_has_every_paradigm_and_its_ticks_add_up(
    backbones: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The progress bar ends at its total, and the timings have every draw."""
    benchmark = make_benchmark(backbones, monkeypatch)
    ticks: list[int] = []
    cell = benchmark.measure(2, 16, ticks.append)
    assert tuple(cell.timings) == NAMES
    assert all(len(timing.draws_ms) == 2 for timing in cell.timings.values())
    batch_cost = sum(benchmark.batch_costs(2, 16).values())
    assert sum(ticks) == benchmark.batches_per_cell(2) * batch_cost
    assert cell.ratio(LaME.name, LaME.name) == 1


def test_a_paradigm_that_runs_out_of_memory_does_not_stop_the_others(
    backbones: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running out of memory leaves a paradigm without draws; any other error is raised."""
    benchmark = make_benchmark(backbones, monkeypatch)

    def refuse(batch: int, positions: int) -> None:
        # the message of PyTorch's allocator on a CPU
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: not enough memory: "
            f"you tried to allocate {positions}"
        )

    monkeypatch.setattr(benchmark.language, "cache", refuse)
    cell = benchmark.measure(1, 16)
    assert [name for name in NAMES if not cell.timings[name].draws_ms] == [
        LatentRollout.name,
        ExplicitCoT.name,
    ]
    assert cell.ratio(ExplicitCoT.name, LaME.name) is None
    assert [goal.met for goal in goals([cell], 8) if "discriminative" not in goal.what] == [
        False,
        False,
    ]

    def fail(batch: int, positions: int) -> None:
        raise RuntimeError("another fault")

    monkeypatch.setattr(benchmark.language, "cache", fail)
    with pytest.raises(RuntimeError, match="another fault"):
        benchmark.measure(1, 16)


def cell_of(batch: int, length: int, *ms: float) -> Cell:
    """Returns a cell of two draws, with the milliseconds of the first in the order of `NAMES`."""
    return Cell(
        batch,
        length,
        {name: Timing((value, 2 * value), 1.0) for name, value in zip(NAMES, ms, strict=True)},
    )


def test_goals_are_those_of_the_method() -> None:
    """The bounds are 60 and 2, at batch 1 alone, and 0.97 · L / (L + 9) everywhere."""
    result = goals([cell_of(1, 64, 1.0, 1.17, 2.4, 70.0), cell_of(8, 64, 1.0, 1.18, 2.3, 71.0)], 8)
    assert [(goal.batch_size, round(goal.bound, 3), goal.met) for goal in result] == [
        (1, 60.0, False),
        (1, 2.0, True),
        (1, 0.85, True),
        (8, 0.85, False),
    ]


def test_a_sentence_describes_what_a_ratio_depends_on() -> None:
    """It gives the range with its cells, and the changes along the two axes."""
    cells = [cell_of(1, 64, 1, 1, 1, 40), cell_of(1, 256, 1, 1, 1, 20), cell_of(8, 64, 1, 1, 1, 10)]
    sentence = describe_ratios(cells)[0]
    assert sentence.startswith(
        "explicit CoT takes 10.00 (batch 8, L 64) to 40.00 (batch 1, L 64) times"
    )
    assert "up to 2.0-fold with length" in sentence
    assert "up to 4.0-fold with batch size" in sentence


def test_a_sentence_describes_what_a_token_costs_in_prompt_positions() -> None:
    """Ten tokens that take three prompts of 64 cost 19.2 positions each; the goal needs 431.6."""
    (sentence,) = describe_token_cost([cell_of(1, 64, 1, 1, 1, 4)], 10, 8)
    assert "batch 1: 19.2 (L 64). 60 times LaME's time needs 431.6 (L 64)" in sentence
    assert describe_token_cost([], 10, 8) == []


TINY = ["--tokens", "2", "--latent-steps", "2", "--draws", "1", "--device", "cpu"]


def paradigms(backbones: dict[str, Path], *arguments: str) -> int:
    return main(["paradigms", "--backbone", str(backbones["qwen3_vl"]), *TINY, *arguments])


def test_the_command_writes_data_tables_and_a_plot(
    backbones: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run that was stopped continues, and keeps what was measured.

    With --check, a goal that is not met gives exit code 1.
    """
    monkeypatch.setattr(measure, "SHORTEST_DRAW", 0.0)
    out = ["--out", str(tmp_path / "out")]
    real, calls = CellBenchmark.measure, []

    def stopped(self: CellBenchmark, *sizes: int, tick: Any) -> Cell:
        calls.append(sizes)
        # as if somebody pressed ctrl-C during the second cell
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, *sizes, tick=tick)

    monkeypatch.setattr(CellBenchmark, "measure", stopped)
    sizes = ["--batch-sizes", "2", "1", "--lengths", "16", "--modality", "image+text"]
    assert paradigms(backbones, *out, *sizes) == 130
    first = json.loads((tmp_path / "out/paradigms.json").read_text())["cells"]
    assert [cell["batch_size"] for cell in first] == [1]
    assert "explicit CoT" in capsys.readouterr().out
    assert paradigms(backbones, *out, *sizes, "--resume", "--check", "--json") == 1
    assert calls == [(1, 16), (2, 16), (2, 16)]
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out/paradigms.json").read_text())
    assert printed["cells"][0] == first[0]
    assert printed["cells"][1]["timings"]["LaME"]["times_lame"] == 1
    assert (tmp_path / "out/paradigms.png").read_bytes().startswith(b"\x89PNG")
    assert "| 2 | 16 | explicit CoT |" in (tmp_path / "out/paradigms.md").read_text()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "paradigms.json",
        "paradigms.md",
        "paradigms.png",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lengths", "0"], "--lengths is 0: use 1 or more"),
        (["--latent-steps", "0"], "--latent-steps is 0: use 1 or more"),
        (["--resume"], "--resume needs --output: name the folder to continue"),
        (["--out", "OUT"], "already exists; continue it with --resume"),
        (
            ["--out", "OUT", "--resume"],
            "was measured with backbone 'another', not 'qwen2_vl, reduced",
        ),
        (["--backbone", "nowhere"], "has no config.json"),
        (["--shape", "2b", "--family", "qwen2_5_vl"], "has no shape 2b"),
    ],
)
def test_wrong_use_gets_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 2, and nothing is measured."""
    settings = {"backbone": "another", "date": "2026-01-01"}
    (tmp_path / "paradigms.json").write_text(json.dumps({"settings": settings, "cells": []}))
    arguments = [str(tmp_path) if argument == "OUT" else argument for argument in arguments]
    assert main(["paradigms", *TINY, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
