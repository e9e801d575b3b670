"""Scopes: which module of the forward each node belongs to, kept in the node's name and metadata.

PyTorch's exporter leaves module paths, source lines and file names on every node. `keep_scopes`
reduces that to what later rewrites need, and the other functions here read it back:

    before   node_MatMul_12      metadata: class hierarchy, name scopes, FX node, stack trace, …
    after    blocks.0.q/MatMul   metadata: lame.module = Affine
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict

import onnx_ir as ir

MODULE = "lame.module"
"""Metadata key: class name of the module of `lame_export.forward` that a node belongs to."""
SCALED = "lame.scaled"
"""Metadata key of a node whose result smoothing has divided by a factor per channel.

The weights that read the result are multiplied by the same factors; see `quantization.smoothing`.
"""
Modules = dict[str, list[ir.Node]]
"""The nodes of each module, by the module's path, in the graph's order."""
NO_MODULE = "graph"
"""Path and class name of nodes outside of every module of ours, such as shape arithmetic."""


def keep_scopes(model: ir.Model) -> None:
    """Names nodes by their module and drops all other metadata of the tracer, in place.

    Requires: a graph as `torch.onnx.export(dynamo=True)` returns it.
    Changes: every node's name, to `module path/operator` with a number from the second such node
    on, and its metadata, to the class name under `MODULE`.
    Leaves alone: names of values, nodes' order, everything that is computed.
    """
    seen: Counter[str] = Counter()
    for node in model.graph:
        class_name, path = _scope(node)
        name = f"{path}/{node.op_type}"
        seen[name] += 1
        # a module may hold several nodes of one operator, and reports tell them apart by name
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
        node.metadata_props.clear()
        node.metadata_props[MODULE] = class_name
    _clear_other_metadata(model)


def _scope(node: ir.Node) -> tuple[str, str]:
    """Returns class name and path of the innermost module of ours that computes the node."""
    classes = _listed(node, "pkg.torch.onnx.class_hierarchy")
    # from the outermost module to the operator itself, such as "aten.add.Tensor"
    ours = [name.rsplit(".", 1)[-1] for name in classes if name.startswith("lame_export.")]
    # the last scope is the FX node itself; the first, "", is the traced module
    *modules, _ = _listed(node, "pkg.torch.onnx.name_scopes") or [""]
    # shape arithmetic that torch.export adds has a made-up scope, "_empty_nn_module_stack_from_…"
    paths = [scope for scope in modules if scope and not scope.startswith("_")]
    return ours[-1] if ours else NO_MODULE, paths[-1] if paths else NO_MODULE


def _clear_other_metadata(model: ir.Model) -> None:
    # source lines and folders of the machine that exported have no place in a file that is shipped
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph:
        for output in node.outputs:
            output.metadata_props.clear()


def _listed(node: ir.Node, key: str) -> list[str]:
    """Reads a list of strings, which the tracer stores as its Python literal."""
    literal = node.metadata_props.get(key)
    return [] if literal is None else list(ast.literal_eval(literal))


def module_of(node: ir.Node) -> str:
    """Returns the class name of the module the node belongs to, such as "RMSNorm"."""
    # nodes that a rewrite adds without `replaces` have no metadata
    return node.metadata_props.get(MODULE, NO_MODULE)


def path_of(node: ir.Node) -> str:
    """Returns the path of the node's module: "blocks.0.down" for `blocks.0.down/MatMul`."""
    return (node.name or "").split("/")[0]


def modules_of(graph: ir.Graph) -> Modules:
    """Returns the nodes of every module of the graph, by its path."""
    modules: Modules = defaultdict(list)
    for node in graph:
        modules[path_of(node)].append(node)
    return dict(modules)


def layer_name(node: ir.Node) -> str:
    """Returns the last part of the module's path: "down" for `blocks.0.down/MatMul`."""
    return path_of(node).rsplit(".", 1)[-1]


AFFINE = frozenset({"Affine", "WideAffine"})
"""Modules that are linear layers, which are quantized."""


def linear_layers(graph: ir.Graph) -> list[ir.Node]:
    """Returns the MatMuls of linear layers: an activation times a constant (in, out) weight."""
    return _products(graph, AFFINE)


def weight_products(graph: ir.Graph) -> list[ir.Node]:
    """Returns all MatMuls with a constant weight: linear layers, and routers of experts."""
    return _products(graph, AFFINE | {"Router"})


def _products(graph: ir.Graph, modules: frozenset[str]) -> list[ir.Node]:
    # the MatMuls of attention belong to a block and multiply two activations
    return [
        node
        for node in graph
        if node.op_type == "MatMul"
        and module_of(node) in modules
        and node.inputs[1] is not None
        and node.inputs[1].is_initializer()
    ]
