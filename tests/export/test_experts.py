"""A mixture of experts: routed as transformers does, in every form of graph, and in INT8."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from lame_export.forward.experts import Experts
from lame_export.forward.trace import trace
from lame_export.model_facts import model_widths
from lame_export.parity.traced_backend import TracedBackend
from lame_export.quantization.calibration import scan_batches
from lame_export.quantization.cpu_int8 import quantize_cpu
from lame_export.quantization.smoothing import smooth
from lame_export.quantization.static_int8 import quantize_static
from lame_export.rewrites.emulate import emulate
from lame_export.rewrites.fuse import fuse
from lame_export.rewrites.fuse_experts import BLOCK, MOE, QMOE, quantize_experts
from lame_export.rewrites.half import type_fp16
from lame_export.rewrites.nodes import drop_dead
from lame_export.rewrites.scopes import linear_layers, module_of
from lame_export.streaming.pieces import copy_of
from lame_export.streaming.streamed_backend import StreamedBackend
from lame_runtime import Encoder
from lame_runtime.contract.batch import assemble
from lame_runtime.inputs import as_input
from lame_training.model.backbones import FAMILIES, read_config
from lame_training.model.torch_backend import load_encoder_and_model
from lame_training.recipes.catalog import find_recipe
from lame_training.run.initialization import initialize
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import (
    Qwen3VLMoeTextConfig,
    Qwen3VLMoeTextSparseMoeBlock,
)

FAMILY = "qwen3_vl_moe"
TEXTS = ["seven", "What do the digits add up to?", "user 12 assistant 345", "数字 🙂"]


def mixture(experts: int, taken: int) -> tuple[Any, Experts]:
    """Returns a block of transformers in random weights, and the traced forward over it."""
    torch.manual_seed(0)
    config = Qwen3VLMoeTextConfig(
        hidden_size=32, moe_intermediate_size=24, num_experts=experts, num_experts_per_tok=taken
    )
    block = Qwen3VLMoeTextSparseMoeBlock(config).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return block, Experts(block, config)


@pytest.mark.parametrize(("experts", "taken"), [(8, 2), (5, 5), (7, 1), (1, 1), (64, 8)])
def test_tokens_are_routed_as_transformers_routes_them(experts: int, taken: int) -> None:
    """Any number of experts of any number; weights add up to one. Control: another router."""
    block, ours = mixture(experts, taken)
    rows = torch.randn(3, 17, 32)
    with torch.inference_mode():
        expected, computed = block(rows), ours(rows)
        weights = ours.router(rows)
        assert torch.allclose(computed, expected, atol=2e-6 * float(expected.abs().max()))
        assert torch.equal((weights > 0).sum(-1), torch.full((3, 17), taken))
        assert torch.allclose(weights.sum(-1), torch.ones(3, 17))
        if taken < experts:
            ours.router.weight_io.data = ours.router.weight_io.roll(1, dims=1)
            assert not torch.allclose(ours(rows), expected, atol=1e-2)


def test_of_equal_scores_only_as_many_are_taken_as_shall_be() -> None:
    """All scores are equal: two experts of eight get a half each."""
    _, ours = mixture(8, 2)
    ours.router.weight_io.data = torch.zeros(32, 8)
    weights = ours.router(torch.randn(5, 32))
    assert torch.equal(weights.sort(dim=-1).values[:, -2:], torch.full((5, 2), 0.5))
    assert torch.equal((weights > 0).sum(-1), torch.full((5,), 2))


def test_an_expert_that_overflows_reaches_only_tokens_that_take_it() -> None:
    """Its infinite activation is not multiplied by the zero of other tokens, which gives NaN."""
    block, ours = mixture(8, 2)
    with torch.inference_mode():
        rows = torch.randn(40, 32)
        without = (ours.router(rows) == 0)[:, 3]
        block.experts.gate_up_proj[3] = 1e30
        expected, computed = block(rows[None])[0], ours(rows)
    assert 0 < without.sum() < 40
    assert torch.isfinite(computed[without]).all()
    assert torch.allclose(computed[without], expected[without], rtol=1e-4, atol=1e-3)


@dataclasses.dataclass(frozen=True)
class Traced:
    """A model with experts, and its traced graphs."""

    reference: Encoder
    backend: TracedBackend
    graphs: dict[str, ir.Model]
    widths: dict[str, dict[str, int]]


@pytest.fixture(scope="module")
def traced(backbones: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Traced:
    folder = tmp_path_factory.mktemp("experts") / "checkpoint"
    initialize(find_recipe("digits-tiny"), folder, backbones[FAMILY])
    reference, model = load_encoder_and_model(folder)
    contract = reference.preparer.contract
    backend = TracedBackend(model, contract)
    return Traced(reference, backend, trace(model, contract), model_widths(model))


def embedded(traced: Traced, encoder: ir.Model) -> np.ndarray:
    backend = StreamedBackend(traced.graphs["vision"], encoder, optimize=False)
    with Encoder(traced.reference.preparer, backend) as running:
        return running.encode(TEXTS)


def test_every_form_gives_the_vectors_of_pytorch(traced: Traced) -> None:
    """FP32 forms to the last bits, QMoE to INT8's; the control takes one expert too few."""
    expected = traced.reference.encode(TEXTS)
    assert traced.widths["encoder"]["mlp"] == 16 * 48
    assert np.abs(embedded(traced, traced.graphs["encoder"]) - expected).max() < 1e-6
    fused = copy_of(traced.graphs["encoder"])
    assert fuse(fused)["MoE"] == 2  # the third block has a plain MLP
    assert np.abs(embedded(traced, fused) - expected).max() < 1e-6
    quantized = copy_of(fused)
    assert quantize_experts(quantized.graph, 8) == 2
    drop_dead(quantized)
    assert {MOE, QMOE} & {node.op_type for node in quantized.graph} == {QMOE}
    cosines = (embedded(traced, quantized) * expected).sum(axis=1)
    assert 0.995 < cosines.min() < 0.9999999
    for node in fused.graph:
        if node.op_type == MOE:
            node.attributes["k"] = ir.AttrInt64("k", 1)
    assert np.abs(embedded(traced, fused) - expected).max() > 1e-3


def test_an_expert_that_calibration_never_met_is_quantized(traced: Traced) -> None:
    """Two short texts leave experts out; others that take them are right all the same.

    Each expert has a scale per output channel in the layers that read the token.
    """
    preparer = traced.reference.preparer
    batch = assemble([preparer(as_input(text)) for text in ("seven", "one")], preparer.contract)
    routed = []
    for block in traced.backend.module("encoder").blocks:  # type: ignore[union-attr]
        if block.experts is not None:  # type: ignore[union-attr]
            block.experts.router.register_forward_hook(  # type: ignore[union-attr]
                lambda _module, _inputs, output: routed.append(output.flatten(0, -2).amax(0))
            )
    with Encoder(preparer, traced.backend) as running:
        running.encode(["seven", "one"])
        met = torch.stack(routed[:2])
        assert bool((met == 0).any()), "every expert was met, which tests nothing"
    scans = scan_batches(traced.graphs, [("text", batch)])
    encoder = copy_of(traced.graphs["encoder"])
    smooth(encoder, scans["encoder"].channels, 0.5)
    again = scan_batches({**traced.graphs, "encoder": encoder}, [("text", batch)])["encoder"]
    integers = copy_of(encoder)
    type_fp16(integers, again.amax)
    quantize_static(integers, again.ranges(), frozenset({"o", "down"}))
    scales = integers.graph.initializers["blocks.0.experts.gate/MatMul.1.scale"].const_value
    assert scales is not None
    assert scales.numpy().shape == (16 * 48,)  # experts of 48 channels
    emulate(integers)
    for_cpus = copy_of(encoder)
    fuse(for_cpus)
    quantize_cpu(for_cpus, again.ranges())
    expected = traced.reference.encode(TEXTS)
    for graph in (integers, for_cpus):
        assert (embedded(traced, graph) * expected).sum(axis=1).min() > 0.97


def test_routers_are_neither_quantized_nor_computed_in_half(traced: Traced) -> None:
    """A router is no linear layer, and all of its nodes keep FP32."""
    graph = copy_of(traced.graphs["encoder"])
    assert not [node for node in linear_layers(graph.graph) if module_of(node) == "Router"]
    type_fp16(graph, {})
    types = {
        value.dtype
        for node in graph.graph
        if module_of(node) == "Router"
        for value in (*node.inputs, *node.outputs)
        if value is not None
    }
    assert ir.DataType.FLOAT in types
    assert ir.DataType.FLOAT16 not in types


@pytest.mark.parametrize(
    "settings", [{"decoder_sparse_step": 2, "mlp_only_layers": []}, {"mlp_only_layers": [0, 2]}]
)
def test_the_layers_that_have_experts_are_those_of_the_config(
    settings: dict[str, Any], backbones: dict[str, Path], tmp_path: Path
) -> None:
    """Every second block, or all but those that are listed."""
    config = read_config(backbones[FAMILY])
    for name, value in settings.items():
        setattr(config.text_config, name, value)
    torch.manual_seed(0)
    folder = tmp_path / "backbone"
    FAMILIES[FAMILY].model(config).save_pretrained(folder)
    for name in ("tokenizer.json", "chat_template.jinja"):
        (folder / name).write_bytes((backbones[FAMILY] / name).read_bytes())
    initialize(find_recipe("digits-tiny"), tmp_path / "checkpoint", folder)
    encoder, model = load_encoder_and_model(tmp_path / "checkpoint")
    backend = TracedBackend(model, encoder.preparer.contract)
    blocks: Any = backend.module("encoder").blocks
    assert [block.experts is not None for block in blocks] == [False, True, False]
    with Encoder(encoder.preparer, backend, "traced") as traced:
        assert np.abs(encoder.encode(TEXTS) - traced.encode(TEXTS)).max() < 1e-6


def operator_graph() -> ir.Model:
    """Makes a graph of one `MoE` with widths that 4 bits are possible for."""
    rng = np.random.default_rng(0)
    shapes = {"first": (6, 64, 96), "second": (6, 96, 32)}
    kind = ir.TensorType(ir.DataType.FLOAT)
    inputs = [
        ir.Value(name=name, shape=ir.Shape(["rows", width]), type=kind)
        for name, width in (("x", 96), ("scores", 6))
    ]
    weights = []
    for name, shape in shapes.items():
        tensor = ir.tensor(rng.standard_normal(shape).astype(np.float32) / 8, name=name)
        weights.append(ir.Value(name=name, shape=ir.Shape(shape), type=kind, const_value=tensor))
    attributes = {
        "k": 2,
        "normalize_routing_weights": 1,
        "activation_type": "swiglu",
        "swiglu_fusion": 1,
        "activation_alpha": 1.0,
        "activation_beta": 0.0,
        "swiglu_limit": 3e38,
    }
    node = ir.node(MOE, [*inputs, weights[0], None, weights[1]], attributes, domain="com.microsoft")
    output = node.outputs[0]
    output.name, output.type, output.shape = "y", kind, ir.Shape(["rows", 96])
    graph = ir.Graph(
        inputs,
        [output],
        nodes=[node],
        initializers=weights,
        opset_imports={"": 20, "com.microsoft": 1},
    )
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_experts_compute_with_the_steps_that_are_stored(
    bits: int, tmp_path: Path
) -> None:
    """ONNX Runtime reads steps and scales as they are meant: the same as with restored weights."""
    quantized, restored = operator_graph(), operator_graph()
    assert quantize_experts(quantized.graph, bits) == 1
    constants = quantized.graph.initializers
    for name in ("first", "second"):
        stored, scales = (
            constants[f"{name}.{suffix}"].const_value.numpy()  # type: ignore[union-attr]
            for suffix in (f"int{bits}", "scale")
        )
        if bits == 4:
            halves = np.stack([stored & 15, stored >> 4], axis=-1)
            stored = halves.reshape(*stored.shape[:2], -1)
            scales = np.repeat(scales, BLOCK, axis=-1)
        else:
            scales = scales[..., None]
        values = (stored.astype(np.float32) - (1 << (bits - 1))) * scales
        before = restored.graph.initializers[name].const_value
        assert before is not None
        assert 0 < np.abs(values - before.numpy()).max() <= scales.max() * 0.501
        restored.graph.initializers[name].const_value = ir.tensor(values, name=name)
    rng = np.random.default_rng(1)
    feeds = {
        "x": rng.standard_normal((20, 96)).astype(np.float32),
        "scores": rng.standard_normal((20, 6)).astype(np.float32),
    }
    outputs = []
    for name, model in (("a", quantized), ("b", restored)):
        ir.save(model, tmp_path / f"{name}.onnx")
        session = ort.InferenceSession(tmp_path / f"{name}.onnx")
        outputs.append(session.run(None, feeds)[0])
    assert np.abs(outputs[0] - outputs[1]).max() < 1e-5


def test_widths_that_no_block_divides_keep_eight_bits() -> None:
    """Without blocks 4 bits have one scale per channel, which is too coarse for experts."""
    model = operator_graph()
    second = np.ones((6, 96, 24), np.float32)
    weight = model.graph.initializers["second"]
    weight.const_value, weight.shape = ir.tensor(second, name="second"), ir.Shape(second.shape)
    quantize_experts(model.graph, 4)
    (node,) = [node for node in model.graph if node.op_type == QMOE]
    assert node.attributes["expert_weight_bits"].as_int() == 8
