"""`Encoder`: a loaded bundle that turns inputs into vectors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from lame_runtime.arguments import folder_path, switch
from lame_runtime.backends.base import Backend
from lame_runtime.backends.tensorrt.plans import Build
from lame_runtime.batching import MAX_TOKENS, count_of, input_iterator, is_one, plan_window
from lame_runtime.bundle.bundle import Bundle
from lame_runtime.contract.batch import assemble
from lame_runtime.contract.fields.roles import require_role
from lame_runtime.contract.preparer import Preparer
from lame_runtime.contract.vectors import cosines, finish, kept_width, quantize
from lame_runtime.errors import UsageError
from lame_runtime.inputs import InputLike
from lame_runtime.loading import load
from lame_runtime.options import EncodeKeywords, EncodeOptions, LoadKeywords, LoadOptions
from lame_runtime.preparation.windows import WindowReader

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


@dataclass(frozen=True, eq=False)
class Encoder:
    """Turns texts, pictures, videos and mixes of them into unit vectors.

    An encoder is immutable, and any number of threads may use it. Other processes load their own:
    an encoder cannot be pickled, and refuses to embed in a forked process, whose copy of the graphs
    has no threads. Create one with `Encoder.load`, and use it as a context manager or call `close`.

    Attributes:
        preparer: the contract and tokenizer.
        backend: the backend that runs the graphs.
        graph: name of the graph that runs.
        reason: why this backend and graph were selected, in one line.
        bundle: the bundle it was loaded from; None if it was constructed directly.
        build: the TensorRT build whose plans run; None on other backends.
        max_tokens: tokens of a batch, padding included; a longer input runs by itself.
    """

    preparer: Preparer
    backend: Backend
    graph: str = ""
    reason: str = ""
    bundle: Bundle | None = None
    build: Build | None = None
    max_tokens: int = MAX_TOKENS

    def __post_init__(self) -> None:
        for name, kind in (("preparer", Preparer), ("backend", Backend)):
            if not isinstance(value := getattr(self, name), kind):
                raise UsageError(f"`{name}` is a {type(value).__name__}: give a {kind.__name__}")

    @classmethod
    def load(cls, bundle: str | os.PathLike[str], **options: Unpack[LoadKeywords]) -> Self:
        """Loads a bundle.

        Args:
            bundle: the folder that `lame-export` wrote.
            options: fields of `LoadOptions`, such as `backend`, `graph` and `threads`.

        Returns:
            An encoder, whose `reason` tells which backend and graph were selected.

        Raises:
            BundleError: the bundle is damaged, incomplete or of another format.
            BackendError: the backend is not available, or its plans cannot be used.
            UsageError: the bundle has no such graph, or an option is of a wrong type, out of range,
                or contradicts another.

        Example:
            >>> with Encoder.load("bundle", threads=2) as encoder:
            ...     vectors = encoder.encode(["a red bicycle", {"image": "photo.jpg"}])
        """
        return load(folder_path("bundle", bundle), LoadOptions(**options), cls)

    @property
    def dim(self) -> int:
        """Length P of the vectors, before `truncate_dim`."""
        return self.preparer.contract.dim

    def get_embedding_dimension(self) -> int:
        """Returns the length P of the vectors, as in Sentence Transformers."""
        return self.dim

    @property
    def modalities(self) -> list[str]:
        """Kinds of parts that an input may have."""
        return ["text", "image", "video"]

    @property
    def prompts(self) -> dict[str, str]:
        """The instruction of each role, which `encode` takes as `prompt_name`."""
        return dict(self.preparer.contract.prompt.roles)

    def encode(
        self,
        inputs: InputLike | Iterable[InputLike],
        *,
        show_progress_bar: bool = False,
        **options: Unpack[EncodeKeywords],
    ) -> npt.NDArray[Any]:
        """Embeds one input or a list of them.

        Args:
            inputs: texts, paths, PIL pictures or dicts (see `lame_runtime.inputs.InputLike`); one
                input counts as a list of one.
            show_progress_bar: show progress on stderr, as plain lines if it is no terminal.
            options: fields of `EncodeOptions`, such as `role`, `truncate_dim` and `precision`.

        Returns:
            Array (n, dim) of the precision's type, float32 by default, or (n, ⌈dim/8⌉) for bits;
            row i belongs to input i.

        Raises:
            InputError: an input cannot be embedded; the message names its index.
            UsageError: an option is out of range, or options contradict each other.
            BackendError: the graph failed or returned a value that is not finite.

        Example:
            >>> encoder.encode("fifteen").shape
            (1, 128)
            >>> encoder.encode([{"image": "a.png", "text": "a caption"}], truncate_dim=64).shape
            (1, 64)
        """
        # validated here, so that a typo raises before any input is read
        parsed = EncodeOptions(**options)
        # Sentence Transformers passes None for "not said"
        show = show_progress_bar is not None and switch("show_progress_bar", show_progress_bar)
        vectors: Iterable[npt.NDArray[Any]] = self._stream(inputs, parsed)
        if show:
            from lame_runtime.progress import progress_bar  # deferred: tqdm takes 50 ms

            vectors = progress_bar(vectors, total=count_of(inputs), unit="input")
        rows = list(vectors)  # the length of a generator is known only at its end
        if not rows:
            # with width and type, so that it can be concatenated
            return self.finish(np.empty((0, self.dim), dtype=np.float32), parsed)
        return np.stack(rows)

    def encode_query(
        self,
        inputs: InputLike | Iterable[InputLike],
        *,
        show_progress_bar: bool = False,
        **options: Unpack[EncodeKeywords],
    ) -> npt.NDArray[Any]:
        """Embeds queries: like `encode`, with the contract's instruction for queries.

        Use it for queries of a search, and `encode_document` for the searched items; both equal
        `encode` if the contract has no instructions. Arguments, result and errors are those of
        `encode`.
        """
        # `prompt_name` is another name of `role`, so a default role would contradict it
        if "prompt_name" not in options:
            options.setdefault("role", "query")
        return self.encode(inputs, show_progress_bar=show_progress_bar, **options)

    def encode_document(
        self,
        inputs: InputLike | Iterable[InputLike],
        *,
        show_progress_bar: bool = False,
        **options: Unpack[EncodeKeywords],
    ) -> npt.NDArray[Any]:
        """Embeds documents: like `encode`, with the contract's instruction for documents.

        Arguments, result and errors are those of `encode`.
        """
        if "prompt_name" not in options:
            options.setdefault("role", "document")
        return self.encode(inputs, show_progress_bar=show_progress_bar, **options)

    def stream(
        self, inputs: InputLike | Iterable[InputLike], **options: Unpack[EncodeKeywords]
    ) -> Iterator[npt.NDArray[Any]]:
        """Embeds an iterable that may not fit in memory; yields one vector per input, in order.

        Inputs are read 16 batches ahead, or 256 MB of prepared inputs, and sorted within that
        window. With pictures and `workers`, as many more are prepared while the model runs; threads
        end with the stream. Only the thread that advances the result reads inputs. Arguments and
        errors are those of `encode`; options are validated before the first input is read.

        Example:
            >>> for vector in encoder.stream(open("texts.txt"), batch_size=8):
            ...     store(vector)
        """
        return self._stream(inputs, EncodeOptions(**options))

    def similarity(
        self, embeddings1: npt.ArrayLike, embeddings2: npt.ArrayLike
    ) -> npt.NDArray[np.float32]:
        """Returns the cosine of every row of one array with every row of the other.

        Args:
            embeddings1: (n, dim) or (dim,), of any float or integer type, but not bits.
            embeddings2: (m, dim) or (dim,).

        Returns:
            float32 (n, m).

        Raises:
            UsageError: the vectors have different lengths, or are not finite numbers.
        """
        return cosines(embeddings1, embeddings2)

    def finish(self, vectors: npt.NDArray[np.float32], options: EncodeOptions) -> npt.NDArray[Any]:
        """Cuts, normalizes and quantizes what the backend returned: the last step of `encode`.

        Args:
            vectors: float32 (n, P).
            options: `truncate_dim`, `normalize_embeddings` and `precision`.

        Returns:
            As `encode`.

        Raises:
            BackendError: a value is not finite, or a row has no length.
            UsageError: 8 bits without a bundle, which gives their range.
        """
        unit = options.normalize_embeddings
        vectors = finish(vectors, truncate_dim=options.truncate_dim, normalize=unit)
        largest = 1.0  # bits store only signs, which need no range
        if options.precision in ("int8", "uint8"):
            if self.bundle is None:
                raise UsageError("the range of 8-bit vectors is a bundle's; use `Encoder.load`")
            largest = self.bundle.largest_value(vectors.shape[1])
        return quantize(vectors, options.precision, largest)

    def with_backend(self, backend: Backend) -> Self:
        """Returns a copy with another backend, such as a view of one TensorRT profile."""
        return replace(self, backend=backend)

    def close(self) -> None:
        """Releases the graphs; the encoder cannot embed afterward."""
        # a forked process has no threads to wait for
        if self.backend.in_own_process:
            self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _stream(
        self, inputs: InputLike | Iterable[InputLike], options: EncodeOptions
    ) -> Iterator[npt.NDArray[Any]]:
        """Validates the arguments, which a generator would do only when it is first advanced."""
        self.backend.require_own_process()
        require_role(self.preparer.contract.prompt, options.role_name)
        kept_width(options.truncate_dim, self.dim)
        preparer = self.preparer.with_budget(
            options.max_pixels, options.max_frames, options.fps, options.max_input_pixels
        )
        reader = WindowReader(input_iterator(inputs), preparer, options, is_single=is_one(inputs))
        return self._windows(reader, options)

    def _windows(self, reader: WindowReader, options: EncodeOptions) -> Iterator[npt.NDArray[Any]]:
        with reader:
            while True:
                # again, because a generator may be advanced in a process that was forked later
                self.backend.require_own_process()
                window = reader.next_window()
                if not window:
                    return
                vectors = np.empty((len(window), self.dim), dtype=np.float32)
                # `rows` puts the vectors of a sorted batch back in input order
                for rows in plan_window(window, options, self.max_tokens):
                    reader.read_ahead(len(rows))
                    batch = assemble([window[row] for row in rows], self.preparer.contract)
                    vectors[rows] = self.backend.run(batch)
                del window, batch  # the caller may take long
                yield from self.finish(vectors, options)

    def __reduce__(self) -> NoReturn:
        # also called by `copy.deepcopy`
        raise UsageError(
            "an encoder cannot be pickled or copied, because it holds loaded graphs; "
            "call `Encoder.load` in each process, or share the encoder between threads"
        )

    def __copy__(self) -> Self:
        """Returns the encoder itself, which is immutable."""
        return self
