"""Prepares inputs for the collator: in threads, and from a cache if one was prepared before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from lame_runtime.contract.preparer import Prepared, Preparer
from lame_runtime.contract.prompts import Input, InputKey, Picture, Video
from lame_runtime.errors import InputError


class PreparedCache:
    """Prepares inputs and keeps what fits into a budget of memory.

    Nothing is evicted. Epochs visit all rows equally often, so a cache that dropped the oldest
    input would drop each one just before it is needed again.

    Args:
        preparer: applies the contract to inputs.
        cache_mib: size of the cache, in MiB.
        threads: number of inputs that are prepared at a time. 0 uses the caller's thread.
    """

    def __init__(self, preparer: Preparer, cache_mib: int, threads: int) -> None:
        self._preparer = preparer
        self._cache: dict[InputKey, Prepared] = {}
        self._free_bytes = cache_mib << 20
        # Threads suffice: Pillow releases the GIL while it decodes and resizes.
        self._pool = ThreadPoolExecutor(threads, "prepare") if threads else None

    def prepare_all(self, needed: dict[InputKey, Input]) -> dict[InputKey, Prepared | InputError]:
        """Prepares inputs by key; an input that cannot be prepared is replaced by the error."""
        results: dict[InputKey, Prepared | InputError] = {
            key: self._cache[key] for key in needed if key in self._cache
        }
        # `Executor.map` keeps the order, so results can be matched with their keys.
        fresh = {key: item for key, item in needed.items() if key not in self._cache}
        run = map if self._pool is None else self._pool.map
        for key, result in zip(fresh, run(self._attempt, fresh.values()), strict=True):
            results[key] = result
            if isinstance(result, Prepared):
                self._keep(key, result)
        return results

    def _keep(self, key: InputKey, prepared: Prepared) -> None:
        # 1 KiB stands for the ids, the positions and Python's objects.
        size = 1024 + sum(visual.frames.nbytes for visual in prepared.visuals)
        if size <= self._free_bytes:
            self._free_bytes -= size
            self._cache[key] = prepared

    def _attempt(self, item: Input) -> Prepared | InputError:
        """Prepares an input, or returns an error that names its first picture or video."""
        try:
            return self._preparer(item)
        except InputError as error:
            paths = [
                part.source
                for part in item.parts
                if isinstance(part, Picture | Video) and isinstance(part.source, str)
            ]
            # The log of left-out rows is useless without the file to look at.
            if not paths or paths[0] in str(error):
                return error
            return InputError(f"{paths[0]}: {error}")
