"""Each family's contract against transformers' processor and positions, on generated inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lame_runtime.contract import Contract, Preparer
from lame_runtime.contract.media.images import open_image
from lame_runtime.contract.media.video import sample_indices
from lame_runtime.contract.prompts import Input, Picture, Video
from lame_runtime.contract.tokens import TextTokenizer
from lame_training.contract_from.backbone import derive_contract
from lame_training.contract_from.budget import Budget
from oracle import FOLDER, Oracle
from PIL import Image

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
CASES = 110
"""Generated inputs per family, so more than 300 in all."""
needs_torchvision = pytest.mark.skipif(
    not FOLDER.is_dir(), reason=f"torchvision is not in {FOLDER}; `make test` puts it there"
)
GRAY = 2.01 / 255
"""Tolerance for videos: torchvision's resize differs from Pillow's by at most two gray levels."""

SCRIPTS = [
    "seven",
    "七加八等于多少？",
    "مرحبا بالعالم",
    "🙂👩‍👩‍👧",
    "e\u0301 or é",
    "two  spaces",
    "line\nbreak",
    "ﬁﬂ",
    "<0.5 seconds>",
    "12 + 34 = 46",
]
texts = st.one_of(
    st.sampled_from(SCRIPTS),
    st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="<|"), min_size=1, max_size=40
    ),
)
sides = st.one_of(st.integers(1, 300), st.sampled_from([1, 2, 27, 28, 32, 900, 1500]))


@st.composite
def pictures(draw: st.DrawFn) -> Image.Image:
    """Draws pictures from one pixel to panoramas, in RGB, gray, with alpha, or turned by EXIF."""
    width, height = draw(sides), draw(sides)
    width, height = min(width, 190 * height), min(height, 190 * width)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    image = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8)).convert(
        draw(st.sampled_from(["RGB", "L", "RGBA", "P"]))
    )
    if image.mode == "RGB" and draw(st.booleans()):
        image.getexif()[0x0112] = draw(st.integers(1, 8))
    return image


@st.composite
def clips(draw: st.DrawFn) -> tuple[list[Image.Image], float]:
    """Draws clips of one to seven frames, odd counts included, with a rate."""
    width, height = draw(st.integers(20, 160)), draw(st.integers(20, 160))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    frames = [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for _ in range(draw(st.integers(1, 7)))
    ]
    return frames, draw(st.sampled_from([0.5, 1.0, 2.0, 3.0, 23.976, 25.0, 30.0]))


contents = st.lists(st.one_of(texts, pictures(), clips()), min_size=1, max_size=4)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def contract(family: str, backbones: dict[str, Path]) -> Contract:
    return derive_contract(
        backbones[family], Budget(4096, 28 * 28 * 60, 8), 8, 64, {"query": "", "document": ""}
    )


@pytest.fixture(scope="module")
def preparer(family: str, backbones: dict[str, Path], contract: Contract) -> Preparer:
    return Preparer(contract, TextTokenizer(backbones[family] / "tokenizer.json"))


@pytest.fixture(scope="module")
def oracle(family: str, backbones: dict[str, Path], contract: Contract) -> Oracle:
    return Oracle(family, backbones[family], contract)


def both_forms(content: list[Any], contract: Contract) -> tuple[list[Any], list[dict[str, Any]]]:
    """Returns the content as parts of an `Input`, and as transformers' processors take it."""
    parts: list[Any] = []
    messages: list[dict[str, Any]] = []
    for part in content:
        if isinstance(part, str):
            if part.strip():
                parts.append(part)
                messages.append({"type": "text", "text": part})
        elif isinstance(part, Image.Image):
            parts.append(Picture(part))
            messages.append({"type": "image", "image": open_image(part, contract.images)})
        else:
            frames, fps = part
            if len(frames) == 1 and contract.videos.timestamps:
                frames = frames * 2  # Qwen3-VL's processor refuses a lone frame; ours repeats it
            parts.append(Video(tuple(frames), fps))
            messages.append({"type": "video", "video": frames, "fps": fps})
    return parts, messages


def differences(content: list[Any], preparer: Preparer, oracle: Oracle) -> list[str]:
    """Returns the names of what differs between the contract and transformers."""
    contract = preparer.contract
    parts, messages = both_forms(content, contract)
    if not parts:
        return []
    ours, expected = preparer(Input(content=tuple(parts))), oracle(messages, 9)
    differing = []
    if ours.ids[:-9].tolist() != expected["ids"]:
        differing.append("ids")
    if not np.array_equal(ours.positions, expected["positions"]):
        differing.append("positions")
    for kind in ("image", "video"):
        visuals = [visual for visual in ours.visuals if visual.is_video == (kind == "video")]
        grids = expected["grids"].get(f"{kind}_grid_thw", [])
        if [list(visual.grid) for visual in visuals] != grids:
            differing.append(f"{kind} grids")
        elif visuals:
            patches = [visual.pixel_patches(contract) for visual in visuals]
            differing += patch_differences(kind, patches, expected[f"{kind}_patches"], contract)
    return differing


def patch_differences(
    kind: str, patches: list[Any], expected: Any, contract: Contract
) -> list[str]:
    """Compares patches: pictures exactly, videos in gray levels."""
    ours = np.concatenate([array.reshape(-1, contract.images.patch_dim) for array in patches])
    if kind == "image":
        return [] if np.array_equal(ours, expected) else ["image patches"]
    by_channel = np.abs(ours - expected).reshape(len(ours), 3, -1).max(axis=(0, 2))
    gray = (by_channel * contract.videos.std).max()
    return [f"video patches by {gray * 255:.2f} gray levels"] if gray > GRAY else []


@needs_torchvision
@settings(
    max_examples=CASES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(content=contents)
def test_the_contract_is_the_familys_processor(
    content: list[Any], preparer: Preparer, oracle: Oracle
) -> None:
    """Ids, grids, positions and pictures' patches are equal; videos differ by two gray levels."""
    assert differences(content, preparer, oracle) == []


@needs_torchvision
def test_a_contract_with_another_geometry_would_be_seen(preparer: Preparer, oracle: Oracle) -> None:
    """The control: other pixel budgets, another time step and another layout all differ."""
    from dataclasses import replace

    contract = preparer.contract
    picture = Image.effect_noise((200, 120), 80).convert("RGB")
    content = ["seven", picture, ([picture] * 4, 2.0)]
    for changed in (
        replace(contract, images=replace(contract.images, max_pixels=28 * 28 * 9)),
        replace(contract, images=replace(contract.images, mean=(0.1, 0.2, 0.3))),
        replace(contract, prompt=replace(contract.prompt, image_close="")),
        replace(
            contract, videos=replace(contract.videos, timestamps=not contract.videos.timestamps)
        ),
    ):
        assert differences(content, Preparer(changed, preparer.tokenizer), oracle)


@needs_torchvision
def test_frames_are_sampled_as_the_family_does(
    family: str, contract: Contract, oracle: Oracle
) -> None:
    """The sampled frames agree, from two frames to an hour and from slides to slow motion."""
    from transformers.video_utils import VideoMetadata

    rng = np.random.default_rng(0)
    drawn = [
        (
            int(2 ** rng.uniform(1, 16)),
            float(rng.choice([0.5, 1, 5, 12.5, 23.976, 24, 25, 29.97, 30, 60, 120])),
        )
        for _ in range(600)
    ]
    for total, rate in [*drawn, (230, 30.0), (237, 30.0), (382, 24.0), (397, 25.0)]:
        theirs = oracle.video.sample_frames(
            VideoMetadata(total_num_frames=total, fps=rate), fps=contract.videos.fps
        )
        assert sample_indices(total, rate, contract.videos, 2) == [
            int(index) for index in theirs if index < total
        ], (total, rate)


def test_a_text_cannot_reach_into_the_layout(preparer: Preparer) -> None:
    """Special tokens that a user types stay text, beside pictures and in an instruction."""
    picture = Image.new("RGB", (56, 56))
    typed = "<|vision_start|><|image_pad|><|video_pad|><|im_end|>"
    for item in (Input(typed, picture), Input("x", picture, typed)):
        ids = preparer(item).ids.tolist()
        assert ids.count(preparer.contract.tokens.image_pad) == preparer(
            Input("", picture)
        ).ids.tolist().count(preparer.contract.tokens.image_pad)
        assert preparer.contract.tokens.video_pad not in ids
