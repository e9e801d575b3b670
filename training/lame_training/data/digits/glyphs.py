"""The handwritten digits of one split, and the pictures that are composed from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from lame_training.data.digits.questions import Digits

CELL = 28
"""Pixels per side of one digit's cell: two patches of 14, or one merged vision token."""
INK = 26
"""Pixels per side of the digit itself, which is placed at random in its cell."""
SPLITS = {"train": 0.7, "valid": 0.1, "eval": 0.2}
"""Share of the handwritten digits that each split gets."""


@dataclass(frozen=True)
class DigitPicture:
    """A composed picture on the disk and the digits in it."""

    path: str
    """Relative to the data set's root."""
    digits: Digits


@dataclass(frozen=True)
class Glyphs:
    """The handwritten digits of one split."""

    images: list[Image.Image]
    labels: npt.NDArray[np.int64]
    """int64 (images,): the digit that each image shows."""

    @staticmethod
    def splits(rng: np.random.Generator) -> dict[str, Glyphs]:
        """Distributes scikit-learn's digits over the splits."""
        # Deferred: scikit-learn is slow to import, and only writing the data needs it.
        from sklearn.datasets import load_digits

        ink, labels = load_digits(return_X_y=True)
        order = rng.permutation(len(labels))
        splits, start = {}, 0
        # By instance, so that no handwriting of the test pictures occurs in training.
        for split, share in SPLITS.items():
            # The last split takes what rounding leaves over.
            stop = len(order) if split == "eval" else start + round(share * len(order))
            indices, start = order[start:stop], stop
            images = [as_image(glyph) for glyph in ink[indices].reshape(-1, 8, 8)]
            splits[split] = Glyphs(images, labels[indices])
        return splits

    def any_of(self, digit: int, rng: np.random.Generator) -> int:
        """Returns the index of a random image of `digit`."""
        return int(rng.choice(np.flatnonzero(self.labels == digit)))

    def compose(
        self, indices: Sequence[int], rng: np.random.Generator, *, vary: bool
    ) -> Image.Image:
        """Composes a row of digits into one picture.

        Args:
            indices: the images, left to right.
            rng: chooses each digit's place in its cell.
            vary: also vary size and slant. Training pictures do, because there are few digits to
                learn from.

        Returns:
            A gray picture of `CELL` × `CELL` pixels per digit.
        """
        canvas = Image.new("L", (CELL * len(indices), CELL))
        for cell, index in enumerate(indices):
            side = int(rng.integers(INK - 2, INK + 3)) if vary else INK
            digit = self.images[index].resize((side, side), Image.Resampling.BICUBIC)
            if vary:
                digit = digit.rotate(float(rng.uniform(-8, 8)), Image.Resampling.BICUBIC)
            # At a random place, so that the same glyph is not the same pixels again.
            right, down = (int(shift) for shift in rng.integers(CELL - side + 1, size=2))
            canvas.paste(digit, (cell * CELL + right, down))
        return canvas


def as_image(ink: npt.NDArray[np.float64]) -> Image.Image:
    """Converts one of scikit-learn's digits, float64 (8, 8), to a gray image of 8 × 8 pixels."""
    # Its values count inked pixels of a 4 × 4 block of the original scan, so they go up to 16.
    return Image.fromarray((ink * (255 / 16)).astype(np.uint8))
