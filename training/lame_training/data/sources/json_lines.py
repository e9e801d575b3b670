"""Parses a line of JSON Lines as a row of a format."""

from __future__ import annotations

import codecs

from lame_runtime.errors import InputError, shown
from lame_runtime.files.json_file import parse_json

from lame_training.data.pairs import DataSet, Format, RawRow, SkipRow

NOT_UNICODE = "text that is not Unicode"
"""Reason for leaving out a row with half an emoji, or with bytes that are no UTF-8."""
SUBSTITUTE = "\x1a"
"""Stands for bytes that are no UTF-8. JSON has this control character nowhere, so that a line with
one is no row of its own."""
SUBSTITUTED = "lame-substitute"
"""Name, for the `errors` of a file, of reading such bytes as `SUBSTITUTE`."""


def _substitute(error: UnicodeError) -> tuple[str, int]:
    """Returns what to read instead of bytes that are no UTF-8, and where to go on."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return SUBSTITUTE, error.end


codecs.register_error(SUBSTITUTED, _substitute)


def parse_line(line: str, row_format: Format, data_set: DataSet) -> RawRow:
    """Parses one line of JSONL.

    Raises:
        SkipRow: the line is blank, or held bytes that are no UTF-8.
        InputError: it is no row.
    """
    # A blank line is no damage, but it is counted like every row that is left out.
    if not line.strip():
        raise SkipRow("blank line")
    if SUBSTITUTE in line:
        raise SkipRow(NOT_UNICODE)
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
