"""Data URLs and URLs → bytes. The header of a picture is checked before it is queued."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Literal

from lame_runtime.contract.media.decoders import open_header
from lame_runtime.contract.media.pages import PDF_MARK
from lame_runtime.contract.rules import ImageRules
from lame_runtime.errors import InputError, shown
from lame_runtime.files.urls import resolved
from lame_runtime.preparation.decoding_memory import DecodingMemory
from lame_runtime.serving.remote.download import Downloads

_DATA_URL = re.compile(
    r"data:(?P<kind>image|video|application/pdf)(?P<subtype>/[\w.+-]+)?(?:;[^,;]*)*,",
    re.IGNORECASE | re.ASCII,
)
_MEANT_AS_DATA = re.compile(r"\s*data:(?:image|video|application)/", re.IGNORECASE)
_URL = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# patterns look at no more, so that a long text costs no time
_LONGEST_HEADER = 1_000


def data_kind(text: str) -> Literal["image", "video"] | None:
    """Returns what a string holds as a `data:` URL; None if it is a text.

    Raises:
        InputError: it begins as the `data:` URL of a picture or video and is none. As a text, it
            would get a vector that has nothing to do with the picture.
    """
    # case does not matter in schemes and media types
    if match := _DATA_URL.match(text[:_LONGEST_HEADER]):
        return "video" if match["kind"].lower() == "video" else "image"
    if _MEANT_AS_DATA.match(text[:_LONGEST_HEADER]):
        raise InputError(
            f'{shown(text)}: a damaged data: URL; send data:image/png;base64,…, or {{"text": …}} '
            "for a text that begins like one"
        )
    return None


@dataclass(frozen=True)
class MediaSources:
    """Reads the media of requests.

    Attributes:
        rules: limits on the size of pictures.
        allow_video: whether videos are read.
        memory: shared with the threads that decode; some formats take memory for their header.
        downloads: fetches URLs; None refuses them.
    """

    rules: ImageRules
    allow_video: bool
    memory: DecodingMemory
    downloads: Downloads | None = None

    def picture(self, source: str) -> bytes:
        """Returns the bytes of a picture or PDF page.

        Raises:
            InputError: not a `data:` URL or an allowed URL, or no picture, or too large.
        """
        return self._checked(self._bytes(source, "image"))

    def picture_base64(self, text: str) -> bytes:
        """Returns the bytes of a picture given as base64, or as a `data:` URL."""
        # clients take the one for the other; a `data:` URL is never base64 by itself
        is_url = text[:5].lower() == "data:"
        return self.picture(text if is_url else f"data:image/png;base64,{text}")

    def video(self, source: str) -> bytes:
        """Returns the bytes of a video.

        Raises:
            InputError: videos are not allowed, or not a `data:` URL or an allowed URL.
        """
        self.require_video()
        return self._bytes(source, "video")

    def video_base64(self, text: str) -> bytes:
        """Returns the bytes of a video given as base64, or as a `data:` URL."""
        is_url = text[:5].lower() == "data:"
        return self.video(text if is_url else f"data:video/mp4;base64,{text}")

    def require_video(self) -> None:
        """Raises `InputError` if videos are not allowed."""
        if not self.allow_video:
            raise InputError(
                "videos are not read here: send pictures, or ask the operator for --allow-video"
            )

    def _bytes(self, source: str, key: str) -> bytes:
        # never a path: a client must not name files of the server
        if source[:5].lower() == "data:":
            data = resolved(source)
            if not isinstance(data, bytes):
                raise InputError(
                    f"{shown(source)}: a damaged data: URL; send data:image/png;base64,…"
                )
            return data
        if not _URL.match(source[:_LONGEST_HEADER]):
            raise InputError(
                f"{shown(source)}: `{key}` must be a data: URL (data:image/png;base64,…); "
                "a name is never a file of the server"
            )
        if self.downloads is None:
            raise InputError(
                f"{shown(source)}: URLs are not fetched here: send a data: URL, or ask the "
                "operator for --allow-urls"
            )
        return self.downloads.fetch(source)

    def _checked(self, data: bytes) -> bytes:
        # a page has no size before PDFium has read it
        if not data.startswith(PDF_MARK):
            with self.memory.lease() as reserve:
                open_header(io.BytesIO(data), "the given bytes", self.rules, reserve)
        return data
