"""Pictures, videos and PDFs, whole and damaged, as bytes and as files."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from fuzz.case import Case
from fuzz.guard.worker import Room
from fuzz.kinds.base import pick
from fuzz.kinds.embedding import Embedding, warned
from fuzz.media.damage import damaged, with_metadata
from fuzz.media.foreign import foreign
from fuzz.media.pages import pages
from fuzz.media.pictures import large_png, pattern, pictures
from fuzz.media.videos import videos, write_video
from fuzz.outcome import WrongError, check_equal

_ROUTES = ("image bytes", "image file", "video bytes", "video file", "path", "frames")
TRANSPORT_PACKET_BYTES = 188


class Media(Embedding):
    """Embeds a media file.

    A case holds `data`, the `suffix` of the file, and the `route` that it takes. Of three kinds of
    cases the right vector is known: `exact` files show the pattern of `media.pictures`; files with
    a comment are equal to `same_as`, the file without; videos that are `cut` short are refused, or
    there is a warning.
    """

    name = "media"
    share = 6.0
    slice_cases = 1000

    def generate(self, random: Random) -> Case:
        """Returns a case."""
        kind = pick(random, {"picture": 5, "video": 4, "page": 1, "foreign": 1.5})
        samples = {"picture": pictures, "video": videos, "page": pages, "foreign": foreign}
        sample = random.choice(samples[kind]())
        routes = _ROUTES[2:5] if kind == "video" else (*_ROUTES[:2], "path")
        case: Case = {
            "sample": sample.name,
            "suffix": sample.suffix,
            "route": random.choice(routes if random.random() < 0.95 else _ROUTES),
            "data": sample.data,
        }
        action = pick(random, {"damage": 12, "comment": 1, "whole": 1, "cut": 1})
        if action == "damage":
            other = random.choice(samples[pick(random, dict.fromkeys(samples, 1))]()).data
            case["data"] = damaged(random, sample.data, other)
        elif action == "comment" and (data := with_metadata(sample.data)):
            case |= {"data": data, "same_as": sample.data}
        elif action == "cut" and kind == "video":
            end = int(len(sample.data) * random.uniform(0.3, 0.95))
            # nothing in a transport stream tells that it was cut between two frames
            if sample.name.startswith("mpegts") and end % TRANSPORT_PACKET_BYTES == 0:
                end += 1
            # a download into a file of full length leaves zeros where it was interrupted
            zeros = bytes(random.choice((0, 0, len(sample.data) - end, 100_000)))
            # the last packet of a transport stream may end in zeros itself
            if zeros and sample.name.startswith("mpegts"):
                zeros += bytes(2 * TRANSPORT_PACKET_BYTES)
            case |= {"data": sample.data[:end] + zeros, "cut": sample.data}
        elif action == "whole" and sample.exact and case["route"].startswith("image"):
            case["exact"] = True
        if random.random() < 0.1:
            suffixes = (".png", ".jpg", ".mp4", ".pdf", ".mkv", ".avi", ".gif", "", ".PNG", ".webm")
            case["suffix"] = random.choice(suffixes)
        return case

    def prepare(self, case: Case) -> None:
        """Writes the file."""
        (self.room.work / f"file{case['suffix']}").write_bytes(case["data"])

    def run(self, case: Case) -> None:
        """Embeds the file and compares the vector if the right one is known."""
        with warned() as warnings:
            vectors = self.embed(self._item(case, case["data"]))
        if case.get("exact"):
            check_equal(vectors, self.embed(pattern()))
        for key in ("same_as", "cut"):
            if key in case and not (key == "cut" and warnings):
                # the whole file is written in place of the other, because a route may need it
                (self.room.work / f"file{case['suffix']}").write_bytes(case[key])
                try:
                    check_equal(vectors, self.embed(self._item(case, case[key])))
                except WrongError as error:
                    raise WrongError(f"{key}: {error}") from None

    def _item(self, case: Case, data: bytes) -> Any:
        path = Path(f"file{case['suffix']}")
        route = case["route"]
        if route == "path":
            return path
        if route == "frames":
            return {"video": [data, data], "fps": 1}
        key, form = route.split()
        return {key: data if form == "bytes" else str(path)}


class Large(Embedding):
    """Embeds what is large when it is decoded: pictures, videos, texts and pages of a few bytes."""

    name = "large"
    share = 1.0
    slice_cases = 6

    def generate(self, random: Random) -> Case:
        """Returns a case that says what to make, because the file itself would be large."""
        kind = pick(random, {"png": 4, "video": 2, "frames": 1, "text": 3, "tiff": 1, "list": 1})
        if kind == "png":
            color, depth = random.choice(((0, 1), (0, 8), (0, 16), (2, 8), (2, 16), (4, 8), (6, 8)))
            side = random.choice((2_000, 6_000, 9_400, 9_459, 12_000, 30_000))
            return {"make": kind, "side": side, "color": color, "depth": depth}
        if kind == "video":
            return {"make": kind, "side": random.choice((1_000, 4_000, 9_400))}
        if kind == "tiff":
            return {"make": kind, "mode": random.choice(("I", "F", "RGB", "L", "CMYK"))}
        count = random.choice((10_000, 200_000, 1_000_000, 10_000_000))
        if kind == "text":
            piece = random.choice(("a", "a ", "é", "\ud800", "<|image_pad|>", "字"))
            text = {"repeat": [piece, count]}
            return {"make": kind, "text": text, "truncate": random.random() < 0.5}
        return {
            "make": kind,
            "count": min(count, 200_000),
            "max_frames": random.choice((None, 10**9)),
        }

    def open(self, room: Room) -> None:
        """Starts with an empty cache of generated files."""
        super().open(room)
        self._made: dict[str, bytes] = {}

    def prepare(self, case: Case) -> None:
        """Makes the file, or takes it from an earlier case."""
        key = repr(sorted(case.items())) if case["make"] in ("png", "video", "tiff") else ""
        if key and key not in self._made:
            self._made[key] = _make(case)
        self._data = self._made.get(key, b"")
        (self.room.work / "large").write_bytes(self._data)

    def run(self, case: Case) -> None:
        """Embeds the file or text."""
        make = case["make"]
        if make == "text":
            self.embed(case["text"], truncate=case["truncate"])
        elif make == "list":
            self.embed({"image": [pictures()[0].data] * case["count"]})
        elif make == "frames":
            frames = [pictures()[0].data] * case["count"]
            self.embed({"video": frames, "fps": 1}, max_frames=case["max_frames"])
        elif make == "video":
            self.embed({"video": "large"})
        else:
            self.embed({"image": "large"})


def _make(case: Case) -> bytes:
    import io

    from PIL import Image

    if case["make"] == "png":
        return large_png(case["side"], case["color"], case["depth"])
    if case["make"] == "video":
        side = case["side"]
        return write_video("avi", "mjpeg", "yuvj420p", frames=2, size=(side, side))
    buffer = io.BytesIO()
    Image.new(case["mode"], (9_400, 9_400)).save(buffer, "TIFF", compression="tiff_deflate")
    return buffer.getvalue()
