"""Prints the smallest cosine between bundles of published embedders and Sentence Transformers.

    python lame_export/benchmarks/published_parity.py > table.md

For each family and form of a folder, Sentence Transformers writes a model in random weights,
`export` makes a bundle of it without any data, and both embed the inputs of the tests, with and
without prompts. Needs `sentence-transformers`, and torchvision in the tests' oracle folder.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tests"))
import oracle

oracle.prepare()

import numpy as np  # noqa: E402 - torchvision has to be prepared before transformers is imported
import published_folders as folders  # noqa: E402
from lame_runtime import Encoder  # noqa: E402
from published_folders import Form  # noqa: E402

from lame_export import export  # noqa: E402

PROMPTS = {"query": "Find it.", "document": "", "clause": " Which clause? "}
FORMS = {
    "last token": Form(prompts=PROMPTS),
    "last token, no assistant turn": Form(generation=False, prompts=PROMPTS),
    "last token, end of text added": Form(end_token=True, prompts=PROMPTS),
    "last token, 16 values kept": Form(truncate_dim=16, prompts=PROMPTS, default="clause"),
    "mean": Form("mean", prompts=PROMPTS),
    "mean, dense layer with tanh": Form("mean", dense="tanh", prompts=PROMPTS),
}
KINDS = ("texts", "pictures", "texts and pictures", "videos")


def main() -> None:
    """Prints a row for each family and form, and the number of inputs."""
    pairs = folders.mixed_inputs()
    kinds = [kind_of(pair[1]) for pair in pairs]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in KINDS)
    print(f"{counts}; each as a query, as a document, and with a prompt\n")
    print(f"| family | pooling | {' | '.join(KINDS)} |")
    print("| --- " * (2 + len(KINDS)) + "|", flush=True)
    for family in folders.FAMILIES:
        for name, form in FORMS.items():
            with tempfile.TemporaryDirectory() as scratch:
                cosines = compare(family, form, Path(scratch), pairs)
            least = [min(cosines[place] for place in places(kinds, kind)) for kind in KINDS]
            print(f"| {family} | {name} | {' | '.join(map(shown, least))} |", flush=True)


def kind_of(item: object) -> str:
    """Returns the kind of an input, one of `KINDS`."""
    if isinstance(item, str):
        return "texts"
    keys = set(item) if isinstance(item, dict) else {"image"}
    if "video" in keys:
        return "videos"
    return {1: "texts" if keys == {"text"} else "pictures", 2: "texts and pictures"}[len(keys)]


def places(kinds: list[str], kind: str) -> list[int]:
    """Returns the places of the inputs of a kind."""
    return [place for place, other in enumerate(kinds) if other == kind]


def shown(cosine: float) -> str:
    """Writes one minus a cosine in units in which differences can be seen."""
    return f"1 − {max(1 - cosine, 0):.0e}"


def compare(family: str, form: Form, scratch: Path, pairs: list[tuple]) -> list[float]:
    """Returns the smallest cosine of each input over all calls."""
    folders.write_backbone(family, scratch / "backbone", end_token=form.end_token)
    folder = folders.write_published(scratch / "backbone", scratch / "published", form)
    options = {"per_modality": 2, "calibration": 2, "max_length": 1024}
    export(folder, scratch / "bundle", graphs=["fp32-cpu"], **options)
    theirs = folders.load_published(folder)
    inputs, ours = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    least = np.ones(len(pairs))
    calls = (("encode_query", {}), ("encode_document", {}), ("encode", {"prompt": "Find\nit: "}))
    with Encoder.load(scratch / "bundle") as encoder:
        for call, arguments in calls:
            a = np.asarray(getattr(theirs, call)(inputs, batch_size=8, **arguments), np.float64)
            b = np.asarray(getattr(encoder, call)(ours, batch_size=8, **arguments), np.float64)
            products = (a * b).sum(1)
            least = np.minimum(
                least, products / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
            )
    return least.tolist()


if __name__ == "__main__":
    main()
