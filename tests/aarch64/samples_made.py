"""Makes what is checked: a bundle with all graphs, and one input of each kind."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image

GRAPHS = ("fp32", "fp32-cpu", "fp16", "int8", "int8-cpu", "w8-cpu", "w4-cpu")
"""All graphs that ONNX Runtime's CPU provider runs."""
GOLDEN = 8
"""Golden inputs of each modality; QEMU needs about a second for each input and graph."""


def make_bundle(folder: Path) -> Path:
    """Returns a bundle with all graphs, trained and exported anew by the code that is here."""
    data, checkpoint, bundle = (folder / name for name in ("data", "checkpoint", "bundle"))
    for path in (data, checkpoint, bundle):
        shutil.rmtree(path, ignore_errors=True)
    train = [sys.executable, "-m", "lame_training"]
    export = [sys.executable, "-m", "lame_export", "bundle", checkpoint, bundle]
    for command in (
        [*train, "digits", data, "--tiny"],
        [*train, "run", "digits-tiny", "--data", data, "--output", checkpoint],
        [*export, "--data", data, "--golden", GOLDEN, "--graphs", *GRAPHS],
    ):
        words = [str(word) for word in command]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(words[2:4])}: {done.stderr.strip()[-1500:]}")
    return bundle


def make_inputs(folder: Path) -> list[Path]:
    """Returns files that every decoder of the runtime reads: pictures, videos and a page."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in ("a.png", "a.jpg", "a.webp", "a.pdf", "a.mp4", "b.webm")]
    for index, file in enumerate(files[:4]):
        Image.fromarray(picture(index)).save(file)
    write_video(files[4], "libx264")
    write_video(files[5], "libvpx-vp9")
    return files


def picture(phase: int) -> np.ndarray:
    """Returns a colored picture with gradients, waves and noise, uint8 (90, 122, 3)."""
    y, x = np.mgrid[0:90, 0:122]
    waves = 128 + 100 * np.sin(x / 7 + y / 5 + phase)
    channels = np.stack([(2 * x + 5 * phase) % 256, (3 * y + x) % 256, waves], axis=-1)
    noise = np.random.default_rng(phase).normal(0, 20, channels.shape)
    return np.clip(channels + noise, 0, 255).astype(np.uint8)


def write_video(file: Path, codec: str) -> None:
    """Writes two seconds of `picture` in motion, with halved chroma as cameras store it."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 122, 90, "yuv420p"
        for phase in range(20):
            frame = av.VideoFrame.from_ndarray(picture(phase), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
