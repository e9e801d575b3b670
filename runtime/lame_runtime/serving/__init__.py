"""The HTTP server behind `lame-runtime serve` (`pip install 'lame-runtime[serve]'`).

    body of a request → items → prepared inputs → batches → vectors → body of the reply

settings       options of the server as values
service        an encoder with everything that serves it
admission      how much work is accepted at one time
health         whether vectors really come out
figures        figures for Prometheus
tracing        attributes for OpenTelemetry
web/           routes, the key, sockets, signals
api/           errors, the OpenAPI page, replies
requests/      JSON in every shape that clients send → inputs
scheduling/    who is prepared next, what runs together, the thread of the backend
retrieval/     search in an index
remote/        pictures behind URLs, for hosts that the operator allows

This package imports Starlette, uvicorn, msgspec and prometheus-client, and OpenTelemetry if there
is one; no other module does.
"""
