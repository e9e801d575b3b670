"""Pages of PDFs that are damaged, huge, or read by several threads."""

from __future__ import annotations

import io
import random
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lame_runtime.contract import ImageRules, Preparer
from lame_runtime.contract.media import pages
from lame_runtime.contract.media.images import open_image
from lame_runtime.errors import InputError
from PIL import Image


@pytest.fixture(scope="module")
def rules(preparer: Preparer) -> ImageRules:
    return preparer.contract.images


def pdf(
    box: str = "0 0 200 200",
    kids: int = 1,
    count: int | None = None,
    image: tuple[int, int] = (2, 2),
) -> bytes:
    """Returns a PDF whose pages are all the same one, which shows one gray picture."""
    width, height = image
    data = zlib.compress(bytes(width * height))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {count or kids} /Kids [{'3 0 R ' * kids}] >>".encode(),
        f"<< /Type /Page /Parent 2 0 R /MediaBox [{box}] /Contents 4 0 R "
        "/Resources << /XObject << /I 5 0 R >> >> >>".encode(),
        b"<< /Length 29 >> stream\nq 100 0 0 100 0 0 cm /I Do Q \nendstream",
        f"<< /Type /XObject /Subtype /Image /Width {width} /Height {height} /BitsPerComponent 8 "
        f"/ColorSpace /DeviceGray /Filter /FlateDecode /Length {len(data)} >> stream\n".encode()
        + data
        + b"\nendstream",
    ]
    file, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(file))
        file += b"%d 0 obj\n" % number + body + b"\nendobj\n"
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return (
        file
        + b"xref\n0 6\n0000000000 65535 f \n"
        + table
        + b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(file)
    )


@pytest.mark.parametrize("page", ["0", "2", "9" * 20, "9" * 5000, "0" * 5000 + "2"])
def test_a_page_out_of_range_is_refused(page: str, tmp_path: Path, rules: ImageRules) -> None:
    """However many digits its number has."""
    (tmp_path / "a.pdf").write_bytes(pdf())
    with pytest.raises(InputError, match="use 1 to 1") as caught:
        open_image(f"{tmp_path}/a.pdf#page={page}", rules)
    assert len(str(caught.value)) < 300
    assert open_image(f"{tmp_path}/a.pdf#page={'0' * 5000}1", rules).mode == "RGB"


def test_a_huge_page_is_rendered_within_the_limit(rules: ImageRules) -> None:
    """Whatever its size and whatever pixel budget the caller sets."""
    generous = replace(rules, max_pixels=10**12, max_source_pixels=1_000_000)
    for box in ("0 0 14400 14400", "0 0 1e6 1e6", "0 0 100000 1000"):
        picture = open_image(pdf(box), generous)
        assert picture.width * picture.height <= 1_010_000


def test_a_strip_is_not_rendered(rules: ImageRules, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fraction of a pixel is rounded up to one; without the check 416,667 of them are made."""
    for box in ("0 0 100000 0.001", "0 0 0.001 100000", "0 0 14400 71"):
        with pytest.raises(InputError, match="200 times the other; crop it"):
            pages.render_bytes(pdf(box), "a.pdf", rules)
    assert pages.render_bytes(pdf("0 0 14400 73"), "a.pdf", rules).height > 1
    monkeypatch.setattr(pages, "MAX_ASPECT_RATIO", float("inf"))
    assert pages.render_bytes(pdf("0 0 100000 0.001"), "a.pdf", rules).size == (416_667, 1)


def test_a_page_without_an_area_is_refused_or_has_a_default(rules: ImageRules) -> None:
    """Nothing but an `InputError` comes out of it."""
    for box in ("0 0 0 0", "0 0 -5 -5", "0 0 1e30 1e30", "a b c d", "0 0 1e-9 1e-9", "5"):
        try:
            open_image(pdf(box), rules)
        except InputError as error:
            message = str(error)
            assert "\n" not in message


def test_a_page_with_a_picture_that_is_too_large_is_refused(
    rules: ImageRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PDFium would decode it as a whole; without the check it does."""
    small = replace(rules, max_source_pixels=100_000)
    assert open_image(pdf(image=(300, 300)), small).mode == "RGB"
    with pytest.raises(InputError, match="holds a picture of"):
        open_image(pdf(image=(400, 400)), small)
    monkeypatch.setattr(pages, "_check_embedded", lambda *_: None)
    assert open_image(pdf(image=(400, 400)), small).mode == "RGB"


def test_a_pdf_of_too_many_pages_is_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few bytes can claim a million pages."""
    (tmp_path / "a.pdf").write_bytes(pdf(kids=12))
    assert len(pages.page_names(f"{tmp_path}/a.pdf")) == 12
    monkeypatch.setattr(pages, "MAX_PAGES", 10)
    with pytest.raises(InputError, match="the limit is 10"):
        pages.page_names(f"{tmp_path}/a.pdf")
    monkeypatch.undo()
    (tmp_path / "b.pdf").write_bytes(pdf(count=1_000_000))
    with pytest.raises(InputError, match="pages"):
        pages.page_names(f"{tmp_path}/b.pdf")


def test_a_damaged_pdf_is_an_input_error(rules: ImageRules) -> None:
    """In one line, or it is rendered."""
    whole, draw, refused = pdf(), random.Random(0), 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 5, 30))):
            data[draw.randrange(5, len(data))] = draw.randrange(256)
        try:
            open_image(bytes(data), rules)
        except InputError:
            refused += 1
    assert refused


def test_threads_may_render_pages(tmp_path: Path, rules: ImageRules) -> None:
    """PDFium is not made for threads: without a lock it ends the process now and then."""
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    )
    image.save(tmp_path / "a.pdf", save_all=True, append_images=[image] * 3)
    names = [f"{tmp_path}/a.pdf#page={number}" for number in (1, 2, 3, 4)] * 6
    expected = np.asarray(open_image(names[0], rules))
    with ThreadPoolExecutor(6) as pool:
        for picture in pool.map(lambda name: open_image(name, rules), names):
            assert np.array_equal(np.asarray(picture), expected)


def test_pages_are_rendered_by_one_thread_at_a_time(
    rules: ImageRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is held while a page is rendered, and free afterward, also after an error."""
    held = []
    rendered = pages._rendered  # noqa: SLF001

    def watched(*args: object) -> Image.Image:
        held.append(pages._lock.locked())  # noqa: SLF001
        return rendered(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(pages, "_rendered", watched)
    open_image(pdf(), rules)
    with pytest.raises(InputError):
        open_image(pdf(kids=2), rules)
    assert held == [True, True]
    assert not pages._lock.locked()  # noqa: SLF001


def test_a_pdf_that_is_an_open_file_is_read_whole(rules: ImageRules) -> None:
    """Bytes are recognized by their content."""
    assert open_image(io.BytesIO(pdf()).getvalue(), rules).mode == "RGB"
