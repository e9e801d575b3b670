"""Parses the multiple-choice questions of MMEB's video tasks.

Each of the five data sets spells question, options and answer in its own way. A candidate is named
by its option as the data set spells it. The text that is embedded is that option without its
letter, except in MVBench.

Source: `src/data/eval_dataset/{videomme,mvbench,nextqa,egoschema,activitynetqa}_dataset.py` of
VLM2Vec. Prompts follow that code to the letter, since they are part of what is measured.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lame_runtime.errors import StorageError, shown

from lame_training.evaluation.suites.tables import (
    TableRow,
    name_of,
    read_table,
    table_files,
    text_of,
    texts_of,
)

QUESTION_INSTRUCTION = (
    "Given a video and a question, select the most accurate answer from the provided candidates. "
    "Return only the exact text of your chosen answer. Question:"
)
"""The instruction of all five data sets."""


@dataclass(frozen=True)
class Question:
    """A multiple-choice question about a video."""

    video: str
    """Name of the video's folder of frames."""
    text: str
    """The question with its options, as the query spells it."""
    candidates: dict[str, str]
    """Text to embed, by candidate name."""
    right: str
    """Name of the right candidate."""


def _with_letters(options: list[str]) -> list[str]:
    return [
        f"({letter}) {option}"
        # Not strict: 26 letters, fewer options.
        for letter, option in zip(string.ascii_uppercase, options, strict=False)
    ]


def _with_options(question: str, options: list[str]) -> str:
    """Returns the question with its lettered options below."""
    return "\n".join([question, "Options:", *_with_letters(options)])


def _without_letter(option: str) -> str:
    """Returns "A. an option." as "an option"."""
    # VLM2Vec slices from `find`, which is -1 for an option without a letter and leaves its last
    # character; here such an option stays whole.
    return option[max(option.find(". "), 0) :].strip(". ")


def _select(options: list[str], answer: object) -> str:
    """Returns the option that an answer's number or letter refers to."""
    text = str(answer).strip()
    if text.isdecimal() and len(text) < 10:
        index = int(text)
    elif text:
        index = string.ascii_uppercase.find(text)
    else:
        index = -1  # `find("")` would be 0, the first option
    if not 0 <= index < len(options):
        raise ValueError(f"its answer {shown(repr(answer))} is none of its {len(options)} options")
    return options[index]


def _video_mme(row: TableRow) -> Question:
    # These options come with their letters, "A. an option.", and stay as they are in the question.
    options = texts_of(row, "options")
    text = "\n".join([text_of(row, "question"), *options])
    return Question(
        name_of(row, "videoID"),
        text,
        {option: _without_letter(option) for option in options},
        _select(options, row.get("answer")),
    )


def _egoschema(row: TableRow) -> Question:
    options = texts_of(row, "option")
    # No space after the question: the benchmark's code joins them like this.
    text = text_of(row, "question") + " ".join(options)
    return Question(
        name_of(row, "video_idx"),
        text,
        {option: _without_letter(option) for option in options},
        _select(options, row.get("answer")),
    )


def _nextqa(row: TableRow) -> Question:
    # One column per option, without letters, and the answer is a number.
    options = [text_of(row, f"a{number}") for number in range(5)]
    text = _with_options(text_of(row, "question"), options)
    return Question(
        name_of(row, "video"),
        text,
        {option: option for option in options},
        _select(options, row.get("answer")),
    )


def _activitynet(row: TableRow) -> Question:
    answer = text_of(row, "answer")
    if answer not in ("yes", "no"):
        raise ValueError(f"its answer {shown(repr(answer))} is neither yes nor no")
    # The data set's questions have no question mark, and its frames lie in folders "v_NAME".
    text = text_of(row, "question") + "? (A) yes; (B) no."
    return Question(f"v_{name_of(row, 'video_name')}", text, {"yes": "yes", "no": "no"}, answer)


def _mvbench(row: TableRow) -> Question:
    options = texts_of(row, "candidates")
    answer = text_of(row, "answer")
    if answer not in options:
        raise ValueError(f"its answer {shown(repr(answer))} is none of its candidates")
    # The benchmark embeds these candidates with their letters, unlike those of the other data sets.
    lettered = _with_letters(options)
    return Question(
        f"{name_of(row, 'subset')}/{name_of(row, 'video')}",
        _with_options(text_of(row, "question"), options),
        {option: option for option in lettered},
        lettered[options.index(answer)],
    )


QUESTION_PARSERS: dict[str, Callable[[TableRow], Question]] = {
    "Video-MME": _video_mme,
    "EgoSchema": _egoschema,
    "NExTQA": _nextqa,
    "ActivityNetQA": _activitynet,
    "MVBench": _mvbench,
}
"""Parser by task name; each raises `ValueError` with the reason to skip a row."""


def mvbench_rows(folder: Path) -> Iterator[TableRow]:
    """Yields MVBench's rows, with the subset that each belongs to in the column "subset".

    Args:
        folder: holds a file SUBSET.json or a folder SUBSET for each of the twenty subsets.

    Raises:
        StorageError: there is no such folder.
        InputError: a file cannot be parsed.
    """
    if not folder.is_dir():
        raise StorageError(
            f"{folder}: no such folder; it must hold SUBSET.json for MVBench's subsets"
        )
    for path in table_files(folder):
        # The rows do not say which subset they are from, and frames lie in one folder per subset.
        subset = path.stem if path.parent == folder else path.parent.name
        for row in read_table(path, ()):
            yield {**row, "subset": subset}
