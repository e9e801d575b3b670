"""The names that our layers and parameters have in the models that adapters are trained on.

There are several: the usual class with a language-model head (`model.language_model.layers.0…`),
the same before transformers 4.52 (`model.layers.0…`), the class without a head
(`language_model.layers.0…`), and the language model alone (`layers.0…`). Ours has no head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

TEXT = "language_model."
Kind = Callable[[str], str | None]
"""A kind of model: returns the name there of a layer or parameter of ours, or None."""


def with_head(name: str) -> str:
    """Returns the name in the class with a head."""
    return f"model.{name}"


def without_head(name: str) -> str:
    """Returns the name in the class without a head, which is ours."""
    return name


def before_renaming(name: str) -> str:
    """Returns the name in the class with a head before transformers 4.52."""
    return f"model.{name.removeprefix(TEXT)}" if name.startswith(TEXT) else name


def language_model_alone(name: str) -> str | None:
    """Returns the name in the language model alone, which has no vision tower."""
    return name.removeprefix(TEXT) if name.startswith(TEXT) else None


KINDS: tuple[Kind, ...] = (with_head, without_head, before_renaming, language_model_alone)


def our_name(name: str, exists: Callable[[str], bool]) -> str | None:
    """Returns the name in our model of a layer or parameter of the trained one, or None."""
    bare = name.removeprefix("model.")
    for candidate in (name, bare, f"{TEXT}{bare}"):
        if exists(candidate):
            return candidate
    return None


def kinds_of(trained: Mapping[str, str]) -> list[Kind]:
    """Returns the kinds of models that the names of an adapter's weights may come from.

    Settings refer to the names of the model that the adapter was trained on, or, as PEFT renames
    older keys when it reads them, to the newer names of the same class.

    Args:
        trained: our name of each layer and parameter of the file, by its name in the file.
    """
    kinds = [kind for kind in KINDS if all(kind(own) == name for name, own in trained.items())]
    if before_renaming in kinds and without_head not in kinds:
        kinds.append(with_head)
    # a file with names of several kinds says nothing
    return kinds or list(KINDS)


def by_trained_name(names: Iterable[str], kind: Kind) -> dict[str, str]:
    """Returns our names by the names that they have in a kind of model."""
    return {trained: name for name in names if (trained := kind(name)) is not None}
