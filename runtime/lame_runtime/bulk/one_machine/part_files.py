"""The folder of an unfinished table: parts that are complete, and the run that they belong to.

    OUT.parts/run.json            what was asked for, so that only the same run goes on
    OUT.parts/00000000.parquet    rows in the order of the source; appears when it is complete
    OUT.parts/lock                held by the one process that writes

Nothing of it is lost by `kill -9`. The table is made of the parts at the end, and the folder is
then removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lame_runtime.bulk.arrow_modules import arrow
from lame_runtime.bulk.blocks import cast_table, common_schema
from lame_runtime.bulk.vector_facts import VectorFacts
from lame_runtime.bulk.vector_table import VECTOR
from lame_runtime.errors import StorageError, UsageError, shown
from lame_runtime.files.atomic import atomic_path, atomic_text, writing
from lame_runtime.files.json_file import read_json
from lame_runtime.files.regular import open_regular

OWN_FILES = ("run.json", "lock")
RUN_KEY = b"lame-run"
"""Metadata of a finished table: the run that wrote it."""


class PartFiles:
    """The parts of one output, of which this process is the only writer.

    Args:
        output: the table.
        run: what was asked for, as JSON: the facts, the sources and their options.
        resume: go on with the parts that there are.
    """

    def __init__(self, output: Path, run: Mapping[str, Any], *, resume: bool) -> None:
        self.output = output
        self.folder = output.with_name(output.name + ".parts")
        # tuples are lists in a file, which must compare equal to it
        self._run = json.loads(json.dumps(run))
        self._resume = resume
        self.is_complete = False
        """Whether the table was finished by the same run before."""
        self.paths: list[Path] = []

    @contextlib.contextmanager
    def open(self) -> Iterator[PartFiles]:
        """Takes the folder for this process.

        Raises:
            StorageError: it cannot be written, or another process writes the table.
            UsageError: there are parts of an interrupted run and `resume` is off, or the parts or
                the table are those of another run.
        """
        if self._resume and not self.folder.exists() and self.output.exists():
            self._require_same(self._finished_run(), self.output)
            self.is_complete = True
            yield self
            return
        with writing(self.output):
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(exist_ok=True)
            lock = (self.folder / "lock").open("a")
        with lock:
            self._lock(lock)
            self._begin()
            yield self

    def add(self, table: Any) -> None:
        """Writes the next part; raises `StorageError`."""
        path = self.folder / f"{len(self.paths):08}.parquet"
        with writing_part(self.output), atomic_path(path) as fresh, fresh.open("wb") as file:
            write_table(table, file)
        self.paths.append(path)

    def finish(self, facts: VectorFacts) -> None:
        """Makes the table of the parts; raises `StorageError`. The parts stay."""
        parquet = arrow("parquet")
        # parts were written without knowing the columns of later ones
        schema = common_schema([parquet.read_schema(path) for path in self.paths], facts)
        run = json.dumps(self._run, sort_keys=True).encode()
        schema = schema.with_metadata({**schema.metadata, RUN_KEY: run})
        with (
            writing_part(self.output),
            atomic_path(self.output) as fresh,
            fresh.open("wb") as file,
            parquet.ParquetWriter(file, schema, **_writing_options(schema)) as writer,
        ):
            for path in self.paths:
                writer.write_table(cast_table(parquet.read_table(path), schema))

    def remove(self) -> None:
        """Removes the parts, once the table holds all that they hold."""
        # by name: whatever else lies there is not ours
        for path in (*self.paths, *(self.folder / name for name in OWN_FILES)):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _lock(self, lock: Any) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # a process that was about to finish may have removed the folder meanwhile
            is_ours = os.path.samestat(os.fstat(lock.fileno()), (self.folder / "lock").stat())
        except FileNotFoundError:
            is_ours = False
        except OSError:
            is_ours = False
        if not is_ours:
            raise StorageError(
                f"{shown(self.output)}: another process writes it; wait for it, or choose another "
                "output"
            )

    def _begin(self) -> None:
        run_file = self.folder / "run.json"
        # its name appears when it is complete, as with every file here
        if not run_file.exists():
            foreign = [path for path in self.folder.iterdir() if path.name != "lock"]
            if foreign:
                raise StorageError(
                    f"{shown(self.folder)}: holds {shown(foreign[0].name)}, which no interrupted "
                    "run has left; move the folder away, or choose another output"
                )
            # nothing was written yet; a run that is new has an id of its own
            self._run["id"] = secrets.token_hex(8)
            atomic_text(run_file, json.dumps(self._run))
            return
        with writing(self.output):
            try:
                known = read_json(run_file)
            except ValueError:
                known = None
            if not isinstance(known, dict) or not isinstance(known.get("id"), str):
                raise StorageError(
                    f"{shown(run_file)}: is damaged; remove the folder and begin again"
                )
            self.paths = sorted(self.folder.glob("[0-9]*.parquet"))
        if not self._resume:
            raise UsageError(
                f"{shown(self.folder)}: holds {len(self.paths)} parts of an interrupted run; go on "
                "with `resume`, or remove the folder"
            )
        self._require_same(known, self.folder)
        self._run["id"] = known["id"]
        # killed between the last two steps
        if self.output.exists() and self._finished_run().get("id") == known["id"]:
            self.is_complete = True

    def _finished_run(self) -> dict[str, Any]:
        try:
            # not a pipe, which would wait forever
            with open_regular(self.output) as file:
                metadata = arrow("parquet").read_schema(file).metadata or {}
            run = json.loads(metadata.get(RUN_KEY, b"{}"))
        # pyarrow's errors of damaged files are ValueErrors
        except (OSError, ValueError):
            return {}
        return run if isinstance(run, dict) else {}

    def _require_same(self, known: Mapping[str, Any], path: Path) -> None:
        # only what was asked for; the id of the run is not
        differing = [name for name, value in self._run.items() if known.get(name) != value]
        if differing:
            names = [f"`{name}`" if name.isidentifier() else name for name in differing]
            raise UsageError(
                f"{shown(path)}: was made with another {', '.join(sorted(names))}; use the same "
                "as before, or remove it and begin again"
            )


@contextlib.contextmanager
def writing_part(output: Path) -> Iterator[None]:
    """Translates errors of a full disk; what was written stays."""
    try:
        with writing(output):
            yield
    except StorageError as error:
        raise StorageError(f"{error}; then go on with `resume`") from None


def write_table(table: Any, file: Any) -> None:
    """Writes a `pyarrow.Table` of `vector_table` to an open file; raises `OSError`."""
    parquet = arrow("parquet")
    parquet.write_table(table, file, **_writing_options(table.schema))


def _writing_options(schema: Any) -> dict[str, Any]:
    others = [name for name in schema.names if name != VECTOR]
    # the values of vectors neither repeat nor compress, and trying would take time
    return {
        "compression": {name: "NONE" if name == VECTOR else "ZSTD" for name in schema.names},
        "use_dictionary": [name for name in others if name != "id"],
        "write_statistics": others,
    }
