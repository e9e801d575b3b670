"""Training rows, mixtures and arguments of the training functions."""

from __future__ import annotations

import json
import os
from random import Random
from typing import Any

from fuzz.case import Case
from fuzz.guard.worker import Room
from fuzz.kinds import values
from fuzz.kinds.edits import edited, edits
from fuzz.kinds.embedding import run_command
from fuzz.kinds.training_files import TrainingKind
from fuzz.media.damage import damaged
from fuzz.media.pictures import pattern

_ROW: dict[str, Any] = {"query": {"text": "What?", "image": "a.png"}, "positive": {"text": "seven"}}
_OTHER_ROW: dict[str, Any] = {
    "query": "Which one?",
    "positive": {"image": "a.png", "text": "eight"},
}
_PATHS = (
    "a.png", "pipe.png", "link.png", "../a.png", "/etc/passwd", "{elsewhere}/secret.png", ".", "",
    "a.png\0", "missing", "http://127.0.0.1/a.png", "data:image/png;base64,AAAA", "\ud800",
    "x" * 3000, "a.png#page=2", "/dev/zero",
)  # fmt: skip
_TEXTS = ("", " ", "\ud800", "a" * 20_000, "<|image_pad|>", "\x1b[31m", "\0", "seven")
_MIXTURE = (
    "data_sets:\n  - name: own\n    format: {format}\n    path: {path}\n    images: {images}\n"
    "    target_side: {target_side}\n    weight: {weight}\n    max_rows: {max_rows}\n"
)
_PATTERNS = (
    "own.jsonl", "*.jsonl", "**/*.jsonl", "/**/*.parquet", "../*", "{elsewhere}/secret.jsonl",
    "/dev/zero", "pipe.jsonl", "[", "", "~", "$HOME/*", "own.jsonl\\0", "*" * 200, "{{}}",
    "[own.jsonl, 5]", "null", "link.jsonl", "missing.jsonl",
)  # fmt: skip


class DryRun(TrainingKind):
    """A kind whose cases write a data root and run `lame-train run --dry-run` on it."""

    def open(self, room: Room) -> None:
        """Runs a case once, so that all is imported."""
        super().open(room)
        self.prepare({})
        self.run({})
        self.clean()

    def prepare(self, case: Case) -> None:
        """Writes the rows, the mixture and the files that they name."""
        root = self.room.work / "data"
        root.mkdir()
        pattern(28, 28).save(root / "a.png")
        os.mkfifo(root / "pipe.png")
        os.mkfifo(root / "pipe.jsonl")
        (root / "link.png").symlink_to(self.room.elsewhere / "secret.png")
        (root / "link.jsonl").symlink_to(self.room.elsewhere / "secret.jsonl")
        # other positives as well, because rows of one positive cannot be trained on
        rows = json.loads(json.dumps([_ROW, *case.get("rows", []), _OTHER_ROW, _OTHER_ROW] * 4))
        lines = _lines(edited(rows, case.get("edits", [])))
        data = case.get("data", lines.encode("utf-8", "surrogatepass"))
        (root / "own.jsonl").write_bytes(data)
        mixture = case.get(
            "mixture", "data_sets:\n  - {name: own, format: jsonl, path: own.jsonl}\n"
        )
        text = mixture if isinstance(mixture, bytes) else mixture.encode("utf-8", "surrogatepass")
        (root / "mixture.yaml").write_bytes(text)

    def run(self, case: Case) -> None:
        """Runs the command, and reads the rows as a run does."""
        from lame_training.__main__ import main

        command = ["run", "digits-tiny", "--data", "data", "--mixture", "data/mixture.yaml"]
        run_command(main, [*command, "--dry-run"])
        run_command(main, [*command, "--output", "out", "--steps", "1"])


class TrainingRows(DryRun):
    """Reads JSONL rows; a case holds `rows` with `edits`, or the file's `data`."""

    name = "training-rows"
    share = 1.0
    slice_cases = 30

    def generate(self, random: Random) -> Case:
        """Returns a case."""
        choice = random.random()
        if choice < 0.2:
            lines = "".join(json.dumps(row) + "\n" for row in (_ROW, _OTHER_ROW) * 8).encode()
            return {"data": damaged(random, lines, b"\xef\xbb\xbf\xff\xfe[[[[{")}
        row = json.loads(json.dumps(_ROW))
        if choice < 0.6:
            row[random.choice(("query", "positive"))]["image"] = random.choice(_PATHS)
            row["query"]["text"] = random.choice(_TEXTS)
            return {"rows": [row]}
        return {"rows": [row], "edits": edits(random, [_ROW, row])}


class Mixtures(DryRun):
    """Reads a mixture; a case holds its text."""

    name = "mixtures"
    share = 0.7
    slice_cases = 30

    def generate(self, random: Random) -> Case:
        """Returns a case."""
        fields = {
            "format": random.choice(
                ("jsonl", "jsonl", "mmeb", "colpali", "llava-hound-qa", "x", "5", "[]")
            ),
            "path": random.choice(("own.jsonl", random.choice(_PATTERNS))),
            "images": random.choice((".", ".", "/", "..", "{elsewhere}", "null", "5", "images")),
            "target_side": random.choice(("positive", "query", "none", "x", "5", "null")),
            "max_rows": random.choice(("1", "0", "-1", "1.5", "x", "99999999999999999999")),
            "weight": random.choice(
                ("1", "1", "0", "-1", ".nan", ".inf", "1e308", "x", "null", "[1]")
            ),
        }
        text = _MIXTURE
        for key, value in fields.items():
            text = text.replace(f"{{{key}}}", value)
        for key in random.sample(
            ["images", "target_side", "weight", "max_rows"], random.choice((4, 3, 1))
        ):
            text = "".join(line for line in text.splitlines(True) if f"    {key}:" not in line)
        choice = random.random()
        if choice < 0.3:
            return {
                "mixture": damaged(
                    random, text.encode(), b"!!python/object/apply:os.system ['touch made']"
                )
            }
        if choice < 0.35:
            deep = ("[" * 5_000, "a: &a [*a]", "&a [*a, *a]", "{" * 3_000, "- " * 3_000)
            return {"mixture": random.choice(deep)}
        return {"mixture": text}


class TrainingArguments(TrainingKind):
    """Calls the public functions of training and export with odd values."""

    name = "training-arguments"
    share = 1.0
    slice_cases = 60

    def generate(self, random: Random) -> Case:
        """Returns a case."""
        train = (
            "backbone", "decoder", "mixture", "seed", "matryoshka", "resume", "progress",
            "save_every", "keep", "device",
        )  # fmt: skip
        evaluate = (
            "tasks",
            "split",
            "visdoc",
            "graph",
            "backend",
            "output",
            "cache",
            "name",
            "batch_size",
            "max_pixels",
        )
        export = ("per_modality", "calibration", "strengths")
        call = random.choice(
            ("train", "steps", "evaluate", "export", "checkpoint", "recipe", "verify")
        )
        if call == "train":
            return {
                "call": f"train('digits-tiny', DATA, 'out', steps=0, {_keywords(random, train)})"
            }
        if call == "steps":
            return {
                "call": f"train({_value(random)}, {_value(random)}, 'out', steps={_value(random)})"
            }
        if call == "evaluate":
            return {"call": f"evaluate(CHECKPOINT, 'digits', DATA, {_keywords(random, evaluate)})"}
        if call == "export":
            options = f"{_value(random)}, {_keywords(random, export)}"
            return {"call": f"export('missing', 'bundle', DATA, {options})"}
        if call == "verify":
            return {"call": f"verify({_value(random)}, {_value(random)})"}
        function = "load_checkpoint" if call == "checkpoint" else "find_recipe"
        return {"call": f"{function}({_value(random)})"}

    def open(self, room: Room) -> None:
        """Prepares the names that expressions use."""
        super().open(room)
        from lame_training import evaluate, find_recipe, load_checkpoint, train

        from lame_export import export, verify

        self._names = {
            **values.namespace(), "train": train, "evaluate": evaluate, "export": export,
            "verify": verify, "find_recipe": find_recipe, "load_checkpoint": load_checkpoint,
            "DATA": str(room.fixed / "data"), "CHECKPOINT": str(room.fixed / "checkpoint"),
        }  # fmt: skip

    def run(self, case: Case) -> None:
        """Evaluates the call."""
        eval(case["call"], dict(self._names))


def _keywords(random: Random, names: tuple[str, ...]) -> str:
    chosen = random.sample(names, random.choice((1, 1, 2)))
    return ", ".join(f"{name}={_value(random)}" for name in chosen)


def _value(random: Random) -> str:
    plain = (
        "DATA",
        "CHECKPOINT",
        "'digits-tiny'",
        "'missing'",
        "['fp32']",
        "'fp32'",
        "[8, 4]",
        "(0.5,)",
        "''",
        "'a\\0b'",
    )
    choice = random.random()
    if choice < 0.6:
        return random.choice(values.NUMBERS)
    return random.choice(plain) if choice < 0.9 else repr(values.text(random))


def _lines(text: str) -> str:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return text.strip("[]")
    rows = content if isinstance(content, list) else [content]
    return "".join(json.dumps(row) + "\n" for row in rows)
