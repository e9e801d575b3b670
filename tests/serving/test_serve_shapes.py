"""Requests of every shape give the vectors of `Encoder.encode`, to the byte."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import openai
import pytest
from lame_runtime import Encoder
from lame_runtime.bundle.golden import GoldenInput
from lame_runtime.contract.prompts import Picture, Video
from running_server import TINY, RunningServer, as_bytes, data_url, picture
from samples import write_video

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")


def parts_of(entry: GoldenInput, style: str) -> list[Any]:
    """Returns the parts of a golden input as LaME's dicts or as content parts."""
    parts: list[Any] = []
    for part in entry.item.content:
        if isinstance(part, str):
            parts.append({"text": part} if style == "lame" else {"type": "text", "text": part})
        elif isinstance(part, Video):
            parts.append({"video": [data_url(frame) for frame in part.source], "fps": part.fps})
        elif style == "lame":
            parts.append({"image": data_url(part.source)})
        elif style == "voyage":
            content = base64.b64encode(TINY.parent.joinpath(part.source).read_bytes()).decode()
            parts.append({"type": "image_base64", "image_base64": content})
        elif style == "string":
            parts.append(data_url(part.source))
        else:
            parts.append({"type": "image_url", "image_url": {"url": data_url(part.source)}})
    return parts


def shapes_of(entry: GoldenInput) -> dict[str, dict[str, Any]]:
    """Returns the bodies that all stand for one golden input."""
    instruction = entry.item.instruction
    messages = [{"role": "user", "content": parts_of(entry, "openai")}]
    if instruction is not None:
        messages.insert(0, {"role": "system", "content": instruction})
    single = {
        style: {"content": parts_of(entry, style), "instruction": instruction}
        for style in ("lame", "openai", "voyage", "string")
    }
    shapes: dict[str, dict[str, Any]] = {style: {"input": item} for style, item in single.items()}
    shapes["list"] = {"input": [single["lame"]]}
    shapes["conversation"] = {"messages": messages}
    shapes["conversations"] = {"messages": [messages]}
    shapes["conversation in a list"] = {"input": [messages]}
    parts = [part for part in entry.item.content if part != ""]
    if len(parts) == 1 and not instruction:
        # the shortest form: a string, and a single part
        (part,) = parts
        if isinstance(part, str):
            shapes["one string"] = {"input": part}
        elif isinstance(part, Picture):
            shapes["one string"] = {"input": data_url(part.source)}
            shapes["one dict"] = {"input": {"image": data_url(part.source)}}
            url = {"type": "image_url", "image_url": data_url(part.source)}
            shapes["one part"] = {"input": [url]}
    return shapes


def test_every_golden_input_in_every_shape(video_server: RunningServer, encoder: Encoder) -> None:
    """Each shape gives the bytes of the vector that `encode` gives."""
    assert encoder.bundle is not None
    seen: set[str] = set()
    for entry in encoder.bundle.golden().inputs:
        expected = as_bytes(encoder.encode([entry.item], role=entry.role))
        for name, body in shapes_of(entry).items():
            seen.add(name)
            assert video_server.vectors(**body, input_type=entry.role) == expected, (name, entry)
    assert len(seen) == 11


def test_a_text_with_a_picture_gives_one_vector(server: RunningServer, encoder: Encoder) -> None:
    """It is neither that of the text nor that of the picture."""
    url, data = data_url(picture()), picture()
    items: list[Any] = [{"text": "seven", "image": url}, "seven", url]
    fused, text, image = server.vectors(input=items)
    assert len({fused, text, image}) == 3
    expected = encoder.encode([{"text": "seven", "image": data}, "seven", {"image": data}])
    assert [fused, text, image] == as_bytes(expected)


def test_32_pictures_as_strings_dicts_parts_and_conversations(server: RunningServer) -> None:
    """The same 32 vectors."""
    urls = [data_url(picture(number, 20 + number, 40)) for number in range(32)]
    forms: list[list[Any]] = [
        urls,
        [{"image": url} for url in urls],
        [{"type": "image_url", "image_url": {"url": url}} for url in urls],
        [[{"role": "user", "content": [{"type": "image_url", "image_url": url}]}] for url in urls],
    ]
    vectors = [server.vectors(input=form) for form in forms]
    assert len(set(vectors[0])) == 32
    assert all(other == vectors[0] for other in vectors)


def test_formats_of_pictures_and_a_page(server: RunningServer, encoder: Encoder) -> None:
    """The bytes decide, whatever the media type says."""
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PDF"):
        data = picture(kind=kind)
        media_type = "application/pdf" if kind == "PDF" else "image/jpeg"
        expected = as_bytes(encoder.encode([{"image": data}]))
        assert server.vectors(input=data_url(data, media_type)) == expected, kind


def test_video_files(video_server: RunningServer, encoder: Encoder, tmp_path: Path) -> None:
    """As a string, a dict, and content parts of two kinds."""
    write_video(tmp_path / "clip.mp4", 12)
    data = (tmp_path / "clip.mp4").read_bytes()
    url = data_url(data, "video/mp4")
    items: list[Any] = [
        url,
        {"video": url},
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "video_base64", "video_base64": base64.b64encode(data).decode()},
    ]
    expected = as_bytes(encoder.encode([{"video": data}]))
    assert video_server.vectors(input=items, user="somebody") == expected * 4
    error = video_server.error(400, input=["a", data_url(data[:500], "video/mp4")])
    assert error["param"] == "input[1]"


def test_the_openai_client_with_its_defaults(server: RunningServer, encoder: Encoder) -> None:
    """It asks for base64 by itself; asked for floats, it gets the same numbers."""
    texts = ["seven", "digits that add up to fifteen"]
    expected = encoder.encode(texts)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        reply = client.embeddings.create(input=texts, model="tiny-bundle")
        assert np.array_equal([entry.embedding for entry in reply.data], expected)
        floats = client.embeddings.create(input=texts, model="tiny-bundle", encoding_format="float")
        assert np.array_equal([entry.embedding for entry in floats.data], expected)
        chat = [{"role": "user", "content": [{"type": "text", "text": "seven"}]}]
        body = {"messages": chat}
        single = client.embeddings.create(
            input=openai.NOT_GIVEN, model="tiny-bundle", extra_body=body
        )
        assert np.array_equal(single.data[0].embedding, expected[0])
        with pytest.raises(openai.BadRequestError) as raised:
            client.embeddings.create(input=[[1, 2]], model="tiny-bundle")
    assert raised.value.param == "input[0]"
    assert raised.value.code == "token_ids"


def test_the_asynchronous_openai_client(server: RunningServer, encoder: Encoder) -> None:
    """64 requests at one time, each with the vector of its own text."""
    texts = [f"digits that add up to {number}" for number in range(64)]

    async def embed_all() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            calls = [client.embeddings.create(input=text, model="tiny-bundle") for text in texts]
            return await asyncio.gather(*calls)

    replies = asyncio.run(embed_all())
    vectors = [reply.data[0].embedding for reply in replies]
    # each alone, because no vector may depend on what it ran with
    assert np.array_equal(vectors, np.concatenate([encoder.encode(text) for text in texts]))


def test_2048_texts_in_one_call(server: RunningServer, encoder: Encoder) -> None:
    """They are split inside; one more is refused by number."""
    texts = [f"text {'word ' * (number % 17)}{number}" for number in range(2048)]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        reply = client.embeddings.create(input=texts, model="tiny-bundle")
    assert np.array_equal([entry.embedding for entry in reply.data], encoder.encode(texts))
    error = server.error(400, input=[*texts, "one more"])
    assert error["code"] == "too_many_items"
    assert "2,049" in error["message"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dimensions", [None, 16])
def test_types_and_lengths(
    precision: Any, dimensions: int | None, server: RunningServer, encoder: Encoder
) -> None:
    """Prefixes have unit length again; bits and bytes are those of `encode`."""
    texts = ["seven", "eight"]
    expected = encoder.encode(texts, precision=precision, truncate_dim=dimensions)
    body = {"input": texts, "embedding_type": precision, "dimensions": dimensions}
    assert server.vectors(**body) == as_bytes(expected)
    numbers = server.post(**body, encoding_format="float").json()["data"]
    assert [entry["embedding"] for entry in numbers] == expected.tolist()
    if precision == "float32":
        assert np.allclose(np.linalg.norm(expected, axis=1), 1)


def test_roles_have_many_names(server: RunningServer, encoder: Encoder) -> None:
    """A word of `input_type`, or the end of the model's name; two that differ are refused."""
    query, document = (as_bytes(encoder.encode("seven", role=r)) for r in ("query", "document"))
    for word, expected in (
        ("query", query),
        ("search_query", query),
        ("document", document),
        ("passage", document),
        ("search_document", document),
    ):
        assert server.vectors(input="seven", input_type=word) == expected
    for suffix, expected in (("query", query), ("passage", document), ("document", document)):
        assert server.vectors(input="seven", model=f"tiny-bundle-{suffix}") == expected
    both = {"model": "tiny-bundle-query", "input_type": "passage"}
    assert server.error(400, input="seven", **both)["param"] == "input_type"
    assert "search_query" in server.error(400, input="a", input_type="clustering")["message"]


def test_a_role_with_an_instruction_changes_the_vector(
    server: RunningServer, encoder: Encoder
) -> None:
    """An item's own instruction counts, in a dict and in a conversation."""
    expected = as_bytes(encoder.encode("seven", instruction="Find the picture."))
    assert server.vectors(input={"text": "seven", "instruction": "Find the picture."}) == expected
    system = {"role": "system", "content": [{"type": "text", "text": "Find the picture."}]}
    user = {"role": "user", "content": "seven"}
    answer = {"role": "assistant", "content": [{"type": "text", "text": ""}]}
    assert server.vectors(messages=[system, user, answer]) == expected
    assert expected != server.vectors(input="seven")


def test_long_texts_are_refused_or_cut(server: RunningServer, encoder: Encoder) -> None:
    """NONE is the default; START is refused with a reason."""
    text = "word " * 2000
    error = server.error(400, input=["short", text])
    assert error["param"] == "input[1]"
    assert '"truncate": "END"' in error["message"]
    expected = as_bytes(encoder.encode([text], truncate=True))
    assert server.vectors(input=[text], truncate="END") == expected
    assert server.error(400, input=[text], truncate="START")["param"] == "truncate"
    assert server.error(400, input=[text], truncate="NONE") != error


def test_usage_counts_text_and_vision_tokens(server: RunningServer, encoder: Encoder) -> None:
    """The sum is that of what the graph runs, without padding."""
    data = picture()
    prepared = [
        encoder.preparer(item)
        for item in (_input("seven and more"), _input({"image": data, "text": "a"}))
    ]
    total = sum(len(item.ids) for item in prepared)
    vision = prepared[1].visuals[0].n_patches // 4
    body = server.post(input=["seven and more", {"image": data_url(data), "text": "a"}]).json()
    assert body["usage"] == {
        "prompt_tokens": total,
        "total_tokens": total,
        "text_tokens": total - vision,
        "vision_tokens": vision,
    }
    assert (body["model"], body["object"]) == ("tiny-bundle", "list")


def _input(item: Any) -> Any:
    from lame_runtime.inputs import as_input

    return as_input(item)


def test_coheres_shape(server: RunningServer, encoder: Encoder) -> None:
    """Texts, pictures and mixed inputs; several types of vectors at once."""
    url, data = data_url(picture()), picture()
    expected = encoder.encode(["seven"], role="query")
    body = server.post(
        "/v2/embed",
        texts=["seven"],
        input_type="search_query",
        model="tiny-bundle",
        embedding_types=["float", "int8", "binary", "base64"],
    ).json()
    assert body["embeddings"]["float"] == expected.tolist()
    for kind in ("int8", "binary"):
        quantized = encoder.encode(["seven"], role="query", precision=kind)  # type: ignore[arg-type]
        assert body["embeddings"][kind] == quantized.tolist()
    assert base64.b64decode(body["embeddings"]["base64"][0]) == as_bytes(expected)[0]
    assert body["texts"] == ["seven"]
    images = server.post("/v2/embed", images=[url], input_type="image").json()
    assert images["embeddings"]["float"] == encoder.encode([{"image": data}]).tolist()
    content = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": url}}]
    mixed = server.post("/v2/embed", inputs=[{"content": content}]).json()
    item = {"content": [{"text": "a"}, {"image": data}]}
    assert mixed["embeddings"]["float"] == encoder.encode([item]).tolist()
    assert mixed["meta"]["billed_units"]["image_tokens"] > 0
    short = server.post("/v2/embed", texts=["seven"], output_dimension=8).json()
    assert len(short["embeddings"]["float"][0]) == 8
    assert server.post("/v2/embed", texts=["a"], images=[url]).status_code == 400


def test_times_are_in_the_headers(server: RunningServer) -> None:
    """In milliseconds; no step took longer than the whole."""
    headers = server.post(input=["seven", data_url(picture())]).headers
    times = {name: float(headers[f"x-{name}-time"]) for name in ("total", "prepare", "inference")}
    assert 0 < times["prepare"] <= times["total"]
    assert 0 < times["inference"] <= times["total"]
    assert float(headers["x-queue-time"]) <= times["total"]


def test_models_health_and_figures(server: RunningServer, encoder: Encoder) -> None:
    """They describe the bundle and what has been done."""
    assert encoder.bundle is not None
    (model,) = server.client.get("/v1/models").json()["data"]
    assert model["id"] == "tiny-bundle"
    assert model["bundle_sha256"] == encoder.bundle.manifest.sha256
    assert (model["dim"], model["inputs"]) == (encoder.dim, ["text", "image"])
    assert model["limits"]["items"] == 2048
    for route in ("/health", "/v1/health/ready", "/v1/health/live"):
        assert server.client.get(route).status_code == 200, route
    names = ("lame_items_total", "lame_tokens_total", "lame_patches_total", "lame_batch_items_sum")
    before = {name: server.figure(name) for name in names}
    server.vectors(input=["seven", data_url(picture())])
    after = {name: server.figure(name) for name in names}
    assert all(after[name] > before[name] for name in names)
    assert server.figure("lame_ready") == 1
    assert server.figure("lame_queue_items") == 0
    assert isinstance(server.client, httpx.Client)
