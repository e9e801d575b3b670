"""Parses a line of JSON Lines as a row of a format."""

from __future__ import annotations

from lame_runtime.errors import InputError, shown
from lame_runtime.files.json_file import parse_json

from lame_training.data.pairs import DataSet, Format, RawRow, SkipRow


def parse_line(line: str, row_format: Format, data_set: DataSet) -> RawRow:
    """Parses one line of JSONL; raises `SkipRow` if it is blank, `InputError` if it is no row."""
    # A blank line is no damage, but it is counted like every row that is left out.
    if not line.strip():
        raise SkipRow("blank line")
    try:
        row = parse_json(line)
    except ValueError as error:
        raise InputError(f"not JSON ({shown(error)}); write one object per line") from None
    if not isinstance(row, dict):
        raise InputError(f"a {type(row).__name__}; write one JSON object per line")
    missing = [column for column in row_format.columns if column not in row]
    if missing:
        columns = ", ".join(row_format.columns)
        raise InputError(f"lacks {missing[0]!r}; rows of format {data_set.format} have {columns}")
    return row
