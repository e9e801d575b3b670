"""Files of an output folder that are damaged, or somebody else's, are one line or do no harm."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lame_runtime.errors import BundleError, LameError
from lame_training import train
from lame_training.run import progress
from lame_training.run import resume as resume_module
from lame_training.run.environment import write_environment
from lame_training.run.initialization import rebuild
from lame_training.run.progress import Progress, read_dropped, read_losses
from lame_training.run.resume import load_state, read_tensors, restore_moments
from lame_training.run.run_folder import read_architecture, steps_of
from safetensors.torch import load_file, save_file

STATE = "state/step-000007"


@pytest.fixture(scope="module")
def stopped(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a run that stopped after seven steps, in its second stage."""
    output = tmp_path_factory.mktemp("stopped") / "run"
    train("digits-tiny", data, output, steps=7, progress=False)
    return output


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """Returns a copy of the run, to be damaged."""
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def resume(data: Path, run: Path) -> None:
    """Continues the run by one step."""
    train("digits-tiny", data, run, steps=8, resume=True, progress=False)


def edit(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Changes the tensors of a file."""
    tensors = {name: value.clone() for name, value in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


def first(tensors: dict[str, torch.Tensor], ending: str = "") -> str:
    """Returns the name of a tensor."""
    return next(name for name in sorted(tensors) if name.endswith(ending))


GARBAGE = {
    "nothing": b"",
    "half a document": b'{"a": ',
    "brackets": b"[" * 100_000,
    "bytes": bytes(range(256)),
    "null": b"null",
    "a number": b"1e400",
    "not a number": b'{"steps": NaN}',
    "a list": b"[1, 2]",
    "digits": b"9" * 5000,
}
READERS: dict[str, Callable[[Path], object]] = {
    "architecture.json": read_architecture,
    "config.json": steps_of,
    f"{STATE}/model.safetensors": lambda run: read_tensors(run / STATE, "model"),
    f"{STATE}/optimizer.safetensors": lambda run: read_tensors(run / STATE, "optimizer"),
}
"""Readers of the files of a run that is continued, by file."""


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_garbage_in_any_file_is_one_line(content: bytes, run: Path) -> None:
    """Every file that a resumed run reads, one after the other; the line names it."""
    for name, read in READERS.items():
        (run / name).write_bytes(content)
        with pytest.raises(LameError, match=name.rsplit("/", 1)[-1]) as caught:
            read(run)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["recipe.json", "contract.json", "tokenizer.json"])
def test_garbage_ends_a_run_that_is_continued(name: str, data: Path, run: Path) -> None:
    """The whole way, for three of them."""
    (run / name).write_bytes(GARBAGE["brackets"])
    with pytest.raises(LameError, match=name):
        resume(data, run)


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_one_line(kind: str, run: Path) -> None:
    """Nothing waits for the pipe."""
    for name, read in READERS.items():
        (run / name).unlink()
        os.mkfifo(run / name) if kind == "pipe" else (run / name).mkdir()
        with pytest.raises(LameError, match=name.rsplit("/", 1)[-1]):
            read(run)


STATES: dict[str, tuple[str, Callable[[dict[str, torch.Tensor]], object], str]] = {
    "weights that are no numbers": (
        "model",
        lambda tensors: tensors[first(tensors)].fill_(float("nan")),
        "holds values that are not finite floating-point numbers",
    ),
    "weights of integers": (
        "model",
        lambda tensors: tensors.update({first(tensors): tensors[first(tensors)].int()}),
        "holds values that are not finite floating-point numbers",
    ),
    "a weight that is missing": (
        "model",
        lambda tensors: tensors.pop(first(tensors)),
        "is missing",
    ),
    "moments that are no numbers": (
        "optimizer",
        lambda tensors: tensors[first(tensors, "exp_avg")].fill_(float("inf")),
        "holds values that are not finite floating-point numbers",
    ),
    "moments of another shape": (
        "optimizer",
        lambda tensors: tensors.update({first(tensors, "exp_avg"): torch.zeros(3, 5, 7)}),
        "fits no weight",
    ),
    "a count of steps that is a vector": (
        "optimizer",
        lambda tensors: tensors.update({first(tensors, "step"): torch.zeros(3)}),
        "fits no weight",
    ),
    "moments of no weight": (
        "optimizer",
        lambda tensors: tensors.update({"nonesuch|exp_avg": torch.zeros(3)}),
        "fits no weight",
    ),
    "a name without a bar": (
        "optimizer",
        lambda tensors: tensors.update({"nonesuch": torch.zeros(3)}),
        "fits no weight",
    ),
    "half of the moments": (
        "optimizer",
        lambda tensors: tensors.pop(first(tensors, "exp_avg_sq")),
        "is incomplete",
    ),
}


@pytest.mark.parametrize(("file", "change", "message"), STATES.values(), ids=STATES)
def test_a_state_that_does_not_fit_is_refused_before_a_step(
    file: str, change: Callable[[dict[str, torch.Tensor]], object], message: str, run: Path
) -> None:
    """A moment of another shape would otherwise end the first step with an error of PyTorch."""
    model = rebuild(read_architecture(run), None, run)
    load_state(run / STATE, model)
    edit(run / STATE / f"{file}.safetensors", change)
    with pytest.raises(BundleError, match=message):
        load_state(run / STATE, model)


def test_without_their_checks_a_damaged_state_is_trained_on(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: weights of NaN are loaded, and a moment's shape ends a step of the optimizer."""
    model = rebuild(read_architecture(run), None, run)
    edit(run / STATE / "model.safetensors", STATES["weights that are no numbers"][1])
    edit(run / STATE / "optimizer.safetensors", STATES["moments of another shape"][1])
    monkeypatch.setattr(resume_module, "_check_numbers", lambda *_: None)
    monkeypatch.setattr(resume_module, "_check_moments", lambda *_: None)
    moments = load_state(run / STATE, model)
    assert any(value.isnan().any() for value in model.state_dict().values())
    optimizer = torch.optim.AdamW(model.parameters())
    restore_moments(model, optimizer, moments)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with pytest.raises(RuntimeError, match="size of tensor"):
        optimizer.step()


def test_a_state_is_never_a_pickle(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a file of PyTorch's format nor `torch.load` has anything to do with resuming."""
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was loaded"))
    model = rebuild(read_architecture(run), None, run)
    load_state(run / STATE, model)
    torch.save({"a": torch.zeros(1)}, run / STATE / "model.safetensors")
    with pytest.raises(BundleError, match="cannot be read"):
        load_state(run / STATE, model)


def test_an_architecture_of_wrong_values_is_one_line(run: Path) -> None:
    """Configs are validated by several libraries, each with errors of its own."""
    whole = json.loads((run / "architecture.json").read_text())
    for key, value in (
        ("n_reason", -1), ("n_reason", "4"), ("dim", 0), ("dim", None), ("backbone", 3),
        ("backbone", {"model_type": "gpt2"}), ("backbone", {}), ("decoder", []),
        ("backbone", {**whole["backbone"], "vision_config": 3}),
        ("backbone", {**whole["backbone"], "text_config": {"hidden_size": "a"}}),
    ):  # fmt: skip
        (run / "architecture.json").write_text(json.dumps({**whole, key: value}))
        with pytest.raises(LameError, match=r"architecture\.json"):
            rebuild(read_architecture(run), None, run)


def test_a_log_that_was_damaged_is_mended_and_reported(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are cut, doubled or no rows go; steps that are then missing are a warning."""
    warnings: list[str] = []
    monkeypatch.setattr(
        progress.logger, "warning", lambda text, *values: warnings.append(text % values)
    )
    path = run / "losses.csv"
    lines = path.read_text().splitlines()
    damaged = [*lines[:3], "3,cut", lines[2], "\0\xff", "²,a,b,c,d,e,f,g,h", *lines[5:], '"', "x"]
    path.write_bytes("\n".join(damaged).encode("latin-1"))
    with Progress(run, 7, 8, show=False, write=True):
        pass
    steps = [int(row["step"]) for row in read_losses(path)]
    assert steps == [1, 2, 5, 6, 7]
    assert warnings == [f"{path}: lacks 2 of the first 7 steps; it was damaged or changed"]


def test_rows_after_the_state_are_logged_once(run: Path, data: Path) -> None:
    """A run that was killed has logged steps that its state does not have."""
    path = run / "losses.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[-1].replace("7,", "8,", 1), "9,joint", ""]))
    resume(data, run)
    assert [int(row["step"]) for row in read_losses(path)] == list(range(1, 9))


def test_a_damaged_list_of_left_out_rows_is_mended(tmp_path: Path) -> None:
    """Lines that are none are removed; the others, also those of an older version, stay."""
    path = tmp_path / "skipped.jsonl"
    old = {"data_set": "a", "number": 3, "reason": "gone"}
    texts = [json.dumps(old), "{", "[" * 50_000, '{"data_set": []}', "\xff", "null",
             json.dumps({**old, "number": "3"}), json.dumps({**old, "place": 7}),
             json.dumps(old)[:20]]  # fmt: skip
    path.write_bytes("\n".join(texts).encode("latin-1"))
    (row,) = read_dropped(path)
    assert (row.data_set, row.number, row.reason, row.place) == ("a", 3, "gone", "")
    assert read_dropped(path) == [row]
    assert len(path.read_text().splitlines()) == 1


@pytest.mark.parametrize("text", ["{", "[" * 50_000, "{}", "3", "null", '"x"', "[NaN]"])
def test_a_damaged_record_of_machines_is_begun_again(text: str, tmp_path: Path) -> None:
    """It is for people, and must not stop a run."""
    from lame_training.distributed.processes import ProcessGroup

    (tmp_path / "environment.json").write_text(text)
    write_environment(tmp_path, ProcessGroup("cpu"), [])
    assert len(json.loads((tmp_path / "environment.json").read_text())) == 1


def test_a_damaged_config_is_no_unfinished_run(
    data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """A complete run whose `config.json` is damaged must not be trained again from the start."""
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    weights = (copy / "model.safetensors").read_bytes()
    for text in ("{", "{}", "[]", '{"steps": "16"}', '{"steps": NaN}'):
        (copy / "config.json").write_text(text)
        with pytest.raises(BundleError, match=r"config\.json"):
            steps_of(copy)
    with pytest.raises(BundleError, match=r"config\.json"):
        train("digits-tiny", data, copy, resume=True, progress=False)
    assert (copy / "model.safetensors").read_bytes() == weights
    assert steps_of(tmp_path) is None
