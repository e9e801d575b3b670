"""Embeds the pages of a PDF, and a video.

    python examples/embed_documents.py                  # makes a PDF of two pages to try it with
    python examples/embed_documents.py report.pdf

Needs lame-runtime[onnxruntime,pdf]. Run it from the repository's root. Video *files* need
lame-runtime[video]; frames, as here, need nothing.
"""

import sys
import tempfile
from pathlib import Path

from lame_runtime import Encoder
from lame_runtime.contract.media.pages import page_names
from PIL import Image

folder = tempfile.TemporaryDirectory()
if len(sys.argv) > 1:
    path = sys.argv[1]
else:
    path = str(Path(folder.name, "sums.pdf"))
    first, second = (Image.open(f"examples/pictures/{name}.png") for name in ("52", "88"))
    first.save(path, save_all=True, append_images=[second])

with Encoder.load("examples/tiny-bundle") as encoder:
    # a PDF is one input per page: report.pdf#page=1, report.pdf#page=2, …
    pages = [{"image": page} for page in page_names(path)]
    vectors = encoder.encode_document(pages, max_pixels=28 * 28 * 4)
    print(len(pages), "pages:", vectors.shape)

    frames = [Image.open(f"examples/pictures/{name}.png") for name in ("16", "34", "52", "61")]
    clip = encoder.encode_document({"video": frames, "fps": 2, "text": "sums of seven"})
    print("a video of", len(frames), "frames:", clip.shape)
folder.cleanup()
