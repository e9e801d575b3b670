"""Compares every graph that a CPU can run with PyTorch eager, and prints a Markdown table.

    python lame_export/benchmarks/against_pytorch.py runs/demo           the demo's model
    python lame_export/benchmarks/against_pytorch.py --large runs/demo   75 M random parameters

All sides get the same inputs and threads and take turns in one run; times are medians.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lame_export.passes.graphs.write_int8 import WriteInt8
from lame_export.passes.graphs.write_int8_cpu import WriteInt8Cpu
from lame_export.passes.graphs.write_weights import WriteWeights
from lame_export.passes.source.load_checkpoint import read_model
from lame_export.passes.source.scan_ranges import ScanRanges
from lame_export.passes.source.trace_graphs import TraceGraphs
from lame_export.quantization.search import INPUT_PROJECTIONS, OUTPUT_PROJECTIONS, QuantConfig
from lame_export.state import ExportOptions, ExportState
from lame_runtime import Encoder, Input
from lame_runtime.backends.onnxruntime import OrtBackend
from lame_runtime.bundle.bundle import PARTS
from lame_runtime.bundle.golden import EXTREMES, read_golden
from lame_runtime.cli.benchmark import alternate
from lame_runtime.contract.batch import Floats
from lame_training import train
from lame_training.model.torch_backend import load_encoder_and_model
from lame_training.recipes.digits_recipes import DIGITS
from lame_training.recipes.recipe import Recipe

PYTORCH = "PyTorch eager"
STRENGTH = 0.5
"""Strength of the smoothing before INT8."""
FORMS = {
    "fp32": ("fp32", QuantConfig()),
    "int8-cpu, one scale per token": ("int8-cpu", QuantConfig(STRENGTH)),
    "int8-cpu, ranges where a norm is read": (
        "int8-cpu",
        QuantConfig(STRENGTH, static_layers=INPUT_PROJECTIONS),
    ),
    "int8-cpu, ranges in the language model": (
        "int8-cpu",
        QuantConfig(STRENGTH, static_layers=INPUT_PROJECTIONS | OUTPUT_PROJECTIONS),
    ),
    "int8, for TensorRT": ("int8", QuantConfig(STRENGTH)),
    "w8-cpu": ("w8-cpu", QuantConfig()),
    "w4-cpu": ("w4-cpu", QuantConfig()),
}
"""Graph and quantization of each form, by its name in the table; an export takes one per graph."""
ALONE = 8
"""This many inputs are also embedded alone, as one by one is slow."""


@dataclass(frozen=True)
class Setting:
    """How the sides are run."""

    batch_size: int
    rounds: int
    threads: int


def large_recipe() -> Recipe:
    """Returns the digits recipe at 75 M parameters: width 768 and 10 layers, for long texts."""
    assert DIGITS.scratch is not None
    text = DIGITS.scratch.config["text_config"] | {
        "hidden_size": 768,
        "intermediate_size": 2304,
        "num_hidden_layers": 10,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "initializer_range": 0.02,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            # Half of the head's 64 channels, shared out to time, rows and columns.
            "mrope_section": [8, 12, 12],
        },
    }
    vision = DIGITS.scratch.config["vision_config"] | {
        "hidden_size": 768,
        "embed_dim": 384,
        "num_heads": 6,
        "depth": 2,
        "initializer_range": 0.02,
    }
    config = {"text_config": text, "vision_config": vision}
    return dataclasses.replace(
        DIGITS,
        name="large",
        scratch=dataclasses.replace(DIGITS.scratch, config=config),
        n_reason=8,
        pooling="embed",
        dim=768,
    )


def write_forms(checkpoint: Path, data: Path, folder: Path) -> dict[str, Path]:
    """Writes every form's graphs into a folder of its own, without checking any gate.

    Returns:
        The folder of the graphs, by name of the form.
    """
    folders = {}
    options = ExportOptions(graphs=("fp32",), calibration=32)
    state = ExportState(checkpoint, data, folder / "fp32", options)
    (state.folder / "graphs").mkdir(parents=True)
    # Traced and calibrated once: all forms are made from the same graphs and ranges.
    read_model(state)
    for step in (TraceGraphs(), ScanRanges()):
        step.run(state)
    for number, (name, (graph, config)) in enumerate(FORMS.items()):
        # A folder per form, because several forms are of one graph and share its file names.
        state.folder = folder / str(number)
        (state.folder / "graphs").mkdir(parents=True, exist_ok=True)
        state.options = ExportOptions(graphs=(graph,))
        state.configs = {graph: config}
        if graph == "fp32":
            for part in PARTS:
                state.save(state.traced[part], part, graph)
        for step in (WriteInt8(), WriteInt8Cpu(), WriteWeights()):
            if step.applies(state):
                step.run(state)
        folders[name] = state.folder / "graphs"
    return folders


def measure(checkpoint: Path, data: Path, items: list[Input], setting: Setting) -> None:
    """Runs all sides on the inputs and prints one table."""
    # PyTorch would use all cores by itself; ONNX Runtime gets the same number below.
    torch.set_num_threads(setting.threads)
    reference, model = load_encoder_and_model(checkpoint)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    encoders = {PYTORCH: reference}
    megabytes = {PYTORCH: parameters * 4 / 1e6}
    with tempfile.TemporaryDirectory() as scratch:
        for name, folder in write_forms(checkpoint, data, Path(scratch)).items():
            megabytes[name] = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
            vision, encoder = (folder / f"{part}.{FORMS[name][0]}.onnx" for part in PARTS)
            # On the CPU even if there is a GPU: PyTorch runs there as well.
            backend = OrtBackend(vision, encoder, "CPUExecutionProvider", setting.threads)
            encoders[name] = Encoder(reference.preparer, backend, name)
        sides = {
            name: partial(encoder.encode, items, batch_size=setting.batch_size)
            for name, encoder in encoders.items()
        }
        seconds = alternate(sides, setting.rounds)
        lengths = [len(reference.preparer(item).ids) for item in items]
        print(
            f"\n{parameters / 1e6:.1f} M parameters, {len(items)} inputs of "
            f"{min(lengths)}–{max(lengths)} tokens, batches of {setting.batch_size},"
        )
        print(f"{setting.threads} threads, {setting.rounds} rounds\n")
        print(
            "| | size, MB | ms per input (median) | times PyTorch's speed "
            "| mean cosine | min cosine | alone / batch, min cosine |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- |")
        # Embedded again, since the timed runs threw their vectors away.
        expected = reference.encode(items, batch_size=setting.batch_size)
        for name, encoder in encoders.items():
            # Paired by round, so that a slow moment of the machine counts on both sides.
            rounds = zip(seconds[PYTORCH], seconds[name], strict=True)
            ratio = statistics.median(theirs / ours for theirs, ours in rounds)
            milliseconds = 1000 * statistics.median(seconds[name]) / len(items)
            cosines = compare(encoder, items, expected, setting.batch_size)
            print(f"| {name} | {megabytes[name]:.1f} | {milliseconds:.2f} | {ratio:.2f} {cosines}")


def compare(encoder: Encoder, items: list[Input], expected: Floats, batch_size: int) -> str:
    """Returns the table's last three cells, which are cosines.

    They are mean and minimum against PyTorch, and the minimum between an input alone and the same
    input in a batch.
    """
    vectors = encoder.encode(items, batch_size=batch_size)
    cosines = (vectors * expected).sum(1)
    alone = np.concatenate([encoder.encode(item) for item in items[:ALONE]])
    alone_cosine = float((alone * vectors[:ALONE]).sum(1).min())
    return f"| {cosines.mean():.5f} | {cosines.min():.5f} | {alone_cosine:.6f} |"


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("demo", type=Path, help="the folder that lame-export demo wrote")
    parser.add_argument("--large", action="store_true", help="measure 75 M random parameters")
    parser.add_argument("--rounds", type=int, default=9, help="runs of each side (9)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each side (2)")
    options = parser.parse_args()
    data = options.demo / "data"
    if not options.large:
        golden = read_golden(options.demo / "bundle")
        # The longest text and the largest picture would decide the medians by themselves.
        items = [row.item for row in golden.inputs if row.modality not in EXTREMES]
        setting = Setting(32, options.rounds, options.threads)
        measure(options.demo / "checkpoint", data, items, setting)
        return
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "checkpoint"
        # No step of training: speed does not depend on the weights.
        train(large_recipe(), data, checkpoint, steps=0, progress=False)
        words = ["digits", "that", "add", "up", "to", "fifteen"]
        # 117 words and the prompt around them are 128 tokens. Each input starts with another word.
        items = [
            Input(" ".join(words[(start + place) % 6] for place in range(117)))
            for start in range(8)
        ]
        setting = Setting(8, options.rounds, options.threads)
        measure(checkpoint, data, items, setting)


if __name__ == "__main__":
    main()
