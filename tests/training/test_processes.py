"""Whole runs on two processes, and runs that are killed: the losses are those of one process that nobody stopped."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from lame_training.__main__ import main
from lame_training.adapters import LoRA
from lame_training.checkpoint import load_model
from lame_training.loop import run
from lame_training.progress import read_losses
from lame_training.recipes import find_recipe
from lame_training.states import complete_states

LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ENVIRONMENT = {**os.environ, "PYTHONWARNINGS": "ignore"}


def columns(folder: Path) -> list[list[float]]:
    """Loss, its parts and the gradient's norm of each step."""
    return [[float(row[name] or 0) for name in ("step", "loss", "nce", "rec", "norm")] for row in read_losses(folder / "losses.csv")]


def command(processes: int, data: Path, out: Path, *extra: str) -> list[str]:
    launch = LAUNCH if processes == 2 else ()
    return [sys.executable, *launch, "-m", "lame_training", "run", "digits-tiny", "--data", str(data), "--out", str(out), *extra]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_killed_at_random_moments_resumes_to_the_same_losses(processes: int, data: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Kill -9 on the process, or on either of two, while a state is written at every step; three times, then to the end."""
    out, whole, dice = tmp_path / "run", checkpoint, random.Random(processes)
    if processes == 2:  # their sums have an order of their own
        whole = tmp_path / "whole"
        subprocess.run(command(2, data, whole), check=True, capture_output=True, env=ENVIRONMENT)
    resume: tuple[str, ...] = ()
    for _ in range(3):
        before = complete_states(out)[-1:]
        process = subprocess.Popen(
            command(processes, data, out, "--save-every", "1", *resume),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
        deadline = time.monotonic() + 120
        while complete_states(out)[-1:] == before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.4))
        workers = [p for p in psutil.Process(process.pid).children() if "lame_training" in p.cmdline()] if processes == 2 else []
        os.kill(dice.choice([p.pid for p in workers] or [process.pid]), signal.SIGKILL)
        process.wait(120)
        resume = ("--resume",)
        if (out / "config.json").exists():
            break  # the last kill came after the end
    if not (out / "config.json").exists():
        subprocess.run(command(processes, data, out, "--resume"), check=True, capture_output=True, env=ENVIRONMENT)
    assert columns(out) == columns(whole)
    assert columns(out) == [pytest.approx(row, rel=1e-4) for row in columns(checkpoint)]
    assert not (out / "state").exists()
    ours, theirs = load_model(out)[0].state_dict(), load_model(whole)[0].state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("form", ["frozen then trained", "adapters", "half precision, adapters"])
def test_a_sharded_run_freezes_and_trains_as_one_process_does(form: str, data: Path, backbones: dict[str, Path], tmp_path: Path) -> None:
    """The published recipes' two stages: the language model is frozen in the first and trained, whole or by adapters, in the second.

    In FP32 the runs are one. In BF16 the residual stream is half where sharded and FP32 where not; the bounds are of the largest
    differences with BF16 products, with VNNI and with AVX2 alone (ONEDNN_MAX_CPU_ISA): .007 of a loss, .0155 of a gradient's norm.
    """
    worker = Path(__file__).with_name("staged_worker.py")
    arguments = [str(worker), str(data), str(backbones["qwen3_vl"]), str(tmp_path), form.split()[0]]
    for launch in ((), LAUNCH):
        done = subprocess.run([sys.executable, *launch, *arguments], capture_output=True, text=True, env=ENVIRONMENT, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    if form.startswith("half"):
        ours, theirs = columns(tmp_path / "sharded"), columns(tmp_path / "one")
        for one, other in zip(ours, theirs, strict=True):
            assert one[:-1] == pytest.approx(other[:-1], rel=1e-2)
            assert one[-1] == pytest.approx(other[-1], rel=3e-2)
        assert theirs[6][1:-1] != pytest.approx(theirs[5][1:-1], rel=1e-2), "the control: another step's losses are told apart"
        assert theirs[6][-1] != pytest.approx(theirs[5][-1], rel=3e-2)
        return
    assert columns(tmp_path / "sharded") == [pytest.approx(row, rel=1e-4) for row in columns(tmp_path / "one")]
    one, sharded = (load_model(tmp_path / name)[0].state_dict() for name in ("one", "sharded"))
    assert all(torch.allclose(one[name], sharded[name], atol=2e-3) for name in one)


def test_processes_must_divide_the_batch(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Two sub-batches cannot be shared by three; the message says so."""
    from lame_training.world import World

    world = World("cpu")
    world.size = 3
    with pytest.raises(Exception, match="2 sub-batches of a step cannot be shared by 3 processes"):
        world.share([1, 2], "sub-batches of a step")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers, about names PEFT still uses
def test_adapters_are_trained_saved_as_peft_does_and_merged_when_loaded(data: Path, backbones: dict[str, Path], tmp_path: Path) -> None:
    """LoRA and DoRA: the base stays as it was, the loaded model is PEFT's own merge, and a killed run resumes."""
    from lame_training.backbones import load_backbone
    from peft import PeftModel

    tiny = find_recipe("digits-tiny")
    for dora in (False, True):
        rates = {"reason": 1e-3, "embed": 1e-3, "connector": 1e-3, "decoder": 1e-3, "merger": 1e-3, "language_model": 1e-2}
        stages = tuple(dataclasses.replace(stage, steps=4, rates=rates) for stage in tiny.stages)
        recipe = dataclasses.replace(tiny, lora=LoRA(rank=2, dropout=0.1, dora=dora), save_every=3, stages=stages)
        out, halves = tmp_path / f"whole{dora}", tmp_path / f"halves{dora}"
        run(recipe, data, out, backbone=backbones["qwen2_vl"], progress=False)
        run(recipe, data, halves, backbone=backbones["qwen2_vl"], steps=7, progress=False)
        assert (halves / "state/fixed.safetensors").is_file()
        run(recipe, data, halves, resume=True, progress=False)
        assert columns(halves) == columns(out)
        assert {path.name for path in (out / "adapter").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
        base = load_backbone(backbones["qwen2_vl"], torch.float32)
        merger = {name: value for name, value in load_model(out)[0].backbone.named_parameters() if ".merger." in name}
        base.load_state_dict(merger, strict=False)
        merged = PeftModel.from_pretrained(base, out / "adapter").merge_and_unload()
        ours, theirs = load_model(out)[0].backbone.state_dict(), merged.state_dict()
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)
        untouched = load_backbone(backbones["qwen2_vl"], torch.float32).state_dict()
        moved = {name for name in ours if not torch.equal(ours[name], untouched[name])}
        assert any("q_proj" in name for name in moved)
        assert all(("language_model.layers" in name and name.endswith("proj.weight")) or ".merger." in name for name in moved)


def test_a_full_disk_keeps_the_older_state_and_says_so(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The third state does not fit; the run resumes from the second once there is space, to the same losses."""
    from lame_training import states
    from safetensors import SafetensorError

    real, calls = states.save_file, []

    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        calls.append(path)
        if len(calls) > 5:
            path.write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        real(tensors, path)

    monkeypatch.setattr(states, "save_file", full)
    out = tmp_path / "run"
    arguments = ["run", "digits-tiny", "--data", str(data), "--out", str(out), "--save-every", "2", "--keep", "3"]
    assert main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "step-000006: cannot be written" in error
    assert "free some space" in error
    assert [path.name for path in complete_states(out)] == ["step-000002", "step-000004"]
    assert not (out / "state/incomplete").exists()
    monkeypatch.undo()
    assert main([*arguments, "--resume"]) == 0
    assert len(columns(out)) == 16


def test_so_many_states_are_kept_as_asked(data: Path, tmp_path: Path) -> None:
    """The newest; all go when the run is complete."""
    out = tmp_path / "run"
    arguments = ["run", "digits-tiny", "--data", str(data), "--out", str(out), "--save-every", "2", "--keep", "3"]
    assert main([*arguments, "--steps", "9"]) == 0
    assert [path.name for path in complete_states(out)] == ["step-000006", "step-000008", "step-000009"]
    assert main([*arguments, "--resume"]) == 0
    assert not (out / "state").exists()
    assert main([*arguments, "--resume"]) == 2
