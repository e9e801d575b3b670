"""`serve --index`: the route of search, thumbnails, and the search page in a real browser."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from browser_page import DESKTOP, PHONE, OpenPage, chromium
from lame_runtime import Encoder, UsageError
from lame_runtime.serving.retrieval import search_request
from lame_runtime.serving.settings import ServeOptions
from lame_runtime.serving.web.server_state import ServerState
from PIL import Image
from playwright.sync_api import Browser, expect
from running_server import RunningServer, data_url, load_tiny, running
from search_pictures import PICTURES, picture_index

KEY = "correct-horse"
QUERY = "digits that add up to seven"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Returns a browser; of this module only, see `chromium`."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Returns copies of the pictures, which tests may change."""
    folder = tmp_path_factory.mktemp("secret-folder")
    return [Path(shutil.copy(path, folder)) for path in sorted(PICTURES.glob("*.png"))]


@pytest.fixture(scope="module")
def search_server(pictures: list[Path]) -> Iterator[RunningServer]:
    """Returns a server that searches an index and wants a key."""
    options = ServeOptions(port=0, api_keys=(KEY,))
    with picture_index(pictures) as index, running(options, index=index) as server:
        yield server


def found(server: RunningServer, **body: Any) -> list[dict[str, Any]]:
    """Returns the rows that a search must find."""
    response = server.post("/v1/search", **body)
    assert response.status_code == 200, response.text
    data: list[dict[str, Any]] = response.json()["data"]
    return data


def test_results_are_those_of_the_encoder(
    search_server: RunningServer, encoder: Encoder, pictures: list[Path]
) -> None:
    """For a text, a picture and both, with the scores of their cosines."""
    vectors = encoder.encode_document(pictures)
    image = PICTURES / "34.png"
    for given, sent in (
        (QUERY, QUERY),
        ({"image": image}, {"image": data_url(image)}),
        ({"image": image, "text": "a"}, {"image": data_url(image), "text": "a"}),
    ):
        scores = (encoder.encode_query([given]) @ vectors.T)[0]
        rows = found(search_server, input=sent, top_k=5)
        np.testing.assert_allclose([row["score"] for row in rows], np.sort(scores)[::-1][:5], 1e-4)
        assert rows[0]["columns"]["path"] == pictures[scores.argmax()].name
    assert len(found(search_server, input=QUERY, where="digits=1", top_k=100)) == 10
    assert found(search_server, input=QUERY, where=["digits=9"]) == []
    text = search_server.post("/v1/search", input=QUERY).text
    assert "secret-folder" not in text


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"input": QUERY, "top_k": 0}, "top_k"),
        ({"input": QUERY, "top_k": 10**6}, "top_k"),
        ({"input": QUERY, "where": "nothing=1"}, "does not have"),
        ({"input": QUERY, "where": "digits"}, "write COLUMN=VALUE"),
        ({"input": QUERY, "where": "digits=many"}, "type integer"),
        ({"input": QUERY, "first_stage": "prefix"}, "prefixes"),
        ({"input": "data:image/png;base64,nothing"}, "not a picture"),
        ({"input": {"image": "/etc/passwd"}}, "never a file of the server"),
        ({"input": [QUERY]}, "input"),
        ({}, "input"),
        ({"input": QUERY, "path": "x"}, "path"),
    ],
)
def test_a_wrong_search_is_a_400(
    search_server: RunningServer, body: dict[str, Any], words: str
) -> None:
    """With one line that names what is wrong; the next search works."""
    response = search_server.post("/v1/search", **body)
    assert response.status_code == 400, response.text
    assert words in response.json()["error"]["message"]
    assert found(search_server, input=QUERY)


def test_only_what_the_index_lists_is_shown(search_server: RunningServer) -> None:
    """By the number of its row, as a JPEG; no name leads anywhere, and the key is needed."""
    row = found(search_server, input=QUERY)[0]
    response = search_server.client.get(f"/{row['thumbnail']}")
    assert response.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(response.content)).size[0] <= 256
    for name in ("99", "-1", "1.5", "x", "..%2f0", "%2e%2e/0", "0/../1x", "9" * 400, "٣", "0%00"):
        response = search_server.client.get(f"/v1/search/thumbnails/{name}")
        assert response.status_code == 404, name
        assert "secret-folder" not in response.text
    bare = httpx.get(f"{search_server.url}/{row['thumbnail']}")
    assert bare.status_code == 401
    assert httpx.post(f"{search_server.url}/v1/search", json={"input": QUERY}).status_code == 401


def test_a_changed_file_is_not_shown(tmp_path: Path) -> None:
    """Nor one that was exchanged for a link, or removed; one that is as it was is shown."""
    names = ["0.png", "1.png", "2.png", "3.png"]
    paths = [Path(shutil.copy(PICTURES / name, tmp_path)) for name in names]
    secret = tmp_path / "secret.png"
    shutil.copy(PICTURES / "99.png", secret)
    with picture_index(paths) as index, running(index=index) as server:
        codes = [server.client.get(f"/v1/search/thumbnails/{row}").status_code for row in range(4)]
        assert codes == [200] * 4
        later = (index.folder / "index.json").stat().st_mtime + 5
        os.utime(secret, (later, later))
        os.utime(paths[0], (later, later))
        paths[1].unlink()
        paths[1].symlink_to(secret)
        paths[2].unlink()
        codes = [server.client.get(f"/v1/search/thumbnails/{row}").status_code for row in range(4)]
        assert codes == [404, 404, 404, 200]


def test_a_server_without_an_index_has_no_search(server: RunningServer) -> None:
    """Neither the routes nor the page."""
    assert server.post("/v1/search", input=QUERY).status_code == 404
    assert server.client.get("/v1/search/thumbnails/0").status_code == 404
    assert "/v1/search" not in server.client.get("/openapi.json").json()["paths"]


def test_an_index_of_another_bundle_is_refused(pictures: list[Path]) -> None:
    """When the bundle has been loaded; the server does not start."""

    def other() -> Encoder:
        encoder = load_tiny()
        object.__setattr__(encoder, "graph", "int8")
        return encoder

    with picture_index(pictures[:2]) as index:
        state = ServerState(ServeOptions(), other, index)
        state._make_service()  # noqa: SLF001
        assert state.service is None
        assert isinstance(state.failure, UsageError)
        assert "of the graph fp32, and int8 runs" in str(state.failure)


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_a_person_types_drops_and_sees(
    browser: Browser, search_server: RunningServer, size: tuple[int, int]
) -> None:
    """Results come while one types; the certificate's state is in the corner; nothing scrolls
    sideways, nothing is logged, and nobody else is asked.
    """
    page = OpenPage(browser, search_server.url, size).open()
    tab = page.tab
    tab.get_by_label("This server wants a key").fill("wrong")
    tab.get_by_role("button", name="Use this key").click()
    expect(tab.locator("#key-problem")).to_contain_text("the key is missing or wrong")
    tab.get_by_label("This server wants a key").fill(KEY)
    tab.get_by_role("button", name="Use this key").click()
    expect(tab.locator("#certificate")).to_have_text("certificate passed")
    tab.get_by_label("Text").fill(QUERY)
    wanted = [row["columns"]["path"] for row in found(search_server, input=QUERY, top_k=24)]
    expect(tab.locator("#results img").nth(21)).to_be_visible()
    assert tab.locator("#results li p:first-of-type").all_inner_texts() == wanted
    tab.get_by_label("Condition").fill("digits=1")
    expect(tab.locator("#results li")).to_have_count(10)
    tab.get_by_label("Condition").fill("nothing=1")
    expect(tab.locator("#problem")).to_contain_text("does not have")
    tab.get_by_label("Condition").fill("")
    tab.get_by_label("Text").fill("")
    page.drop("main", "four.png", (PICTURES / "34.png").read_bytes())
    expect(tab.locator("#results li").first).to_contain_text("1.0000")
    expect(tab.locator("#results li").first).to_contain_text("34.png")
    page.drop("main", "notes.txt", b"text", "text/plain")
    expect(tab.locator("#problem")).to_have_text("notes.txt is no picture")
    assert not page.scrolls_sideways()
    assert page.problems == []
    assert [url for url in page.foreign() if not url.startswith("blob:")] == []
    page.close()


def test_long_conditions_and_large_rows_are_refused(
    search_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a condition nor the texts of rows take the server's time and memory."""
    for where in ("a" + " " * 30_000 + "b", "id=" + "a" * 1_000_000):
        error = search_server.error(400, route="/v1/search", input=QUERY, where=where)
        assert error["param"] == "where"
    monkeypatch.setattr(search_request, "MAX_REPLY_CHARACTERS", 100)
    error = search_server.error(400, route="/v1/search", input=QUERY, top_k=20)
    assert (error["code"], error["param"]) == ("reply_too_large", "top_k")


def test_thumbnails_are_admitted_like_requests(search_server: RunningServer) -> None:
    """A file that is read counts; a full server says so before it opens one."""
    admission = search_server.server.state.admission
    with admission.ticket() as ticket:
        ticket.take(size=admission._most_bytes)  # noqa: SLF001
        assert search_server.client.get("/v1/search/thumbnails/0").status_code == 429
    assert search_server.client.get("/v1/search/thumbnails/0").status_code == 200
    assert admission.bytes == admission.items == 0
