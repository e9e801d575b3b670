"""Every form a CPU can run against PyTorch eager: the same inputs and threads, sides alternating in one run, medians; prints Markdown.

python lame_export/benchmarks/against_pytorch.py runs/demo        the demo's model
python lame_export/benchmarks/against_pytorch.py --large runs/demo     a 75 M-parameter model with random weights
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from pathlib import Path

import torch
from lame_export.choice import INSIDE, NORMED, Way
from lame_export.plan import Export
from lame_runtime import Encoder, Input
from lame_runtime.backends.ort import OrtBackend
from lame_runtime.bench import alternate
from lame_runtime.bundle import PARTS
from lame_runtime.golden import EXTREMES, read_golden
from lame_training.loop import run
from lame_training.recipes import DIGITS, Recipe
from lame_training.torch_backend import load_encoder_and_model

from lame_export import steps

STRENGTH = 0.5
FORMS = {
    "fp32": ("fp32", Way()),
    "int8-cpu, one scale per token": ("int8-cpu", Way(STRENGTH)),
    "int8-cpu, ranges where a norm is read": ("int8-cpu", Way(STRENGTH, static=NORMED)),
    "int8-cpu, ranges in the language model": ("int8-cpu", Way(STRENGTH, static=NORMED | INSIDE)),
    "int8, for TensorRT": ("int8", Way(STRENGTH)),
    "w8-cpu": ("w8-cpu", Way()),
    "w4-cpu": ("w4-cpu", Way()),
}
"""What is measured: a graph, and how it is quantised, whichever way an export would choose."""


def large_recipe() -> Recipe:
    """The digits recipe's shape at 75 M parameters: width 768, 10 layers, for long texts."""
    assert DIGITS.scratch is not None
    text = {**DIGITS.scratch.config["text_config"], "hidden_size": 768, "intermediate_size": 2304, "num_hidden_layers": 10}
    text |= {"num_attention_heads": 12, "num_key_value_heads": 4, "initializer_range": 0.02}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]}
    vision = {
        **DIGITS.scratch.config["vision_config"],
        "hidden_size": 768,
        "embed_dim": 384,
        "num_heads": 6,
        "depth": 2,
        "initializer_range": 0.02,
    }
    scratch = dataclasses.replace(DIGITS.scratch, config={"text_config": text, "vision_config": vision})
    return dataclasses.replace(DIGITS, name="large", scratch=scratch, n_reason=8, pooling="embed", dim=768)


def written(checkpoint: Path, data: Path, folder: Path) -> dict[str, Path]:
    """Every form's graphs in a folder of its own; no gate is asked."""
    found = {}
    state = Export(checkpoint, data, ("fp32",), folder / "fp32", calibration=32)
    (state.folder / "graphs").mkdir(parents=True)
    for run_pass in (steps.read_checkpoint, steps.trace, steps.scan):
        run_pass(state)
    for number, (name, (graph, way)) in enumerate(FORMS.items()):
        state.folder = folder / str(number)
        (state.folder / "graphs").mkdir(parents=True, exist_ok=True)
        state.graphs, state.ways = (graph,), {graph: way}
        if graph == "fp32":
            for part in PARTS:
                steps.save(state.traced[part], state.path(part, graph))
        for run_pass in (steps.int8, steps.int8_cpu, steps.weight_only):
            run_pass(state)
        found[name] = state.folder / "graphs"
    return found


def measure(checkpoint: Path, data: Path, items: list[Input], batch_size: int, rounds: int, threads: int) -> None:
    """Prints one table: size, milliseconds per input, speed against PyTorch, cosine to PyTorch and between alone and in a batch."""
    torch.set_num_threads(threads)
    reference, model = load_encoder_and_model(checkpoint)
    encoders = {"PyTorch eager": reference}
    with tempfile.TemporaryDirectory() as scratch:
        graphs = written(checkpoint, data, Path(scratch))
        size = {name: sum(path.stat().st_size for path in folder.iterdir()) / 1e6 for name, folder in graphs.items()}
        for name, folder in graphs.items():
            paths = [folder / f"{part}.{FORMS[name][0]}.onnx" for part in PARTS]
            encoders[name] = Encoder(reference.preparer, OrtBackend(*paths, "CPUExecutionProvider", threads), name)
        runs = {name: lambda e=e: e.encode(items, batch_size=batch_size) for name, e in encoders.items()}  # type: ignore[misc]
        seconds = alternate(runs, rounds)
        expected = reference.encode(items, batch_size=batch_size)
        lengths = [len(reference.preparer(item).ids) for item in items]
        parameters = sum(p.numel() for p in model.parameters())
        size["PyTorch eager"] = parameters * 4 / 1e6
        print(
            f"\n{parameters / 1e6:.1f} M parameters, {len(items)} inputs of {min(lengths)}–{max(lengths)} tokens, batches of {batch_size},"
        )
        print(f"{threads} threads, {rounds} rounds\n")
        print("| | size, MB | ms per input (median) | times PyTorch's speed | mean cosine | min cosine | alone / batch, min cosine |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for name, encoder in encoders.items():
            ratio = statistics.median(p / s for p, s in zip(seconds["PyTorch eager"], seconds[name], strict=True))
            vectors = encoder.encode(items, batch_size=batch_size)
            cosine = (vectors * expected).sum(1)
            alone = min(float(encoder.encode(item)[0] @ vector) for item, vector in list(zip(items, vectors, strict=True))[:8])
            ms = 1000 * statistics.median(seconds[name]) / len(items)
            print(f"| {name} | {size[name]:.1f} | {ms:.2f} | {ratio:.2f} | {cosine.mean():.5f} | {cosine.min():.5f} | {alone:.6f} |")


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="what lame-export demo wrote")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    data = options.demo / "data"
    if not options.large:
        golden = read_golden(options.demo / "bundle")
        items = [each.item for each in golden.inputs if each.modality not in EXTREMES]
        measure(options.demo / "checkpoint", data, items, 32, options.rounds, options.threads)
        return
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "checkpoint"
        run(large_recipe(), data, checkpoint, steps=0, progress=False)
        words = ["digits", "that", "add", "up", "to", "fifteen"]
        items = [Input(" ".join(words[(i + j) % 6] for j in range(117))) for i in range(8)]
        measure(checkpoint, data, items, 8, options.rounds, options.threads)


if __name__ == "__main__":
    main()
