"""Tests the public names and signatures of the three packages.

A name that becomes public by accident, or a signature that changes, fails here first.
"""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import types

import pytest
from lame_runtime import LameError

SURFACE = {
    "lame_runtime": {
        "BackendError": "error",
        "BundleError": "error",
        "DeviceError": "error",
        "EncodeOptions": (
            "(*, role: 'str | None' = None, instruction: 'str | None' = None, "
            "prompt_name: 'str | None' = None, prompt: 'str | None' = None, "
            "batch_size: 'int' = 32, batch_tokens: 'int | None' = None, "
            "truncate_dim: 'int | None' = None, "
            "normalize_embeddings: 'bool' = True, truncate: 'bool' = False, "
            "max_pixels: 'int | None' = None, max_frames: 'int | None' = None, "
            "fps: 'float | None' = None, max_input_pixels: 'int | None' = None, "
            "precision: 'Precision' = 'float32', sort: 'bool' = True, "
            "workers: 'int | None' = None) -> None"
        ),
        "Encoder": (
            "(preparer: 'Preparer', backend: 'Backend', graph: 'str' = '', reason: 'str' = '', "
            "bundle: 'Bundle | None' = None, build: 'Build | None' = None, "
            "max_tokens: 'int' = 16384) -> None"
        ),
        "ExportError": "error",
        "Input": (
            "(text: 'str' = '', image: 'ImageSource | None' = None, "
            "instruction: 'str | None' = None, video: 'Video | None' = None, "
            "content: 'tuple[Part, ...]' = (), given: 'tuple[Part, ...]' = ()) -> None"
        ),
        "InputError": "error",
        "LameError": "error",
        "LoadOptions": (
            "(*, backend: 'BackendName' = 'auto', graph: 'str | None' = None, "
            "threads: 'int | None' = None, check_hashes: 'bool' = True, "
            "map_weights: 'bool' = False, trust_plans: 'bool' = False, "
            "prove_plans: 'bool' = True, gpu: 'int' = 0, workers: 'int' = 1, "
            "cuda_graphs: 'bool' = False, memory: 'float | None' = None, "
            "engines: 'str | os.PathLike[str] | None' = None) -> None"
        ),
        "Picture": "(source: 'ImageSource') -> None",
        "ProofError": "error",
        "StorageError": "error",
        "TrainingError": "error",
        "UsageError": "error",
        "Video": "(source: 'VideoSource', fps: 'float | None' = None) -> None",
    },
    "lame_training": {
        "Recipe": None,
        "evaluate": (
            "(model: 'FolderLike', suite: 'str', data: 'FolderLike', "
            "**options: 'Unpack[EvaluateKeywords]') -> 'Evaluation'"
        ),
        "find_recipe": "(name: 'str') -> 'Recipe'",
        "load_checkpoint": "(folder: 'FolderLike') -> 'Encoder'",
        "train": (
            "(recipe: 'str | Recipe', data: 'FolderLike | None', output: 'FolderLike', "
            "**options: 'Unpack[TrainKeywords]') -> 'None'"
        ),
    },
    "lame_export": {
        "export": (
            "(checkpoint: 'str | os.PathLike[str]', bundle: 'str | os.PathLike[str]', "
            "data: 'str | os.PathLike[str] | None' = None, "
            "graphs: 'Iterable[str]' = ('fp32', 'fp32-cpu', 'fp16', 'int8', 'int8-cpu'), *, "
            "on_pass: 'OnPass | None' = None, **options: 'Unpack[ExportKeywords]') "
            "-> 'list[Result]'"
        ),
        "verify": (
            "(bundle: 'str | os.PathLike[str]', checkpoint: 'str | os.PathLike[str]', *, "
            "memory: 'float | None' = None, form: 'str | None' = None) -> 'list[Result]'"
        ),
    },
}
"""Signature of every public name, by package; None if the signature is not pinned."""
METHODS = {
    "close": "(self) -> 'None'",
    "dim": "property",
    "encode": (
        "(self, inputs: 'InputLike | Iterable[InputLike]', *, show_progress_bar: 'bool' = False, "
        "**options: 'Unpack[EncodeKeywords]') -> 'npt.NDArray[Any]'"
    ),
    "encode_document": (
        "(self, inputs: 'InputLike | Iterable[InputLike]', *, show_progress_bar: 'bool' = False, "
        "**options: 'Unpack[EncodeKeywords]') -> 'npt.NDArray[Any]'"
    ),
    "encode_query": (
        "(self, inputs: 'InputLike | Iterable[InputLike]', *, show_progress_bar: 'bool' = False, "
        "**options: 'Unpack[EncodeKeywords]') -> 'npt.NDArray[Any]'"
    ),
    "get_embedding_dimension": "(self) -> 'int'",
    "load": ("(bundle: 'str | os.PathLike[str]', **options: 'Unpack[LoadKeywords]') -> 'Self'"),
    "modalities": "property",
    "prompts": "property",
    "finish": (
        "(self, vectors: 'npt.NDArray[np.float32]', options: 'EncodeOptions') -> 'npt.NDArray[Any]'"
    ),
    "similarity": (
        "(self, embeddings1: 'npt.ArrayLike', embeddings2: 'npt.ArrayLike') "
        "-> 'npt.NDArray[np.float32]'"
    ),
    "stream": (
        "(self, inputs: 'InputLike | Iterable[InputLike]', "
        "**options: 'Unpack[EncodeKeywords]') -> 'Iterator[npt.NDArray[Any]]'"
    ),
    "with_backend": "(self, backend: 'Backend') -> 'Self'",
}
"""Signature of every public method of `Encoder`."""


def surface(package: types.ModuleType) -> dict[str, str]:
    """Returns every public name of a package with its signature, without submodules."""
    names = [name for name in dir(package) if not name.startswith("_")]
    members = {name: getattr(package, name) for name in names}
    return {
        name: describe(value)
        for name, value in members.items()
        if not isinstance(value, types.ModuleType)
        # excludes `annotations` and what the module imports for its own use
        and getattr(value, "__module__", "").split(".")[0] in SURFACE
    }


def describe(value: object) -> str:
    """Returns the signature of a value, or "error" for an error class."""
    if isinstance(value, type) and issubclass(value, LameError):
        return "error"
    return str(inspect.signature(value))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SURFACE)
def test_the_public_surface_is_what_it_was(name: str) -> None:
    """Names and signatures are the expected ones, and `__all__` lists exactly the names."""
    package = importlib.import_module(name)
    expected = SURFACE[name]
    actual = surface(package)
    assert sorted(actual) == sorted(expected) == sorted(package.__all__)
    assert {key: actual[key] for key, value in expected.items() if value} == {
        key: value for key, value in expected.items() if value
    }
    assert all(inspect.getdoc(getattr(package, key)) for key in expected)


def test_the_methods_of_the_encoder_are_what_they_were() -> None:
    """The public methods and properties of `Encoder` have the expected signatures."""
    from lame_runtime import Encoder

    fields = set(Encoder.__dataclass_fields__)
    names = [name for name in vars(Encoder) if not name.startswith("_") and name not in fields]
    actual = {
        name: "property"
        if isinstance(vars(Encoder)[name], property)
        else str(inspect.signature(getattr(Encoder, name)))
        for name in names
    }
    assert actual == METHODS
    assert all(inspect.getdoc(getattr(Encoder, name)) for name in names)


@pytest.mark.parametrize(
    ("options", "keywords"),
    [("EncodeOptions", "EncodeKeywords"), ("LoadOptions", "LoadKeywords")],
)
def test_what_an_editor_completes_is_what_is_accepted(options: str, keywords: str) -> None:
    """The dataclass and the `TypedDict` have the same fields with the same types."""
    module = importlib.import_module("lame_runtime.options")
    dataclass, typed_dict = getattr(module, options), getattr(module, keywords)
    assert dataclass.__annotations__ == {
        name: hint.__forward_arg__ for name, hint in typed_dict.__annotations__.items()
    }
    documented = inspect.getdoc(dataclass) or ""
    assert all(f"    {name}: " in documented for name in dataclass.__annotations__)


def test_every_error_a_user_can_meet_is_in_one_tree() -> None:
    """Every error class of the three packages is defined in `errors`, public and documented."""
    code = (
        "import importlib, pkgutil\n"
        "for name in ('lame_runtime', 'lame_training', 'lame_export'):\n"
        "    package = importlib.import_module(name)\n"
        "    for module in pkgutil.walk_packages(package.__path__, name + '.'):\n"
        "        if '__main__' not in module.name: importlib.import_module(module.name)\n"
        "from lame_runtime.errors import LameError\n"
        "def tree(kind): return {kind} | {k for c in kind.__subclasses__() for k in tree(c)}\n"
        "print(*sorted(f'{k.__module__}.{k.__name__}' for k in tree(LameError)))"
    )
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    classes = process.stdout.split()
    errors = importlib.import_module("lame_runtime.errors")
    assert all(name.startswith("lame_runtime.errors.") for name in classes)
    names = {name.rsplit(".", 1)[1] for name in classes}
    assert names == {name for name, kind in SURFACE["lame_runtime"].items() if kind == "error"}
    assert all(name in (errors.__doc__ or "") for name in names)


def test_a_name_that_does_not_exist_is_named() -> None:
    """A missing name raises the usual `AttributeError`, although names are imported lazily."""
    for name in SURFACE:
        with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'Encodr'"):
            _ = importlib.import_module(name).Encodr
