"""A pytest plugin that reports every row of a bundle's certificate as a test.

    pytest --lame-bundle bundle
    pytest --lame-bundle bundle --lame-graph int8-cpu --lame-backend onnxruntime

A row fails if its gate is not met on this device. Rows that need PyTorch cannot be repeated: they
fail if they failed during the export, and are skipped otherwise. Rows without a gate are skipped,
with their figure as the reason. The plugin registers itself (entry point `pytest11`); without
`--lame-bundle` it does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    # pytest imports this module at every start, so other modules are imported only when needed
    from lame_runtime.bundle.certificate import Result
    from lame_runtime.parity.verify import VerifiedRow

RowKey = tuple[str, str, str]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options of the plugin to pytest."""
    group = parser.getgroup("lame", "parity of LaME bundles")
    group.addoption(
        "--lame-bundle",
        action="append",
        default=[],
        metavar="DIR",
        help="report every row of this bundle's certificate as a test; may be repeated",
    )
    group.addoption(
        "--lame-graph",
        action="append",
        default=[],
        metavar="GRAPH",
        help="verify only this graph of the bundles; may be repeated",
    )
    group.addoption(
        "--lame-backend",
        default="auto",
        metavar="BACKEND",
        help="backend that runs the graphs (default: auto)",
    )


def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Adds the rows of the bundles after the tests that pytest collected from files."""
    # appended rather than collected from a path, because pytest would search the folder of a
    # bundle for test files
    for folder in config.getoption("lame_bundle"):
        collector = BundleCollector.from_parent(session, name=str(folder), folder=Path(folder))
        items.extend(collector.collect())


class BundleCollector(pytest.Collector):
    """Collects the rows of one bundle's certificate."""

    def __init__(self, *, folder: Path, **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder

    def collect(self) -> Iterator[RowItem]:
        """Yields one test per row of the certificate.

        Raises:
            pytest.UsageError: the folder is not a bundle, the bundle has no such graph, or holds
                less than was certified.
        """
        from lame_runtime.bundle.bundle import Bundle
        from lame_runtime.bundle.certificate import read_certificate
        from lame_runtime.errors import LameError
        from lame_runtime.parity.verify import require_as_certified

        try:
            bundle = Bundle.open(self.folder)
            for graph in self.graphs:
                bundle.graph_files(graph)
            certificate = read_certificate(self.folder)
            # a certificate that lost rows would otherwise pass by having fewer tests
            require_as_certified(bundle, certificate, bundle.golden())
        except LameError as error:
            raise pytest.UsageError(str(error)) from None
        for row in certificate.rows:
            # rows without a graph concern all graphs
            if not self.graphs or not row.graph or row.graph in self.graphs:
                yield RowItem.from_parent(self, name=_name(row), certified=row)

    @property
    def graphs(self) -> list[str]:
        """The graphs of `--lame-graph`; an empty list means all."""
        return list(self.config.getoption("lame_graph"))

    @cached_property
    def verified(self) -> dict[RowKey, VerifiedRow]:
        """The rows measured on this device, by key; the first test measures all of them."""
        from lame_runtime.options import LoadOptions
        from lame_runtime.parity.verify import verify

        options = LoadOptions(backend=self.config.getoption("lame_backend"))
        rows = verify(self.folder, self.graphs or None, options)
        return {row.today.key: row for row in rows}


class RowItem(pytest.Item):
    """Represents one row of a certificate as a test."""

    parent: BundleCollector

    def __init__(self, *, certified: Result, **options: Any) -> None:
        super().__init__(**options)
        self.certified = certified

    def runtest(self) -> None:
        """Compares the row as measured on this device with its gate."""
        certified = self.certified
        # a figure without a bound can neither pass nor fail
        if certified.passed is None:
            pytest.skip(f"reported without a gate: {certified.describe()}")
        row = self.parent.verified.get(certified.key)
        if row is None:
            if not certified.passed:
                raise RowError(f"failed when it was exported: {certified.describe()}")
            pytest.skip(f"needs PyTorch; when it was exported: {certified.describe()}")
        self.add_report_section("call", "LaME", f"today: {row.today.describe()}")
        if row.today.passed is False:
            raise RowError(
                f"{row.today.describe()}\ncertificate: {certified.describe()}\n"
                f"backend: {row.backend or 'nothing ran'}"
            )

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str:
        """Returns the message of a failed row or of an unusable bundle, without a traceback."""
        from lame_runtime.errors import LameError

        if isinstance(excinfo.value, RowError | LameError):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo, style))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Returns the bundle's folder and the name of the row."""
        return self.parent.folder, None, self.name


class RowError(Exception):
    """Raised if a row does not meet its gate."""


def _name(row: Result) -> str:
    place = " ".join(part for part in (row.graph, row.modality) if part)
    return f"{row.comparison} [{place}]"
