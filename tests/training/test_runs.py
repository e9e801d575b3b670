"""Runs: checkpoints are whole, a killed run resumes to the same losses, what is wrong is said in one line."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from lame_runtime.contract import Input
from lame_runtime.errors import BundleError, InputError
from lame_training.__main__ import main
from lame_training.checkpoint import load_model
from lame_training.data import DataSet, read_pairs
from lame_training.digits import write_digits
from lame_training.loop import run
from lame_training.progress import read_losses
from lame_training.recipes import find_recipe
from lame_training.torch_backend import load_encoder
from samples import hits

RECIPE = find_recipe("digits-tiny")


def losses(folder: Path) -> list[tuple[str, ...]]:
    """Rows of losses.csv without the seconds."""
    return [tuple(value for key, value in row.items() if key != "seconds") for row in read_losses(folder / "losses.csv")]


def test_a_run_leaves_a_checkpoint_and_its_losses(checkpoint: Path) -> None:
    """One row per step, both stages, and everything needed to load it."""
    rows = losses(checkpoint)
    assert [int(row[0]) for row in rows] == list(range(1, RECIPE.steps + 1))
    assert {row[1] for row in rows} == {"bottleneck warm-up", "joint optimisation"}
    model, preparer = load_model(checkpoint)
    assert model.n_reason == preparer.contract.tokens.n_reason == RECIPE.n_reason == 4
    assert json.loads((checkpoint / "recipe.json").read_text())["name"] == "digits-tiny"


def test_zero_steps_write_the_initialised_checkpoint(data: Path, tmp_path: Path) -> None:
    """It loads, embeds, and says that it was not trained."""
    assert main(["run", "digits-tiny", "--data", str(data), "--out", str(tmp_path / "zero"), "--steps", "0"]) == 0
    encoder = load_encoder(tmp_path / "zero")
    assert encoder.encode("seven").shape == (1, 64)
    assert json.loads((tmp_path / "zero/config.json").read_text())["steps"] == 0
    assert losses(tmp_path / "zero") == []


def test_dropping_or_swapping_reason_states_is_measurable(data: Path, checkpoint: Path) -> None:
    """hit@1 with each query's reason rows replaced by another's; the figures for a trained model are in LOG.md."""
    from lame_training.ablate import reason_ablation

    figures = reason_ablation(checkpoint, data, "find2")
    assert set(figures) == {"whole", "swapped", "dropped", "cosine swapped", "cosine dropped"}
    assert all(-1 <= value <= 1.001 for value in figures.values())
    assert figures["cosine swapped"] < 0.999999


def test_evaluation_reports_every_task_beside_chance(data: Path, checkpoint: Path) -> None:
    """Pools hold one right answer each."""
    by_task = hits(load_encoder(checkpoint), data)
    assert set(by_task) >= {"digit", "sum2", "sum3", "find2", "find3", "same2"}
    assert by_task["digit"].chance == pytest.approx(0.1)
    assert all(0 <= result.hit_at_1 <= 1 for result in by_task.values())


def test_a_fresh_run_does_not_overwrite_another(data: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says how to continue it instead."""
    assert main(["run", "digits-tiny", "--data", str(data), "--out", str(checkpoint)]) == 2
    assert "--resume" in capsys.readouterr().err


def test_a_run_is_not_resumed_with_another_recipe(data: Path, checkpoint: Path) -> None:
    """Different seed, different run."""
    with pytest.raises(InputError, match="another recipe"):
        run(dataclasses.replace(RECIPE, seed=1), data, checkpoint, resume=True, progress=False)


def test_a_run_is_not_resumed_with_other_rows_or_to_an_earlier_step(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tokenizer comes from the rows, so other rows would give the same ids other meanings."""
    out, other = tmp_path / "run", Path(shutil.copytree(data, tmp_path / "other"))
    assert main(["run", "digits-tiny", "--data", str(data), "--out", str(out), "--steps", "6"]) == 0
    shutil.copyfile(other / "train/sum2.parquet", other / "train/digit.parquet")
    assert main(["run", "digits-tiny", "--data", str(other), "--out", str(out), "--resume"]) == 2
    assert "other training rows" in capsys.readouterr().err
    assert main(["run", "digits-tiny", "--data", str(data), "--out", str(out), "--resume", "--steps", "2"]) == 2
    assert "stands at step 6" in capsys.readouterr().err


def test_rows_are_known_by_their_paths(tmp_path: Path) -> None:
    """Two shards of one name in two folders: a change in either is noticed."""
    from lame_training import checkpoint as checkpoints

    each = DataSet("x", "none", path=("a/rows.jsonl", "b/rows.jsonl"), format="jsonl")
    recipe = dataclasses.replace(RECIPE, stages=tuple(dataclasses.replace(stage, tasks=(each,)) for stage in RECIPE.stages))
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.jsonl").write_text("{}")
    checkpoints.write_data(tmp_path, tmp_path, recipe)
    assert checkpoints.same_data(tmp_path, tmp_path, recipe)
    for folder in ("a", "b"):
        (tmp_path / folder / "rows.jsonl").write_text("{} ")
        assert not checkpoints.same_data(tmp_path, tmp_path, recipe)
        (tmp_path / folder / "rows.jsonl").write_text("{}")


def test_a_kill_while_the_model_is_written_leaves_no_checkpoint(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where an earlier stop had left one: its config beside newer weights would load."""
    from lame_training import checkpoint as checkpoints

    out = tmp_path / "run"
    assert main(["run", "digits-tiny", "--data", str(data), "--out", str(out), "--steps", "7"]) == 0
    load_model(out)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_recipe", killed)  # behind the weights, before the config
        assert main(["run", "digits-tiny", "--data", str(data), "--out", str(out), "--resume"]) == 130
    with pytest.raises(BundleError, match="not a complete checkpoint"):
        load_model(out)
    assert main(["run", "digits-tiny", "--data", str(data), "--out", str(out), "--resume"]) == 0
    load_model(out)


@pytest.mark.parametrize("part", ["losses.csv", "skipped.jsonl", "state"])
def test_a_disk_that_is_full_is_one_line(
    part: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log's files as well as the states; the run goes on from the last state."""
    import errno

    out, copy = tmp_path / "run", Path(shutil.copytree(data, tmp_path / "data"))
    if part == "skipped.jsonl":
        for picture in sorted((copy / "images/train").glob("2-*.png"))[:20]:
            picture.write_bytes(b"")

    class Full:
        """A file on a full disk."""

        def __init__(self, file: object) -> None:
            self.file = file

        def __getattr__(self, name: str) -> object:
            if name in ("flush", "writelines"):
                raise OSError(errno.ENOSPC, "No space left on device")
            return getattr(self.file, name)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()  # type: ignore[attr-defined]

    opened = Path.open

    def full(path: Path, *arguments: object, **options: object) -> object:
        file = opened(path, *arguments, **options)  # type: ignore[call-overload]
        return Full(file) if path.name == part else file

    made = Path.mkdir

    def refuse(path: Path, *arguments: object, **options: object) -> None:
        if path.name == "incomplete" and part == "state":
            raise OSError(errno.ENOSPC, "No space left on device")
        made(path, *arguments, **options)  # type: ignore[arg-type]

    command = ["run", "digits-tiny", "--data", str(copy), "--out", str(out), "--save-every", "8"]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        patch.setattr(Path, "mkdir", refuse)
        assert main(command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: {out}")
    assert "No space left on device" in error
    assert "--resume" in error
    assert main([*command, "--resume"]) == 0


def test_a_damaged_state_is_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file cut short."""
    out = tmp_path / "run"
    assert main(["run", "digits-tiny", "--data", str(data), "--out", str(out), "--steps", "6"]) == 0
    (out / "state/step-000006/optimizer.safetensors").write_bytes(b"{")
    assert main(["run", "digits-tiny", "--data", str(data), "--out", str(out), "--resume"]) == 2
    error = capsys.readouterr().err
    assert "step-000006: cannot be read" in error.splitlines()[-1]


def test_a_data_set_appears_when_it_is_complete(data: Path, tmp_path: Path) -> None:
    """And an existing folder is left alone."""
    before = sorted(path.name for path in data.iterdir())
    with pytest.raises(InputError, match="already exists"):
        write_digits(data)
    assert sorted(path.name for path in data.iterdir()) == before


def test_a_loss_that_is_not_finite_stops_the_run(data: Path, tmp_path: Path) -> None:
    """And leaves no checkpoint that looks finished."""
    wild = tuple(dataclasses.replace(stage, rates=dict.fromkeys(stage.rates, 1e30)) for stage in RECIPE.stages)
    with pytest.raises(InputError, match=r"loss of stage .* is nan; --resume would come to the same: .* lower rates"):
        run(dataclasses.replace(RECIPE, stages=wild), data, tmp_path / "wild", progress=False)
    assert not (tmp_path / "wild/config.json").exists()


def test_a_stage_must_have_rows_to_begin_with(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Data sets that all join in later, or of which stage 1, without L_nce, can train on none."""
    for entry, said in (("begins: 0.2", "joins in later (begins)"), ("target_side: none", "decodes no text (target_side: none)")):
        (tmp_path / "mixture.yaml").write_text(f"data_sets: [{{name: sum2, {entry}}}]")
        command = ["run", "digits-tiny", "--data", str(data), "--mixture", str(tmp_path / "mixture.yaml"), "--out", str(tmp_path / "out")]
        for extra in ([], ["--dry-run"]):
            assert main([*command, *extra]) == 2
            error = capsys.readouterr().err
            assert "'bottleneck warm-up' has no data set to begin with" in error
            assert said in error


def test_beginnings_of_the_vector_can_be_trained(data: Path, tmp_path: Path) -> None:
    """--matryoshka: noted in the recipe, and another loss."""
    first = {}
    for extra in ([], ["--matryoshka", "16", "32"]):
        out = tmp_path / f"out{len(extra)}"
        assert main(["run", "digits-tiny", "--data", str(data), "--out", str(out), "--steps", "7", *extra]) == 0
        first[json.dumps(json.loads((out / "recipe.json").read_text())["matryoshka"])] = losses(out)[-1]
    assert set(first) == {"[]", "[32, 16]"}
    assert first["[]"] != first["[32, 16]"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nonesuch", "--out", "x"], "unknown recipe"),
        (["run", "digits-tiny", "--out", "x", "--data", "nowhere"], "no such file"),
        (["run", "digits-tiny", "--out", "x", "--data", "nowhere", "--resume"], "holds no run to resume"),
        (["run", "digits-tiny", "--out", "x", "--steps", "-1"], "use 0 or more"),
        (["run", "digits-tiny", "--out", "x", "--seed", "-1"], "use 0 or more"),
        (["run", "digits-tiny", "--out", "/dev/null/x"], "cannot be"),
        (["run", "digits-tiny", "--out", "x", "--matryoshka", "32", "64"], "--matryoshka 64: use lengths from 1 to 63"),
        (["run", "digits-tiny", "--dry-run", "--mixture", "m.yaml"], "m.yaml: its paths begin at the root of the data"),
        (["run", "lame-qwen2-vl-2b", "--dry-run", "--decoder", "nowhere"], "nowhere: has no config.json"),
        (["run", "digits-k0", "--dry-run", "--decoder", "nowhere"], "has no latent decoder"),
        (["evaluate", "nowhere", "--data", "x"], "not a complete checkpoint"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, no traceback."""
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_unreadable_training_data_is_named(tmp_path: Path) -> None:
    """A file that is no parquet, one without the columns, one without rows."""
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
    pq.write_table(pa.table({name: [""] for name in ("qry", "qry_image_path", "pos_text", "pos_image_path")}), path)
    with pytest.raises(InputError, match="no row"):
        read_pairs(tmp_path, DataSet("x", "none"))


@pytest.mark.parametrize(
    ("side", "query", "positive"),
    [("positive", "four", None), ("query", None, "sums to four"), ("both", "four", "sums to four"), ("none", None, None)],
)
def test_target_side_chooses_what_is_reconstructed(side: str, query: str | None, positive: str | None, tmp_path: Path) -> None:
    """Instructions and picture marks are stripped from it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "train").mkdir()
    (tmp_path / "a.png").touch()  # looked for, not opened
    asked = ["<|image_1|>\nAnswer.\nsums to four", "another"]
    row = {"qry": asked, "qry_image_path": ["a.png", ""], "pos_text": ["four", "five"], "pos_image_path": ["", ""]}
    pq.write_table(pa.table(row), tmp_path / "train/x.parquet")
    pair, _ = read_pairs(tmp_path, DataSet("x", side, instruction="Answer."))  # type: ignore[arg-type]
    assert (pair.query_decodes, pair.positive_decodes) == (query, positive)
    assert pair.query == Input("Answer.\nsums to four", str(tmp_path / "a.png"))


def test_a_checkpoint_with_a_missing_file_or_weight_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """By name."""
    import shutil

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
