"""Calls of the public functions with odd values."""

from __future__ import annotations

from random import Random

import numpy as np
from lame_runtime import Encoder

from fuzz.case import Case
from fuzz.guard.worker import Room
from fuzz.kinds import values
from fuzz.kinds.base import TINY_BUNDLE
from fuzz.kinds.embedding import Embedding
from fuzz.kinds.inputs import write_files
from fuzz.outcome import WrongError

_ENCODE = (
    "role", "instruction", "prompt_name", "prompt", "batch_size", "truncate_dim",
    "normalize_embeddings", "truncate", "max_pixels", "max_frames", "fps", "max_input_pixels",
    "precision", "sort", "workers",
)  # fmt: skip
_LOAD = (
    "backend", "graph", "threads", "check_hashes", "map_weights", "trust_plans", "prove_plans",
    "gpu", "workers", "cuda_graphs", "engines",
)  # fmt: skip
_USUAL = ("4", "np.int64(4)", "np.float32(4)", "Fraction(4)", "True", "False", "None", "64")
_WORDS = (
    "'query'",
    "'document'",
    "'fp32'",
    "'onnxruntime'",
    "'auto'",
    "'int8'",
    "'ubinary'",
    "'tensorrt'",
    "''",
)
_INPUTS = ("'a'", "['a', {'image': PNG}]", "{'video': MP4}", "[]", "iter(['a', 'b'])")


class Arguments(Embedding):
    """Evaluates a call; a case holds it as an expression."""

    name = "arguments"
    share = 1.5
    slice_cases = 750

    def generate(self, random: Random) -> Case:
        """Returns a case."""
        call = random.choice(
            ("encode", "encode", "encode", "load", "similarity", "budget", "options", "quantize")
        )
        if call == "encode":
            method = random.choice(("encode", "encode_query", "encode_document", "stream"))
            return {
                "call": f"encoder.{method}({random.choice(_INPUTS)}, {_keywords(random, _ENCODE)})"
            }
        if call == "load":
            bundle = "BUNDLE" if random.random() < 0.8 else _value(random)
            return {"call": f"Encoder.load({bundle}, {_keywords(random, _LOAD)})"}
        if call == "options":
            name, keys = random.choice((("EncodeOptions", _ENCODE), ("LoadOptions", _LOAD)))
            return {"call": f"{name}({_keywords(random, keys)})"}
        if call == "budget":
            budget = ", ".join(_value(random) for _ in range(4))
            return {"call": f"encoder.preparer.with_budget({budget})"}
        if call == "quantize":
            options = f"precision={_value(random)}, truncate_dim={_value(random)}"
            return {"call": f"encoder.encode('a', {options})"}
        return {"call": f"encoder.similarity({_array(random)}, {_array(random)})"}

    def open(self, room: Room) -> None:
        """Prepares the names that expressions use."""
        super().open(room)
        self._names = {**values.namespace(), "encoder": self.encoder, "BUNDLE": str(TINY_BUNDLE)}

    def prepare(self, case: Case) -> None:
        """Writes the files that expressions name."""
        write_files(self._names)

    def run(self, case: Case) -> None:
        """Evaluates the call and checks that arrays are finite."""
        result = eval(case["call"], dict(self._names))
        if hasattr(result, "__next__"):
            result = np.stack(list(result)) if "[]" not in case["call"] else None
        if isinstance(result, Encoder) and result is not self.encoder:
            vectors = result.encode("a")
            result.close()
            result = vectors
        if isinstance(result, np.ndarray) and not np.isfinite(result).all():
            raise WrongError("not finite")


def _keywords(random: Random, names: tuple[str, ...]) -> str:
    chosen = random.sample(names, random.choice((1, 1, 1, 1, 2)))
    return ", ".join(f"{name}={_value(random)}" for name in chosen)


def _value(random: Random) -> str:
    choice = random.random()
    if choice < 0.15:
        return random.choice(_USUAL)
    if choice < 0.6:
        return random.choice(values.NUMBERS)
    if choice < 0.8:
        return random.choice(_WORDS)
    if choice < 0.9:
        return random.choice(values.OBJECTS)
    return repr(values.text(random))


def _array(random: Random) -> str:
    arrays = (
        "encoder.encode('a')", "encoder.encode('a')[0]", "np.zeros((2, 64))",
        "np.ones((2, 64), np.int8)", "[[1, 2], [3]]", "np.full((1, 64), np.nan)",
        "np.ones((1, 64)) * 1e300", "np.ones((2, 2, 64))", "np.zeros((0, 64))", "'abc'",
        "np.ones((1, 64), complex)", "np.array(['a'] * 64)", "np.ones((1, 64), bool)",
        "np.array([None] * 64)",
    )  # fmt: skip
    return random.choice(arrays) if random.random() < 0.8 else _value(random)
