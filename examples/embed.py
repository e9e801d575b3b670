"""Embeds texts, pictures and pictures with texts, and saves the vectors.

    python examples/embed.py

Needs lame-runtime[onnxruntime]. Run it from the repository's root.
"""

from pathlib import Path

import numpy as np
from lame_runtime import Encoder
from PIL import Image

inputs = [
    # a plain string is a text; a path or a PIL picture is a picture
    "seven",
    Path("examples/pictures/7.png"),
    Image.open("examples/pictures/34.png"),
    # text and picture together give one vector, not two
    {"image": "examples/pictures/34.png", "text": "What do the digits add up to?"},
]

with Encoder.load("examples/tiny-bundle") as encoder:
    print(encoder.reason)
    vectors = encoder.encode(inputs, batch_size=2)
    # rows are unit vectors, in the order of the inputs
    print(vectors.shape, vectors.dtype, np.linalg.norm(vectors, axis=1).round(3))
    print(encoder.similarity(vectors, vectors).round(2))
    # 64 bits a vector instead of 64 floats
    print(encoder.encode(inputs, precision="ubinary").shape)

np.save("vectors.npy", vectors)
print("wrote vectors.npy")
