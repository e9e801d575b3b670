"""Composes inputs of a data set's texts and pictures: mixed, random, and of the maximum size.

Users' inputs differ from the data, so graphs are calibrated and evaluated on these as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from lame_runtime.contract.media.images import open_image
from lame_runtime.contract.media.video import VideoSource, read_video
from lame_runtime.contract.preparer import Preparer
from lame_runtime.contract.prompts import Input, Part, Picture, Video, layout_parts
from lame_runtime.contract.rules import ImageRules
from lame_runtime.errors import InputError
from PIL import Image

MOST_FRAMES = 7
"""Maximum number of frames of a composed video; odd and even numbers both occur."""
FRAME_RATES = (0.5, 1.0, 2.0, 5.0)
TRIES = 8
"""Maximum number of attempts per composed input; inputs that the contract refuses are dropped."""
RANDOM_LENGTHS = (32, 16, 8, 4, 2, 1)
"""Lengths of a random text to try, in tokens; decoding and encoding can make a text longer."""


def composed(items: Sequence[Input], amount: int, preparer: Preparer, seed: int = 0) -> list[Input]:
    """Makes inputs of several pictures with texts between them, and of a video with a text.

    The frames of a video are pictures of the data at the size of the first. If the contract
    refuses an input, such as three pictures with long texts, another one is drawn.

    Args:
        items: inputs whose pictures and texts are used.
        amount: inputs to make of each of the two kinds.
        preparer: the contract and tokenizer.
        seed: seed of the random choices.

    Returns:
        Up to `amount` inputs of each kind; none if there are no pictures or no texts.
    """
    pictures = [part for item in items for part in item.parts if isinstance(part, Picture)]
    texts = [part for item in items for part in item.parts if isinstance(part, str)]
    if not pictures or not texts:
        return []
    rng = np.random.default_rng(seed)

    def draw_pictures(count: int) -> list[Picture]:
        return [pictures[int(index)] for index in rng.integers(len(pictures), size=count)]

    def draw_text() -> str:
        return texts[int(rng.integers(len(texts)))]

    def several_pictures() -> Input:
        drawn = draw_pictures(int(rng.integers(2, 4)))
        return Input(content=tuple(part for picture in drawn for part in (picture, draw_text())))

    most_frames = min(MOST_FRAMES, preparer.contract.videos.max_frames)

    def video() -> Input:
        drawn = draw_pictures(int(rng.integers(2, most_frames + 1)))
        frames = tuple(picture.source for picture in drawn)
        return Input(content=(Video(frames, float(rng.choice(FRAME_RATES))), draw_text()))

    # one kind after the other, so that changing the second leaves the first as it is
    inputs = []
    for draw in (several_pictures, video):
        fitting: list[Input] = []
        for _ in range(TRIES * amount):
            if len(fitting) == amount:
                break
            candidate = draw()
            # preparing the input checks every limit of the contract
            try:
                preparer(sampled(candidate, preparer), "document")
            except InputError:
                continue
            fitting.append(candidate)
        inputs += fitting
    return inputs


def sampled(item: Input, preparer: Preparer) -> Input:
    """Returns the input with every video replaced by the list of its sampled frames.

    A bundle stores frames, so that a device can verify it without a video decoder.
    """
    rules, images = preparer.contract.videos, preparer.contract.images
    parts: list[Part] = []
    for part in layout_parts(preparer.contract.prompt, item):
        if isinstance(part, Video):
            clip = read_video(_one_size(part.source, images), part.fps, rules, images)
            frames = tuple(Image.fromarray(frame) for frame in clip.frames)
            # the rate of the sampled frames, so that the seconds per patch stay the same
            parts.append(Video(frames, images.temporal_patch_size / clip.seconds_per_patch))
        else:
            parts.append(part)
    return Input(content=tuple(parts), instruction=item.instruction)


def random_text(preparer: Preparer, rng: np.random.Generator) -> str:
    """Returns a text of up to 32 random tokens of the whole vocabulary, or an empty one."""
    for length in RANDOM_LENGTHS:
        ids = rng.integers(preparer.tokenizer.size, size=length)
        text = preparer.tokenizer.decode([int(token) for token in ids])
        try:
            preparer(Input(text=text, instruction=""), "query")
        except InputError:
            # too long, or empty because decoding drops special tokens
            continue
        return text
    return ""


def longest_text(texts: list[str], preparer: Preparer) -> str:
    """Returns a text of the data's words, as long as the contract's `max_length` allows."""
    words = " ".join(texts).split()

    def repeated(count: int) -> str:
        return " ".join(words[index % len(words)] for index in range(count))

    # binary search: a word has at least one token, so max_length + 1 words never fit
    low, high = 1, preparer.contract.tokens.max_length + 1
    while high - low > 1:
        middle = (low + high) // 2
        try:
            preparer(Input(text=repeated(middle), instruction=""))
            low = middle
        except InputError:
            high = middle
    return repeated(low)


def largest_picture(picture: Picture, preparer: Preparer) -> Image.Image:
    """Returns a picture of the data, enlarged to the contract's maximum number of pixels."""
    rules = preparer.contract.images
    factor = rules.patch_size * rules.merge_size
    # a square of whole merged patches, which preprocessing does not resize
    side = int(rules.max_pixels**0.5) // factor * factor
    image = open_image(picture.source, rules)
    return image.resize((side, side), Image.Resampling.BICUBIC)


def _one_size(source: VideoSource, images: ImageRules) -> VideoSource:
    """Resizes frames to the size of the first, because all frames of a video have one size."""
    if not isinstance(source, tuple):
        return source
    frames = [open_image(frame, images) for frame in source]
    return tuple(frame.resize(frames[0].size, Image.Resampling.BICUBIC) for frame in frames)
