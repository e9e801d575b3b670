"""Times of a video's frames: how many there are, at which rate, and which one is shown when.

The families' processors sample frames by number, at a video's mean rate. That is right if the
rate is constant. Where it varies, as in the recordings of phones and browsers, a number would stand
for another moment, so the frame that a player shows at that moment is taken.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DEFAULT_RATE = 24.0
"""Frames per second of a file without time stamps, as the families' processors assume."""
MIN_RATE, MAX_RATE = 1e-6, 1e6
"""Frames per second that a file may have."""
RATE_TOLERANCE = 0.01
"""Share by which the length of a file may differ from that of its frames at the stated rate."""
LONGEST_PAUSE = 3600.0
"""Longest time in seconds that a frame is shown. A longer one is a jump of the clock, as for
players, and counts as one frame's time."""
LONGEST_PAUSE_OF_STREAM = 10.0
"""The same for broadcasts, whose clocks jump."""


@dataclass(frozen=True)
class Timeline:
    """Frames of a file, in the order in which they are shown."""

    rate: float
    """Mean frames per second."""
    total: int
    """Number of frames."""
    starts: npt.NDArray[np.float64] | None = None
    """Seconds from the first frame to each; None if they are `1 / rate` apart."""

    def shown(self, indices: list[int]) -> list[int]:
        """Returns the numbers of the frames that are shown at `index / rate`, for each index."""
        if self.starts is None:
            return indices
        # time stamps are rounded, in Matroska to milliseconds
        moments = np.array(indices) / self.rate + 1e-3
        shown = np.searchsorted(self.starts, moments, side="right") - 1
        return [int(number) for number in np.maximum(shown, 0)]


class FrameTimes:
    """Collects the time stamps of a file's frames or packets.

    Args:
        tick: seconds of one unit of the time stamps.
        stated_rate: frames per second by the file's header; None if it has none.
        longest_pause: seconds; see `LONGEST_PAUSE`.
    """

    def __init__(self, tick: float, stated_rate: float | None, longest_pause: float) -> None:
        self.count = 0
        self._tick = tick
        self._stated_rate = stated_rate
        self._longest_pause = longest_pause
        self._stamps = array("q")
        self._last_decoded: int | None = None
        self._last_shown: tuple[int, int] | None = None
        self._is_usable = tick > 0

    def add(self, pts: int | None, dts: int | None, duration: int | None) -> None:
        """Adds a frame or packet.

        Args:
            pts: its time of presentation, in ticks; None if unknown.
            dts: its time of decoding.
            duration: the time that it is shown; None or 0 if unknown.
        """
        self.count += 1
        if not self._is_usable:
            return
        # A clock that runs backward was reset, as where recordings were joined.
        went_back = dts is not None and self._last_decoded is not None and dts < self._last_decoded
        if pts is None or went_back:
            self._is_usable = False
            return
        self._last_shown = max(self._last_shown or (pts, 0), (pts, duration or 0))
        self._last_decoded = dts
        self._stamps.append(pts)

    def timeline(self) -> Timeline:
        """Returns the frames' number, rate and times."""
        rate = self._stated_rate or DEFAULT_RATE
        if not self._is_usable or self.count < 2:
            return Timeline(rate, self.count)
        stamps = np.sort(np.frombuffer(self._stamps, dtype=np.int64)).astype(np.float64)
        pauses = np.diff(stamps) * self._tick
        pauses[pauses > self._longest_pause] = np.median(pauses)
        starts = np.concatenate([[0.0], np.cumsum(pauses)])
        if starts[-1] <= 0:
            return Timeline(rate, self.count)
        last = self._last_shown[1] * self._tick if self._last_shown else 0.0
        if not 0 < last <= self._longest_pause:
            last = float(starts[-1]) / (self.count - 1)
        end = float(starts[-1]) + last
        own_rate = self.count / end
        # Half of a frame's time is as far as telecine and rounded time stamps stray.
        if np.abs(starts * own_rate - np.arange(self.count)).max() > 0.5:
            return Timeline(own_rate, self.count, starts)
        # Use the stated rate if it agrees, so that times match the processors' exactly.
        agrees = abs(self.count / rate - end) <= max(RATE_TOLERANCE * end, 2 * self._tick)
        return Timeline(rate if agrees else own_rate, self.count)
