"""Tests that each pass checks its inputs, produces its outputs and changes nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from lame_export.passes.base import Pass, run_passes
from lame_export.plan import PLAN
from lame_export.state import GRAPHS, ExportOptions, ExportState
from lame_runtime.errors import ExportError, UsageError

ALWAYS = [step for step in PLAN if step.name not in ("import", "published")]
"""The passes of a checkpoint; tests/published runs those of published embedders as well."""
NAMES = [step.name for step in ALWAYS]


@dataclass
class Recording:
    """Holds the state of a whole export, and the fields and files that each pass changed."""

    state: ExportState
    changed: dict[str, set[str]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def recording(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Exports every graph once and records each pass."""
    folder = tmp_path_factory.mktemp("passes") / "bundle"
    (folder / "graphs").mkdir(parents=True)
    options = ExportOptions(graphs=GRAPHS, per_modality=4, calibration=16, strengths=(0.5,))
    # on the built-in data, so that the pass that writes them is among those recorded
    state = ExportState(checkpoint, folder.with_name("data"), folder, options, builtin_data=True)
    recording = Recording(state)
    for step in ALWAYS:
        before = recording.state.snapshot()
        run_passes(recording.state, [step])
        after = recording.state.snapshot()
        recording.changed[step.name] = {
            name for name in {**before, **after} if before.get(name) != after.get(name)
        }
    return recording


@pytest.mark.parametrize("step", ALWAYS, ids=NAMES)
def test_a_pass_names_what_it_misses(step: Pass, tmp_path: Path) -> None:
    """On an empty state a pass reports every field that it reads; only the first reads none."""
    state = ExportState(tmp_path, tmp_path, tmp_path, ExportOptions(graphs=GRAPHS))
    missing = [name for name in step.reads if not state.is_set(name)]
    missing += [str(path) for path in step.input_files(state)]
    assert bool(missing) == (step.name != "load")
    if missing:
        with pytest.raises(ExportError) as caught:
            step.requires(state)
        assert all(name in str(caught.value) for name in missing)


@pytest.mark.parametrize("step", ALWAYS, ids=NAMES)
def test_a_pass_does_its_work_and_leaves_the_rest_alone(step: Pass, recording: Recording) -> None:
    """A pass changes every field and file that it declares, and nothing else."""
    changed = recording.changed[step.name]
    state = recording.state
    paths = list(step.output_files(state))
    assert all(path.is_file() for path in paths)
    files = {
        f"file {path.relative_to(state.folder).as_posix()}"
        for path in paths
        # the built-in data are no part of the bundle
        if path.is_relative_to(state.folder)
    }
    assert len(files) == (0 if step.name == "data" else len(paths))
    assert files <= changed
    # the runner itself records what each pass took
    fields = {name for name in changed if not name.startswith("file ")} - {"passes"}
    assert fields <= set(step.writes)
    # in a model without large activations nothing has to stay in FP32
    assert set(step.writes) - fields <= {"islands"}
    extra = {name.removesuffix(".data") for name in changed if name.startswith("file ")} - files
    # only golden pictures have names that no pass knows in advance
    assert all(name.startswith("file golden/images/") for name in extra)
    assert bool(extra) == (step.name == "golden")


@pytest.mark.parametrize("step", ALWAYS, ids=NAMES)
def test_a_pass_that_lies_is_caught(step: Pass, recording: Recording, tmp_path: Path) -> None:
    """A pass that does nothing fails its check, unless it declares only rows."""

    class Idle(type(step)):  # type: ignore[misc]
        def requires(self, state: ExportState) -> None:
            """Accepts any state."""

        def run(self, state: ExportState) -> None:
            """Does nothing."""

    options = ExportOptions(graphs=GRAPHS)
    state = ExportState(tmp_path, tmp_path, tmp_path, options, builtin_data=True)
    promised = [name for name in step.writes if not state.is_set(name)]
    promised += [str(path) for path in step.output_files(state)]
    if promised:
        with pytest.raises(ExportError, match=rf"pass {step.name}: did not make"):
            run_passes(state, [Idle()])
    else:
        assert set(step.writes) <= {"rows", "islands", "tried"}
        assert recording.changed[step.name] >= set(step.writes) - {"islands"}


class Careless(Pass):
    """Changes a field and a file that it does not declare."""

    name = "careless"
    writes = ("rows",)

    def run(self, state: ExportState) -> None:
        """Changes a field and writes a file."""
        state.islands = [*state.islands]
        (state.folder / "stray.txt").write_text("x")


def test_a_pass_that_changes_what_it_does_not_declare_is_caught(tmp_path: Path) -> None:
    """The message names the field and the file."""
    state = ExportState(tmp_path, tmp_path, tmp_path)
    with pytest.raises(ExportError, match=r"pass careless: changed islands, stray\.txt, which"):
        run_passes(state, [Careless()])


def test_a_plan_whose_order_is_wrong_says_what_is_missing(tmp_path: Path) -> None:
    """The message names the pass, the missing fields and the passes that ran before."""
    state = ExportState(tmp_path, tmp_path, tmp_path, ExportOptions(graphs=("fp16",)))
    half = [step for step in PLAN if step.name == "fp16"]
    expected = r"pass fp16: requires traced, quantizer, .*\(passed before: none\)"
    with pytest.raises(ExportError, match=expected):
        run_passes(state, half)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"graphs": ("fp8",)}, "unknown graph 'fp8'"),
        ({"graphs": ()}, "`graphs` is empty"),
        ({"per_modality": 0}, "`per_modality` is 0"),
        ({"calibration": 0}, "`calibration` is 0"),
        ({"strengths": (1.5,)}, "`strengths` is"),
        ({"strengths": ()}, "`strengths` is"),
        ({"memory": -1.0}, "`memory` is -1.0: use a number from 0.1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    """Options are validated before anything is loaded."""
    with pytest.raises(UsageError, match=message):
        ExportOptions(**options)  # type: ignore[arg-type]
