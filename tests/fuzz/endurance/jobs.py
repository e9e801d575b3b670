"""The jobs that are killed or run out of space.

Each job writes into an output folder, and can be run again after it was stopped at any moment.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fuzz.endurance.whole import halves
from fuzz.kinds.base import TINY_BUNDLE

RECIPE = "digits-tiny"


class Job(ABC):
    """One job.

    Attributes:
        fixed: folder with what all runs share (data, a checkpoint, rows).
    """

    name: str

    def __init__(self, fixed: Path) -> None:
        self.fixed = fixed

    def prepare(self) -> None:  # noqa: B027 - not every job shares something
        """Writes what all runs share, once."""

    @abstractmethod
    def call(self, output: Path) -> Callable[[], int]:
        """Imports what is needed, and returns the job; it returns an exit code."""

    @abstractmethod
    def result(self, output: Path) -> object:
        """Returns what a finished run left, to be compared with another run's; or raises."""

    def faults(self, output: Path) -> list[str]:
        """Returns the files that a stopped run left half-written."""
        return list(halves(output))


class Embed(Job):
    """`lame-runtime embed` with some hundred texts and pictures."""

    name = "embed"

    def prepare(self) -> None:
        """Writes the rows."""
        picture = str(TINY_BUNDLE / "golden/images/0000.png")
        rows = [{"text": f"number {number}"} for number in range(1500)]
        rows[::5] = [{"image": picture, "text": row["text"]} for row in rows[::5]]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (self.fixed / "rows.jsonl").write_text(text)

    def call(self, output: Path) -> Callable[[], int]:
        """Returns the command."""
        from lame_runtime.cli.main import main

        rows, target = str(self.fixed / "rows.jsonl"), str(output / "vectors.npy")
        options = ["--backend", "onnxruntime", "--threads", "1"]
        return lambda: main(["embed", str(TINY_BUNDLE), rows, "--output", target, *options])

    def result(self, output: Path) -> object:
        """Returns the bytes of the vectors."""
        return (output / "vectors.npy").read_bytes()


class Train(Job):
    """`lame-train run` with the smallest recipe; a stopped run is resumed."""

    name = "train"

    def prepare(self) -> None:
        """Writes the digits."""
        from lame_training.data.digits import TINY, write_digits

        write_digits(self.fixed / "data", TINY)

    def call(self, output: Path) -> Callable[[], int]:
        """Returns the command, with `--resume` if there is a run to resume."""
        from lame_training.__main__ import main

        run = output / "run"
        command = ["run", RECIPE, "--data", str(self.fixed / "data"), "--output", str(run)]
        command += ["--save-every", "2"]
        if (run / "config.json").exists():  # written last; a complete run has nothing to resume
            return lambda: 0
        resumed = (run / "recipe.json").exists()
        return lambda: main([*command, "--resume"] if resumed else command)

    def result(self, output: Path) -> object:
        """Returns the losses without the seconds, and the bytes of the weights."""
        from lame_training.run.progress import read_losses

        rows = [
            {name: value for name, value in row.items() if name != "seconds"}
            for row in read_losses(output / "run/losses.csv")
        ]
        return rows, (output / "run/model.safetensors").read_bytes()


class Export(Job):
    """`lame_export.export` of one graph; a stopped export is started again."""

    name = "export"

    def prepare(self) -> None:
        """Trains a checkpoint."""
        from lame_training import train

        Train(self.fixed).prepare()
        train(RECIPE, self.fixed / "data", self.fixed / "checkpoint", steps=2, progress=False)

    def call(self, output: Path) -> Callable[[], int]:
        """Returns the export."""
        from lame_runtime import LameError

        from lame_export import export

        def run() -> int:
            if (output / "bundle").exists():
                return 0
            try:
                export(
                    self.fixed / "checkpoint",
                    output / "bundle",
                    self.fixed / "data",
                    ["fp32"],
                    per_modality=1,
                    calibration=2,
                    strengths=(0.5,),
                )
            except LameError as error:
                print(f"error: {error}")
                return error.exit_code
            return 0

        return run

    def faults(self, output: Path) -> list[str]:
        """Returns what is wrong with a bundle that has its final name."""
        from lame_runtime import LameError
        from lame_runtime.bundle.bundle import Bundle

        if (output / "bundle").exists():
            try:
                Bundle.open(output / "bundle").check_all()
            except LameError as error:
                return [str(error)]
        return super().faults(output)

    def result(self, output: Path) -> object:
        """Returns the bytes of the graph's weights and of the golden vectors."""
        names = ("graphs/encoder.fp32.onnx.data", "golden/embeddings.npy")
        return [(output / "bundle" / name).read_bytes() for name in names]


class Engine(Job):
    """`lame-export engine` on the recorded GPU; a stopped build is started again."""

    name = "engine"

    def call(self, output: Path) -> Callable[[], int]:
        """Installs the recorded GPU and returns the command."""
        import os

        import pytest
        from lame_export.__main__ import main
        from recording_gpu import RecordingCudart
        from recording_gpu.placed import install

        bundle = output / "bundle"
        if not bundle.exists():
            # a name of its own until it is complete, because copying may be killed as well
            fresh = output / ".bundle"
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.copytree(TINY_BUNDLE, fresh)
            fresh.rename(bundle)
        os.environ["XDG_STATE_HOME"] = str(output / "state")
        os.environ["XDG_CACHE_HOME"] = str(output / "cache")
        install(pytest.MonkeyPatch(), RecordingCudart(total=4 << 30), "10.3.0")
        return lambda: main(["engine", str(bundle), "--graph", "fp32"])

    def faults(self, output: Path) -> list[str]:
        """Returns the builds whose plans are not those of their `build.json`."""
        from lame_runtime.bundle.manifest import sha256_file

        faults = super().faults(output)
        for path in output.glob("bundle/engines/*/build.json"):
            if path.parent.name.startswith("."):
                continue
            for name, digest in json.loads(path.read_text())["files"].items():
                if sha256_file(path.parent / name) != digest:
                    faults.append(f"{path.parent.name}/{name}: another hash")
        return faults

    def result(self, output: Path) -> object:
        """Returns the names of the builds."""
        return sorted(path.parent.name for path in output.glob("bundle/engines/*/build.json"))


JOBS: dict[str, type[Job]] = {job.name: job for job in (Embed, Train, Export, Engine)}


@contextmanager
def prepared_job(name: str) -> Iterator[tuple[Job, Path]]:
    """Yields a job with what its runs share, and an empty folder for the runs, both temporary."""
    with tempfile.TemporaryDirectory(prefix="endurance-") as work:
        fixed, folder = Path(work) / "fixed", Path(work) / "runs"
        fixed.mkdir()
        folder.mkdir()
        job = JOBS[name](fixed)
        job.prepare()
        yield job, folder
