"""Turns one input into everything that the graphs need to know about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lame_runtime.arguments import MAX_FPS, MAX_PIXELS, MIN_FPS, folder_path, integer, number
from lame_runtime.contract.fields.roles import role_instruction
from lame_runtime.contract.fields.vocabulary import check_vocabulary
from lame_runtime.contract.media.decoding_limits import MAX_DECODING_BYTES, Reserve
from lame_runtime.contract.media.images import frame_patches, open_image, resized_pixels
from lame_runtime.contract.media.video import MIN_PIXELS_MARGIN, read_video
from lame_runtime.contract.positions import Span, token_positions
from lame_runtime.contract.prompts import (
    Input,
    Part,
    Picture,
    Run,
    Video,
    image_runs,
    layout_parts,
    layout_runs,
    video_runs,
)
from lame_runtime.contract.rules import OLDEST_BUNDLE_VERSION, Contract, ImageRules, VideoRules
from lame_runtime.contract.texts.pieces import check_texts
from lame_runtime.contract.tokens import TextTokenizer, token_ids
from lame_runtime.errors import InputError


@dataclass(frozen=True)
class Visual:
    """One picture or video, resized. The vision graph normalizes it and cuts it into patches."""

    frames: npt.NDArray[np.uint8]
    """uint8 (n, height, width, 3): one frame for a picture, whole temporal patches for a video."""
    grid: tuple[int, int, int]
    """Temporal patches, and rows and columns in patches."""
    is_video: bool = False

    @property
    def n_patches(self) -> int:
        """Number of patches in all temporal patches."""
        times, rows, columns = self.grid
        return times * rows * columns

    def temporal_patches(self) -> npt.NDArray[np.uint8]:
        """Returns the frames of each temporal patch: uint8 (times, depth, height, width, 3)."""
        return self.frames.reshape(self.grid[0], -1, *self.frames.shape[1:])

    def pixel_patches(self, contract: Contract) -> npt.NDArray[np.float32]:
        """Returns the patches as processors give them; see `media.images.frame_patches`."""
        rules = contract.videos if self.is_video else contract.images
        return frame_patches(self.temporal_patches(), contract.images, rules.mean, rules.std)


@dataclass(frozen=True)
class Prepared:
    """One input as the graphs read it."""

    ids: npt.NDArray[np.int64]
    """int64 (length,), the K + 1 latent ids at the end."""
    positions: npt.NDArray[np.int64]
    """int64 (3, length): temporal, row and column positions."""
    visuals: tuple[Visual, ...]
    """Pictures and videos, in the order of their vision tokens."""

    @property
    def nbytes(self) -> int:
        """Number of bytes of all arrays."""
        frames = sum(visual.frames.nbytes for visual in self.visuals)
        return self.ids.nbytes + self.positions.nbytes + frames


class Preparer:
    """Applies a contract and its tokenizer to inputs.

    It has no state after construction, so threads may share it. A call reads the files that the
    input names, and nothing else.
    """

    def __init__(self, contract: Contract, tokenizer: TextTokenizer) -> None:
        self.contract = contract
        self.tokenizer = tokenizer

    @staticmethod
    def load(folder: Path, *, oldest: int = OLDEST_BUNDLE_VERSION) -> Preparer:
        """Reads `contract.json` and `tokenizer.json` from a bundle or a checkpoint.

        Args:
            folder: the bundle or checkpoint.
            oldest: the oldest version of the contract to read; see `Contract.from_json`.

        Raises:
            BundleError: one of the files is missing, damaged or of another version.
        """
        folder = folder_path("folder", folder)
        path = folder / "contract.json"
        contract = Contract.load(path, oldest=oldest)
        tokenizer = TextTokenizer(folder / "tokenizer.json")
        check_vocabulary(contract, tokenizer, path)
        return Preparer(contract, tokenizer)

    def with_budget(
        self,
        max_pixels: int | None = None,
        max_frames: int | None = None,
        fps: float | None = None,
        max_input_pixels: int | None = None,
    ) -> Preparer:
        """Returns a preparer with other limits; None keeps the contract's.

        Args:
            max_pixels: area of one picture, and of one frame of a video.
            max_frames: frames sampled from one video.
            fps: frames sampled per second of video.
            max_input_pixels: area of all pictures and videos of one input together; two frames of a
                video count as one.

        Raises:
            UsageError: a limit is not a number, or below what one merged patch or one temporal
                patch needs.
        """
        if all(limit is None for limit in (max_pixels, max_frames, fps, max_input_pixels)):
            return self
        images, videos, limits = self.contract.images, self.contract.videos, self.contract.limits
        smallest = (images.patch_size * images.merge_size) ** 2
        if max_pixels is not None:
            max_pixels = integer("max_pixels", max_pixels, smallest, MAX_PIXELS)
            videos = _limit_video_pixels(videos, max_pixels, smallest)
            images = _limit_image_pixels(images, max_pixels)
        if max_frames is not None:
            fewest = images.temporal_patch_size
            max_frames = integer("max_frames", max_frames, fewest, MAX_PIXELS)
            fewest = min(videos.min_frames, max_frames)
            videos = replace(videos, max_frames=max_frames, min_frames=fewest)
        if fps is not None:
            videos = replace(videos, fps=number("fps", fps, MIN_FPS, MAX_FPS))
        if max_input_pixels is not None:
            area = integer("max_input_pixels", max_input_pixels, smallest, MAX_PIXELS)
            limits = replace(limits, patches=area // images.patch_size**2)
        contract = replace(self.contract, images=images, videos=videos, limits=limits)
        return Preparer(contract, self.tokenizer)

    def __call__(
        self,
        item: Input,
        role: str | None = None,
        *,
        truncate: bool = False,
        reserve: Reserve | None = None,
    ) -> Prepared:
        """Prepares one input.

        Args:
            item: the input.
            role: "query", "document" or None; chooses the default instruction.
            truncate: cut a text that is too long instead of refusing it.
            reserve: called with the memory that decoding a picture or video will take, before it is
                taken; each call replaces the one before. None decodes at once.

        Raises:
            InputError: the input cannot be embedded; the message says why and what to do about it.
                Texts of more than 16,777,216 characters are refused also with `truncate`.
            UsageError: the contract does not know the role.
        """
        if not isinstance(item, Input):
            raise InputError(
                f"a {type(item).__name__} is not an `Input`; use `lame_runtime.inputs.as_input`"
            )
        check_texts(item)
        contract = self.contract
        # Before pictures are read: a wrong role should cost nothing.
        instruction = role_instruction(contract.prompt, item, role)
        parts = layout_parts(contract.prompt, item)
        if not parts:
            raise InputError("the input is empty: give a text, a picture or a video")
        visuals, spans, laid_out = self._visuals(parts, reserve)
        runs, first_closing = layout_runs(contract.prompt, laid_out, instruction)
        ids = token_ids(runs, first_closing, self.tokenizer, contract.tokens, truncate=truncate)
        return Prepared(ids, token_positions(ids, spans, contract.tokens), tuple(visuals))

    def _visuals(
        self, parts: tuple[Part, ...], reserve: Reserve | None
    ) -> tuple[list[Visual], list[Span], list[str | list[Run]]]:
        """Reads the pictures and videos of an input.

        Returns:
            The pictures and videos, the spans of their vision tokens, and all parts in order, with
            the runs of pictures and videos in their place.
        """
        limits = self.contract.limits
        # Counted before any file is opened.
        count = sum(not isinstance(part, str) for part in parts)
        if count > limits.visuals:
            raise InputError(
                f"the input holds {count} pictures and videos, the limit is {limits.visuals}; "
                "leave some out"
            )
        visuals: list[Visual] = []
        spans: list[Span] = []
        laid_out: list[str | list[Run]] = []
        patches = 0
        for part in parts:
            if isinstance(part, str):
                laid_out.append(part)
                continue
            visual, visual_spans, runs = (
                self._picture(part, reserve)
                if isinstance(part, Picture)
                else self._video(part, patches, reserve)
            )
            visuals.append(visual)
            spans += visual_spans
            laid_out.append(runs)
            # After every part, not at the end: memory is what the limit protects.
            patches += visual.n_patches
            self._require_patches(patches)
        return visuals, spans, laid_out

    def _picture(
        self, part: Picture, reserve: Reserve | None
    ) -> tuple[Visual, list[Span], list[Run]]:
        rules = self.contract.images
        pixels = resized_pixels(open_image(part.source, rules, reserve), rules)
        visual = Visual(pixels[None], self._grid(pixels[None], 1))
        times, rows, columns = self._merged(visual)
        runs = image_runs(self.contract.prompt, rows * columns)
        return visual, [Span((times, rows, columns))], runs

    def _require_patches(self, patches: int) -> None:
        most = self.contract.limits.patches
        if patches > most:
            raise InputError(
                f"the input's pictures and videos make {patches} patches or more, "
                f"the limit is {most}; use fewer or smaller ones "
                "(`max_pixels`, `max_frames`), or allow more (`max_input_pixels`)"
            )

    def _video(
        self, part: Video, before: int, reserve: Reserve | None
    ) -> tuple[Visual, list[Span], list[Run]]:
        """Reads a video, where `before` is the number of patches of what stands before it."""
        # Its decoder has threads of its own, and may take about as much as that of any picture.
        if reserve:
            reserve(MAX_DECODING_BYTES)
        rules, layout = self.contract.videos, self.contract.prompt
        clip = read_video(
            part.source,
            part.fps,
            rules,
            self.contract.images,
            lambda patches: self._require_patches(before + patches),
        )
        visual = Visual(clip.frames, self._grid(clip.frames, len(clip.seconds)), is_video=True)
        times, rows, columns = self._merged(visual)
        if rules.timestamps:
            # Time is in the text between the temporal patches, so each of them is a picture of its
            # own.
            runs = video_runs(layout, rows * columns, clip.seconds)
            return visual, [Span((1, rows, columns))] * times, runs
        # Qwen2.5-VL's temporal positions follow the clock, those of Qwen2-VL count patches.
        step = rules.tokens_per_second * clip.seconds_per_patch if rules.tokens_per_second else 1.0
        runs = video_runs(layout, times * rows * columns, None)
        return visual, [Span((times, rows, columns), step)], runs

    def _grid(self, frames: npt.NDArray[np.uint8], times: int) -> tuple[int, int, int]:
        patch = self.contract.images.patch_size
        return times, frames.shape[1] // patch, frames.shape[2] // patch

    def _merged(self, visual: Visual) -> tuple[int, int, int]:
        times, rows, columns = visual.grid
        merge = self.contract.images.merge_size
        return times, rows // merge, columns // merge


def _limit_image_pixels(images: ImageRules, max_pixels: int) -> ImageRules:
    # The lower bound follows, or a picture could satisfy neither.
    fewest = min(images.min_pixels, max_pixels)
    return replace(images, max_pixels=max_pixels, min_pixels=fewest)


def _limit_video_pixels(videos: VideoRules, max_pixels: int, token_pixels: int) -> VideoRules:
    """Returns the rules with a limit for one frame, whichever way the family counts.

    Args:
        videos: the contract's rules.
        max_pixels: largest area of a frame.
        token_pixels: area that becomes one vision token.
    """
    # `clip_size` never goes below `min_pixels` × MIN_PIXELS_MARGIN, so this bound follows.
    videos = replace(videos, min_pixels=min(videos.min_pixels, int(max_pixels / MIN_PIXELS_MARGIN)))
    if videos.pixels_of == "frame":
        return replace(videos, max_pixels=max_pixels)
    # A clip's own limit is left alone; the frames are limited by their tokens.
    return replace(videos, cap_pixels_per_frame=True, max_video_tokens=max_pixels // token_pixels)
