"""One shape for every error that a client may see: that of OpenAI's API.

    {"error": {"message", "type", "param": "input[3]", "code"}}

A body never repeats what another library said: such texts have held addresses of the heap
(CVE-2026-22778) and paths.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from starlette.responses import Response

from lame_runtime.errors import InputError, UsageError, printable, without_quotes

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_CODES = {400: "invalid_request", 401: "invalid_api_key", 404: "not_found"}
# a message may repeat keys of the client, which have any length
_MOST_CHARACTERS = 400
_INDEX = re.compile(r"input \d+: ")
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+|0x[0-9a-fA-F]{6,}")
_ADVICE = {
    "pass `truncate=True`": 'send `"truncate": "END"`',
    "also with `truncate=True`": 'also with `"truncate": "END"`',
    "`truncate_dim`": "`dimensions`",
    "write it to a file and give its path": "send a smaller one",
    "choose one, as in a.pdf#page=1": "send one page",
    "copy the file and try again": "send it again",
}
"""Advice to Python programs, and what it is for a client."""


class ApiError(Exception):
    """An error with the status and body that it has for a client.

    Args:
        status: the HTTP status.
        message: one sentence that says what is wrong and what to do.
        code: a word for programs.
        param: the place in the request, such as `input[3]`.
        retry_after: seconds after which it may be tried again.
        headers: more headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        param: str | None = None,
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = printable(message)[:_MOST_CHARACTERS]
        self.code = code or _CODES.get(status, "server_error")
        self.param = param
        # a copy, because the next line may add to it
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(retry_after)

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object of the error."""
        # clients choose what to try again by the status; the type is for people
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, kind),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> Response:
        """Returns the response that a client gets."""
        content = msgspec.json.encode(self.body)
        return Response(content, self.status, self.headers, media_type="application/json")


def input_problem(error: InputError | UsageError, param: str | None) -> ApiError:
    """Returns the 400 for an input that cannot be embedded, without what other libraries said."""
    message = _INDEX.sub("", str(error), count=1)
    message = without_quotes(message)
    # a second net, for texts that the first does not know
    message = _ADDRESS.sub("…", message)
    for advice, ours in _ADVICE.items():
        message = message.replace(advice, ours)
    return ApiError(400, message, "invalid_input", param=param)


def unavailable(message: str, code: str, retry_after: int = 1) -> ApiError:
    """Returns the 503 of a server that cannot embed now."""
    return ApiError(503, message, code, retry_after=retry_after)


def lost_backend() -> ApiError:
    """Returns the 503 for requests that a failing backend does not answer."""
    return unavailable("the backend fails; it is tried again every second", "backend_failing", 2)


def failed_item(param: str) -> ApiError:
    """Returns the error of an input that the graph fails on although it embeds others.

    Another try would fail as well, and OpenAI's clients would make two without the header.
    """
    message = "the model failed on this input, alone as well; change it or leave it out"
    return ApiError(
        500, message, "embedding_failed", param=param, headers={"x-should-retry": "false"}
    )
