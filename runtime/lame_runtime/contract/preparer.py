"""An input → everything the graphs need to know about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lame_runtime.contract.images import open_image, patch_grid, resized_pixels
from lame_runtime.contract.positions import mrope_positions
from lame_runtime.contract.prompts import Input, layout_runs
from lame_runtime.contract.rules import Contract
from lame_runtime.contract.tokens import TextTokenizer, token_ids


@dataclass(frozen=True)
class Picture:
    """One picture, resized. Its patches take eight times the memory, so they are cut when a batch needs them."""

    pixels: npt.NDArray[np.uint8]
    """uint8 (height, width, 3)."""
    grid: tuple[int, int]
    """Rows and columns in patches."""

    @property
    def n_patches(self) -> int:
        """Patches in the picture."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class Prepared:
    """One input as the graphs read it."""

    ids: npt.NDArray[np.int64]
    """int64 (length,), the K + 1 latent ids at the end."""
    positions: npt.NDArray[np.int64]
    """int64 (3, length), M-RoPE."""
    pictures: tuple[Picture, ...]


class Preparer:
    """Applies a contract and its tokenizer to inputs. Stateless after construction, safe to share."""

    def __init__(self, contract: Contract, tokenizer: TextTokenizer) -> None:
        self.contract = contract
        self.tokenizer = tokenizer

    @staticmethod
    def load(folder: Path) -> Preparer:
        """From a folder with `contract.json` and `tokenizer.json`: a bundle or a checkpoint."""
        return Preparer(Contract.load(folder / "contract.json"), TextTokenizer(folder / "tokenizer.json"))

    def __call__(self, item: Input, role: str | None = None, *, truncate: bool = False) -> Prepared:
        """Prepares one input.

        Args:
            item: the input.
            role: "query", "document" or None; chooses the default instruction.
            truncate: cut a text that is too long instead of refusing it.

        Raises:
            InputError: what is wrong with the input and what to do about it.
        """
        contract, rules = self.contract, self.contract.images
        runs, first_closing = layout_runs(contract.prompt, item, role)
        pictures: tuple[Picture, ...] = ()
        if item.image is not None:
            pixels = resized_pixels(open_image(item.image, rules), rules)
            pictures = (Picture(pixels, patch_grid(pixels, rules)),)
        vision_tokens = sum(picture.n_patches for picture in pictures) // rules.merge_size**2
        ids = token_ids(runs, first_closing, vision_tokens, self.tokenizer, contract.tokens, truncate=truncate)
        positions = mrope_positions(ids, [picture.grid for picture in pictures], rules.merge_size, contract.tokens)
        return Prepared(ids, positions, pictures)
