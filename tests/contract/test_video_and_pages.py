"""Videos from files and frames, pages of PDFs, budgets per call, and one clear line per error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from lame_runtime.contract import Contract, Limits, Preparer
from lame_runtime.contract.media.images import open_image
from lame_runtime.contract.media.video import read_video, sample_indices
from lame_runtime.contract.prompts import Input, Picture, Video
from lame_runtime.errors import InputError, UsageError
from lame_runtime.inputs import as_input
from PIL import Image
from samples import write_video

LOCKED = Path(__file__).parents[1] / "data/password.pdf"
"""A PDF of one blank page that asks for a password."""


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize("frames", [1, 2, 5, 30])
def test_the_right_frames_of_a_file_are_taken(
    suffix: str, frames: int, tmp_path: Path, contract: Contract
) -> None:
    """At 2 frames a second in any container; the last one fills up the last temporal patch."""
    path = write_video(tmp_path / f"a.{suffix}", frames)
    clip = read_video(path, None, contract.videos, contract.images)
    indices = sample_indices(frames, 10.0, contract.videos, 2)
    seen = [round(float(frame.mean()) / 8) for frame in clip.frames]
    assert seen == [*indices, *[indices[-1]] * (len(indices) % 2)]
    assert clip.frames.shape[0] % 2 == 0
    assert (
        read_video(path.read_bytes(), None, contract.videos, contract.images).frames.shape
        == clip.frames.shape
    )


def test_a_file_embeds_as_its_frames_do(tmp_path: Path, preparer: Preparer) -> None:
    """Ids and frames from the file equal those from the list of its sampled frames."""
    path = write_video(tmp_path / "a.mp4", 40)
    ours = preparer(as_input({"video": path, "text": "what happens"}))
    clip = read_video(path, None, preparer.contract.videos, preparer.contract.images)
    frames = [Image.fromarray(frame) for frame in clip.frames]
    listed = preparer(as_input({"video": frames, "text": "what happens"}))
    assert np.array_equal(ours.ids, listed.ids)
    assert np.array_equal(ours.visuals[0].frames, listed.visuals[0].frames)
    assert ours.visuals[0].is_video
    assert (
        ours.ids.tolist().count(preparer.contract.tokens.video_pad)
        == ours.visuals[0].n_patches // 4
    )


def test_budgets_can_be_set_per_call(tmp_path: Path, preparer: Preparer) -> None:
    """Pixels, frames and rate can be lowered; the preparer itself stays as it is."""
    path = write_video(tmp_path / "a.mp4", 60)
    whole = preparer(as_input({"video": path})).visuals[0]
    assert preparer.with_budget(None, 4, None)(as_input({"video": path})).visuals[0].grid[0] == 2
    assert (
        preparer.with_budget(None, None, 1.0)(as_input({"video": path})).visuals[0].grid[0]
        < whole.grid[0]
    )
    assert (
        preparer.with_budget(28 * 28 * 4, None, None)(as_input({"video": path}))
        .visuals[0]
        .n_patches
        < whole.n_patches
    )
    picture = Image.new("RGB", (900, 900))
    assert (
        preparer.with_budget(28 * 28 * 4, None, None)(Input("", picture)).visuals[0].n_patches <= 16
    )
    assert preparer.with_budget(None, None, None) is preparer
    for wrong in (
        (783,),
        (None, 1),
        (None, None, 0.0),
        (None, None, float("nan")),
        (None, None, None, 5),
        ("1000",),
        (None, 8.5),
    ):
        with pytest.raises(UsageError, match="use"):
            preparer.with_budget(*wrong)


def test_a_page_of_a_pdf_is_a_picture(tmp_path: Path, contract: Contract) -> None:
    """It is named as in a URL and rendered near the pixel budget."""
    red, blue = (Image.new("RGB", (300, 400), color) for color in ("red", "blue"))
    red.save(tmp_path / "a.pdf", save_all=True, append_images=[blue])
    red.save(tmp_path / "one.PDF")
    second = open_image(f"{tmp_path}/a.pdf#page=2", contract.images)
    assert second.getpixel((50, 50)) == (0, 0, 254)  # JPEG inside
    assert open_image(tmp_path / "one.PDF", contract.images).getpixel((50, 50)) == (254, 0, 0)
    assert (
        0.9
        < second.width
        * second.height
        / min(2 * contract.images.max_pixels, 300 * 400 * (300 / 72) ** 2)
        < 1.1
    )


def test_pictures_and_texts_keep_their_order(preparer: Preparer) -> None:
    """A picture's tokens stand where the picture stood, the instruction before the first text."""
    wide, tall = Image.new("RGB", (280, 56)), Image.new("RGB", (56, 280))
    one = preparer(
        Input(content=(Picture(wide), "before", Picture(tall), "after"), instruction="Look.")
    )
    other = preparer(
        Input(content=(Picture(tall), "before", Picture(wide), "after"), instruction="Look.")
    )
    assert len(one.ids) == len(other.ids)
    assert one.ids.tolist() == other.ids.tolist()  # the same amounts of the same tokens
    assert not np.array_equal(one.positions, other.positions)
    text = preparer.tokenizer.decode(one.ids[one.ids < 300].tolist())
    assert text.index("Look.") < text.index("before") < text.index("after")


INPUTS: list[tuple[object, str]] = [
    ({"image": ["a.png", 5]}, "`image` must be"),
    ({"video": 5}, "`video` must be"),
    ({"video": [3.0]}, "frames of a `video`"),
    ({"video": []}, "has no frames"),
    ({"fps": 2, "text": "x"}, "belongs to a `video`"),
    ({"video": ["a"], "fps": "fast"}, "`fps` must be"),
    ({"content": "text"}, "must be a list"),
    ({"content": [5]}, "a part of `content`"),
    ({"content": [{"text": "a", "image": "b"}]}, "one of"),
    ({"content": ["a"], "text": "b"}, "not both"),
    ({"content": [{"picture": "a"}]}, "unknown keys"),
    ({"content": ["", "  "]}, "is empty"),
]


@pytest.mark.parametrize(("item", "message"), INPUTS, ids=[message for _, message in INPUTS])
def test_a_wrong_form_is_named(item: object, message: str, preparer: Preparer) -> None:
    """The message is one line that says what is accepted."""
    with pytest.raises(InputError, match=message) as caught:
        preparer(as_input(item))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def broken(tmp_path: Path) -> dict[str, tuple[Callable[[Contract], object], str]]:
    """Returns, by name, a function that reads something broken and a part of its message."""
    (tmp_path / "text.mp4").write_text("no video")
    whole = write_video(tmp_path / "whole.mp4", 30).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.mp4").touch()
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44_100)
        sound = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono"
        )
        sound.rate = 44_100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    Image.new("RGB", (30, 30)).save(
        tmp_path / "two.pdf", save_all=True, append_images=[Image.new("RGB", (30, 30))]
    )
    (tmp_path / "cut.pdf").write_bytes((tmp_path / "two.pdf").read_bytes()[:200])

    def video(source: object, fps: float | None = None) -> Callable[[Contract], object]:
        return lambda contract: read_video(source, fps, contract.videos, contract.images)  # type: ignore[arg-type]

    def page(name: str) -> Callable[[Contract], object]:
        return lambda contract: open_image(name, contract.images)

    frame = Image.new("RGB", (32, 32))
    return {
        "no such video": (video(tmp_path / "none.mp4"), "no such file"),
        "a folder": (video(tmp_path), "is a folder"),
        "a text": (video(tmp_path / "text.mp4"), "cannot be decoded"),
        "an empty file": (video(tmp_path / "empty.mp4"), "cannot be decoded"),
        "a truncated video": (video(tmp_path / "cut.mp4"), "is truncated"),
        "sound alone": (video(tmp_path / "sound.mp4"), "no video stream"),
        "fps of a file": (video(tmp_path / "whole.mp4", 2.0), "`fps` belongs to a list"),
        "no frames": (video(()), "has no frames"),
        "frames of two sizes": (
            video((frame, Image.new("RGB", (32, 33)))),
            "frame 1 of the video is 32×33",
        ),
        "an array of floats": (video((np.zeros((4, 4, 3)),)), "must be uint8"),
        "a rate of zero": (video((frame,), 0.0), "use 0.001 to 10,000"),
        "too many frames": (video((frame,) * 769), "the limit is 768"),
        "no such PDF": (page(f"{tmp_path}/none.pdf"), "no such file"),
        "two pages, no number": (page(f"{tmp_path}/two.pdf"), "has 2 pages; choose one"),
        "page three of two": (page(f"{tmp_path}/two.pdf#page=3"), "page 3 is out of range"),
        "page zero": (page(f"{tmp_path}/two.pdf#page=0"), "use 1 to 2"),
        "a truncated PDF": (page(f"{tmp_path}/cut.pdf"), "the PDF cannot be read"),
        "a password": (page(str(LOCKED)), "needs a password"),
    }


def test_a_file_that_cannot_be_read_is_named_with_a_remedy(
    tmp_path: Path, contract: Contract
) -> None:
    """Each error is one line and no foreign exception."""
    for name, (read, message) in broken(tmp_path).items():
        with pytest.raises(InputError) as caught:
            read(contract)
        assert message in str(caught.value), name
        assert "\n" not in str(caught.value), name


def test_more_than_the_contract_allows_is_refused(contract: Contract, preparer: Preparer) -> None:
    """Too many pictures or patches are an error that gives their number and the limit."""
    small = Preparer(replace(contract, limits=Limits(visuals=2, patches=100)), preparer.tokenizer)
    picture = Image.new("RGB", (56, 56))
    with pytest.raises(InputError, match="3 pictures and videos, the limit is 2"):
        small(as_input({"image": [picture] * 3}))
    with pytest.raises(InputError, match=r"patches or more, the limit is 100.*max_pixels"):
        small(as_input({"image": Image.new("RGB", (400, 400))}))
    assert small(as_input({"image": [picture] * 2})).visuals
    assert small.with_budget(max_input_pixels=400 * 400 * 2)(
        as_input({"image": Image.new("RGB", (400, 400))})
    ).visuals
    with pytest.raises(InputError, match="limit is 16"):
        preparer.with_budget(max_input_pixels=56 * 56)(as_input({"image": [picture] * 2}))
    with pytest.raises(InputError, match="limit is 2"):
        small(Input(content=(Video((picture,)),) * 3))
