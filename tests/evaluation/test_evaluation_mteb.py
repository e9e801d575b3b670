"""Tests a bundle as a model of mteb, on tasks made in memory; nothing is downloaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lame_runtime import InputError
from lame_runtime.contract.prompts import Input
from lame_runtime.encoder import Encoder
from lame_runtime.integrations.mteb import LameModel
from lame_training.evaluation.scoring import score
from lame_training.evaluation.suites.suite import Query, Task, TaskSpec
from lame_training.fixtures.painter import DigitPainter, sum_of

# These are warnings of mteb, datasets and what they import, which is not ours to repair.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning"
)
ROWS = 12


def make_task(category: str, prompt: Any = None) -> Any:
    """Returns a retrieval task, its rows, and its grades; `category` is mteb's, such as "t2i"."""
    # Deferred: mteb imports torch and takes seconds.
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    painter = DigitPainter(0)
    digits = painter.distinct(ROWS, 3)
    rows = [
        {"text": f"digits that add up to {sum_of(values)}", "image": painter.picture(values)}
        for values in digits
    ]
    names = {"t": ["text"], "i": ["image"], "it": ["image", "text"]}
    sides = [names[side] for side in category.split("2")]
    queries, corpus = (
        Dataset.from_list(
            [
                {"id": f"{mark}{number}", **{name: row[name] for name in side}}
                for number, row in enumerate(rows)
            ]
        )
        for mark, side in zip("qd", sides, strict=True)
    )
    # Two grades, so that graded nDCG is compared as well.
    grades = {
        f"q{number}": {f"d{number}": 2, f"d{(number + 1) % ROWS}": 1} for number in range(ROWS)
    }

    class DigitsRetrieval(AbsTaskRetrieval):
        """Retrieves digits by their sum."""

        metadata = TaskMetadata(
            name=f"Digits{category}Retrieval",
            dataset={"path": "none", "revision": "none"},
            description="digits",
            type="Retrieval" if category == "t2t" else "Any2AnyRetrieval",
            category=category,
            modalities=sorted({name for side in sides for name in side}),
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            prompt=prompt,
        )

        def load_data(self, *arguments: Any, **options: Any) -> None:
            """Sets the data, which mteb would otherwise download."""
            split = {
                "corpus": corpus,
                "queries": queries,
                "relevant_docs": grades,
                "top_ranked": None,
            }
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return DigitsRetrieval(), rows, grades


def mteb_scores(model: LameModel, task: Any) -> dict[str, float]:
    import mteb

    results = mteb.evaluate(
        model, tasks=[task], cache=None, co2_tracker=False, show_progress_bar=False
    )
    scores: dict[str, float] = results.task_results[0].scores["test"][0]
    return scores


@pytest.mark.parametrize("category", ["t2t", "t2i", "it2it", "i2t"])
def test_mteb_scores_a_task_as_we_do(
    category: str, fake: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hit@1, nDCG@5 and nDCG@10 agree with those of our own task, for texts, pictures and both."""
    # With this, a test that wanted the network would fail instead of downloading.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    task, rows, grades = make_task(category)
    theirs = mteb_scores(LameModel(fake), task)
    queries, documents = (
        [
            Input(row["text"] if "t" in side else "", row["image"] if "i" in side else None)
            for row in rows
        ]
        for side in category.split("2")
    )
    ours = Task(
        TaskSpec("digits", "digits", metric="hit@1", pool_scope="global", reader=""),
        [Query(item, grades[f"q{number}"]) for number, item in enumerate(queries)],
        {f"d{number}": item for number, item in enumerate(documents)},
        rows=ROWS,
    )
    metrics = score(ours, fake.encode_query(queries), fake.encode_document(documents)).metrics
    assert theirs["hit_rate_at_1"] == pytest.approx(metrics["hit@1"], abs=1e-5)
    # mteb rounds its figures to five decimals.
    for k in (5, 10):
        assert theirs[f"ndcg_at_{k}"] == pytest.approx(metrics[f"ndcg_linear@{k}"], abs=1e-4)


def test_two_lines_run_a_task_on_a_bundle(exported: Path) -> None:
    """The model's name has the graph in it, and its revision is the hash of the manifest."""
    model = LameModel(exported, graph="int8")
    scores = mteb_scores(model, make_task("t2i")[0])
    assert 0 <= scores["ndcg_at_10"] <= 1
    meta = model.mteb_model_meta
    assert meta.name == f"lame/{exported.name}-int8"
    assert len(meta.revision) == 64
    assert meta.embed_dim == model.encoder.dim


@pytest.mark.parametrize(
    ("prompt", "query_instruction", "document_instruction"),
    [
        (None, "Find it.", ""),  # the contract's own instructions
        ("Find the digits.", "Find the digits.", ""),
        ({"query": "Find the digits."}, "Find the digits.", ""),
        (
            {"query": "Find the digits.", "document": "Read the digits."},
            "Find the digits.",
            "Read the digits.",
        ),
    ],
)
def test_a_tasks_prompt_is_the_instruction_of_its_side(
    prompt: Any, query_instruction: str, document_instruction: str, fake: Encoder
) -> None:
    """A side without a prompt takes the contract's instruction of its role."""

    class Metadata:
        """Has the attribute that the wrapper reads of a task."""

    metadata = Metadata()
    metadata.prompt = prompt  # type: ignore[attr-defined]
    model = LameModel(fake)
    # Two batches, because mteb passes a data loader.
    batches = [{"text": ["one", "two"]}, {"text": ["three"]}]
    for role, instruction in (
        ("query", query_instruction),
        ("document", document_instruction),
        # Without a role only a prompt for both sides applies.
        (None, prompt if isinstance(prompt, str) else ""),
    ):
        expected = fake.encode(
            [{"text": text, "instruction": instruction} for text in ("one", "two", "three")]
        )
        assert np.array_equal(
            model.encode(batches, task_metadata=metadata, prompt_type=role), expected
        )


def test_what_the_wrapper_cannot_embed_is_named(fake: Encoder) -> None:
    """The error names the columns of inputs that hold neither texts nor pictures."""
    model = LameModel(fake)
    with pytest.raises(InputError, match="hold video"):
        model.encode([{"video": [None], "text": ["one"]}], task_metadata=None)
    with pytest.raises(InputError, match="hold title; this wrapper"):
        model.encode([{"title": ["one"]}], task_metadata=None)


def test_importing_the_wrapper_brings_neither_mteb_nor_torch() -> None:
    """A process of its own shows which modules the import brings."""
    code = (
        "import sys, lame_runtime.integrations.mteb; "
        "print(sorted({'mteb', 'torch'} & set(sys.modules)))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"
