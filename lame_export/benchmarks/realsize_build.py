"""The steps of `realsize.py` that write something: backbone, checkpoint, bundle, and plans."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable

from realsize_workspace import RECIPES, Facts, Workspace, inputs, total_bytes

GRAPHS = ("fp16", "int8")
PARTS = ("vision", "encoder")


def backbone(workspace: Workspace) -> Facts:
    """Writes a backbone of a published shape with random FP16 weights, as a model hub has it."""
    import torch
    from lame_training.fixtures.sample_backbone import write_sample

    write_sample(workspace.family, workspace.backbone, "2b", dtype=torch.float16)
    return {"bytes": total_bytes(workspace.backbone, "*.safetensors")}


def checkpoint(workspace: Workspace) -> Facts:
    """Writes an untrained checkpoint as `lame-train run RECIPE --backbone DIR --steps 0` does.

    It has no latent decoder, and small budgets of tokens, pixels and frames.
    """
    from lame_training.contract_from.budget import Budget
    from lame_training.recipes.catalog import find_recipe
    from lame_training.run.initialization import initialize

    # The latent decoder serves training alone, and is left out of every bundle.
    recipe = find_recipe(RECIPES[workspace.family])
    budget = Budget(max_length=512, max_pixels=256 * 256, max_frames=8)
    initialize(
        dataclasses.replace(recipe, decoder=None, dim=1024, budget=budget),
        workspace.checkpoint,
        workspace.backbone,
    )
    return {"bytes": total_bytes(workspace.checkpoint, "model.safetensors")}


def export(workspace: Workspace) -> Facts:
    """Runs the graph passes of `lame-export bundle` and measures the time of each.

    They are calibrated on the eight inputs, so no data set is needed.
    """
    from lame_export.model_facts import environment
    from lame_export.passes.graphs.type_half import TypeHalf
    from lame_export.passes.graphs.write_int8 import WriteInt8
    from lame_export.passes.proof.write_bundle import write_manifest
    from lame_export.passes.source.load_checkpoint import LoadCheckpoint
    from lame_export.passes.source.trace_graphs import TraceGraphs
    from lame_export.quantization import calibration
    from lame_export.quantization.quantizer import Quantizer
    from lame_export.quantization.search import QuantConfig
    from lame_export.state import ExportOptions, ExportState
    from lame_runtime.contract.batch import assemble
    from lame_runtime.inputs import as_input

    def scan(state: ExportState) -> None:
        preparer = state.reference.preparer
        batch = assemble([preparer(as_input(item)) for item in inputs()], preparer.contract)
        batches = [("mixed", batch)]
        scans = calibration.scan_batches(state.traced, batches)
        state.quantizer = Quantizer(state.traced, scans, batches, state.reference, {})
        # A search over configurations would run the model many times; the default is taken.
        state.configs = {"int8": QuantConfig()}

    # The passes are called one by one rather than as a plan, which would go on to the gates.
    (workspace.bundle / "graphs").mkdir(parents=True)
    options = ExportOptions(graphs=GRAPHS)
    state = ExportState(workspace.checkpoint, workspace.root, workspace.bundle, options)
    passes: dict[str, Callable[[ExportState], None]] = {
        "load": LoadCheckpoint().run,
        "trace": TraceGraphs().run,
        "scan": scan,
        "fp16": TypeHalf().run,
        "int8": WriteInt8().run,
    }
    seconds = {}
    for name, run_pass in passes.items():
        start = time.perf_counter()
        run_pass(state)
        seconds[name] = time.perf_counter() - start
    # The figures of later steps prove nothing by the gates, and the certificate says so.
    certificate = {"passed": False, "rows": [], "environment": environment()}
    (workspace.bundle / "parity.json").write_text(json.dumps(certificate))
    write_manifest(state)
    sizes = {graph: total_bytes(workspace.bundle, f"graphs/*.{graph}.onnx*") for graph in GRAPHS}
    return {
        "passes": seconds,
        "parameters": sum(parameter.numel() for parameter in state.model.parameters()),
        "bytes": sum(sizes.values()),
        "sizes": sizes,
        "islands": len(state.islands),
    }


def plans(workspace: Workspace) -> Facts:
    """Builds TensorRT-RTX plans of the FP16 graphs for SM86, which needs no GPU."""
    from lame_export.engine.network import Options, build_plan
    from lame_export.engine.profiles import GIB, derive_profiles, widths_of
    from lame_runtime.backends.tensorrt.module import load_tensorrt
    from lame_runtime.contract import Contract

    trt = load_tensorrt("tensorrt_rtx")
    manifest = json.loads((workspace.bundle / "manifest.json").read_text(encoding="utf-8"))
    contract = Contract.load(workspace.bundle / "contract.json")
    # The defaults of `lame-export engine`. The plans are measured and thrown away.
    profiles = derive_profiles(contract, widths_of(manifest["model"]), "latency", 2 * GIB)
    sizes = {}
    for part in PARTS:
        graph = workspace.graph(part, "fp16")
        plan, _ = build_plan(graph, profiles[part], Options(target="sm86"), trt)
        sizes[part] = len(plan)
    return {"version": trt.__version__, "sizes": sizes}
