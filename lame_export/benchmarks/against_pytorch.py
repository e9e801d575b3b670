"""Bundle against PyTorch eager: the same inputs and threads, sides alternating in one run, medians; prints Markdown.

python lame_export/benchmarks/against_pytorch.py runs/demo        the demo's model
python lame_export/benchmarks/against_pytorch.py --large runs/demo     a 75 M-parameter model with random weights
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from lame_export.plan import export
from lame_runtime import Encoder, Input
from lame_runtime.bench import alternate
from lame_runtime.golden import EXTREMES, read_golden
from lame_training.loop import run
from lame_training.recipes import DIGITS, Recipe
from lame_training.torch_backend import load_encoder_and_model

GRAPHS = ("fp32", "int8-cpu")


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
    return dataclasses.replace(DIGITS, name="large", scratch=scratch, dim=768)


def measure(checkpoint: Path, bundle: Path, items: list[Input], batch_size: int, rounds: int, threads: int) -> None:
    """Prints one table: milliseconds per input, speed against PyTorch, cosine to PyTorch."""
    torch.set_num_threads(threads)
    reference, model = load_encoder_and_model(checkpoint)
    encoders = {"PyTorch eager": reference}
    encoders |= {graph: Encoder.load(bundle, backend="onnxruntime", graph=graph, threads=threads) for graph in GRAPHS}
    seconds = alternate({name: lambda e=e: e.encode(items, batch_size=batch_size) for name, e in encoders.items()}, rounds)  # type: ignore[misc]
    expected = reference.encode(items, batch_size=batch_size)
    lengths = [len(reference.preparer(item).ids) for item in items]
    parameters = sum(p.numel() for p in model.parameters())
    print(f"\n{parameters / 1e6:.1f} M parameters, {len(items)} inputs of {min(lengths)}–{max(lengths)} tokens, batches of {batch_size},")
    print(f"{threads} threads, {rounds} rounds\n")
    print("| | ms per input (median) | times PyTorch's speed | mean cosine | min cosine |\n| --- | --- | --- | --- | --- |")
    for name, encoder in encoders.items():
        ratio = statistics.median(p / s for p, s in zip(seconds["PyTorch eager"], seconds[name], strict=True))
        cosine = (encoder.encode(items, batch_size=batch_size) * expected).sum(1)
        median = statistics.median(seconds[name])
        print(f"| {name} | {1000 * median / len(items):.2f} | {ratio:.2f} | {cosine.mean():.5f} | {cosine.min():.5f} |")
    encoder = encoders["fp32"]
    rng = np.random.default_rng(0)
    words = ["digits", "that", "add", "up", "to", "fifteen"]
    texts = [" ".join(words[int(i)] for i in rng.integers(6, size=int(n))) for n in rng.integers(1, 120, size=128)]
    passes = alternate({str(sort): lambda sort=sort: encoder.encode(texts, batch_size=16, sort=sort) for sort in (True, False)}, rounds)  # type: ignore[misc]
    gain = statistics.median(u / s for s, u in zip(passes["True"], passes["False"], strict=True))
    print(f"\nsorted against unsorted, 128 texts of 1–119 words, batches of 16, fp32: {gain:.2f} times as fast")


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="what lame-export demo wrote")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if not options.large:
        golden = read_golden(options.demo / "bundle")
        items = [each.item for each in golden.inputs if each.modality not in EXTREMES]
        measure(options.demo / "checkpoint", options.demo / "bundle", items, 32, options.rounds, options.threads)
        return
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint, bundle = Path(scratch) / "checkpoint", Path(scratch) / "bundle"
        run(large_recipe(), options.demo / "data", checkpoint, steps=0, progress=False)
        export(checkpoint, bundle, options.demo / "data", GRAPHS)
        words = ["digits", "that", "add", "up", "to", "fifteen"]
        items = [Input(" ".join(words[(i + j) % 6] for j in range(117))) for i in range(8)]
        measure(checkpoint, bundle, items, 8, options.rounds, options.threads)


if __name__ == "__main__":
    main()
