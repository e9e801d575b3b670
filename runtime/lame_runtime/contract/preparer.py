"""An input → everything the graphs need to know about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lame_runtime.contract.images import frame_patches, open_image, resized_pixels
from lame_runtime.contract.positions import Span, mrope_positions
from lame_runtime.contract.prompts import Input, Part, Picture, Run, Video, image_runs, layout_runs, role_instruction, video_runs
from lame_runtime.contract.rules import Contract
from lame_runtime.contract.tokens import TextTokenizer, token_ids
from lame_runtime.contract.video import read_video
from lame_runtime.errors import InputError


@dataclass(frozen=True)
class Visual:
    """One picture or video, resized. Its patches take eight times the memory, so they are cut when a batch needs them."""

    frames: npt.NDArray[np.uint8]
    """uint8 (n, height, width, 3): one frame for a picture, whole temporal patches for a video."""
    grid: tuple[int, int, int]
    """Temporal patches, and rows and columns in patches."""
    is_video: bool = False

    @property
    def n_patches(self) -> int:
        """Patches in all temporal patches."""
        times, rows, columns = self.grid
        return times * rows * columns

    def patches(self, contract: Contract) -> npt.NDArray[np.float32]:
        """float32 (temporal patches, rows × columns, patch_dim)."""
        rules = contract.videos if self.is_video else contract.images
        return frame_patches(self.frames, contract.images, rules.mean, rules.std)


@dataclass(frozen=True)
class Prepared:
    """One input as the graphs read it."""

    ids: npt.NDArray[np.int64]
    """int64 (length,), the K + 1 latent ids at the end."""
    positions: npt.NDArray[np.int64]
    """int64 (3, length), M-RoPE."""
    visuals: tuple[Visual, ...]
    """In the order of their vision tokens."""


class Preparer:
    """Applies a contract and its tokenizer to inputs. Stateless after construction, safe to share."""

    def __init__(self, contract: Contract, tokenizer: TextTokenizer) -> None:
        self.contract = contract
        self.tokenizer = tokenizer

    @staticmethod
    def load(folder: Path) -> Preparer:
        """From a folder with `contract.json` and `tokenizer.json`: a bundle or a checkpoint."""
        return Preparer(Contract.load(folder / "contract.json"), TextTokenizer(folder / "tokenizer.json"))

    def with_budget(
        self, max_pixels: int | None = None, max_frames: int | None = None, fps: float | None = None, max_input_pixels: int | None = None
    ) -> Preparer:
        """The same with other limits for this call; None keeps the contract's.

        Args:
            max_pixels: of one picture, and of one frame of a video.
            max_frames: sampled from one video.
            fps: frames sampled per second of video.
            max_input_pixels: of all pictures and videos of one input together, two frames of a video counting as one.

        Raises:
            InputError: a limit below what one merged patch or one temporal patch needs.
        """
        given = (
            ("max_pixels", max_pixels, int),
            ("max_frames", max_frames, int),
            ("fps", fps, (int, float)),
            ("max_input_pixels", max_input_pixels, int),
        )
        if all(value is None for _, value, _ in given):
            return self
        for name, value, kinds in given:
            if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
                raise InputError(f"{name} is {value!r}; use a number")
        images, videos = self.contract.images, self.contract.videos
        least = (images.patch_size * images.merge_size) ** 2
        if max_pixels is not None:
            if max_pixels < least:
                raise InputError(f"max_pixels is {max_pixels}; use {least} or more")
            images = replace(images, max_pixels=max_pixels, min_pixels=min(images.min_pixels, max_pixels))
            videos = replace(videos, min_pixels=min(videos.min_pixels, int(max_pixels / 1.05)))  # the rules add a twentieth
            if videos.pixels_of == "frame":
                videos = replace(videos, max_pixels=max_pixels)
            else:
                videos = replace(videos, cap_pixels_per_frame=True, max_video_tokens=max_pixels // least)
        if max_frames is not None:
            if max_frames < images.temporal_patch_size:
                raise InputError(f"max_frames is {max_frames}; use {images.temporal_patch_size} or more")
            videos = replace(videos, max_frames=max_frames, min_frames=min(videos.min_frames, max_frames))
        if fps is not None:
            if not 1e-3 <= fps <= 1e4:
                raise InputError(f"fps is {fps}; use a positive number")
            videos = replace(videos, fps=float(fps))
        limits = self.contract.limits
        if max_input_pixels is not None:
            if max_input_pixels < least:
                raise InputError(f"max_input_pixels is {max_input_pixels}; use {least} or more")
            limits = replace(limits, patches=max_input_pixels // images.patch_size**2)
        return Preparer(replace(self.contract, images=images, videos=videos, limits=limits), self.tokenizer)

    def __call__(self, item: Input, role: str | None = None, *, truncate: bool = False) -> Prepared:
        """Prepares one input.

        Args:
            item: the input.
            role: "query", "document" or None; chooses the default instruction.
            truncate: cut a text that is too long instead of refusing it.

        Raises:
            InputError: what is wrong with the input and what to do about it.
        """
        contract = self.contract
        instruction = role_instruction(contract.prompt, item, role)
        parts = item.parts
        if not parts:
            raise InputError("the input is empty: give a text, a picture or a video")
        visuals, spans, laid = self._visuals(parts)
        runs, first_closing = layout_runs(contract.prompt, laid, instruction)
        ids = token_ids(runs, first_closing, self.tokenizer, contract.tokens, truncate=truncate)
        return Prepared(ids, mrope_positions(ids, spans, contract.tokens), tuple(visuals))

    def _visuals(self, parts: tuple[Part, ...]) -> tuple[list[Visual], list[Span], list[str | list[Run]]]:
        """Pictures and videos, the spans of their vision tokens, and the parts with those laid out."""
        limits = self.contract.limits
        amount = sum(not isinstance(part, str) for part in parts)
        if amount > limits.visuals:
            raise InputError(f"the input holds {amount} pictures and videos, the limit is {limits.visuals}; leave some out")
        visuals: list[Visual] = []
        spans: list[Span] = []
        laid: list[str | list[Run]] = []
        for part in parts:
            if isinstance(part, str):
                laid.append(part)
                continue
            visual, seen, runs = self._picture(part) if isinstance(part, Picture) else self._video(part)
            visuals.append(visual)
            spans += seen
            laid.append(runs)
            if (patches := sum(each.n_patches for each in visuals)) > limits.patches:
                raise InputError(
                    f"the input's pictures and videos make {patches} patches or more, the limit is {limits.patches}; "
                    "use fewer or smaller ones (max_pixels, max_frames), or allow more (max_input_pixels)"
                )
        return visuals, spans, laid

    def _picture(self, part: Picture) -> tuple[Visual, list[Span], list[Run]]:
        rules = self.contract.images
        pixels = resized_pixels(open_image(part.source, rules), rules)
        visual = Visual(pixels[None], self._grid(pixels[None], 1))
        span = self._merged(visual)
        return visual, [Span(span)], image_runs(self.contract.prompt, span[1] * span[2])

    def _video(self, part: Video) -> tuple[Visual, list[Span], list[Run]]:
        rules = self.contract.videos
        clip = read_video(part.source, part.fps, rules, self.contract.images)
        visual = Visual(clip.frames, self._grid(clip.frames, len(clip.seconds)), is_video=True)
        times, rows, columns = self._merged(visual)
        layout = self.contract.prompt
        if rules.timestamps:
            return visual, [Span((1, rows, columns))] * times, video_runs(layout, rows * columns, clip.seconds)
        step = rules.tokens_per_second * clip.seconds_per_patch if rules.tokens_per_second else 1.0
        return visual, [Span((times, rows, columns), step)], video_runs(layout, times * rows * columns, None)

    def _grid(self, frames: npt.NDArray[np.uint8], times: int) -> tuple[int, int, int]:
        patch = self.contract.images.patch_size
        return times, frames.shape[1] // patch, frames.shape[2] // patch

    def _merged(self, visual: Visual) -> tuple[int, int, int]:
        times, rows, columns = visual.grid
        merge = self.contract.images.merge_size
        return times, rows // merge, columns // merge
