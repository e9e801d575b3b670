"""The table of what every tensor of a folder was taken for, and by what."""

from __future__ import annotations

from dataclasses import dataclass, field

from lame_runtime.errors import printable

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TableRow:
    """A tensor, or all tensors of a module, and what it was taken for."""

    tensor: str
    shape: str
    becomes: str
    by: str


@dataclass
class TensorTable:
    """Collects what tensors are taken for, and what is not understood.

    Attributes:
        shapes: shapes of the tensors that nothing has been said of yet, by name.
        rows: the lines of the table.
        problems: what keeps the folder from being read; empty if it is understood.
    """

    shapes: dict[str, Shape]
    rows: list[TableRow] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def take(self, name: str, becomes: str, by: str) -> None:
        """Says what a tensor is taken for."""
        shape = self.shapes.pop(name)
        self.rows.append(TableRow(name, _text(shape), becomes, by))

    def take_all(self, names: list[str], title: str, becomes: str, by: str) -> None:
        """Says what all tensors of a module are taken for, in one line."""
        for name in names:
            del self.shapes[name]
        if names:
            self.rows.append(TableRow(title, f"{len(names)} tensors", becomes, by))

    def note(self, place: str, becomes: str, by: str) -> None:
        """Says what rows of a tensor are taken for that was taken as a whole."""
        self.rows.append(TableRow(place, "", becomes, by))

    def open(self, names: list[str], problem: str) -> None:
        """Says that it is not clear what tensors are, and why."""
        self.problems.append(problem)
        for name in names:
            shape = self.shapes.pop(name)
            self.rows.append(TableRow(name, _text(shape), "not clear", problem))

    def __str__(self) -> str:
        """Returns the table as text."""
        head = TableRow("tensor", "shape", "taken for", "by")
        columns = [
            [printable(row.tensor), row.shape, row.becomes, row.by] for row in (head, *self.rows)
        ]
        widths = [max(len(line[place]) for line in columns) for place in range(3)]
        return "\n".join(
            "  ".join(
                [*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[3]]
            )
            for line in columns
        )


def _text(shape: Shape) -> str:
    return " × ".join(str(size) for size in shape) or "a number"
