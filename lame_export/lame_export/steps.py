"""What each pass of the plan does, in the plan's order."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from lame_runtime import gates
from lame_runtime.backends._tensorrt import load_tensorrt
from lame_runtime.backends.ort import OrtBackend
from lame_runtime.batching import assemble, plan_batches
from lame_runtime.bundle import PARTS
from lame_runtime.compare import contract_rows, graph_rows
from lame_runtime.contract.manifest import build_manifest, sha256_file
from lame_runtime.encoder import Encoder
from lame_runtime.errors import BackendError
from lame_runtime.gates import judge
from lame_runtime.golden import read_golden
from lame_runtime.retrieval import Vectors, embed_rows, read_rows, tasks

from lame_export import __version__, calibration, choice, golden_set, parity
from lame_export.engine.build import BUILDABLE
from lame_export.engine.network import Options, build_plan
from lame_export.engine.profiles import Widths, derive
from lame_export.errors import ExportError
from lame_export.passes import emulate as emulation
from lame_export.passes import fp16 as half
from lame_export.passes import lint as linter
from lame_export.passes.fused import fuse
from lame_export.passes.weight_only import quantise_weights
from lame_export.quantise import Quantiser
from lame_export.streamed import StreamedBackend, copy_of

if TYPE_CHECKING:
    from lame_training.model import LaMEModel

    from lame_export.plan import Export

SHARED = ("contract.json", "tokenizer.json")
TRIAL_MEMORY = 1 << 50
"""A trial plan is never run, so its profiles need not fit any GPU."""
EMULATED = ("fp16", "int8")
"""Graphs that ONNX Runtime's CPU provider would flatter; judged on their emulation."""
WEIGHT_ONLY = {"w8-cpu": 8, "w4-cpu": 4}
"""Bits by graph."""


def load(state: Export) -> None:
    """Reads the checkpoint; contract and tokenizer go into the bundle byte for byte."""
    read_checkpoint(state)
    for name in SHARED:
        shutil.copyfile(state.checkpoint / name, state.folder / name)


def read_checkpoint(state: Export) -> None:
    """The model without its decoder, and PyTorch behind the runtime's seam."""
    from lame_training.torch_backend import load_encoder_and_model

    state.reference, state.model = load_encoder_and_model(state.checkpoint)


def golden(state: Export) -> None:
    """Chooses golden inputs and records PyTorch's embeddings."""
    golden_set.write_golden(state.data, state.reference, state.folder, state.per_modality)
    state.golden = read_golden(state.folder)


def trace(state: Export) -> None:
    """Traces the two forwards to FP32 graphs, which stay in memory without their weights; see `passes.trace`."""
    from lame_export.passes.trace import trace as trace_model

    state.traced = trace_model(state.model, state.reference.preparer.contract)
    if "fp32" in state.graphs:
        for part in PARTS:
            save(state.traced[part], state.path(part, "fp32"))


def prove_contract(state: Export) -> None:
    """Holds the contract against transformers' processor and the traced forward against transformers' model."""
    preparer = state.reference.preparer
    state.add(parity.processor_rows(state.model, preparer, state.checkpoint / "tokenizer.json", state.golden))
    state.add(contract_rows(preparer, state.golden))
    state.add(parity.traced_rows(state.model, preparer, state.golden))


def scan(state: Export) -> None:
    """Runs calibration inputs through the FP32 graphs, modality by modality, and keeps some back to try quantisation on."""
    preparer = state.reference.preparer
    measured, trial = golden_set.held_out(golden_set.calibration_inputs(state.data, state.calibration, preparer), preparer)
    batches = {}
    for modality, inputs in measured.items():
        prepared = [preparer(golden_set.sampled(item, preparer), role) for role, item in inputs]
        batches[modality] = [assemble([prepared[i] for i in chosen], preparer.contract) for chosen in plan_batches(prepared, 32)]
    scans = calibration.scan_batches(state.traced, batches)
    trial = {modality: [(role, golden_set.sampled(item, preparer)) for role, item in inputs] for modality, inputs in trial.items()}
    state.quantiser = Quantiser(state.traced, scans, batches, state.reference, trial)


def fp16(state: Export) -> None:
    """Types the graphs for half precision."""
    if "fp16" not in state.graphs:
        return
    for part in PARTS:
        model = copy_of(state.traced[part])
        _note_islands(state, "fp16", part, half.type_fp16(model, state.quantiser.scans[part].amax))
        save(model, state.path(part, "fp16"))


def _note_islands(state: Export, graph: str, part: str, islands: list[half.Island]) -> None:
    state.islands += [{"graph": graph, "part": part, "node": each.node, "value": each.value, "amax": each.amax} for each in islands]


def choose(state: Export) -> None:
    """Tries ways to quantise to INT8 and takes one for each graph; see `choice`."""
    graphs = [graph for graph in ("int8", "int8-cpu") if graph in state.graphs]
    prove = partial(state.quantiser.prove, golden=state.golden)
    state.ways, state.tried = choice.choose(graphs, state.quantiser.measure, prove, state.strengths)


def int8(state: Export) -> None:
    """Puts Q/DQ around linear layers of half-typed graphs."""
    if "int8" in state.graphs:
        models, islands = state.quantiser.int8(state.ways["int8"])
        for part in PARTS:
            _note_islands(state, "int8", part, islands[part])
            save(models[part], state.path(part, "int8"))


def int8_cpu(state: Export) -> None:
    """INT8 for ONNX Runtime's CPU provider."""
    if "int8-cpu" in state.graphs:
        for part, model in state.quantiser.int8_cpu(state.ways["int8-cpu"]).items():
            save(model, state.path(part, "int8-cpu"))


def weight_only(state: Export) -> None:
    """Weights in 8 or 4 bits, for CPUs short of memory."""
    for graph, bits in WEIGHT_ONLY.items():
        for part in PARTS if graph in state.graphs else ():
            model = copy_of(state.traced[part])
            fuse(model)
            quantise_weights(model, bits)
            save(model, state.path(part, graph))


def lint(state: Export) -> None:
    """`onnx.checker` and our own rules, over every file."""
    contract = state.reference.preparer.contract
    for graph in state.graphs:
        findings: dict[str, list[str]] = {"onnx.checker": [], "lint": []}
        for part in PARTS:
            path = state.path(part, graph)
            try:
                onnx.checker.check_model(str(path), full_check=True)
            except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
                findings["onnx.checker"].append(f"{path.name}: {str(error).splitlines()[0]}")
            findings["lint"] += [f"{path.name}: {each}" for each in linter.lint(path, part, graph, contract)]
        state.add(parity.check_rows(graph, findings))


def engine(state: Export) -> None:
    """Builds a plan of every file TensorRT can read where TensorRT-RTX is installed, which needs no GPU; the plan is thrown away."""
    try:
        trt = load_tensorrt("tensorrt_rtx")
    except BackendError:
        state.add([judge("TensorRT-RTX builds", "", "not installed", 0, None, {"built": 0})])
        return
    contract = state.reference.preparer.contract
    profiles = derive(contract, {part: Widths(**widths) for part, widths in model_widths(state.model).items()}, "latency", TRIAL_MEMORY)
    for graph in (each for each in state.graphs if each in BUILDABLE):
        sizes, reason = [], ""
        try:
            for part in PARTS:
                plan, _ = build_plan(state.path(part, graph), profiles[part], Options(target="sm86"), trt)
                sizes.append(len(plan))
        except ExportError as error:
            reason = str(error)
        figure = {"built": len(sizes), "bytes": sum(sizes)}
        state.add([judge(f"TensorRT-RTX {trt.__version__} builds for sm86", graph, "files", 2, gates.BUILT, figure, reason)])


def model_widths(model: LaMEModel) -> dict[str, dict[str, int]]:
    """Hidden width, MLP width and heads of the encoder and the vision tower, which plans' profiles are reckoned from."""
    text, vision = model.backbone.config.text_config, model.backbone.config.vision_config
    hidden = getattr(vision, "embed_dim", None) or vision.hidden_size
    mlp = getattr(vision, "intermediate_size", None) or int(hidden * vision.mlp_ratio)
    return {
        "encoder": {"hidden": text.hidden_size, "mlp": text.intermediate_size, "heads": text.num_attention_heads},
        "vision": {"hidden": hidden, "mlp": mlp, "heads": vision.num_heads},
    }


def prove_graphs(state: Export) -> None:
    """Every graph against PyTorch on the golden vectors: cosines, batch mates, finite."""
    for graph in state.graphs:
        with judged_encoder(state, graph) as encoder:
            state.add(graph_rows(encoder, graph, state.golden, _note(graph)))


def prove_retrieval(state: Export) -> None:
    """Every graph against PyTorch on the evaluation rows: hit@1 and nearest documents."""
    rows = {task: read_rows(state.data, task) for task in tasks(state.data)}
    reference = _vectors(state.reference, rows)
    trained = json.loads((state.checkpoint / "config.json").read_text(encoding="utf-8"))["steps"] > 0
    state.add(parity.vector_rows(reference, rows, state.golden))
    for graph in state.graphs:
        with judged_encoder(state, graph) as encoder:
            found = _vectors(encoder, rows)
        state.add(parity.retrieval_rows(graph, reference, found, rows, trained=trained, note=_note(graph)))


def judged_encoder(state: Export, graph: str) -> Encoder:
    """The encoder a graph is judged by: itself, or its emulation run node by node as it is written."""
    preparer = state.reference.preparer
    if graph not in EMULATED:
        return Encoder(preparer, OrtBackend(state.path("vision", graph), state.path("encoder", graph), "CPUExecutionProvider"), graph)
    models = {part: ir.load(state.path(part, graph)) for part in PARTS}
    for model in models.values():
        emulation.emulate(model)
    return Encoder(preparer, StreamedBackend(models["vision"], models["encoder"], optimise=False), graph)


def _note(graph: str) -> str:
    return "emulated" if graph in EMULATED else ""


def write(state: Export) -> None:
    """Writes the certificate, then the manifest."""
    hashed = sorted(path for folder in ("graphs", "golden") for path in (state.folder / folder).rglob("*") if path.is_file())
    certificate = {
        "passed": all(row.passed is not False for row in state.rows),
        "rows": [row.to_json() for row in state.rows],
        "fp16_islands": state.islands,
        "int8": {"chosen": {graph: way.to_json() for graph, way in state.ways.items()}, "tried": [each.to_json() for each in state.tried]},
        "golden_spread": golden_set.spread(state.golden.embeddings),
        "environment": environment(),
        "hashes": {path.relative_to(state.folder).as_posix(): sha256_file(path) for path in hashed},
    }
    (state.folder / "parity.json").write_text(json.dumps(certificate, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_manifest(state)


def write_manifest(state: Export) -> None:
    """Writes the manifest of what lies in the bundle."""
    graphs = {graph: {part: f"graphs/{part}.{graph}.onnx" for part in PARTS} for graph in state.graphs}
    contract = state.reference.preparer.contract
    facts = {
        "family": contract.family,
        "dim": contract.dim,
        "n_reason": contract.tokens.n_reason,
        "widths": model_widths(state.model),
        "parameters": sum(parameter.numel() for parameter in state.model.parameters()),
        "exported_by": f"lame-export {__version__}",
    }
    manifest = build_manifest(state.folder, facts, graphs)
    (state.folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def environment() -> dict[str, str]:
    """Where and with what a certificate was made."""
    packages = (
        "lame-export",
        "lame-runtime",
        "lame-training",
        "torch",
        "transformers",
        "onnx",
        "onnx-ir",
        "onnxruntime",
        "numpy",
        "pillow",
    )
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        **versions,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _vectors(encoder: Encoder, rows: dict) -> Vectors:  # type: ignore[type-arg]
    return embed_rows(lambda items, role: encoder.encode(items, role=role, batch_size=64), rows)


def save(model: ir.Model, path: Path) -> None:
    """Writes a graph and, weight by weight, its one `.data` file."""
    ir.save(model, path, external_data=f"{path.name}.data")
