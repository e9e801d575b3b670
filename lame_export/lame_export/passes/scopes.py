"""Scopes: what the exporter knows about where a node came from, reduced to what later passes need.

PyTorch's exporter leaves module paths, source lines and file names on every node. This keeps the module's
class under one key, renames nodes by their module path, and drops the rest: paths of the machine that
exported have no place in a shipped file.
"""

from __future__ import annotations

import ast
from collections import Counter

import onnx_ir as ir

MODULE = "lame.module"
"""Metadata key: class name of the module of `lame_export.forward` a node belongs to."""
SCALED = "lame.scaled"
"""Metadata key of a node whose result was divided, channel by channel, by what the weights behind it were multiplied by."""


def keep_scopes(model: ir.Model) -> None:
    """Rewrites names and metadata in place."""
    seen: Counter[str] = Counter()
    for node in model.graph:
        classes = _list(node, "pkg.torch.onnx.class_hierarchy")
        scopes = _list(node, "pkg.torch.onnx.name_scopes")
        modules = [each.rsplit(".", 1)[-1] for each in classes if each.startswith("lame_export.")]
        path = next((scope for scope in reversed(scopes[:-1]) if scope and not scope.startswith("_")), "graph")
        seen[f"{path}/{node.op_type}"] += 1
        count = seen[f"{path}/{node.op_type}"]
        node.name = f"{path}/{node.op_type}" + (f"_{count}" if count > 1 else "")
        node.metadata_props.clear()
        node.metadata_props[MODULE] = modules[-1] if modules else "graph"
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in model.graph.inputs:
        value.metadata_props.clear()
    for node in model.graph:
        for output in node.outputs:
            output.metadata_props.clear()
    for initializer in model.graph.initializers.values():
        initializer.metadata_props.clear()


def module_of(node: ir.Node) -> str:
    """Class name of the module the node belongs to."""
    return node.metadata_props.get(MODULE, "graph")


def _list(node: ir.Node, key: str) -> list[str]:
    found = node.metadata_props.get(key)
    return [] if found is None else list(ast.literal_eval(found))
