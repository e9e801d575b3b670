"""Tests that the three programs share flags, examples, hidden spellings and error messages."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

import pytest
from lame_runtime.cli.command_line import run_command, with_flags
from lame_runtime.cli.grammar import add_command, add_output
from lame_runtime.errors import BackendError, TrainingError, UsageError

PROGRAMS = ("lame_runtime.cli.main", "lame_training.__main__", "lame_export.cli.main")


def parser_of(module: str) -> argparse.ArgumentParser:
    """Returns the parser of a program."""
    import importlib

    parser: argparse.ArgumentParser = importlib.import_module(module).make_parser()
    return parser


def commands(module: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yields the name and the parser of every command of a program."""
    for action in parser_of(module)._actions:  # noqa: SLF001 - argparse has no public list
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            yield from action.choices.items()


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    program = argparse.ArgumentParser(prog="prog")
    added = program.add_subparsers(required=True)
    command = add_command(added, "work", "do work", lambda _: 0, "prog work --output x")
    command.add_argument("bundle")
    command.add_argument("--batch-size", type=int, default=32, help="inputs per run")
    command.add_argument("--truncate", action="store_true")
    add_output(command, "the file", required=True)
    return program


@pytest.mark.parametrize("module", PROGRAMS)
def test_every_help_ends_with_an_example(module: str) -> None:
    """Every help text ends with an example that names the program and the command."""
    for name, command in commands(module):
        last = command.format_help().rstrip().splitlines()[-1]
        assert re.match(rf"  (\w+=\S+ )?(lame-\w+ {name}|torchrun|optimum-cli)", last), name


@pytest.mark.parametrize("module", PROGRAMS)
def test_one_word_for_one_thing(module: str) -> None:
    """Outputs are `--output` and graphs are `--graph`; no help text mentions `--out`."""
    for name, command in commands(module):
        text = command.format_help()
        assert not re.search(r"--out\b", text), name
        assert "--trust_plans" not in text


def test_an_older_spelling_still_works(parser: argparse.ArgumentParser) -> None:
    """`--out` still sets what `--output` sets."""
    for spelling in ("-o", "--output", "--out"):
        assert parser.parse_args(["work", "b", spelling, "file"]).output.name == "file"
    with pytest.raises(SystemExit):
        parser.parse_args(["work", "b"])


def test_defaults_are_shown_once_and_only_if_they_tell_something(
    parser: argparse.ArgumentParser,
) -> None:
    """The help shows "(default: 32)" but never "(default: None)"."""
    text = parser.parse_args(["work", "b", "-o", "x"]).parser.format_help()
    assert "(default: 32)" in text
    assert "(default: None)" not in text
    assert "(default: False)" not in text


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("`batch_size` is 0: use 1", "--batch-size is 0: use 1"),
        ("pass `truncate=True`", "pass --truncate"),
        ("pass `batch_size=4`", "pass --batch-size 4"),
        ("`bundle` is no folder", "BUNDLE is no folder"),
        ("`max_pixels` is too small", "`max_pixels` is too small"),
        ("run `lame-runtime verify`", "run `lame-runtime verify`"),
    ],
)
def test_messages_name_flags_on_the_command_line(
    message: str, expected: str, parser: argparse.ArgumentParser
) -> None:
    """Arguments in backticks become flags of the command; all other text is unchanged."""
    command = parser.parse_args(["work", "b", "-o", "x"]).parser
    assert with_flags(message, command) == expected


@pytest.mark.parametrize(
    ("error", "code"),
    [(UsageError("x"), 2), (BackendError("x"), 1), (TrainingError("x"), 1)],
)
def test_the_exit_code_is_that_of_the_kind_of_error(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 1 if a check or the work failed, and 2 for wrong use."""

    def fail(_: argparse.Namespace) -> int:
        raise error

    program = argparse.ArgumentParser()
    add_command(program.add_subparsers(), "work", "do work", fail, "x")
    assert run_command(program, ["work"], "nothing") == code
    assert capsys.readouterr().err == "error: x\n"


def test_out_of_memory_advises_only_what_the_command_has(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--batch-size` is suggested only by commands that have the flag."""

    def exhaust(_: argparse.Namespace) -> int:
        raise MemoryError

    program = argparse.ArgumentParser()
    added = program.add_subparsers()
    add_command(added, "plain", "do work", exhaust, "x")
    batched = add_command(added, "batched", "do work", exhaust, "x")
    batched.add_argument("--batch-size", type=int, default=1)
    assert run_command(program, ["plain"], "nothing") == 1
    assert "--batch-size" not in capsys.readouterr().err
    assert run_command(program, ["batched"], "nothing") == 1
    assert "--batch-size" in capsys.readouterr().err
