"""The page at `/` in a real browser: what a person types, drops, reads and copies."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2 as httpx
import numpy as np
import numpy.typing as npt
import pytest
from browser_page import DESKTOP, PHONE, OpenPage, chromium
from lame_runtime import Encoder
from lame_runtime.serving.settings import ServeOptions
from lame_runtime.serving.web.page.page_route import content_policy
from playwright.sync_api import Browser, Route, expect
from running_server import RunningServer, data_url, load_tiny, picture, running

KEY = "correct-horse"
HOSTILE = '<img src=x onerror="window.hacked = 1">'
DARK = "rgb(18, 20, 27)"
TEXTS = ["seven", "digits that add up to seven", "the tax report"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Returns a browser; of this module only, see `chromium`."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def locked_server() -> Iterator[RunningServer]:
    """Returns a server that wants a key."""
    with running(ServeOptions(port=0, api_keys=(KEY,))) as server:
        yield server


@contextmanager
def opened(
    browser: Browser, server: RunningServer, size: tuple[int, int] = DESKTOP, **options: Any
) -> Iterator[OpenPage]:
    """Opens the page. At the end, nothing was logged and nobody else was asked for anything."""
    page = OpenPage(browser, server.url, size, **options)
    try:
        yield page.open()
        assert page.problems == []
        assert page.foreign() == []
    finally:
        page.close()


@pytest.fixture
def page(browser: Browser, server: RunningServer) -> Iterator[OpenPage]:
    """Returns the page of a server without keys, on a large screen."""
    with opened(browser, server) as page:
        yield page


def cosines(encoder: Encoder, *inputs: Any) -> npt.NDArray[np.float32]:
    """Returns the similarities (n, n) of inputs that are embedded in this process."""
    vectors = encoder.encode(list(inputs))
    return vectors @ vectors.T


def assert_equal(matrix: npt.NDArray[np.float64], wanted: npt.NDArray[np.float32]) -> None:
    """Asserts that a matrix of the page is right to the three places that it shows."""
    np.testing.assert_allclose(matrix, wanted, rtol=0, atol=0.0006)


def test_texts_give_the_cosines_of_the_encoder(page: OpenPage, encoder: Encoder) -> None:
    """To three places; the nearest pair comes first, and the times are those of the server."""
    page.write(*TEXTS)
    page.press_compare()
    wanted = cosines(encoder, *TEXTS)
    assert_equal(page.matrix(), wanted)
    with pytest.raises(AssertionError):
        assert_equal(page.matrix(), wanted + 0.002)
    row, column = np.argwhere(wanted == wanted[np.triu_indices(3, 1)].max())[0]
    first = page.tab.locator("#pairs li").first
    expect(first).to_have_text(f"{wanted[row, column]:.3f}{row + 1}{TEXTS[row]}"
                               f"{column + 1}{TEXTS[column]}")  # fmt: skip
    times = page.tab.locator("#times").inner_text()
    assert re.search(r"items\s+3\n", times)
    assert len(re.findall(r"\d+\.\d ms", times)) == 5


def test_one_click_shows_something(page: OpenPage) -> None:
    """The page comes with examples, says what is served, and that it is ready."""
    expect(page.tab.get_by_role("status").first).to_have_text("ready")
    expect(page.tab.get_by_role("heading", level=1)).to_have_text("tiny-bundle")
    expect(page.tab.locator("#facts")).to_contain_text("64 values")
    expect(page.tab.locator("#facts")).to_contain_text("2,048 items")
    page.press_compare()
    assert page.matrix().shape == (3, 3)


def test_pictures_are_dropped_pasted_and_chosen(page: OpenPage, encoder: Encoder) -> None:
    """A picture in the box of a text makes one vector with it, any other a box of its own."""
    first, second, third = picture(1), picture(2, 60, 40), picture(3)
    page.write("seven", "What do the digits add up to?")
    page.item(3).get_by_role("button", name="Remove").click()
    page.drop("main", "first.png", first)
    expect(page.item(3).get_by_alt_text("first.png")).to_be_visible()
    page.paste("[aria-label='Item 2'] textarea", "second.png", second)
    expect(page.item(2).get_by_alt_text("second.png")).to_be_visible()
    chosen: Any = {"name": "third.png", "mimeType": "image/png", "buffer": third}
    page.tab.get_by_label("Add pictures").set_input_files(chosen)
    expect(page.item(4).get_by_alt_text("third.png")).to_be_visible()
    page.press_compare()
    both = {"image": second, "text": "What do the digits add up to?"}
    assert_equal(page.matrix(), cosines(encoder, "seven", both, {"image": first}, {"image": third}))
    assert page.tab.locator("#matrix thead img").count() == 3


def test_roles_are_sent(page: OpenPage, server: RunningServer) -> None:
    """Items of one role travel together; the page puts their vectors back into order."""
    page.write(*TEXTS)
    page.item(2).get_by_label("Role").select_option("query")
    page.press_compare()
    page.matrix()
    bodies = sorted(page.bodies(), key=lambda body: len(body["input"]))
    assert [body.get("input_type") for body in bodies] == ["query", None]
    assert [body["input"] for body in bodies] == [[TEXTS[1]], [TEXTS[0], TEXTS[2]]]
    assert page.item(1).get_by_label("Role").locator("option").all_inner_texts() == [
        "no role",
        *sorted(server.service.encoder.prompts),
    ]


def test_a_wrong_key_is_refused_and_the_right_one_taken(
    browser: Browser, locked_server: RunningServer, encoder: Encoder
) -> None:
    """The page asks for it, and keeps it in the storage of the tab only."""
    with opened(browser, locked_server) as page:
        field = page.tab.get_by_label("This server wants a key")
        expect(field).to_be_focused()
        field.fill("wrong")
        field.press("Enter")
        expect(page.tab.locator("#key-problem")).to_contain_text("the key is missing or wrong")
        assert page.tab.evaluate("sessionStorage.length") == 0
        field.fill(f" {KEY} ")
        field.press("Enter")
        expect(field).to_be_hidden()
        page.write(*TEXTS)
        page.press_compare()
        assert_equal(page.matrix(), cosines(encoder, *TEXTS))
        assert page.tab.evaluate("Object.values(sessionStorage)") == [KEY]
        assert page.tab.evaluate("localStorage.length") == 0
        assert page.context.cookies() == []
        assert KEY not in page.tab.locator("#codes").inner_text()
        page.open()
        expect(page.tab.get_by_role("heading", level=1)).to_have_text("tiny-bundle")
        expect(field).to_be_hidden()


def test_the_line_of_the_server_stands_at_its_item(page: OpenPage, server: RunningServer) -> None:
    """A broken picture among good items; once it is removed, the others are compared."""
    broken = picture()[:400]
    page.item(2).get_by_label("Role").select_option("query")
    page.drop("main", "broken.png", broken)
    page.press_compare()
    line = server.error(400, input=[data_url(broken)])["message"]
    expect(page.item(4).get_by_role("alert")).to_have_text(line)
    expect(page.item(4).get_by_label("Text")).to_have_attribute("aria-invalid", "true")
    expect(page.item(4)).to_have_class("item wrong")
    expect(page.item(3)).to_have_class("item")
    expect(page.tab.locator("#problem")).to_have_text("item 4 was refused")
    expect(page.tab.locator("#matrix")).to_be_hidden()
    page.item(4).get_by_role("button", name="Remove").click()
    page.press_compare()
    assert page.matrix().shape == (3, 3)
    page.drop("main", "notes.txt", b"text", "text/plain")
    expect(page.tab.locator("#problem")).to_have_text("notes.txt cannot be read as a picture")


def test_markup_is_shown_as_text_and_runs_nothing(page: OpenPage, encoder: Encoder) -> None:
    """In a text, in a name of a file, and in every place where they are shown again."""
    page.write(HOSTILE, "data:image/png;base64,nothing", "{body} {calls}")
    page.drop("main", f"{HOSTILE}.png", picture())
    page.item(4).wait_for()
    page.press_compare()
    texts = [{"text": HOSTILE}, {"text": "data:image/png;base64,nothing"}]
    wanted = cosines(encoder, *texts, "{body} {calls}", {"image": picture()})
    assert_equal(page.matrix(), wanted)
    heads = page.tab.locator("#matrix tbody .words").all_inner_texts()
    assert (heads[0], heads[3]) == (HOSTILE, f"{HOSTILE}.png")
    assert page.tab.locator("img[src=x]").count() == 0
    assert page.tab.evaluate("window.hacked") is None


def test_html_from_strings_is_refused_by_the_browser(
    browser: Browser, server: RunningServer
) -> None:
    """The control of the test above: neither a smuggled script nor `innerHTML` gets through."""
    page = OpenPage(browser, server.url)

    def tampered(route: Route) -> None:
        response = route.fetch()
        body = response.text().replace("<main>", "<script>window.hacked = 1</script><main>")
        route.fulfill(response=response, body=body)

    page.tab.route(f"{server.url}/", tampered)
    page.open()
    page.tab.get_by_text("ready", exact=True).wait_for()
    assert page.tab.evaluate("window.hacked") is None
    with pytest.raises(Exception, match="TrustedHTML"):
        page.tab.evaluate("document.body.innerHTML = '<b>bold</b>'")
    page.tab.evaluate("fetch('http://127.0.0.2:9/').catch(() => 0)")
    assert page.foreign() == ["http://127.0.0.2:9/"] or any(
        "connect-src" in problem for problem in page.problems
    )
    assert any("script-src" in problem for problem in page.problems)
    page.close()


def copied(page: OpenPage, name: str) -> str:
    """Returns what the button of a program copies."""
    program = page.tab.locator("#codes > div").filter(
        has=page.tab.get_by_role("heading", name=name)
    )
    program.get_by_role("button").click()
    expect(program.get_by_role("button")).to_have_text("Copied")
    text: str = page.tab.evaluate("navigator.clipboard.readText()")
    return text


def test_copied_programs_give_the_same_vectors(
    browser: Browser,
    locked_server: RunningServer,
    encoder: Encoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The commands for the shell and the program in Python run as they are, with two roles."""
    monkeypatch.setenv("LAME_API_KEY", KEY)
    odd = "it's \"quoted\" $HOME `id`\n\\n 'JSON' é 😀"
    with opened(browser, locked_server) as page:
        page.tab.get_by_label("This server wants a key").fill(KEY)
        page.tab.get_by_role("button", name="Use this key").click()
        expect(page.tab.locator("#key")).to_be_hidden()
        page.write(odd, "a picture with a text", "query")
        page.item(3).get_by_label("Role").select_option("query")
        page.drop("[aria-label='Item 2'] textarea", "large.png", picture(0, 300, 200))
        expect(page.item(2).get_by_alt_text("large.png")).to_be_visible()
        page.press_compare()
        page.matrix()
        # shortened for the eye, whole where it is copied
        assert len(page.tab.locator("#codes").inner_text()) < 3000
        shell, program = copied(page, "curl"), copied(page, "Python")
    wanted = encoder.encode(
        [odd, {"image": picture(0, 300, 200), "text": "a picture with a text"}, "query"]
    )
    names: dict[str, Any] = {}
    exec(program, names)
    names["client"].close()
    np.testing.assert_allclose(names["vectors"], wanted, atol=1e-5)
    if shutil.which("curl") is None:
        pytest.skip("needs curl for the second half")
    run = subprocess.run(["sh"], input=shell, capture_output=True, text=True, check=True)
    rows = re.findall(r'"embedding":\[([^\]]*)\]', run.stdout)
    np.testing.assert_allclose([np.fromstring(row, sep=",") for row in rows], wanted, atol=1e-5)


def test_a_phone_shows_everything_without_scrolling_sideways(
    browser: Browser, server: RunningServer
) -> None:
    """With long words and many columns, in the dark; the control is a button that is too wide."""
    with opened(browser, server, PHONE, color_scheme="dark", has_touch=True) as page:
        assert page.tab.evaluate("getComputedStyle(document.body).backgroundColor") == DARK
        page.write("w" * 300, "a text of many words " * 10)
        for number in range(6):
            page.drop("main", f"{'n' * 80}{number}.png", picture(number, 300, 10))
        page.item(9).wait_for()
        page.press_compare()
        assert page.matrix().shape == (9, 9)
        assert not page.scrolls_sideways()
        page.tab.evaluate("document.querySelector('#compare').style.minWidth = '500px'")
        assert page.scrolls_sideways()


def test_the_keyboard_is_enough(page: OpenPage) -> None:
    """Tab reaches every control in order, each has a name, and Enter presses the button."""
    page.tab.get_by_text("ready", exact=True).wait_for()
    names = []
    for _ in range(30):
        page.tab.keyboard.press("Tab")
        names.append(page.tab.evaluate(
            "(node => node.ariaLabel || node.innerText)(document.activeElement)"
        ))  # fmt: skip
        if names[-1] == "Compare":
            break
    boxes = ["Role", "Add a picture", "Remove", "Text"] * 3
    assert names[:-2] == [*boxes, "Add a text"]
    page.tab.keyboard.press("Enter")
    assert page.matrix().shape == (3, 3)


def test_the_page_waits_for_the_bundle(browser: Browser) -> None:
    """It says that the server is starting, and takes over what is served once it is."""
    may_load = threading.Event()

    def load() -> Encoder:
        assert may_load.wait(30)
        return load_tiny()

    with (
        running(ServeOptions(port=0), load, until_loaded=False) as server,
        opened(browser, server) as page,
    ):
        status = page.tab.get_by_role("status").first
        expect(status).to_have_text("not ready: the server is starting")
        page.press_compare()
        expect(page.tab.locator("#problem")).to_have_text("the server is not ready")
        may_load.set()
        expect(status).to_have_text("ready", timeout=10_000)
        expect(page.tab.get_by_role("heading", level=1)).to_have_text("tiny-bundle")


def test_the_page_needs_no_key_and_allows_nothing_else(locked_server: RunningServer) -> None:
    """Without a browser: headers, hashes, and no address of another host in the file."""
    response = httpx.get(f"{locked_server.url}/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    policy = response.headers["content-security-policy"]
    assert policy == content_policy(response.text)
    for rule in ("default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"):
        assert rule in policy
    # only the page of search shows what it has fetched
    assert "img-src data:;" in policy
    assert "unsafe" not in policy
    hashes = re.findall(r"'sha256-([^']+)'", policy)
    assert [len(base64.b64decode(digest)) for digest in hashes] == [32, 32]
    assert content_policy(response.text.replace("<script", "<script>1</script><script")) != policy
    links = set(re.findall(r"https?://[^'\"\s]+", response.text))
    assert links == {"http://www.w3.org/2000/svg"}  # the name of a language, which is not fetched
    assert httpx.get(f"{locked_server.url}/v1/models").status_code == 401
    script = response.text.split('<script type="module">\n')[1].split("</script>")[0]
    assert script.count("\n") <= 300
