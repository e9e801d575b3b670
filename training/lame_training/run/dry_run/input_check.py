"""Prepares the inputs of a run without a model, to find the rows that the run would leave out.

Opening a data set decodes nothing, so a damaged picture or a text that is too long is noticed only
when a step draws its row. A dry run looks in advance.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from lame_runtime.contract import Preparer
from lame_runtime.contract.tokens import TextTokenizer
from lame_runtime.errors import InputError
from lame_runtime.progress import progress_bar

from lame_training.contract_from.tokenizer_training import trained_tokenizer
from lame_training.data import Rows
from lame_training.data.collate import Collator
from lame_training.data.pairs import training_texts
from lame_training.published.kept.starting_contract import KeptEmbedder, starting_contract
from lame_training.recipes.recipe import Recipe
from lame_training.recipes.scratch_backbone import scratch_contract

MOST_ROWS = 2_000
"""Number of rows of a data set that are prepared; pictures take a few milliseconds each."""


def dry_preparer(
    recipe: Recipe, rows: Iterable[Rows], backbone: Path | KeptEmbedder | None
) -> Preparer | None:
    """Returns what prepares the inputs of a run; None if the run has no backbone yet.

    Args:
        recipe: the recipe.
        rows: the rows of all data sets, on whose texts a recipe of its own trains its tokenizer.
        backbone: the backbone's folder, or a published embedder.

    Raises:
        BundleError: the backbone's folder cannot be used.
        UsageError: the recipe cannot keep this.
    """
    if backbone is not None:
        start = starting_contract(recipe, backbone)
        return Preparer(start.contract, start.tokenizer)
    if recipe.scratch is None:
        return None
    content = trained_tokenizer(training_texts(rows), recipe.scratch.vocab_size)
    tokenizer = TextTokenizer(Path("tokenizer.json"), content=content)
    return Preparer(scratch_contract(recipe, recipe.scratch, tokenizer), tokenizer)


def leave_out_unusable(rows: Rows, preparer: Preparer) -> str:
    """Leaves out the rows whose query or positive cannot be prepared, as a run would.

    Args:
        rows: the rows of a data set.
        preparer: from `dry_preparer`.

    Returns:
        A remark if only some of the rows were prepared, else "".

    Raises:
        InputError: no row is left.
    """
    total = len(rows)
    # Spread over all of them, because files are often sorted.
    indices = np.unique(np.arange(min(total, MOST_ROWS)) * total // min(total, MOST_ROWS))
    # As in a step, so that the same rows fail; without a cache, since inputs are looked at once.
    collator = Collator(preparer, end_id=0, chunk=1, cache_mib=0)
    reasons: dict[int, str] = {}
    name = f"preparing {rows.data_set.name}"
    with progress_bar(indices.tolist(), desc=name, unit="rows", leave=False) as bar:
        for index in bar:
            pair = rows[index]
            for role, item in (("query", pair.query), ("document", pair.positive)):
                try:
                    collator.prepare(item, role)
                except InputError as error:
                    reasons[index] = str(error)
                    break
    rows.exclude(reasons)
    if len(indices) < total:
        return f"looked for damaged pictures and long texts in {len(indices):,} of the rows"
    return ""
