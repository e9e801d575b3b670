"""The page that describes the routes, made from the types that check them."""

from __future__ import annotations

from typing import Any

import msgspec

from lame_runtime import __version__
from lame_runtime.serving.requests.schemas import (
    CohereReply,
    CohereRequest,
    EmbeddingsReply,
    EmbeddingsRequest,
    ErrorReply,
)
from lame_runtime.serving.retrieval.search_request import SearchReply, SearchRequest

_ERRORS = {
    "400": "The request cannot be answered as it is; `param` names the place.",
    "401": "The key is missing or wrong.",
    "404": "There is no such model.",
    "408": "The request took too long to arrive.",
    "413": "The request is too large.",
    "429": "The server is full; see Retry-After.",
    "500": "The server or the model failed.",
    "503": "The server starts, ends or has lost its device; see Retry-After.",
    "504": "The deadline has passed.",
}


def openapi_page(*, has_search: bool = False) -> dict[str, Any]:
    """Returns the OpenAPI 3.1 page as a JSON object, with the routes of search if there are any."""
    types: tuple[Any, ...] = (
        EmbeddingsRequest,
        EmbeddingsReply,
        CohereRequest,
        CohereReply,
        ErrorReply,
    )
    types += (SearchRequest, SearchReply) if has_search else ()
    # one definition for the check and for the page, so that they cannot differ
    references, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    embeddings, embeddings_reply, cohere, cohere_reply, error, *search = references
    openai = _post(
        "Embed texts and pictures (OpenAI's shape).", embeddings, embeddings_reply, error
    )
    # two paths of one route are described by one object
    ready = _get("Whether vectors come out.", {"503": "The server is not ready."})
    paths = {
        "/": _get(
            "A page for a person, who may try the model in a browser.", media_type="text/html"
        ),
        "/v1/embeddings": openai,
        "/embeddings": openai,
        "/v2/embed": _post("Embed (Cohere's shape).", cohere, cohere_reply, error),
        "/health": ready,
        "/v1/health/live": _get("Whether the process answers."),
        "/v1/health/ready": ready,
        "/v1/models": _get("The model: hash of its bundle, length of vectors, inputs, limits."),
        "/metrics": _get("Figures for Prometheus.", media_type="text/plain"),
        "/openapi.json": _get("This page."),
    }
    if search:
        request, reply = search
        paths["/v1/search"] = _post("Find the nearest rows of the index.", request, reply, error)
        paths["/v1/search/thumbnails/{row}"] = _thumbnails()
    return {
        "openapi": "3.1.0",
        "info": {"title": "LaME", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        # the second entry: a server without keys asks for none
        "security": [{"key": []}, {}],
    }


def _post(summary: str, request: Any, reply: Any, error: Any) -> dict[str, Any]:
    responses = {"200": _response("The vectors, in the order of the inputs.", reply)}
    responses |= {status: _response(text, error) for status, text in _ERRORS.items()}
    body = {"required": True, "content": {"application/json": {"schema": request}}}
    return {"post": {"summary": summary, "requestBody": body, "responses": responses}}


def _thumbnails() -> dict[str, Any]:
    row = {"name": "row", "in": "path", "required": True, "schema": {"type": "string"}}
    described = _get(
        "A small picture of a row.",
        {"404": "The row has no picture, or its file was changed.", "503": _ERRORS["503"]},
        "image/jpeg",
    )
    described["get"]["parameters"] = [row]
    return described


def _get(
    summary: str, more: dict[str, str] | None = None, media_type: str = "application/json"
) -> dict[str, Any]:
    texts = {"200": "The answer.", "401": _ERRORS["401"], **(more or {})}
    responses = {
        status: {"description": text, "content": {media_type: {}}} for status, text in texts.items()
    }
    return {"get": {"summary": summary, "responses": responses}}


def _response(text: str, schema: Any) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}
