"""The TensorRT backend on a recording GPU: numbers, and every call's order, size and lifetime."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lame_runtime import BackendError, Encoder
from lame_runtime.backends.base import Part
from lame_runtime.backends.onnxruntime import OrtBackend
from lame_runtime.backends.tensorrt import cudart
from lame_runtime.backends.tensorrt.backend import TrtBackend, TrtOptions
from lame_runtime.backends.tensorrt.buffers import Buffers
from lame_runtime.backends.tensorrt.cudart import Cudart
from lame_runtime.backends.tensorrt.module import load_tensorrt, make_logger
from lame_runtime.backends.tensorrt.session import Session
from lame_runtime.bundle.manifest import sha256_file
from lame_runtime.contract import Preparer
from lame_runtime.contract.batch import assemble
from lame_runtime.errors import DeviceError, UsageError
from lame_runtime.inputs import as_input
from PIL import Image
from recording_gpu import GpuMisuseError, RecordingCudart, make_tensorrt

Range = tuple[int, int, int]
SMALL = {
    "pictures": (1, 1, 2),
    "depth": (1, 1, 2),
    "patches": (4, 8, 16),
    "batch": (1, 1, 2),
    "length": (6, 16, 24),
    "n_features": (1, 4, 9),
}
LARGE = {
    "pictures": (1, 4, 8),
    "depth": (1, 1, 2),
    "patches": (4, 16, 64),
    "batch": (1, 4, 4),
    "length": (6, 24, 48),
    "n_features": (1, 16, 99),
}


@pytest.fixture
def gpu() -> Iterator[RecordingCudart]:
    """A recording GPU on which nothing may be left at the end of a test."""
    recorded = RecordingCudart()
    yield recorded
    recorded.assert_released()


def build(
    gpu: RecordingCudart,
    graph: Path,
    plan: Path,
    profiles: list[dict[str, Range]],
    flags: tuple[str, ...] = (),
) -> None:
    """Builds a plan of the stand-in."""
    trt = make_tensorrt(gpu)
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, logger).parse_from_file(str(graph))
    config = builder.create_builder_config()
    for flag in flags:
        config.set_flag(trt.BuilderFlag[flag])
    for ranges in profiles:
        profile = builder.create_optimization_profile()
        for tensor in map(network.get_input, range(network.num_inputs)):
            names = [tensor.get_dimension_name(axis) for axis in range(len(tensor.shape))]
            sizes = [
                tuple(
                    ranges[n][level] if size == -1 else size
                    for n, size in zip(names, tensor.shape, strict=True)
                )
                for level in range(3)
            ]
            profile.set_shape(tensor.name, *sizes)
        config.add_optimization_profile(profile)
    plan.write_bytes(builder.build_serialized_network(network, config))


def build_pair(gpu: RecordingCudart, exported: Path, folder: Path) -> tuple[Path, Path]:
    """Builds FP32 plans with a small and a large profile; returns those of vision and encoder."""
    plans = folder / "vision.plan", folder / "encoder.plan"
    for plan in plans:
        build(gpu, exported / f"graphs/{plan.stem}.fp32.onnx", plan, [SMALL, LARGE])
    return plans


@pytest.fixture
def plans(gpu: RecordingCudart, exported: Path, tmp_path: Path) -> tuple[Path, Path]:
    return build_pair(gpu, exported, tmp_path)


@pytest.fixture
def faulty(exported: Path, tmp_path: Path) -> tuple[RecordingCudart, tuple[Path, Path]]:
    """A recording GPU that may be left in any state, as after a fault, and plans for it."""
    gpu = RecordingCudart()
    return gpu, build_pair(gpu, exported, tmp_path)


def open_backend(gpu: RecordingCudart, plans: tuple[Path, Path], **options: Any) -> TrtBackend:
    """Opens plans on the recording GPU."""
    return TrtBackend(*plans, TrtOptions(**options), module=make_tensorrt(gpu), library=gpu)


def profiles_run(gpu: RecordingCudart, part: Part) -> set[int]:
    """Returns the profiles of a part that ran so far."""
    return {profile for ran, profile in gpu.profiles_run if ran == part}


@pytest.fixture(scope="module")
def reference(exported: Path) -> Encoder:
    """The same graphs on ONNX Runtime."""
    paths = exported / "graphs/vision.fp32.onnx", exported / "graphs/encoder.fp32.onnx"
    # the default threads, like the stand-in's: they decide the summation order of small products
    return Encoder(Preparer.load(exported), OrtBackend(*paths, "CPUExecutionProvider"))


def assert_same_vectors(encoder: Encoder, reference: Encoder, inputs: Any, **options: Any) -> None:
    """Asserts that both give the same vectors, up to the rounding of a float32 sum."""
    difference = encoder.encode(inputs, **options) - reference.encode(inputs)
    assert np.abs(difference).max() < 1e-6


def mixed() -> list[Any]:
    """Returns texts and pictures of several lengths and grids."""
    rng = np.random.default_rng(0)
    grids = ((2, 2), (2, 4), (4, 2), (4, 4))
    pictures = [
        Image.fromarray(rng.integers(0, 255, (14 * tall, 14 * wide, 3), dtype=np.uint8))
        for tall, wide in grids
    ]
    items: list[Any] = ["seven", "digits that add up to fifteen", "Name the digit."]
    for number, picture in enumerate(pictures * 2):
        items += [
            {"image": picture, "text": "seven" * (number % 3)},
            {"image": picture},
            f"What do the digits add up to? {number}",
        ]
    return items


@pytest.mark.parametrize("cuda_graphs", [False, True], ids=["queued", "recorded"])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_vectors_are_those_of_the_graphs(
    gpu: RecordingCudart,
    plans: tuple[Path, Path],
    reference: Encoder,
    batch_size: int,
    cuda_graphs: bool,
) -> None:
    """Batches, profiles and the pieces that batches are cut into change no vector."""
    backend = open_backend(gpu, plans, cuda_graphs=cuda_graphs)
    with Encoder(reference.preparer, backend) as encoder:
        for _ in range(2):
            assert_same_vectors(encoder, reference, mixed(), batch_size=batch_size)
        if cuda_graphs and batch_size == 1:
            assert gpu.calls["cudaGraphLaunch"] > 4
        else:
            assert bool(gpu.calls["cudaGraphLaunch"]) == cuda_graphs


def test_features_stay_on_the_gpu(
    gpu: RecordingCudart,
    plans: tuple[Path, Path],
    reference: Encoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`run` copies embeddings alone to the host; `features` returns those of ONNX Runtime."""
    sizes: list[int] = []
    to_host = Cudart.to_host
    monkeypatch.setattr(
        Cudart, "to_host", lambda self, *rest: (sizes.append(rest[2]), to_host(self, *rest))
    )
    items = [reference.preparer(as_input(item), None) for item in mixed()]
    batch = assemble(items, reference.preparer.contract)
    backend = open_backend(gpu, plans)
    vectors = backend.run(batch)
    assert sum(sizes) == vectors.nbytes == len(items) * backend.dim * 4
    features = backend.features(batch)
    assert np.abs(features - reference.backend.features(batch)).max() < 1e-6
    assert np.abs(backend.encoder(batch, features) - vectors).max() < 1e-6
    backend.close()


def test_shapes_and_addresses_are_set_when_they_change(
    gpu: RecordingCudart, plans: tuple[Path, Path], reference: Encoder
) -> None:
    """A second batch of the same shape allocates nothing and sets nothing in the context."""

    def allocations() -> int:
        return gpu.calls["cudaMalloc"] + gpu.calls["cudaMallocHost"]

    with Encoder(reference.preparer, open_backend(gpu, plans)) as encoder:
        encoder.encode(["seven", "seven"])
        changes, allocated = gpu.context_changes, allocations()
        encoder.encode(["Name", "Name"])
        assert gpu.context_changes == changes
        assert allocations() == allocated
        encoder.encode(["seven seven seven", "seven"])
        assert gpu.context_changes > changes


def test_the_small_profile_is_taken_if_it_suffices(
    gpu: RecordingCudart, plans: tuple[Path, Path], reference: Encoder
) -> None:
    """A profile tuned for large batches is slow on small ones."""
    with Encoder(reference.preparer, open_backend(gpu, plans)) as encoder:
        encoder.encode(["seven", "seven"])
        assert profiles_run(gpu, "encoder") == {0}
        encoder.encode(["seven", "seven", "seven"])
        assert profiles_run(gpu, "encoder") == {0, 1}


def test_threads_share_the_weights_and_wait_for_a_worker(
    gpu: RecordingCudart, plans: tuple[Path, Path], reference: Encoder
) -> None:
    """With more threads than workers, each gets its own rows; after closing, each gets an error."""
    expected = reference.encode(mixed())
    backend = open_backend(gpu, plans, workers=2)
    encoder = Encoder(reference.preparer, backend)
    results: list[Any] = [None] * 5

    def embed(number: int) -> None:
        results[number] = encoder.encode(mixed(), batch_size=1 + number)

    threads = [threading.Thread(target=embed, args=(number,)) for number in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(gpu.streams) == 2
    for vectors in results:
        assert np.abs(vectors - expected).max() < 1e-6
    encoder.close()
    encoder.close()
    for _ in range(2):
        with pytest.raises(BackendError, match="was closed"):
            encoder.encode("seven")


def test_an_input_that_fits_no_profile_is_named(
    gpu: RecordingCudart, plans: tuple[Path, Path], exported: Path, reference: Encoder
) -> None:
    """The error says what the profiles take and what to do; the next input is embedded."""
    fits = (
        r"fits no profile of the encoder plan \(they take {}, with 1–99 rows of features\); "
        r".*build plans with a `profile` that takes it \(lame-export engine\)"
    )
    with Encoder(reference.preparer, open_backend(gpu, plans)) as encoder:
        with pytest.raises(
            BackendError,
            match=r"an input of \d+ tokens, 0 of them of pictures, " + fits.format("6–48"),
        ):
            encoder.encode("seven " * 60)
        with pytest.raises(
            BackendError,
            match=r"a picture of \d+ patches fits no profile of the vision plan "
            r"\(they take 4–64 patches, and temporal patches of 1–2 frames\)",
        ):
            encoder.encode(Image.new("RGB", (280, 280)), max_pixels=1 << 17)
        assert_same_vectors(encoder, reference, "seven")
    build(gpu, exported / "graphs/encoder.fp32.onnx", plans[1], [LARGE | {"length": (32, 48, 48)}])
    with (
        Encoder(reference.preparer, open_backend(gpu, plans)) as encoder,
        pytest.raises(BackendError, match=fits.format("32–48")),
    ):
        encoder.encode("seven")


def test_a_view_runs_one_profile_alone(
    gpu: RecordingCudart, plans: tuple[Path, Path], reference: Encoder
) -> None:
    """A profile that is never chosen by itself runs in a view, and the backend stays as it is."""
    backend = open_backend(gpu, plans)
    assert backend.profiles == {"vision": 2, "encoder": 2}
    view = backend.with_profile("encoder", 1)
    assert_same_vectors(Encoder(reference.preparer, view), reference, "seven")
    assert profiles_run(gpu, "encoder") == {1}
    assert_same_vectors(Encoder(reference.preparer, backend), reference, "seven")
    assert profiles_run(gpu, "encoder") == {0, 1}
    long = assemble([reference.preparer(as_input("seven " * 30))], reference.preparer.contract)
    assert view.takes(long)
    assert backend.takes(long)
    assert not backend.with_profile("encoder", 0).takes(long)
    backend.close()


def test_a_view_restricts_no_other_thread(
    gpu: RecordingCudart,
    plans: tuple[Path, Path],
    reference: Encoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While a view runs in its profile, another thread uses the backend's own choice."""
    backend = open_backend(gpu, plans, workers=2)
    view = backend.with_profile("encoder", 1)
    in_view, proceed = threading.Event(), threading.Event()
    run = Session.run

    def wait_in_view(session: Session, profile: int, *rest: Any) -> Any:
        if profile == 1:
            in_view.set()
            assert proceed.wait(20)
        return run(session, profile, *rest)

    monkeypatch.setattr(Session, "run", wait_in_view)
    thread = threading.Thread(target=lambda: Encoder(reference.preparer, view).encode("seven"))
    thread.start()
    assert in_view.wait(20)
    assert_same_vectors(Encoder(reference.preparer, backend), reference, "seven")
    assert profiles_run(gpu, "encoder") == {0}
    proceed.set()
    thread.join()
    assert profiles_run(gpu, "encoder") == {0, 1}
    backend.close()


def test_a_profile_that_is_not_there_is_named(
    gpu: RecordingCudart, plans: tuple[Path, Path]
) -> None:
    """The error says how many there are."""
    backend = open_backend(gpu, plans)
    for index in (-1, 2):
        with pytest.raises(UsageError, match=rf"`index` is {index}: use 0 to 1"):
            backend.with_profile("vision", index)
    backend.close()


def test_a_view_keeps_the_gpu_memory_until_it_is_dropped(
    gpu: RecordingCudart, plans: tuple[Path, Path], reference: Encoder
) -> None:
    """Closing a view frees nothing; a view alone keeps the backend usable."""
    view = open_backend(gpu, plans).with_profile("encoder", 1)
    view.close()
    assert_same_vectors(Encoder(reference.preparer, view), reference, "seven")
    del view
    gpu.assert_released()


def test_out_of_memory_is_named_and_leaves_nothing(
    exported: Path, tmp_path: Path, reference: Encoder
) -> None:
    """Memory that runs out while plans are loaded, or while they run, is one line."""
    for total in (1000, 70_000, 200_000):
        gpu = RecordingCudart(total=total)
        plans = build_pair(gpu, exported, tmp_path)
        with (
            pytest.raises(
                DeviceError,
                match=r"out of GPU memory \(.*(0\.00 of 0\.00 GB are free|out of memory)\); "
                "use a smaller `batch_size`",
            ),
            Encoder(reference.preparer, open_backend(gpu, plans)) as encoder,
        ):
            encoder.encode(mixed())
        gpu.assert_released()


def test_out_of_memory_inside_tensorrt_is_not_the_plans_fault(
    gpu: RecordingCudart, plans: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are allocated when a plan is read: the remedy is memory, not another build."""
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "total", 100)
        with pytest.raises(
            DeviceError, match=r"out of GPU memory \(.*out of memory\)\); use a smaller"
        ) as caught:
            open_backend(gpu, plans)
        assert "build it here" not in str(caught.value)


def test_if_cuda_answers_nothing_the_error_is_still_one_line(gpu: RecordingCudart) -> None:
    """Memory ran out, and the call that says how much is free fails as well."""
    gpu.broken = {"cudaMalloc": 2, "cudaMemGetInfo": 2}
    with pytest.raises(DeviceError, match=r"^out of GPU memory; use a smaller `batch_size`"):
        Cudart(gpu).malloc(8)


def test_an_error_of_cuda_is_not_left_for_tensorrt_to_find(
    gpu: RecordingCudart, plans: tuple[Path, Path], reference: Encoder
) -> None:
    """CUDA keeps the last error of each thread, and TensorRT reads it after its own work."""
    with Encoder(reference.preparer, open_backend(gpu, plans)) as encoder:
        gpu.fail["cudaMalloc"] = 2
        with pytest.raises(DeviceError, match="out of GPU memory"):
            encoder.encode("seven")
        assert_same_vectors(encoder, reference, "seven")


def test_a_plan_that_is_not_the_one_that_was_built_does_not_run(
    gpu: RecordingCudart, plans: tuple[Path, Path]
) -> None:
    """The bytes that are hashed are those that are deserialized."""
    hashes = sha256_file(plans[0]), sha256_file(plans[1])
    open_backend(gpu, plans, hashes=hashes).close()
    with pytest.raises(BackendError, match=r"encoder\.plan: is not the file that was built"):
        open_backend(gpu, plans, hashes=(hashes[0], hashes[0]))


def test_a_plan_that_was_not_stripped_takes_no_weights(
    gpu: RecordingCudart, plans: tuple[Path, Path], exported: Path
) -> None:
    """The bindings raise TypeError for it, which becomes a BackendError."""
    graphs = exported / "graphs/vision.fp32.onnx", exported / "graphs/encoder.fp32.onnx"
    with pytest.raises(
        BackendError,
        match=r"cannot refit the plan with these weights "
        r"\(the engine was not built to be refitted\)",
    ):
        open_backend(gpu, plans, weights=graphs)


def test_a_backend_that_nobody_references_is_released_without_close(
    gpu: RecordingCudart,
    plans: tuple[Path, Path],
    reference: Encoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Memory, streams, contexts and weights are freed, also while a traceback refers to them."""
    encoder = Encoder(reference.preparer, open_backend(gpu, plans, cuda_graphs=True))
    for _ in range(3):
        encoder.encode("seven")
    assert gpu.live
    del encoder
    gpu.assert_released()
    monkeypatch.setattr(
        "recording_gpu.tensorrt.IExecutionContext.execute_async_v3",
        lambda self, stream_handle: False,
    )
    # Two statements, so that the encoder is closed before the error is caught.
    with pytest.raises(BackendError, match="TensorRT cannot run the graph") as caught:  # noqa: SIM117
        with Encoder(reference.preparer, open_backend(gpu, plans)) as encoder:
            encoder.encode("seven")
    assert caught.tb is not None
    gpu.assert_released()


def test_closing_waits_for_a_run(
    gpu: RecordingCudart,
    plans: tuple[Path, Path],
    reference: Encoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run ends with right vectors, and nothing is freed before."""
    begun, proceed, closed = threading.Event(), threading.Event(), threading.Event()
    encoder = Encoder(reference.preparer, open_backend(gpu, plans))
    run = Session.run

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert proceed.wait(20)
        return run(*arguments)

    monkeypatch.setattr(Session, "run", slow)
    results: list[Any] = []
    embed = threading.Thread(target=lambda: results.append(encoder.encode("seven")))
    close = threading.Thread(target=lambda: (encoder.close(), closed.set()))
    embed.start()
    assert begun.wait(20)
    close.start()
    assert not closed.wait(0.2)
    assert gpu.streams
    proceed.set()
    embed.join()
    close.join()
    assert np.abs(results[0] - reference.encode("seven")).max() < 1e-6
    monkeypatch.undo()
    gpu.assert_released()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (
            "truncated",
            "refuses the plan .the plan's magic tag does not match.; plans belong to one GPU",
        ),
        ("empty", "cannot be read"),
        ("missing", "cannot be read"),
        ("version", "the plan is of version 10.3.0, this is 10.7.0"),
        ("gpu", "the plan is of gpu Recorded GPU"),
        ("stripped", "the plan was stripped and has no weights"),
    ],
)
def test_a_plan_that_cannot_be_used_is_one_line(
    gpu: RecordingCudart,
    plans: tuple[Path, Path],
    exported: Path,
    reference: Encoder,
    damage: str,
    named: str,
) -> None:
    """The error names the plan, TensorRT's reason and the remedy."""
    module = make_tensorrt(gpu, "10.7.0" if damage == "version" else "10.3.0")
    if damage == "truncated":
        plans[0].write_bytes(plans[0].read_bytes()[:-40])
    elif damage == "empty":
        plans[0].write_bytes(b"")
    elif damage == "missing":
        plans[0].unlink()
    elif damage == "gpu":
        module = make_tensorrt(RecordingCudart(name="Another"))
    elif damage == "stripped":
        build(gpu, exported / "graphs/encoder.fp32.onnx", plans[1], [LARGE], ("STRIP_PLAN",))
    with pytest.raises(BackendError, match=named) as caught:
        Encoder(reference.preparer, TrtBackend(*plans, module=module, library=gpu)).encode("seven")
    assert "\n" not in str(caught.value)


def test_stripped_and_version_compatible_plans(
    gpu: RecordingCudart, plans: tuple[Path, Path], exported: Path, reference: Encoder
) -> None:
    """A stripped plan gets the weights of the bundle's graph; host code runs if it is allowed."""
    graphs = exported / "graphs/vision.fp32.onnx", exported / "graphs/encoder.fp32.onnx"
    for graph, plan in zip(graphs, plans, strict=True):
        build(gpu, graph, plan, [LARGE], ("STRIP_PLAN", "VERSION_COMPATIBLE"))
    with pytest.raises(BackendError, match="brings code of its own"):
        open_backend(gpu, plans)
    with pytest.raises(BackendError, match="not the weights of this plan"):
        open_backend(gpu, plans, host_code=True, weights=graphs[::-1])
    backend = open_backend(gpu, plans, host_code=True, weights=graphs)
    with Encoder(reference.preparer, backend) as encoder:
        assert_same_vectors(encoder, reference, mixed())


def test_no_gpu_no_driver_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them is reported in one line."""
    with pytest.raises(BackendError, match="no CUDA-capable device"):
        Cudart(RecordingCudart(devices=0))
    with pytest.raises(BackendError, match="GPU 3: there are 2; use `gpu` 0 to 1"):
        Cudart(RecordingCudart(devices=2), 3)
    driver = RecordingCudart()
    driver.fail["cudaGetDeviceCount"] = 35
    with pytest.raises(BackendError, match="no NVIDIA driver that fits"):
        Cudart(driver)
    monkeypatch.setattr(cudart, "library_candidates", lambda: ["libcudart.so.none"])
    cudart.load_cudart.cache_clear()
    with pytest.raises(
        BackendError, match=r"no CUDA runtime library here .*libcudart\.so\.none.*; install CUDA"
    ):
        Cudart()
    cudart.load_cudart.cache_clear()


def test_the_real_library_has_the_functions_that_are_called() -> None:
    """If there is a library, all names exist in it; without a GPU, its error is translated."""
    try:
        library = cudart.load_cudart()
    except BackendError as error:
        pytest.skip(str(error))
    assert all(hasattr(library, name) for name in cudart.SIGNATURES)
    count = ctypes.c_int()
    if library.cudaGetDeviceCount(ctypes.byref(count)) == 0:
        assert Cudart().describe().capability.startswith("sm")
    else:
        with pytest.raises(BackendError, match="no NVIDIA driver that fits"):
            Cudart()


def test_a_fault_of_the_gpu_is_an_error_and_not_a_deadlock(
    faulty: tuple[RecordingCudart, tuple[Path, Path]], reference: Encoder
) -> None:
    """The next caller gets its vectors or an error, and closing ends."""
    gpu, plans = faulty
    encoder = Encoder(reference.preparer, open_backend(gpu, plans))
    for _ in range(2):
        gpu.fail["cudaStreamSynchronize"] = 700
        with pytest.raises(BackendError, match="cudaStreamSynchronize failed"):
            encoder.encode("seven")
    assert_same_vectors(encoder, reference, "seven")
    gpu.fail["cudaStreamDestroy"] = 700
    encoder.close()


def test_work_that_cannot_be_recorded_runs_all_the_same(
    gpu: RecordingCudart, plans: tuple[Path, Path], reference: Encoder
) -> None:
    """A capture that breaks off leaves nothing that would be replayed."""
    for call in ("cudaStreamEndCapture", "cudaGraphInstantiate"):
        backend = open_backend(gpu, plans, cuda_graphs=True)
        with Encoder(reference.preparer, backend) as encoder:
            for number in range(4):
                if number == 1:
                    gpu.fail[call] = 900
                assert_same_vectors(encoder, reference, "seven")


def test_facts_of_the_gpu() -> None:
    """Name and UUID come from the head of the properties; the rest differs between versions."""
    device = Cudart(RecordingCudart(name="Orin", capability=(8, 7))).describe()
    assert (device.name, device.capability, device.driver, device.uuid) == (
        "Orin",
        "sm87",
        "12.6",
        bytes(range(16)).hex(),
    )


def test_the_driver_itself_is_among_the_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update of the driver changes kernels while the newest CUDA it supports stays the same."""
    version = tmp_path / "version"
    version.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\nGCC version:  gcc\n"
    )
    monkeypatch.setattr(cudart, "DRIVER_VERSION_FILES", (tmp_path / "none", version))
    assert (
        Cudart(RecordingCudart()).describe().release
        == "NVRM version: NVIDIA UNIX x86_64 Kernel Module 550.54.15 Tue Mar 5"
    )
    version.unlink()
    assert Cudart(RecordingCudart()).describe().release == ""


def test_a_version_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """JetPack 5 had TensorRT 8."""
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(RecordingCudart(), "8.5.2.2"))
    with pytest.raises(BackendError, match=r"version 8\.5\.2\.2 is older than 10\.3"):
        load_tensorrt("tensorrt")


def test_pinned_memory_is_not_handed_out_twice(gpu: RecordingCudart) -> None:
    """Within a run every piece has its own place; after it, one block has room for all pieces."""
    cuda = Cudart(gpu)
    stream = cuda.stream()
    buffers = Buffers(cuda, stream)
    sizes = (10, 70_000, 300, 90_000)
    places = [buffers.staging(size) for size in sizes]
    for (start, size), other in zip(zip(places, sizes, strict=True), [*places[1:], 0], strict=True):
        assert not start <= other < start + size
    assert buffers.staging_blocks > 1
    buffers.settle()
    assert buffers.staging_blocks == 1
    again = [buffers.staging(size) for size in sizes]
    assert buffers.staging_blocks == 1
    assert len(set(again)) == len(sizes)
    buffers.close()
    cuda.destroy_stream(stream)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda cuda, stream: cuda.free(cuda.malloc(8)) or cuda.free(1 << 20),
            "is no device memory",
        ),
        (lambda cuda, stream: cuda.zero(cuda.malloc(8), 9, stream), "9 bytes at"),
        (
            lambda cuda, stream: cuda.to_device(cuda.malloc(8), cuda.malloc(8), 8, stream),
            "no live pinned memory",
        ),
        (lambda cuda, stream: cuda.synchronize(77), "does not live"),
        (
            lambda cuda, stream: [
                cuda.zero(address := cuda.malloc(8), 8, stream),
                cuda.free(address),
            ],
            "while queued work uses it",
        ),
        (
            lambda cuda, stream: [cuda.begin_capture(stream), cuda.malloc(8)],
            "while the thread records",
        ),
        (
            lambda cuda, stream: [cuda.free(address := cuda.malloc(8)), cuda.free(address)],
            "freed twice",
        ),
    ],
    ids=[
        "not allocated",
        "too long",
        "of another kind",
        "no stream",
        "in use",
        "while recording",
        "twice",
    ],
)
def test_the_stand_in_sees_misuse(wrong: Any, message: str) -> None:
    """The control of all tests above."""
    cuda = Cudart(RecordingCudart())
    with pytest.raises(GpuMisuseError, match=message):
        wrong(cuda, cuda.stream())


def test_the_stand_in_sees_leaks(plans: tuple[Path, Path], gpu: RecordingCudart) -> None:
    """Memory, streams, engines, contexts, and memory that a context was given are all counted."""
    trt, cuda = make_tensorrt(gpu), Cudart(gpu)
    runtime = trt.Runtime(make_logger(trt))
    engine = runtime.deserialize_cuda_engine(plans[0].read_bytes())
    context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    context.set_device_memory(address := cuda.malloc(4096), 4096)
    with pytest.raises(GpuMisuseError, match="freed that a living context was given"):
        cuda.free(address)
    with pytest.raises(GpuMisuseError, match="1 live, 1 engines, 1 contexts"):
        gpu.assert_released()
    del engine, context
    cuda.free(address)
    gpu = RecordingCudart()
    cuda = Cudart(gpu)
    cuda.malloc(8)
    cuda.stream()
    with pytest.raises(GpuMisuseError, match="1 live, 1 streams"):
        gpu.assert_released()
