"""JSON in every shape that clients send → items → inputs.

schemas           the shapes as msgspec types, which also make the OpenAPI page
json_body         bytes → JSON → a checked shape, and errors that name the place
openai_request    `/v1/embeddings` → what is wanted
cohere_request    `/v2/embed` → what is wanted
wanted            what every request comes to: items, options, and the form of the reply
model_names       names of the model, and the role that a client asks for
items             one item → an `Input`
media_sources     data URLs and URLs → bytes, with the size of a picture checked by its header

Nothing here opens a file: media reach `Input` as bytes only.
"""
