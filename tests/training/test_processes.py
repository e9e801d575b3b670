"""Runs of two processes and runs that are killed have the losses of one undisturbed process."""

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
from lame_runtime.errors import UsageError
from lame_training import train
from lame_training.__main__ import main
from lame_training.model.adapters import LoRA
from lame_training.model.checkpoint import load_model
from lame_training.recipes.catalog import find_recipe
from lame_training.run.progress import read_losses
from lame_training.run.resume import complete_states

LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ENVIRONMENT = {**os.environ, "PYTHONWARNINGS": "ignore"}


def columns(folder: Path) -> list[list[float]]:
    """Returns each step's loss, its parts and the norm of the gradient."""
    return [
        [float(row[name] or 0) for name in ("step", "loss", "nce", "rec", "norm")]
        for row in read_losses(folder / "losses.csv")
    ]


def command(processes: int, data: Path, out: Path, *extra: str) -> list[str]:
    """Returns the command that trains the tiny recipe in one process or two."""
    launch = LAUNCH if processes == 2 else ()
    return [
        sys.executable,
        *launch,
        "-m",
        "lame_training",
        "run",
        "digits-tiny",
        "--data",
        str(data),
        "--out",
        str(out),
        *extra,
    ]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_killed_at_random_moments_resumes_to_the_same_losses(
    processes: int, data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """A state is saved at every step; a process is killed three times, or either of two twice."""
    out, whole, rng = tmp_path / "run", checkpoint, random.Random(processes)
    # two processes sum in another order than one, so bit equality needs a reference of their own
    if processes == 2:
        whole = tmp_path / "whole"
        subprocess.run(command(2, data, whole), check=True, capture_output=True, env=ENVIRONMENT)
    resume: tuple[str, ...] = ()
    # two processes take longer to start
    for _ in range(4 - processes):
        newest = complete_states(out)[-1:]
        process = subprocess.Popen(
            command(processes, data, out, "--save-every", "1", *resume),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
        deadline = time.monotonic() + 120
        while complete_states(out)[-1:] == newest and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        # a new state is there; the process is killed a moment later, anywhere in the next steps
        time.sleep(rng.uniform(0, 0.4))
        pids = [process.pid]
        if processes == 2:
            # torchrun's children are the workers; one may have ended already
            children = psutil.Process(process.pid).children()
            pids = [p.pid for p in children if "lame_training" in p.cmdline()] or pids
        os.kill(rng.choice(pids), signal.SIGKILL)
        process.wait(120)
        resume = ("--resume",)
        if (out / "config.json").exists():
            break  # the run was complete before it was killed
    if not (out / "config.json").exists():
        subprocess.run(
            command(processes, data, out, "--resume"),
            check=True,
            capture_output=True,
            env=ENVIRONMENT,
        )
    # equal to the bit: a resumed run repeats every operation
    assert columns(out) == columns(whole)
    assert columns(out) == [pytest.approx(row, rel=1e-4) for row in columns(checkpoint)]
    assert not (out / "state").exists()
    ours, theirs = load_model(out)[0].state_dict(), load_model(whole)[0].state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("form", ["frozen then trained", "adapters", "half precision, adapters"])
def test_a_sharded_run_freezes_and_trains_as_one_process_does(
    form: str, data: Path, backbones: dict[str, Path], tmp_path: Path
) -> None:
    """The language model is frozen in stage 1 and trained, by itself or by LoRA, in stage 2.

    In FP32 the two runs agree to rounding. In BF16 a sharded run has a BF16 residual stream, and
    one process an FP32 one. The largest differences measured (with BF16 products, VNNI and
    AVX2 alone, see ONEDNN_MAX_CPU_ISA) are 0.007 of a loss and 0.0155 of a gradient's norm.
    """
    worker = Path(__file__).with_name("staged_worker.py")
    arguments = [str(worker), str(data), str(backbones["qwen3_vl"]), str(tmp_path), form.split()[0]]
    for launch in ((), LAUNCH):
        process = subprocess.run(
            [sys.executable, *launch, *arguments],
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
            check=False,
        )
        assert process.returncode == 0, process.stderr[-3000:]
    if form.startswith("half"):
        sharded, one = columns(tmp_path / "sharded"), columns(tmp_path / "one")
        for row, expected in zip(sharded, one, strict=True):
            assert row[:-1] == pytest.approx(expected[:-1], rel=1e-2)
            assert row[-1] == pytest.approx(expected[-1], rel=3e-2)
        # the control: the bounds are narrow enough to tell one step from the next
        assert one[6][1:-1] != pytest.approx(one[5][1:-1], rel=1e-2)
        assert one[6][-1] != pytest.approx(one[5][-1], rel=3e-2)
        return
    assert columns(tmp_path / "sharded") == [
        pytest.approx(row, rel=1e-4) for row in columns(tmp_path / "one")
    ]
    # Adam turns the rounding of tiny gradients into steps of the size of the rate
    one, sharded = (load_model(tmp_path / name)[0].state_dict() for name in ("one", "sharded"))
    assert all(torch.allclose(one[name], sharded[name], atol=2e-3) for name in one)


def test_processes_must_divide_the_batch(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two sub-batches cannot be shared by three processes, and the message says so."""
    from lame_training.distributed.processes import ProcessGroup

    # sharing needs no communication, so one process can stand for three
    world = ProcessGroup("cpu")
    world.size = 3
    with pytest.raises(UsageError, match="2 sub-batches of a step cannot be shared by 3 processes"):
        world.shard_list([1, 2], "sub-batches of a step")


# transformers warns of names that PEFT still uses
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_adapters_are_trained_saved_as_peft_does_and_merged_when_loaded(
    data: Path, backbones: dict[str, Path], tmp_path: Path
) -> None:
    """With LoRA and DoRA the base stays as it was, and the loaded model is PEFT's own merge.

    A run that stopped in the middle resumes to the same losses.
    """
    from lame_training.model.backbones import load_backbone
    from peft import PeftModel

    tiny = find_recipe("digits-tiny")
    for dora in (False, True):
        rates = {
            "reason": 1e-3,
            "embed": 1e-3,
            "connector": 1e-3,
            "decoder": 1e-3,
            "merger": 1e-3,
            "language_model": 1e-2,
        }
        stages = tuple(dataclasses.replace(stage, steps=4, rates=rates) for stage in tiny.stages)
        recipe = dataclasses.replace(
            tiny, lora=LoRA(rank=2, dropout=0.1, dora=dora), save_every=3, stages=stages
        )
        out, halves = tmp_path / f"whole{dora}", tmp_path / f"halves{dora}"
        train(recipe, data, out, backbone=backbones["qwen2_vl"], progress=False)
        train(recipe, data, halves, backbone=backbones["qwen2_vl"], steps=7, progress=False)
        assert (halves / "state/fixed.safetensors").is_file()
        train(recipe, data, halves, resume=True, progress=False)
        assert columns(halves) == columns(out)
        assert {path.name for path in (out / "adapter").iterdir()} >= {
            "adapter_config.json",
            "adapter_model.safetensors",
        }
        base = load_backbone(backbones["qwen2_vl"], torch.float32)
        # the merger is trained itself, so PEFT's merge is compared on top of the trained one
        merger = {
            name: value
            for name, value in load_model(out)[0].backbone.named_parameters()
            if ".merger." in name
        }
        base.load_state_dict(merger, strict=False)
        merged = PeftModel.from_pretrained(base, out / "adapter").merge_and_unload()
        ours, expected = load_model(out)[0].backbone.state_dict(), merged.state_dict()
        assert all(torch.allclose(ours[name], expected[name], atol=1e-6) for name in expected)
        untouched = load_backbone(backbones["qwen2_vl"], torch.float32).state_dict()
        # nothing but the adapted layers and the merger may have moved
        moved = {name for name in ours if not torch.equal(ours[name], untouched[name])}
        assert any("q_proj" in name for name in moved)
        assert all(
            ("language_model.layers" in name and name.endswith("proj.weight")) or ".merger." in name
            for name in moved
        )


def test_a_full_disk_keeps_the_older_state_and_says_so(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The third state does not fit; once there is space, the run resumes from the second."""
    from lame_training.run import resume as states
    from safetensors import SafetensorError

    real, calls = states.save_file, []

    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        calls.append(path)
        # a state has two files; the sixth is the second one of the third state
        if len(calls) > 5:
            path.write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        real(tensors, path)

    monkeypatch.setattr(states, "save_file", full)
    out = tmp_path / "run"
    arguments = ["run", "digits-tiny", "--data", str(data), "--out", str(out)]
    arguments += ["--save-every", "2", "--keep", "3"]
    assert main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "step-000006: cannot be written" in error
    assert "free some space" in error
    assert [path.name for path in complete_states(out)] == ["step-000002", "step-000004"]
    assert not (out / "state/incomplete").exists()
    monkeypatch.undo()
    assert main([*arguments, "--resume"]) == 0
    assert len(columns(out)) == 16


def test_keep_sets_the_number_of_states(data: Path, tmp_path: Path) -> None:
    """The newest are kept; a complete run keeps none."""
    out = tmp_path / "run"
    arguments = ["run", "digits-tiny", "--data", str(data), "--out", str(out)]
    arguments += ["--save-every", "2", "--keep", "3"]
    assert main([*arguments, "--steps", "9"]) == 0
    assert [path.name for path in complete_states(out)] == [
        "step-000006",
        "step-000008",
        "step-000009",
    ]
    assert main([*arguments, "--resume"]) == 0
    assert not (out / "state").exists()
    assert main([*arguments, "--resume"]) == 2
