"""Starts infinity-emb on a Sentence Transformers folder, with PyTorch in FP32.

Run by `serving_bench.py`; needs infinity-emb and what its server needs.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "embedders"))


def arguments(folder: str, port: str) -> list[str]:
    """Returns the arguments of infinity's command line."""
    model = ["--model-id", folder, "--served-model-name", "bundle", "--url-prefix", "/v1"]
    engine = ["--engine", "torch", "--device", "cpu", "--dtype", "float32"]
    # the first two are for GPUs and other families; the last takes minutes here, and the load
    # warms up as well
    switches = ["--no-compile", "--no-bettertransformer", "--no-model-warmup"]
    return ["infinity_emb", "v2", *model, *engine, *switches, "--port", port]


if __name__ == "__main__":
    from bench_models import import_torch

    # before anything that imports transformers
    import_torch()
    from infinity_emb.cli import cli

    # the package has a function of the same name
    selection = importlib.import_module("infinity_emb.inference.select_model")
    # it takes every folder whose config.json has a `vision_config` for a CLIP model, and ends
    selection.get_engine_type_from_config = lambda _: selection.EmbedderEngine.torch
    from transformers import PreTrainedTokenizerBase

    # transformers 5 has no such method any more
    PreTrainedTokenizerBase.batch_encode_plus = PreTrainedTokenizerBase.__call__

    sys.argv = arguments(sys.argv[1], sys.argv[2])
    cli()
