"""Folders with a Router: one model for queries and documents, or refused in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folder_edits import MODULES, OPTIONS, Edit, both, copied, fields, gone, read, refused, write
from lame_export.passes.proof.prove_published import published_rows
from lame_runtime.bundle.golden import Golden, GoldenInput
from lame_runtime.contract.prompts import Input
from lame_runtime.errors import BundleError
from lame_runtime.inputs import as_input
from lame_training.model.torch_backend import load_encoder
from lame_training.published.import_embedder import ImportLimits, import_embedder
from lame_training.published.sentence_transformers import read_sentence_transformers
from published_folders import WIDTH, load_published, mixed_inputs

ROUTER = "router_config.json"
LEAST_COSINE = 0.99999
PROMPTS = {"query": "Find it.", "document": " A passage: "}
CHAT = {"chat_template": {"add_generation_prompt": True}}
LIMITS = ImportLimits(max_length=1024)


def saved(modules: list[Any], folder: Path) -> Path:
    """Saves modules with Sentence Transformers; returns the folder."""
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(modules=modules, prompts=PROMPTS, device="cpu").save(str(folder))
    return folder


def write_routed(layout: str, backbone: Path, folder: Path) -> Path:
    """Writes a folder whose routes are one model, or differ in a dense layer."""
    from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    torch.manual_seed(3)
    model = Transformer(str(backbone), processing_kwargs=CHAT)
    pooling, normalize = Pooling(WIDTH, "mean"), Normalize()
    first, second = (
        Dense(WIDTH, 24, bias=False, activation_function=torch.nn.Tanh()) for _ in range(2)
    )
    join = Router.for_query_document
    layouts: dict[str, Callable[[], list[Any]]] = {
        "all shared": lambda: [join(*[[model, pooling, first, normalize]] * 2)],
        "poolings of their own": lambda: [
            join([model, pooling], [model, Pooling(WIDTH, "mean")], None, allow_empty_key=False),
            normalize,
        ],
        "copies of the backbone": lambda: [
            join([model], [Transformer(str(backbone), processing_kwargs=CHAT)]),
            pooling,
            normalize,
        ],
        "last": lambda: [model, pooling, join([first], [first]), normalize],
        "other layers": lambda: [join([model, pooling, first], [model, pooling, second])],
        "other layers, last": lambda: [model, pooling, join([first], [second]), normalize],
        "one layer more": lambda: [join([model, pooling, first], [model, pooling]), normalize],
    }
    return saved(layouts[layout](), folder)


def cosines(first: Any, second: Any) -> Any:
    """Returns the cosine of each row of two arrays, in FP64."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(1) / lengths


ALIKE = {
    "all shared": "qwen2_vl",
    "poolings of their own": "qwen3_vl",
    "copies of the backbone": "qwen2_5_vl",
    "last": "qwen3_vl",
}


@pytest.mark.parametrize("layout", ALIKE)
def test_routes_of_one_model_give_its_vectors(
    layout: str, published_backbone: Callable[..., Path], tmp_path: Path
) -> None:
    """Ids and vectors are those of both routes. Control: those of the other route are not."""
    folder = write_routed(layout, published_backbone(ALIKE[layout]), tmp_path / "folder")
    import_embedder(folder, tmp_path / "checkpoint", LIMITS)
    theirs, pairs = load_published(folder), mixed_inputs()[::5]
    texts = [pair for pair in pairs if isinstance(pair[0], str)]
    assert 0 < len(texts) < len(pairs)
    with load_encoder(tmp_path / "checkpoint") as encoder:
        for role, prompt in PROMPTS.items():
            for item, own in pairs:
                ids = theirs.preprocess([item], prompt=prompt, task=role)["input_ids"][0]
                assert encoder.preparer(as_input(own), role).ids.tolist() == ids.tolist()
        # a Router takes a dict of two modalities in a mixed batch only
        for some in (texts, pairs):
            inputs, ours = ([pair[side] for pair in some] for side in (0, 1))
            queries = theirs.encode_query(inputs, batch_size=len(inputs))
            documents = theirs.encode_document(inputs, batch_size=len(inputs))
            assert cosines(encoder.encode_query(ours), queries).min() >= LEAST_COSINE
            assert cosines(encoder.encode_document(ours), documents).min() >= LEAST_COSINE
            assert cosines(encoder.encode_query(ours), documents).max() < LEAST_COSINE


@pytest.mark.parametrize("layout", ["other layers", "other layers, last"])
def test_the_remedy_for_routes_that_differ(
    layout: str, published_backbone: Callable[..., Path], tmp_path: Path
) -> None:
    """The message saves a folder that gives the vectors of a route, and not of the other."""
    from sentence_transformers import SentenceTransformer

    folder = write_routed(layout, published_backbone("qwen3_vl"), tmp_path / "folder")
    refused(folder, "its routes differ in query_._Dense and document_._Dense; a bundle has one")
    with pytest.raises(BundleError) as caught:
        read_sentence_transformers(folder)
    (code,) = re.findall(r"SentenceTransformer\(.*\)$", str(caught.value))
    names = {"SentenceTransformer": SentenceTransformer, "model": load_published(folder)}
    eval(code, {**names, "list": list}).save(str(tmp_path / "one"))
    import_embedder(tmp_path / "one", tmp_path / "checkpoint", LIMITS)
    theirs, texts = load_published(folder), ["a red bicycle", "x"]
    with load_encoder(tmp_path / "checkpoint") as encoder:
        vectors = encoder.encode(texts, prompt="Find it.")
    for role, is_same in (("query", True), ("document", False)):
        expected = theirs.encode(texts, prompt="Find it.", task=role)
        assert (cosines(vectors, expected).min() >= LEAST_COSINE) == is_same


def test_routes_of_other_lengths_are_refused(
    published_backbone: Callable[..., Path], tmp_path: Path
) -> None:
    """The message says how many modules there are."""
    folder = write_routed("one layer more", published_backbone("qwen3_vl"), tmp_path / "folder")
    refused(folder, "its route query has 3 modules, document has 2; a bundle has one model")


@pytest.fixture(scope="module")
def routed(
    published_backbone: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Returns a good folder with a Router without a default; tests change copies of it."""
    folder = tmp_path_factory.mktemp("routed") / "folder"
    return write_routed("poolings of their own", published_backbone("qwen3_vl"), folder)


def test_the_certificate_compares_with_a_router(routed: Path, tmp_path: Path) -> None:
    """Also with a prompt, where the Router has no default. Control: another pooling."""
    other = copied(routed, tmp_path / "other")
    for route in ("query", "document"):
        fields(f"{route}_1_Pooling/config.json", pooling_mode="lasttoken")(other)
    content = ("a red bicycle",)
    entries = [
        GoldenInput(Input(content=content, instruction=prompt), role, "text", [], "", "")
        for prompt, role in ((None, "query"), ("Which?", "document"))
    ]
    golden = Golden(entries, np.zeros((2, WIDTH), np.float32))
    import_embedder(routed, tmp_path / "checkpoint", LIMITS)
    with load_encoder(tmp_path / "checkpoint") as encoder:
        for folder, is_same in ((routed, True), (other, False)):
            (row,) = published_rows(folder, encoder, "fp32-cpu", golden)
            assert row.passed is is_same


def routes(**names: Any) -> Edit:
    """Returns the edit that replaces the routes."""
    return fields(ROUTER, structure=names)


def parameter(**values: Any) -> Edit:
    """Returns the edit that sets parameters of the Router."""
    return lambda folder: fields(
        ROUTER, parameters={**read(folder, ROUTER)["parameters"], **values}
    )(folder)


def typed(kind: Any) -> Edit:
    """Returns the edit that gives the pooling of documents another class."""
    return lambda folder: fields(
        ROUTER, types={**read(folder, ROUTER)["types"], "document_1_Pooling": kind}
    )(folder)


def by_features(folder: Path) -> None:
    """Lets pictures take another method of the backbone than messages do."""
    name = f"query_0_Transformer/{OPTIONS}"
    modalities = read(folder, name)["modality_config"]
    modalities["image"] = {"method": "get_image_features", "method_output_name": None}
    fields(name, modality_config=modalities)(folder)


BACKBONE, POOLING = "query_0_Transformer", "query_1_Pooling"
FAULTS: dict[str, tuple[Edit, str]] = {
    "modalities": (
        parameter(route_mappings={"(None, 'image')": "query"}),
        r"router_config\.json: route_mappings is .*image.*; routes by modality, .*not supported",
    ),
    "routes of modalities": (
        both(parameter(default_route=None), routes(text=[BACKBONE], image=[BACKBONE])),
        "its routes are text, image; supported are query and document, if both",
    ),
    "one route": (routes(query=[BACKBONE, POOLING]), "its routes are query; supported are"),
    "no route": (routes(), "its routes are none; supported are"),
    "default of no route": (parameter(default_route="text"), "default_route is 'text', which is n"),
    "default in a list": (parameter(default_route=["query"]), r"default_route is \['query'\], wh"),
    "unknown parameter": (parameter(task="x"), "parameters sets task, which is not supported"),
    "custom code": (typed("custom_st.Pooling"), "'custom_st.Pooling' is custom code"),
    "type is null": (typed(None), "type of a module is None, not the name of a class"),
    "other class": (typed("sentence_transformers.models.Dense"), "its routes differ in query_1_P"),
    "other setting": (
        fields(f"{POOLING}/config.json", pooling_mode="lasttoken"),
        "its routes differ in query_1_Pooling and document_1_Pooling; a bundle has one model",
    ),
    "other files": (
        lambda folder: write(folder, f"{POOLING}/more.json", {}),
        "its routes differ in query_1_Pooling and document_1_Pooling",
    ),
    "unknown module": (
        routes(query=[BACKBONE, "x"], document=[BACKBONE, "x"]),
        r"a route is .*'x'.*; expected names of types",
    ),
    "route is a text": (routes(query="x", document="x"), "a route is 'x'; expected names"),
    "wrong order": (
        routes(query=[POOLING, BACKBONE], document=[POOLING, BACKBONE]),
        r"modules\.json: its modules are Pooling, Transformer, Normalize; supported",
    ),
    "path leads out": (
        both(
            fields(ROUTER, types={"../x": "sentence_transformers.models.Transformer"}),
            routes(query=["../x"], document=["../x"]),
        ),
        r"router_config\.json: names the folder '\.\./x'",
    ),
    "no structure": (fields(ROUTER, structure=None), "structure is None, not an object; copy"),
    "types in a list": (fields(ROUTER, types=["x"]), r"types is \['x'\], not an object"),
    "parameters are missing": (fields(ROUTER, parameters=None), "parameters is None, not an obj"),
    "no list of routes": (gone(ROUTER), r"router_config\.json: is missing; copy"),
    "no JSON": (lambda folder: write(folder, ROUTER, "{"), r"router_config\.json: cannot be read"),
    "other method for pictures": (by_features, "has another method for image than 'forward'"),
    "Router in a Router": (
        both(
            fields(ROUTER, types={"x": "sentence_transformers.base.modules.router.Router"}),
            routes(query=["x"], document=["x"]),
        ),
        "its modules are Router, Normalize; supported",
    ),
    "two routers": (
        lambda folder: write(folder, MODULES, [*read(folder, MODULES)[:1] * 2]),
        "its modules are Transformer, Pooling, Transformer, Pooling; supported",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_a_router_is_named_in_one_line(name: str, routed: Path, tmp_path: Path) -> None:
    """Each has one fault."""
    edit, pattern = FAULTS[name]
    folder = copied(routed, tmp_path / "folder")
    edit(folder)
    refused(folder, pattern)
