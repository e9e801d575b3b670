"""The interface that clients see: errors, replies and the OpenAPI page.

api_errors    one shape for every error
replies       vectors as JSON
openapi_page  the page that describes the routes
"""
