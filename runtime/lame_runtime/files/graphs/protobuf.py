"""Reads the wire format of protocol buffers strictly, by a table of the fields that are expected.

A lenient reader skips what it does not know and lets the last of two values win. Two readers then
see two different messages in the same bytes. This one refuses both, so that whatever it has read is
what ONNX Runtime or TensorRT will read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lame_runtime.errors import shown

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""The wire types; groups (3 and 4) are refused."""
MAX_FIELDS = 1_000_000
"""Number of fields read from one file; the graph of a model of seven billion weights has 10^5."""

_SIZES = {FIXED64: 8, FIXED32: 4}
_LONGEST_VARINT = 10

Value = int | memoryview
Message = dict[str, list[Value]]
"""The values of a message by the names of its fields, in their order; absent fields are missing."""


@dataclass(frozen=True)
class Field:
    """A field that a message may have."""

    name: str
    wire_types: tuple[int, ...]
    """Packed numbers have `BYTES`, in addition to the type of a single number."""
    repeated: bool = False


def text(name: str) -> Field:
    """Returns a field that holds bytes, a text or a message, at most once."""
    return Field(name, (BYTES,))


def texts(name: str) -> Field:
    """Returns a field that holds bytes, texts or messages."""
    return Field(name, (BYTES,), repeated=True)


def number(name: str) -> Field:
    """Returns a field that holds an integer, at most once."""
    return Field(name, (VARINT,))


class Reader:
    """Reads messages of one file.

    It counts the fields of all messages together, because a file of megabytes can hold so many
    empty ones that reading them takes minutes.
    """

    def __init__(self) -> None:
        self._left = MAX_FIELDS

    def read(self, data: memoryview, kind: str, fields: Mapping[int, Field]) -> Message:
        """Returns the fields of one message; what they hold is not copied.

        Args:
            data: the message.
            kind: the message's name, for errors.
            fields: the fields that it may have, by number.

        Raises:
            ValueError: the bytes are not a message, a field is unknown or has another wire type, or
                a field that is not repeated occurs twice.
        """
        message: Message = {}
        position, end = 0, len(data)
        while position < end:
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"has more than {MAX_FIELDS:,} fields")
            tag, position = _varint(data, position, kind)
            field = fields.get(tag >> 3)
            if field is None:
                raise ValueError(f"{kind} has the field {tag >> 3}, which no exported graph has")
            wire_type = tag & 7
            if wire_type not in field.wire_types:
                raise ValueError(f"{kind}.{field.name} has the wire type {wire_type}")
            value: Value
            if wire_type == VARINT:
                value, position = _varint(data, position, kind)
            else:
                size = _SIZES.get(wire_type)
                if size is None:
                    size, position = _varint(data, position, kind)
                if size > end - position:
                    raise ValueError(f"{kind}.{field.name} extends past the end of the message")
                value = data[position : position + size]
                position += size
            values = message.setdefault(field.name, [])
            if values and not field.repeated:
                raise ValueError(f"{kind}.{field.name} occurs twice")
            values.append(value)
        return message


def _varint(data: memoryview, position: int, kind: str) -> tuple[int, int]:
    """Returns an unsigned number and the position after it."""
    # nearly all numbers are lengths and tags of one byte
    if position < len(data) and data[position] < 0x80:
        return data[position], position + 1
    value = 0
    for count, byte in enumerate(data[position : position + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            # other readers drop what is beyond 64 bits, so not all would read the same number
            if value >= 1 << 64 or (byte == 0 and count):
                break
            return value, position + count + 1
    raise ValueError(f"{kind} is cut short or holds a malformed number")


def integers(values: list[Value], most: int) -> list[int]:
    """Returns the values of a repeated field of signed integers, packed or not.

    Raises:
        ValueError: packed numbers are damaged, or there are more than `most`.
    """
    numbers: list[int] = []
    for value in values:
        if isinstance(value, int):
            numbers.append(value)
            continue
        position = 0
        while position < len(value) and len(numbers) <= most:
            number, position = _varint(value, position, "a list of numbers")
            numbers.append(number)
    if len(numbers) > most:
        raise ValueError(f"a list has more than {most} numbers")
    return [number - (1 << 64) if number >> 63 else number for number in numbers]


def string_of(message: Message, name: str) -> str:
    """Returns a field as text, empty if it is absent; `ValueError` if it is not UTF-8."""
    for value in message.get(name, []):
        return as_text(value)
    return ""


def integer_of(message: Message, name: str) -> int:
    """Returns a field as an integer, 0 if it is absent."""
    for value in message.get(name, []):
        if isinstance(value, int):
            return value
    return 0


def as_text(value: Value) -> str:
    """Returns a value as text, empty if it is a number; `ValueError` if it is not UTF-8."""
    return str(value, "utf-8") if isinstance(value, memoryview) else ""


def decimal(digits: str) -> int:
    """Returns a number of bytes that is written in decimal digits; raises `ValueError`."""
    # not `int` alone, which takes signs, spaces, underscores and digits of other scripts
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise ValueError(f"{shown(digits)} is not a number of bytes")
    return int(digits)
