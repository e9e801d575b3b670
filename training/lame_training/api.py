"""The public functions of the package, which the commands of `lame-train` call as well."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from lame_runtime.arguments import choice, integer
from lame_runtime.encoder import Encoder
from lame_runtime.errors import UsageError, shown
from lame_runtime.files.atomic import atomic_text
from lame_runtime.options import MAX_BATCH, BackendName

from lame_training.arguments import FolderLike, folder_path, optional_path, texts
from lame_training.distributed.processes import ProcessGroup
from lame_training.evaluation.embedding.identity import model_identity
from lame_training.evaluation.leaderboard import leaderboard_report, summarize
from lame_training.evaluation.mmeb.task_list import CONVENTIONS
from lame_training.evaluation.runner import EvaluationOptions, SuiteRun, run_suite
from lame_training.evaluation.select import find_suite, open_encoder
from lame_training.folder_lock import locked_folder
from lame_training.model.torch_backend import load_encoder
from lame_training.recipes.catalog import find_recipe
from lame_training.recipes.recipe import Recipe
from lame_training.run.train import train_recipe
from lame_training.run.train_options import TrainKeywords, TrainOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


def train(
    recipe: str | Recipe,
    data: FolderLike | None,
    output: FolderLike,
    **options: Unpack[TrainKeywords],
) -> None:
    """Trains a recipe and writes a checkpoint; the library form of `lame-train run`.

    In a script that `torchrun` started, every process must call this. Each takes its share of the
    same batches, the main process writes, and the process group stays open for further calls.
    Progress goes to stderr; rows that are left out are reported to the logger `lame_training`.

    Args:
        recipe: the name of a recipe (see `find_recipe`), or a `Recipe`.
        data: root of the training data: a folder with a `mixture.yaml`, with `train/NAME.parquet`
            files, or a checkout of MMEB-train. None writes the digits data set to `OUTPUT/data`;
            the `digits` recipes train on it.
        output: folder of the checkpoint; it is made if it does not exist.
        options: fields of `lame_training.run.train_options.TrainOptions`: `backbone`, `prompt`,
            `pooling`, `form`, `decoder`, `mixture`, `allow_outside`, `steps`, `seed`, `matryoshka`,
            `resume`, `progress`, `save_every`, `keep`, `threads`, `device`, `shard`.

    Raises:
        UsageError: there is no such recipe, or the options do not fit it or the run to resume.
        InputError: the data cannot be used.
        StorageError: the output folder already holds a run, is written by another run at this
            moment, or cannot be written.
        BundleError: the folder of a backbone or decoder, or a state to resume from, cannot be used.
        TrainingError: the loss is not finite, or the processes of the run differ.

    Example:
        >>> import lame_training
        >>> lame_training.train("digits-tiny", None, "runs/tiny", progress=False)
        >>> lame_training.train(
        ...     "lame-qwen2-vl-2b", "MMEB-train", "runs/own", backbone="Qwen2-VL-2B-Instruct"
        ... )
    """
    train_options = TrainOptions(**options)
    if not isinstance(recipe, Recipe):
        recipe = find_recipe(recipe)
    root, folder = optional_path("data", data), folder_path("output", output)
    processes = ProcessGroup(train_options.device)
    train_recipe(recipe, root, folder, train_options, processes)


def load_checkpoint(folder: FolderLike) -> Encoder:
    """Loads a checkpoint as an `Encoder` that runs PyTorch.

    It embeds exactly as an exported bundle does, with the trained model itself in place of a graph,
    on the CPU and in FP32. The weights are mapped from the disk in the type they are stored in.

    Args:
        folder: a folder that `train` wrote.

    Returns:
        The encoder, to be used as a context or closed with `close`. See `lame_runtime.Encoder`.

    Raises:
        BundleError: the folder is not a complete checkpoint, or a file in it is damaged.

    Example:
        >>> import lame_training
        >>> with lame_training.load_checkpoint("runs/digits") as encoder:
        ...     queries = encoder.encode_query(["digits that add up to fifteen"])
        ...     pictures = encoder.encode_document([{"image": "a.png"}, {"image": "b.png"}])
        >>> scores = queries @ pictures.T                    # float32 (1, 2)
    """
    return load_encoder(folder_path("folder", folder))


class EvaluateKeywords(TypedDict, total=False):
    """The keywords of `lame_training.evaluate`; `EvaluateOptions` documents them."""

    tasks: Sequence[str] | None
    split: Literal["eval", "valid"]
    visdoc: str
    graph: str | None
    backend: BackendName
    output: FolderLike | None
    cache: FolderLike | None
    name: str | None
    batch_size: int
    max_pixels: int | None


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of `lame_training.evaluate`.

    Attributes:
        tasks: names of the tasks to run; None runs all whose data exist.
        split: split of the digits.
        visdoc: MMEB-V2's convention for the page-level tasks, "page-fixed" (since November 2025) or
            "page-original". Figures of the two must not be compared.
        graph: graph of a bundle; by default "fp32" on a CPU and "fp16" on a GPU.
        backend: backend of a bundle, as `lame_runtime.Encoder.load` takes it.
        output: folder for one result file per task, and for `report.json` in the leaderboard's
            form. Tasks whose results it already holds are not run again. None writes nothing.
        cache: folder for embeddings and unpacked pictures; by default `OUTPUT/cache`, or a
            temporary folder if there is no `output`.
        name: the model's name in the report; by default the name of its folder.
        batch_size: inputs per run of the model.
        max_pixels: pixels of a picture or a video's frame after resizing; None for the contract's
            limit.
    """

    tasks: Sequence[str] | None = None
    split: Literal["eval", "valid"] = "eval"
    visdoc: str = CONVENTIONS[0]
    graph: str | None = None
    backend: BackendName = "auto"
    output: FolderLike | None = None
    cache: FolderLike | None = None
    name: str | None = None
    batch_size: int = 32
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        values: dict[str, Any] = {
            "batch_size": integer("batch_size", self.batch_size, 1, MAX_BATCH)
        }
        if self.max_pixels is not None:
            values["max_pixels"] = integer("max_pixels", self.max_pixels, 1)
        if self.tasks is not None:
            values["tasks"] = texts("tasks", self.tasks)
        choice("split", self.split, ("eval", "valid"))
        choice("visdoc", self.visdoc, CONVENTIONS)
        for name in ("output", "cache"):
            optional_path(name, getattr(self, name))
        for name in ("graph", "name"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise UsageError(f"`{name}` is {shown(repr(value))}: use a text")
        # Python's own numbers from here on: results are written as JSON
        for name, value in values.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Evaluation:
    """The outcome of `evaluate`.

    Attributes:
        run: the results task by task.
        report: the whole in the leaderboard's form: `metadata`, `metrics` by task, `summary`.
    """

    run: SuiteRun
    report: dict[str, Any]

    @property
    def scores(self) -> dict[str, float]:
        """The figure that counts (such as hit@1) of each task that was evaluated."""
        return dict(summarize(self.run)["tasks"])

    @property
    def failed(self) -> dict[str, str]:
        """The reason for each task that could not be evaluated, by task."""
        return self.run.failed


def evaluate(
    model: FolderLike, suite: str, data: FolderLike, **options: Unpack[EvaluateKeywords]
) -> Evaluation:
    """Measures how well a model retrieves; the library form of `lame-train evaluate`.

    Args:
        model: a checkpoint, which runs on PyTorch, or an exported bundle.
        suite: the benchmark: "digits", "mmeb-v2" or "mrmr".
        data: root of the benchmark's data.
        options: fields of `EvaluateOptions`: `tasks`, `split`, `visdoc`, `graph`, `backend`,
            `output`, `cache`, `name`, `batch_size`, `max_pixels`.

    Returns:
        The results. Tasks that could not be evaluated are named in `failed`; they raise nothing.

    Raises:
        UsageError: there is no such suite, task or graph.
        StorageError: `data` holds no files of the suite, or a folder cannot be written, or is
            written by another evaluation at this moment.
        BundleError: the model is neither a checkpoint nor a bundle.
        BackendError: the model failed.

    Example:
        >>> import lame_training
        >>> evaluation = lame_training.evaluate("runs/digits", "digits", "runs/digits/data")
        >>> evaluation.scores["sum2"]
        0.976
    """
    settings = EvaluateOptions(**options)
    folder, root = folder_path("model", model), folder_path("data", data)
    output, cache = optional_path("output", settings.output), optional_path("cache", settings.cache)
    if cache is None and output is not None:
        cache = output / "cache"
    lock = nullcontext() if output is None else locked_folder(output, "evaluation")
    with (
        lock,
        open_encoder(folder, settings.graph, settings.backend) as encoder,
        tempfile.TemporaryDirectory() as temporary,
    ):
        benchmark = find_suite(suite, root, split=settings.split, visdoc=settings.visdoc)
        run = run_suite(
            benchmark,
            root,
            encoder,
            model_identity(folder, encoder.graph, encoder.backend.name),
            EvaluationOptions(
                cache=cache or Path(temporary),
                keep_embeddings=cache is not None,
                output=output,
                tasks=settings.tasks,
                batch_size=settings.batch_size,
                max_pixels=settings.max_pixels,
            ),
        )
        report = leaderboard_report(run, encoder, settings.name or folder.resolve().name)
        if output is not None:
            atomic_text(output / "report.json", json.dumps(report, indent=2) + "\n")
    return Evaluation(run, report)
