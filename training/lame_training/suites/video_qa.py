"""The multiple-choice questions of MMEB's video tasks: how each data set's rows spell question, options and answer.

Source: VLM2Vec's `src/data/eval_dataset/{videomme,mvbench,nextqa,egoschema,activitynetqa}_dataset.py`. A candidate is known by
its option as the data set spells it; what is embedded is that option without its letter, except in MVBench.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lame_runtime.errors import InputError

from lame_training.suites.rows import Row, list_of, name_of, read_table, tables, text_of

ASK = (
    "Given a video and a question, select the most accurate answer from the provided candidates. "
    "Return only the exact text of your chosen answer. Question:"
)
"""The instruction of all five, word for word since it is part of what is measured."""


@dataclass(frozen=True)
class Question:
    """A question about a video."""

    video: str
    """Its folder of frames."""
    text: str
    candidates: dict[str, str]
    """The text that is embedded, by name."""
    right: str


def _lettered(options: list[str]) -> list[str]:
    return [f"({letter}) {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False)]


def _listed(question: str, options: list[str]) -> str:
    """The question with its lettered options below."""
    return "\n".join([question, "Options:", *_lettered(options)])


def _bare(option: str) -> str:
    """An option without the letter in front of its first full stop."""
    return option[max(option.find(". "), 0) :].strip(". ")


def _pick(options: list[str], answer: object) -> str:
    """The option an answer's number or letter stands for."""
    said = str(answer).strip()
    index = int(said) if said.isdigit() else string.ascii_uppercase.find(said) if said else -1
    if not 0 <= index < len(options):
        raise ValueError(f"its answer {answer!r} is none of its {len(options)} options")
    return options[index]


def _options(row: Row, column: str) -> list[str]:
    options = list_of(row, column)
    if not options or not all(isinstance(option, str) for option in options):
        raise ValueError(f"its {column} is not a list of texts")
    return options


def _video_mme(row: Row) -> Question:
    options = _options(row, "options")
    text = "\n".join([text_of(row, "question"), *options])
    return Question(name_of(row, "videoID"), text, {each: _bare(each) for each in options}, _pick(options, row.get("answer")))


def _egoschema(row: Row) -> Question:
    options = _options(row, "option")
    text = text_of(row, "question") + " ".join(options)
    return Question(name_of(row, "video_idx"), text, {each: _bare(each) for each in options}, _pick(options, row.get("answer")))


def _nextqa(row: Row) -> Question:
    options = [text_of(row, f"a{number}") for number in range(5)]
    text = _listed(text_of(row, "question"), options)
    return Question(name_of(row, "video"), text, {each: each for each in options}, _pick(options, row.get("answer")))


def _activitynet(row: Row) -> Question:
    answer = text_of(row, "answer")
    if answer not in ("yes", "no"):
        raise ValueError(f"its answer {answer!r} is neither yes nor no")
    text = text_of(row, "question") + "? (A) yes; (B) no."
    return Question(f"v_{name_of(row, 'video_name')}", text, {"yes": "yes", "no": "no"}, answer)


def _mvbench(row: Row) -> Question:
    options = _options(row, "candidates")
    answer = text_of(row, "answer")
    if answer not in options:
        raise ValueError(f"its answer {answer!r} is none of its candidates")
    lettered = _lettered(options)
    video = f"{name_of(row, 'subset')}/{name_of(row, 'video')}"
    candidates = {each: each for each in lettered}
    return Question(video, _listed(text_of(row, "question"), options), candidates, lettered[options.index(answer)])


QUESTIONS: dict[str, Callable[[Row], Question]] = {
    "Video-MME": _video_mme,
    "EgoSchema": _egoschema,
    "NExTQA": _nextqa,
    "ActivityNetQA": _activitynet,
    "MVBench": _mvbench,
}


def mvbench_rows(place: Path) -> Iterator[Row]:
    """MVBench's rows: a file or folder for each of its twenty subsets, whose name says which videos belong to it."""
    if not place.is_dir():
        raise InputError(f"{place}: no such folder; it must hold SUBSET.json for MVBench's subsets")
    for path in tables(place):
        subset = path.stem if path.parent == place else path.parent.name
        for row in read_table(path, ()):
            yield {**row, "subset": subset}
