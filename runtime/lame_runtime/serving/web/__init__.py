"""Routes, the key, sockets and signals.

server_state     what the routes share, also while the bundle is being loaded
application      routes and error handlers
embedding_route  what happens to a request for vectors, step by step
status_routes    health, models, figures, the OpenAPI page
request_body     a request's bytes, within bounds of size and time
http_protocol    connections that send no request are closed
guard            the key, and what is counted of every request
page/            the page at `/` for a person
http_server      the socket, signals, and the end of accepted work
"""
