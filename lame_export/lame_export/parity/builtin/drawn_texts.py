"""Texts from one word to several paragraphs, in many scripts, with code, digits and emoji."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lame_export.parity.builtin.languages import LANGUAGES, Language

SNIPPETS = (
    "🙂",
    "🎉🎂 42 🕯️",
    "👩‍🚀🚀🌍",
    "for n in range(10): print(n ** 2)",
    "if (a[i] != b[j]) { return -1; }",
    '{"name": "Ada", "tags": ["x", "y"], "ok": true}',
    "SELECT city, COUNT(*) FROM visits GROUP BY city;",
    "https://example.org/a/b?page=2#top",
    "2031-05-17T08:30:00Z",
    "+1 (555) 010-4477",
    "3.14159265 × 10⁻³",
    "E = m·c², ∀x ∃y: x ≤ y",
    "… — “quoted”, «quoted», 'quoted' …",
    "!?!? ### *** ~~~",
    "<b>bold</b> & <i>italic</i>",
    "$ ls -la | grep '^d'",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "A-1\tB-2\tC-3",
    "½ kg ≈ 17,6 oz; 5 € = 5.80 $",
    "\\frac{a}{b} + \\sqrt{x_1}",
)
"""Code, numbers, signs and emoji, which people write besides sentences."""
LENGTHS = {
    "word": (1, 1, 1),
    "words": (1, 2, 3),
    "sentence": (1, 1, 1),
    "paragraph": (1, 2, 5),
    "page": (3, 3, 6),
}
"""Number of paragraphs, and fewest and most sentences (or words) of each."""
SNIPPET_SHARE = 0.25
"""Share of the texts that end with a snippet."""


def draw_texts(number: int, rng: np.random.Generator) -> tuple[str, str]:
    """Draws a text, and one that says the same in another language.

    Args:
        number: chooses the first language; consecutive numbers go through all of them.
        rng: makes all other choices.

    Returns:
        Two texts of the same length in sentences. Some hold code or signs and no sentence: the
        second then has a word before them.
    """
    count = len(LANGUAGES)
    first = LANGUAGES[number % count]
    # never the first language again
    second = LANGUAGES[(number + int(rng.integers(1, count))) % count]
    snippet = SNIPPETS[int(rng.integers(len(SNIPPETS)))]
    # one kind more than lengths: a snippet alone, with a number so that it is not drawn twice
    kind = int(rng.integers(len(LENGTHS) + 1))
    if kind == len(LENGTHS):
        snippet = f"{snippet} {int(rng.integers(10_000))}"
        return snippet, f"{second.words[int(rng.integers(len(second.words)))]}: {snippet}"
    length = tuple(LENGTHS)[kind]
    paragraphs, fewest, most = LENGTHS[length]
    indices = [
        [int(index) for index in rng.permutation(len(first.sentences))[:size]]
        for size in rng.integers(fewest, most + 1, size=paragraphs)
    ]
    ending = f" {snippet}" if rng.random() < SNIPPET_SHARE else ""
    of_words = length.startswith("word")
    return (
        _written(first, indices, of_words=of_words) + ending,
        _written(second, indices, of_words=of_words) + ending,
    )


def _written(language: Language, paragraphs: Sequence[Sequence[int]], *, of_words: bool) -> str:
    """Returns the text of some words or sentences, given by their indices."""
    units, space = (language.words, " ") if of_words else (language.sentences, language.space)
    return "\n\n".join(space.join(units[index] for index in paragraph) for paragraph in paragraphs)
