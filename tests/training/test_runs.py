"""Runs leave whole checkpoints, resume to the same losses, and answer a mistake with one line."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from lame_runtime.contract import Input
from lame_runtime.errors import BundleError, InputError, StorageError, TrainingError, UsageError
from lame_training import train
from lame_training.__main__ import main
from lame_training.data import DataSet, read_pairs
from lame_training.data.digits import write_digits
from lame_training.distributed.processes import ProcessGroup
from lame_training.model.checkpoint import load_model
from lame_training.model.torch_backend import load_encoder
from lame_training.recipes.catalog import RECIPES, find_recipe
from lame_training.run.progress import read_losses
from samples import hits

RECIPE = find_recipe("digits-tiny")


def losses(folder: Path) -> list[tuple[str, ...]]:
    """Returns the rows of losses.csv without the seconds."""
    return [
        tuple(value for key, value in row.items() if key != "seconds")
        for row in read_losses(folder / "losses.csv")
    ]


def run(data: Path, out: Path, *extra: str) -> int:
    """Runs the tiny recipe as a user does; returns the exit code."""
    return main(["run", "digits-tiny", "--data", str(data), "--output", str(out), *extra])


def test_a_run_leaves_a_checkpoint_and_its_losses(checkpoint: Path) -> None:
    """There is one row per step of both stages, and everything needed to load the model."""
    rows = losses(checkpoint)
    assert [int(row[0]) for row in rows] == list(range(1, RECIPE.steps + 1))
    assert {row[1] for row in rows} == {"bottleneck warm-up", "joint optimization"}
    model, preparer = load_model(checkpoint)
    assert model.n_reason == preparer.contract.tokens.n_reason == RECIPE.n_reason == 4
    assert json.loads((checkpoint / "recipe.json").read_text())["name"] == "digits-tiny"


def test_zero_steps_write_the_initialized_checkpoint(data: Path, tmp_path: Path) -> None:
    """The checkpoint loads, embeds, and says that it was not trained."""
    assert run(data, tmp_path / "zero", "--steps", "0") == 0
    encoder = load_encoder(tmp_path / "zero")
    assert encoder.encode("seven").shape == (1, 64)
    assert json.loads((tmp_path / "zero/config.json").read_text())["steps"] == 0
    assert losses(tmp_path / "zero") == []


def test_dropping_or_swapping_reason_states_is_measurable(data: Path, checkpoint: Path) -> None:
    """hit@1 is measured with each query's reason rows replaced by another's, or dropped.

    LOG.md has the figures of a trained model.
    """
    from lame_training.studies.probe_reason_tokens import reason_ablation

    figures = reason_ablation(checkpoint, data, "find2")
    assert set(figures) == {"whole", "swapped", "dropped", "cosine swapped", "cosine dropped"}
    assert all(-1 <= value <= 1.001 for value in figures.values())
    assert figures["cosine swapped"] < 0.999999


def test_evaluation_reports_every_task_beside_chance(data: Path, checkpoint: Path) -> None:
    """Each pool holds one right answer, so chance is one over its size."""
    by_task = hits(load_encoder(checkpoint), data)
    assert set(by_task) >= {"digit", "sum2", "sum3", "find2", "find3", "same2"}
    assert by_task["digit"].chance == pytest.approx(0.1)
    assert all(0 <= result.hit_at_1 <= 1 for result in by_task.values())


def test_a_fresh_run_does_not_overwrite_another(
    data: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says how to continue the run instead."""
    assert run(data, checkpoint) == 2
    assert "--resume" in capsys.readouterr().err
    with pytest.raises(StorageError, match="already holds a run"):
        train("digits-tiny", data, checkpoint)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "manifest.json"])
def test_a_run_does_not_overwrite_another_model(name: str, data: Path, tmp_path: Path) -> None:
    """A backbone, a decoder and a bundle have files of the same names as a checkpoint."""
    (tmp_path / name).write_text("another model's")
    with pytest.raises(StorageError, match=f"holds another model.*{name}"):
        train("digits-tiny", data, tmp_path, progress=False)
    assert (tmp_path / name).read_text() == "another model's"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_run_is_not_resumed_with_another_recipe(data: Path, checkpoint: Path) -> None:
    """Another seed is another run."""
    with pytest.raises(UsageError, match="another recipe"):
        train("digits-tiny", data, checkpoint, seed=1, resume=True, progress=False)


def test_a_run_is_not_resumed_with_other_rows_or_to_an_earlier_step(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tokenizer comes from the rows, so other rows would give the same ids other meanings."""
    out, other = tmp_path / "run", Path(shutil.copytree(data, tmp_path / "other"))
    assert run(data, out, "--steps", "6") == 0
    shutil.copyfile(other / "train/sum2.parquet", other / "train/digit.parquet")
    assert run(other, out, "--resume") == 2
    assert "other training rows" in capsys.readouterr().err
    assert run(data, out, "--resume", "--steps", "2") == 2
    assert "is already at step 6" in capsys.readouterr().err


def test_rows_are_known_by_their_paths(tmp_path: Path) -> None:
    """A change is noticed in either of two shards that have one name in two folders."""
    from lame_training.run import run_folder

    task = DataSet("x", "none", path=("a/rows.jsonl", "b/rows.jsonl"), format="jsonl")
    recipe = dataclasses.replace(
        RECIPE, stages=tuple(dataclasses.replace(stage, tasks=(task,)) for stage in RECIPE.stages)
    )
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.jsonl").write_text("{}")
    run_folder.write_data(tmp_path, tmp_path, recipe)
    assert run_folder.same_data(tmp_path, tmp_path, recipe)
    for folder in ("a", "b"):
        (tmp_path / folder / "rows.jsonl").write_text("{} ")
        assert not run_folder.same_data(tmp_path, tmp_path, recipe)
        (tmp_path / folder / "rows.jsonl").write_text("{}")


def test_a_kill_while_the_model_is_written_leaves_no_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier stop's config must not survive: beside newer weights it would load."""
    out = tmp_path / "run"
    assert run(data, out, "--steps", "7") == 0
    load_model(out)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # it is called after the weights and before the config are written
        patch.setattr("lame_training.model.checkpoint.write_recipe", killed)
        assert run(data, out, "--resume") == 130
    with pytest.raises(BundleError, match="not a complete checkpoint"):
        load_model(out)
    assert run(data, out, "--resume") == 0
    load_model(out)


class FullFile:
    """A file on a full disk: opening and reading work, flushing does not."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __getattr__(self, name: str) -> object:
        if name in ("flush", "writelines"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return getattr(self.file, name)

    def __enter__(self) -> FullFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def fill_disk(patch: pytest.MonkeyPatch, part: str) -> None:
    """Makes writing a file called `part` fail, or making the folder of a state."""
    real_open, real_mkdir = Path.open, Path.mkdir

    def open_full(path: Path, *arguments: Any, **options: Any) -> object:
        file = real_open(path, *arguments, **options)
        return FullFile(file) if path.name == part else file

    def refuse_mkdir(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name == "incomplete" and part == "state":
            raise OSError(errno.ENOSPC, "No space left on device")
        real_mkdir(path, *arguments, **options)

    patch.setattr(Path, "open", open_full)
    patch.setattr(Path, "mkdir", refuse_mkdir)


@pytest.mark.parametrize("part", ["losses.csv", "skipped.jsonl", "state"])
def test_a_disk_that_is_full_is_one_line(
    part: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It holds for the log's files and for the states; the run goes on from the last state."""
    out, copy = tmp_path / "run", Path(shutil.copytree(data, tmp_path / "data"))
    if part == "skipped.jsonl":
        for picture in sorted((copy / "images/train").glob("2-*.png"))[:20]:
            picture.write_bytes(b"")
    with monkeypatch.context() as patch:
        fill_disk(patch, part)
        assert run(copy, out, "--save-every", "8") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: {out}")
    assert "No space left on device" in error
    assert "--resume" in error
    assert run(copy, out, "--save-every", "8", "--resume") == 0


def test_a_damaged_state_is_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A truncated file is an error that names its state."""
    out = tmp_path / "run"
    assert run(data, out, "--steps", "6") == 0
    (out / "state/step-000006/optimizer.safetensors").write_bytes(b"{")
    assert run(data, out, "--resume") == 2
    error = capsys.readouterr().err
    assert "step-000006: cannot be read" in error.splitlines()[-1]


def test_a_data_set_appears_when_it_is_complete(data: Path) -> None:
    """An existing folder is left alone."""
    before = sorted(path.name for path in data.iterdir())
    with pytest.raises(StorageError, match="already exists"):
        write_digits(data)
    assert sorted(path.name for path in data.iterdir()) == before


def test_a_loss_that_is_not_finite_stops_the_run(data: Path, tmp_path: Path) -> None:
    """No checkpoint that looks finished is left behind."""
    wild = tuple(
        dataclasses.replace(stage, rates=dict.fromkeys(stage.rates, 1e30))
        for stage in RECIPE.stages
    )
    with pytest.raises(
        TrainingError,
        match=r"loss of stage .* is nan; resuming would fail the same way: .* lower rates",
    ):
        train(dataclasses.replace(RECIPE, stages=wild), data, tmp_path / "wild", progress=False)
    assert not (tmp_path / "wild/config.json").exists()


def test_a_loss_that_is_not_finite_is_no_wrong_use(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 1, and the one line names flags."""
    wild = tuple(
        dataclasses.replace(stage, rates=dict.fromkeys(stage.rates, 1e30))
        for stage in RECIPE.stages
    )
    monkeypatch.setitem(RECIPES, "digits-tiny", dataclasses.replace(RECIPE, stages=wild))
    assert run(data, tmp_path / "wild") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "is nan" in error
    assert "another --output" in error
    assert "another --seed" in error


def test_the_process_group_is_made_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command makes it and hands it on; making it twice would initialize it twice."""
    devices: list[str | None] = []
    real = ProcessGroup.__init__

    def counted(self: ProcessGroup, device: str | None = None) -> None:
        devices.append(device)
        real(self, device)

    monkeypatch.setattr(ProcessGroup, "__init__", counted)
    assert run(data, tmp_path / "run", "--steps", "1", "--device", "cpu") == 0
    assert devices == ["cpu"]


def test_a_stage_must_have_rows_to_begin_with(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The data sets all join in later, or stage 1, which is without L_nce, can train on none."""
    for entry, reason in (
        ("begins: 0.2", "joins in later (begins)"),
        ("target_side: none", "decodes no text (target_side: none)"),
    ):
        mixture = tmp_path / "mixture.yaml"
        mixture.write_text(f"data_sets: [{{name: sum2, {entry}}}]")
        for extra in ([], ["--dry-run"]):
            assert run(data, tmp_path / "out", "--mixture", str(mixture), *extra) == 2
            error = capsys.readouterr().err
            assert "'bottleneck warm-up' has no data set to begin with" in error
            assert reason in error


def test_prefixes_of_the_vector_can_be_trained(data: Path, tmp_path: Path) -> None:
    """--matryoshka is recorded in the recipe, and changes the loss."""
    final = {}
    for extra in ([], ["--matryoshka", "16", "32"]):
        out = tmp_path / f"out{len(extra)}"
        assert run(data, out, "--steps", "7", *extra) == 0
        recipe = json.loads((out / "recipe.json").read_text())
        final[json.dumps(recipe["matryoshka"])] = losses(out)[-1]
    assert set(final) == {"[]", "[32, 16]"}
    assert final["[]"] != final["[32, 16]"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nonesuch", "--output", "x"], "unknown recipe"),
        (["run", "digits-tiny", "--output", "x", "--data", "nowhere"], "no such file"),
        (
            ["run", "digits-tiny", "--output", "x", "--data", "nowhere", "--resume"],
            "holds no run to resume",
        ),
        (["run", "digits-tiny"], "--output is missing"),
        (["run", "lame-qwen2-vl-2b", "--output", "x"], "give the folder of one as --backbone"),
        (
            ["run", "digits-tiny", "--output", "x", "--mixture", "m.yaml"],
            "pass the root of an MMEB-style data set as --data",
        ),
        (["run", "digits-tiny", "--output", "x", "--steps", "-1"], "--steps is -1: use 0 or more"),
        (["run", "digits-tiny", "--output", "x", "--keep", "0"], "--keep is 0: use 1 or more"),
        (
            ["run", "digits-tiny", "--output", "x", "--save-every", "0"],
            "--save-every is 0: use 1 or more",
        ),
        (["run", "digits-tiny", "--output", "x", "--seed", "-1"], "--seed is -1: use 0 or more"),
        (["run", "digits-tiny", "--output", "/dev/null/x"], "cannot be"),
        (
            ["run", "digits-tiny", "--output", "x", "--matryoshka", "32", "64"],
            "--matryoshka is 64: use lengths from 1 to 63",
        ),
        (
            ["run", "digits-tiny", "--dry-run", "--mixture", "m.yaml"],
            "m.yaml: its paths are relative to the data root; pass that as --data",
        ),
        (
            ["run", "lame-qwen2-vl-2b", "--dry-run", "--decoder", "nowhere"],
            "nowhere: has no config.json",
        ),
        (
            ["run", "digits-k0", "--dry-run", "--decoder", "nowhere"],
            "has no latent decoder; leave --decoder out",
        ),
        (["evaluate", "nowhere", "--data", "x"], "not a complete checkpoint"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The exit code is 2, and there is no traceback."""
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_unreadable_training_data_is_named(tmp_path: Path) -> None:
    """A file that is not Parquet, one without the columns, and one without rows are refused."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "train").mkdir()
    path = tmp_path / "train/x.parquet"
    path.write_text("no parquet")
    with pytest.raises(InputError, match="not a readable parquet"):
        read_pairs(tmp_path, DataSet("x", "none"))
    pq.write_table(pa.table({"qry": ["a"]}), path)
    with pytest.raises(InputError, match="lacks the column qry_image_path"):
        read_pairs(tmp_path, DataSet("x", "none"))
    pq.write_table(
        pa.table({name: [""] for name in ("qry", "qry_image_path", "pos_text", "pos_image_path")}),
        path,
    )
    with pytest.raises(InputError, match="no row"):
        read_pairs(tmp_path, DataSet("x", "none"))


@pytest.mark.parametrize(
    ("side", "query", "positive"),
    [
        ("positive", "four", None),
        ("query", None, "sums to four"),
        ("both", "four", "sums to four"),
        ("none", None, None),
    ],
)
def test_target_side_selects_what_is_reconstructed(
    side: str, query: str | None, positive: str | None, tmp_path: Path
) -> None:
    """Instructions and picture placeholders are stripped from it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "train").mkdir()
    # its presence is checked; it is not opened
    (tmp_path / "a.png").touch()
    columns = {
        "qry": ["<|image_1|>\nAnswer.\nsums to four", "another"],
        "qry_image_path": ["a.png", ""],
        "pos_text": ["four", "five"],
        "pos_image_path": ["", ""],
    }
    pq.write_table(pa.table(columns), tmp_path / "train/x.parquet")
    pair, _ = read_pairs(tmp_path, DataSet("x", side, instruction="Answer."))  # type: ignore[arg-type]
    assert (pair.query_decodes, pair.positive_decodes) == (query, positive)
    assert pair.query == Input("Answer.\nsums to four", str(tmp_path / "a.png"))


def test_a_checkpoint_with_a_missing_file_or_weight_is_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    """The message names it."""
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    weights = load_file(copy / "model.safetensors")
    weights.pop("reason_KD")
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(BundleError, match="reason_KD is missing"):
        load_model(copy)
    (copy / "contract.json").unlink()
    with pytest.raises(BundleError, match=r"contract\.json is missing"):
        load_model(copy)
