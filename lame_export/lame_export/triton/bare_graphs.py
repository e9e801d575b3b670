"""Writes the graphs of a bundle as models of their own, for Triton's ONNX Runtime backend.

They take and return tensors: `NAME-vision` turns the patches of pictures of one grid into features,
and `NAME-encoder` turns ids and features into vectors. Whoever calls them prepares inputs as
`lame_runtime.contract` does. Fields are those of `model_config.proto` of
triton-inference-server/common.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from lame_runtime.bundle.bundle import PARTS, Bundle
from lame_runtime.bundle.members import open_member
from lame_runtime.errors import UsageError
from lame_runtime.files.atomic import atomic_folder
from lame_runtime.files.graphs.onnx_fields import BOOL, FLOAT, INT32, INT64, UINT8
from lame_runtime.files.graphs.onnx_graph import Dims, GraphFacts, read_graph

from lame_export.triton.serving import Serving, instance_group

TYPES = {
    FLOAT: "TYPE_FP32", UINT8: "TYPE_UINT8", INT32: "TYPE_INT32", INT64: "TYPE_INT64",
    BOOL: "TYPE_BOOL",
}  # fmt: skip
"""Triton's names of the types that graphs take and return."""


def graph_folders(repository: Path, serving: Serving) -> dict[str, Path]:
    """Returns the folder of the model of each part.

    Raises:
        UsageError: no graph is chosen.
    """
    if serving.graph is None:
        # the Python model may choose when it starts; here the files are copied now
        raise UsageError("`bare_graphs` needs `graph`: say which of the bundle's graphs to write")
    return {part: repository / f"{serving.name}-{part}" for part in PARTS}


def write_graph_models(bundle: Bundle, repository: Path, serving: Serving) -> list[Path]:
    """Writes a model for each part of a graph; each folder appears when it is complete.

    Args:
        bundle: the bundle, whose files have been hashed.
        repository: the repository, which need not exist.
        serving: name, device and graph.

    Returns:
        The models' folders.

    Raises:
        UsageError: no graph is chosen, or the bundle has no such graph.
        StorageError: there is such a model already, or it cannot be written.
    """
    folders = graph_folders(repository, serving)
    graph = serving.graph or ""
    members = bundle.graph_files(graph)
    files = bundle.manifest.graphs[graph]
    for part, folder in folders.items():
        name: str = getattr(files, part)
        facts = read_graph((bundle.folder / name).read_bytes(), Path(name).name)
        data = str(Path(name).with_name(facts.data_name))
        with atomic_folder(folder) as model:
            text = graph_config(folder.name, facts, serving)
            (model / "config.pbtxt").write_text(text, encoding="utf-8")
            version = model / "1"
            version.mkdir()
            # the graph names its data file, which therefore keeps its name
            copies = {name: "model.onnx", data: facts.data_name}
            for source, copy in copies.items():
                if source not in members:
                    continue
                with (
                    open_member(bundle.folder, source) as stream,
                    (version / copy).open("wb") as target,
                ):
                    shutil.copyfileobj(stream, target, 1 << 20)
    return list(folders.values())


def graph_config(name: str, facts: GraphFacts, serving: Serving) -> str:
    """Returns a `config.pbtxt` whose tensors are those of a graph."""
    return "\n".join(
        [
            f'name: "{name}"',
            'backend: "onnxruntime"',
            "# sizes of a batch depend on each other, so Triton cannot join requests",
            "max_batch_size: 0",
            "",
            f"input [\n{_tensors(facts.inputs)}\n]",
            f"output [\n{_tensors(facts.outputs)}\n]",
            "",
            instance_group(serving),
            "",
        ]
    )


def _tensors(values: dict[str, tuple[int, Dims]]) -> str:
    return ",\n".join(
        f'  {{ name: "{name}" data_type: {TYPES[kind]} dims: [ {_sizes(dims)} ] }}'
        for name, (kind, dims) in values.items()
    )


def _sizes(dims: Dims) -> str:
    # a size that is a name is one that each request chooses
    return ", ".join(str(size if isinstance(size, int) else -1) for size in dims)
