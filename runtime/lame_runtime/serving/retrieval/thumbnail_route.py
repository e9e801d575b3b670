"""`GET /v1/search/thumbnails/ROW`: a small picture of a row of the index.

A client sends the number of a row, never a name. A file that the index does not list cannot be
asked for, and one that was changed since is not shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from lame_runtime.errors import InputError, StorageError, UsageError
from lame_runtime.search import Index
from lame_runtime.search.thumbnails import MAX_FILE_BYTES, picture_path, thumbnail
from lame_runtime.serving.api.api_errors import ApiError
from lame_runtime.serving.service import Service
from lame_runtime.serving.web.server_state import ServerState

_LONGEST_NUMBER = 15


def thumbnail_route(state: ServerState, index: Index) -> Callable[[Request], Awaitable[Response]]:
    """Returns the endpoint of thumbnails."""

    async def endpoint(request: Request) -> Response:
        service, text = state.require_service(), request.path_params["row"]
        is_number = text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER
        if not is_number:
            raise _missing()
        loop = asyncio.get_running_loop()
        with service.admission.ticket() as ticket:
            # its file is read into memory, like the body of a request
            ticket.take(items=1, size=_file_size(index, int(text)))
            data = await loop.run_in_executor(service.openers, _read, service, index, int(text))
        headers = {"cache-control": "private, max-age=60", "x-content-type-options": "nosniff"}
        return Response(data, headers=headers, media_type="image/jpeg")

    return endpoint


def _read(service: Service, index: Index, row: int) -> bytes:
    rules = service.encoder.preparer.contract.images
    try:
        with service.memory.lease() as reserve:
            data = thumbnail(index, row, rules, reserve)
    # one answer for all: why a file cannot be read is not for strangers
    except (InputError, StorageError, UsageError):
        data = None
    if data is None:
        raise _missing()
    return data


def _file_size(index: Index, row: int) -> int:
    try:
        path = picture_path(index, index.row(row))
        return min(path.stat().st_size, MAX_FILE_BYTES) if path is not None else 0
    except (StorageError, UsageError, OSError, ValueError):
        raise _missing() from None


def _missing() -> ApiError:
    return ApiError(404, "the row has no picture, or its file was changed since it was indexed")
