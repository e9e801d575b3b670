"""Loads an encoder from a bundle in five steps: open, select, deserialize, prove, fall back.

    open_bundle   manifest, hashes, contract and tokenizer            lame_runtime.bundle
    select        which backend and graph run here, and why           lame_runtime.backends.select
    deserialize   the graphs or plans of that selection in memory     lame_runtime.backends
    prove         golden vectors through TensorRT plans               lame_runtime.parity.on_device
    fall back     ONNX Runtime, if plans that were selected automatically fail

`load` runs the five steps; `Encoder.load` is its public form.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lame_runtime.backends import onnxruntime as onnx_backend
from lame_runtime.backends.base import Backend
from lame_runtime.backends.select import Selection, select, select_onnxruntime
from lame_runtime.backends.tensorrt.backend import TrtBackend, TrtOptions
from lame_runtime.backends.tensorrt.plans import Build
from lame_runtime.batching import MAX_TOKENS
from lame_runtime.bundle.bundle import Bundle
from lame_runtime.bundle.members import open_member
from lame_runtime.contract.preparer import Preparer
from lame_runtime.contract.rules import Contract
from lame_runtime.contract.tokens import TextTokenizer
from lame_runtime.errors import BackendError, shown
from lame_runtime.machine.graph_memory import most_tokens, room_on_cpu, weight_bytes
from lame_runtime.options import LoadOptions
from lame_runtime.parity.embeds import Embeds
from lame_runtime.parity.on_device import require_proof

logger = logging.getLogger(__name__)

EncoderT = TypeVar("EncoderT", bound=Embeds)


def load(folder: Path, options: LoadOptions, make: Callable[..., EncoderT]) -> EncoderT:
    """Loads a bundle.

    Args:
        folder: the bundle.
        options: the backend, the graph and other options.
        make: `Encoder` or a subclass, called with preparer, backend and graph, and the keywords
            `reason`, `bundle` and `build`. It is an argument because importing `Encoder` here would
            be circular.

    Raises:
        BundleError: the bundle is damaged, incomplete or of another format.
        BackendError: the backend is not installed or not available, or its plans cannot be used.
        UsageError: the bundle has no such graph, or the options contradict each other.
    """
    # a damaged bundle is detected before any large file is read
    bundle, preparer = open_bundle(folder)
    selection = select(bundle, options)
    try:
        encoder = _run(selection, bundle, preparer, options, make)
    except BackendError as error:
        # explicitly selected plans never fall back, nor does a damaged bundle
        if not selection.optional:
            raise
        selection = fall_back(bundle, options, error)
        encoder = _run(selection, bundle, preparer, options, make)
    logger.info("loaded %s: %s", shown(folder), selection.reason)
    return encoder


def open_bundle(folder: Path) -> tuple[Bundle, Preparer]:
    """Opens a bundle and reads its contract and tokenizer, after checking their hashes.

    Raises:
        BundleError: a file is damaged or cannot be used.
    """
    bundle = Bundle.open(folder)
    contract_path, tokenizer_path = folder / "contract.json", folder / "tokenizer.json"
    # from the bytes that were hashed, because a file may change between two readings
    contract = Contract.from_json(bundle.read("contract.json"), str(contract_path))
    tokenizer = TextTokenizer(tokenizer_path, content=bundle.read("tokenizer.json"))
    preparer = Preparer(contract, tokenizer)
    bundle.check_contract(preparer)
    return bundle, preparer


def deserialize(
    bundle: Bundle, selection: Selection, options: LoadOptions, contract: Contract
) -> Backend:
    """Opens the graphs or plans of a selection, and checks hashes unless that is turned off.

    Raises:
        BackendError: the graphs or plans cannot be loaded on this device.
        BundleError: a file of the graph is missing or differs from the exported one.
    """
    if selection.build is not None:
        return open_plans(bundle, selection.build, selection.module, options)
    # hashed as they are opened, because a path may lead to another file a moment later
    hashes = {
        bundle.folder / name: bundle.manifest.files[name] if options.check_hashes else None
        for name in bundle.graph_files(selection.graph)
    }
    for name in bundle.graph_files(selection.graph):
        # refuses a link that leads out of the bundle; what it leads to is hashed all the same
        open_member(bundle.folder, name).close()
    parts = bundle.manifest.graphs[selection.graph]
    return onnx_backend.OrtBackend(
        bundle.folder / parts.vision,
        bundle.folder / parts.encoder,
        selection.provider,
        options.threads,
        map_weights=options.map_weights,
        listed=hashes,
        contract=contract,
    )


def open_plans(bundle: Bundle, build: Build, module: Any, options: LoadOptions) -> Backend:
    """Opens the two plans of a build; selecting the build has already checked its signature.

    Args:
        bundle: the bundle, which holds the weights of weight-stripped plans.
        build: the plans.
        module: TensorRT's Python module.
        options: GPU, workers and CUDA graphs.

    Raises:
        BackendError: the plans cannot be loaded on this GPU.
    """
    weights: tuple[Path, Path] | None = None
    # weights are then read from the ONNX files that the plans were built from
    if "weight-stripped" in build.facts.flags:
        weights = bundle.graph_paths(build.facts.built_graph, check_hashes=options.check_hashes)
    files = build.facts.files
    backend = TrtBackend(
        build.folder / "vision.plan",
        build.folder / "encoder.plan",
        TrtOptions(
            weights=weights,
            hashes=(files["vision.plan"], files["encoder.plan"]),
            workers=options.workers,
            cuda_graphs=options.cuda_graphs,
            host_code="version-compatible" in build.facts.flags,
            device=options.gpu,
        ),
        module=module,
    )
    if build.facts.fallback:
        # the name must show that these plans are more precise than the exported graph
        backend.name += f" ({build.facts.fallback})"
    return backend


def fall_back(bundle: Bundle, options: LoadOptions, error: BackendError) -> Selection:
    """Selects ONNX Runtime after automatically selected plans could not be used."""
    logger.warning("TensorRT plans of %s are not used: %s", shown(bundle.folder), error)
    selection = select_onnxruntime(bundle, options)
    unused = f"TensorRT plans are there but not used: {error}"
    return replace(selection, reason=f"{selection.reason}; {unused}")


def _run(
    selection: Selection,
    bundle: Bundle,
    preparer: Preparer,
    options: LoadOptions,
    make: Callable[..., EncoderT],
) -> EncoderT:
    """Deserializes a selection and proves its plans; releases them on failure."""
    max_tokens = _plan_memory(selection, bundle, options)
    backend = deserialize(bundle, selection, options, preparer.contract)
    reason = selection.reason
    if not options.check_hashes:
        reason += "; hashes not checked (check_hashes=False)"
    # the proof needs an encoder, but an encoder is immutable and its `reason` includes the proof
    complete = partial(
        make,
        preparer,
        backend,
        selection.graph,
        bundle=bundle,
        build=selection.build,
        max_tokens=max_tokens,
    )
    if selection.build is None or not options.prove_plans:
        return complete(reason=reason)
    try:
        proof = require_proof(complete(reason=reason), bundle, selection.build)
    except BaseException:
        # also ctrl-C during a proof must release the GPU's memory
        backend.close()
        raise
    return complete(reason=f"{reason}; {proof}")


def _plan_memory(selection: Selection, bundle: Bundle, options: LoadOptions) -> int:
    """Returns the tokens of a batch that fit beside the graph; a GPU has memory of its own.

    Raises:
        BackendError: the graph does not fit.
        UsageError, BundleError: the bundle has no such graph, or not its files.
    """
    if selection.provider != "CPUExecutionProvider":
        return MAX_TOKENS
    bundle.graph_files(selection.graph)  # a graph that the bundle does not have is named
    # mapped weights are pages of files, which the system drops when it needs memory
    weights = [] if options.map_weights else _part_sizes(bundle, selection.graph)
    others = {
        graph: sum(_part_sizes(bundle, graph))
        for graph in bundle.graphs
        if graph != selection.graph
    }
    room = room_on_cpu(selection.graph, weights, options.memory, others)
    return most_tokens(room, bundle.manifest.model.widths.get("encoder"))


def _part_sizes(bundle: Bundle, graph: str) -> list[int]:
    """Returns the bytes of the weights of both parts; 0 for one without a data file."""
    parts = bundle.manifest.graphs[graph]
    return [weight_bytes(bundle.folder / name) for name in (parts.vision, parts.encoder)]
