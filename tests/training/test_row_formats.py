"""Row formats: hard negatives, pages, videos, our own JSONL, and rows that do not fit."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from lame_runtime.contract import Input
from lame_runtime.contract.prompts import Picture, Video
from lame_runtime.errors import InputError
from lame_training.data import DataSet, open_rows, read_pairs
from samples import PICTURE, write_mmeb_rows, write_own_rows

pytestmark = pytest.mark.usefixtures("no_network")


def test_hard_negatives_are_texts_pictures_or_lists_of_both(tmp_path: Path) -> None:
    """A picture without a text takes the positive's fixed sentence, or it would stand out."""
    positive = {
        "qry": "q",
        "pos_text": "<|image_1|>\nRepresent the given image.\n",
        "pos_image_path": "a.png",
    }
    write_mmeb_rows(
        tmp_path,
        {**positive, "neg_text": ["", ""], "neg_image_path": ["b.png", ""]},
        {**positive, "pos_image_path": "b.png"},
        pictures=("a.png", "b.png"),
    )
    first, second = read_pairs(tmp_path, DataSet("x", "none"))
    assert first.negatives == (Input("Represent the given image.", str(tmp_path / "b.png")),)
    assert second.negatives == ()
    write_mmeb_rows(
        tmp_path,
        {"qry": "q", "pos_text": "a", "neg_text": ["b", "", "c"]},
        {"qry": "r", "pos_text": "d", "neg_text": []},
        name="y",
    )
    # The positive is no picture, so the texts stay as they are.
    first, second = read_pairs(tmp_path, DataSet("y", "none"))
    assert first.negatives == (Input("b"), Input("c"))
    assert second.negatives == ()
    # One text for two pictures: which of them it belongs to cannot be known.
    write_mmeb_rows(
        tmp_path,
        {"qry": "q", "pos_text": "a", "neg_text": ["b"], "neg_image_path": ["b.png", "b.png"]},
        name="z",
    )
    with pytest.raises(InputError, match=r"z\.parquet, row 1: has 1 neg_text for 2 neg_image_path"):
        read_pairs(tmp_path, DataSet("z", "none"))


def test_frames_of_a_video_are_taken_in_order_and_evenly(tmp_path: Path, arrow_cache: Path) -> None:
    """Eight of many frames are used and all of few, in the order of the numbers in their names."""
    # Numbers without leading zeros: sorted as texts, f10 would come before f2.
    for video, count in (("long", 15), ("short", 3), ("empty", 0)):
        (tmp_path / "frames" / video).mkdir(parents=True)
        for number in range(count):
            (tmp_path / f"frames/{video}/f{number}.jpeg").touch()
        (tmp_path / f"frames/{video}/notes.txt").touch()
    rows = []
    for number, (video, question, turns) in enumerate(
        [
            ("long", "<video>\nWhat?", 2),
            ("short", "What?\n<video>", 2),
            ("empty", "", 2),
            ("gone", "", 2),
            ("long", "", 1),
            ("", "", 2),
        ]
    ):
        conversation = [
            {"from": "human", "value": question},
            {"from": "gpt", "value": f"about {video}"},
        ]
        rows.append({"id": number, "video": video, "conversations": conversation[:turns]})
    own = write_own_rows(tmp_path, *rows)
    questions = open_rows(
        tmp_path,
        DataSet("v", "positive", format="llava-hound-qa", path=own.path, images="frames"),
        arrow_cache,
    )
    assert questions.skipped == Counter({"video missing": 2, "no answer": 1, "empty video": 1})
    assert [pair.query.text for pair in questions] == ["What?", "What?"]
    frames = [pair.query.video.source for pair in questions if pair.query.video]
    assert [[int(Path(str(frame)).stem[1:]) for frame in source] for source in frames] == [  # type: ignore[union-attr]
        [0, 2, 4, 6, 8, 10, 12, 14],
        [0, 1, 2],
    ]
    # The same file as another task: "long" with one turn and the missing videos are left out again.
    searches = open_rows(
        tmp_path,
        DataSet("v", "query", format="llava-hound-video", path=own.path, images="frames"),
        arrow_cache,
    )
    second = searches[1]
    assert second.query.text == "about short"
    assert second.positive.modality == "video"
    assert second.positive_decodes == "about short"


def test_our_own_lines_hold_any_input_and_may_name_the_texts_to_decode(
    tmp_path: Path, arrow_cache: Path
) -> None:
    """Texts, pictures, videos and interleaved content are read; a blank line is counted."""
    # U+2028 ends a line for `str.splitlines`, but not in JSONL.
    line = "a\u2028b 🙂 ünï"
    own = write_own_rows(
        tmp_path,
        {
            "query": {"image": "a.png", "text": "<|image_1|>\nwhat?"},
            "positive": line,
            "negatives": ["no", {"image": "b.png"}, ""],
        },
        {
            "query": {"content": ["from", {"image": "a.png"}, "to"]},
            "positive": {"image": "b.png"},
            "positive_decodes": "moved",
        },
        {
            "query": {"video": ["a.png", "b.png"], "fps": 2},
            "positive": "two",
            "query_decodes": None,
        },
        {"query": {"video": "gone.mp4"}, "positive": "gone"},
        {"query": None, "positive": "nothing"},
    )
    # A byte-order mark and a blank line, as editors on Windows leave them.
    text = (tmp_path / "own.jsonl").read_text(encoding="utf-8")
    (tmp_path / "own.jsonl").write_text("\ufeff" + text + "\n", encoding="utf-8")
    for picture in ("a.png", "b.png"):
        PICTURE.save(tmp_path / picture)
    rows = open_rows(tmp_path, own, arrow_cache)
    assert rows.skipped == Counter({"video missing": 1, "empty query": 1, "blank line": 1})
    a, b = str(tmp_path / "a.png"), str(tmp_path / "b.png")
    assert rows[0].query.parts == (Picture(a), "what?")
    assert (rows[0].positive.text, rows[0].query_decodes) == (line, line)
    assert [negative.parts for negative in rows[0].negatives] == [("no",), (Picture(b),)]
    assert rows[1].query.parts == ("from", Picture(a), "to")
    assert (rows[1].query_decodes, rows[1].positive_decodes) == (None, "moved")
    assert rows[2].query.parts == (Video((a, b), 2.0),)
    # An explicit null turns off what `target_side` would decode.
    assert rows[2].query_decodes is None


def test_an_instruction_is_put_before_queries_that_hold_none(
    tmp_path: Path, arrow_cache: Path
) -> None:
    """The instruction is not part of the text to decode."""
    own = write_own_rows(
        tmp_path,
        {"query": "a", "positive": "b"},
        {"query": {"text": "c", "instruction": "Mine."}, "positive": "d"},
    )
    data_set = DataSet("own", "both", instruction="Find it.", format="jsonl", path=own.path)
    first, second = open_rows(tmp_path, data_set, arrow_cache)
    assert (first.query, first.positive_decodes) == (Input("a", instruction="Find it."), "a")
    # A row's own instruction goes before the data set's.
    assert second.query.instruction == "Mine."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{]\n", "row 1: not JSON"),
        (
            b'{"query": "a", "positive": "b"}\n[1]\n',
            "row 2: a list; write one JSON object per line",
        ),
        (b'{"query": "a"}\n', "row 1: lacks 'positive'"),
        (b'{"query": "a", "positive": "b", "negative": ["c"]}\n', "row 1: unknown key 'negative'"),
        (
            b'{"query": "a", "positive": "b", "negatives": "c"}\n',
            "row 1: `negatives` must be a list",
        ),
        (b'{"query": 1, "positive": "b"}\n', "row 1: an object of the type int is not an input"),
        (
            b'{"query": "a", "positive": "b", "query_decodes": 1}\n',
            "row 1: `query_decodes` must be a text",
        ),
        (
            b'{"query": {"image": "/etc/passwd"}, "positive": "b"}\n',
            "row 1: /etc/passwd lies outside",
        ),
        (b'{"query": {"video": ["../a.png"]}, "positive": "b"}\n', "row 1: .*lies outside"),
        (b"", "holds no row"),
        # UTF-16, as some editors write it.
        (b"\xff\xfe\x00", "holds no row .*1 text that is not Unicode .*row 1"),
    ],
)
def test_an_unusable_line_is_one_message_that_names_file_and_line(
    content: bytes, message: str, tmp_path: Path, arrow_cache: Path
) -> None:
    """The number of the line is that in the file."""
    (tmp_path / "own.jsonl").write_bytes(content)
    own = DataSet("own", "positive", format="jsonl", path=("own.jsonl",))
    with pytest.raises(InputError, match=rf"own\.jsonl.*{message}") as caught:
        open_rows(tmp_path, own, arrow_cache)
    assert "\n" not in str(caught.value)
