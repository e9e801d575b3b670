"""Sentence Transformers behind FastAPI, as people write it: one function that calls `encode`.

Run by `serving_bench.py`; needs fastapi beside the project's own packages.
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "embedders"))


def make_app(folder: str) -> Any:
    """Returns the application for a Sentence Transformers folder."""
    from bench_models import import_torch

    # before anything that imports transformers
    import_torch()
    from fastapi import FastAPI
    from PIL import Image
    from pydantic import BaseModel
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu")
    app = FastAPI()

    class Request(BaseModel):
        input: list[str]

    def parsed(item: str) -> Any:
        if not item.startswith("data:"):
            return item
        return Image.open(io.BytesIO(base64.b64decode(item.partition(",")[2]))).convert("RGB")

    # not async, so that FastAPI calls it in a thread
    def embed(request: Request) -> dict[str, Any]:
        vectors = model.encode([parsed(item) for item in request.input])
        rows = [
            {"object": "embedding", "index": index, "embedding": vector.tolist()}
            for index, vector in enumerate(vectors)
        ]
        return {"object": "list", "data": rows}

    # the local class is resolved from the annotation only if it is set as one
    embed.__annotations__["request"] = Request
    app.post("/v1/embeddings")(embed)
    return app


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(make_app(sys.argv[1]), port=int(sys.argv[2]), log_level="warning")
