"""A real bundle on ONNX Runtime: embed, verify, info, bench, and every way it can be damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from lame_runtime import BackendError, BundleError, Encoder, InputError, UsageError
from lame_runtime.__main__ import main
from lame_runtime.backends.fake import FakeBackend
from lame_runtime.bundle.golden import read_golden
from lame_runtime.bundle.manifest import canonical_hash
from lame_runtime.contract.batch import Batch, Floats
from lame_runtime.contract.vectors import restore
from lame_runtime.parity.compare import graph_rows
from lame_runtime.parity.verify import verify
from lame_training.evaluation.retrieval import read_rows
from PIL import Image

GRAPHS = ["fp32", "fp32-cpu", "fp16", "int8", "int8-cpu"]


def photo(path: Path) -> Path:
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rng.integers(0, 255, (300, 400, 3), dtype=np.uint8)).save(path, exif=exif)
    return path


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_graph_embeds_through_the_public_surface(
    graph: str, exported: Path, tmp_path: Path
) -> None:
    """Every graph embeds pictures, texts and both as unit vectors close to those of FP32."""
    inputs = [
        photo(tmp_path / "photo.jpg"),
        "fifteen",
        {"image": photo(tmp_path / "b.jpg"), "text": "What do the digits add up to?"},
    ]
    with Encoder.load(exported, graph=graph) as encoder, Encoder.load(exported) as reference:
        vectors, expected = encoder.encode(inputs), reference.encode(inputs)
    assert vectors.shape == (3, 64)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert ((vectors * expected).sum(1) > 0.97).all()


def test_the_default_on_a_cpu_is_fp32_and_says_why(exported: Path, bundle: Path) -> None:
    """It is the form for CPUs where a bundle has one; `info` prints graph, backend and reason."""
    with Encoder.load(exported) as encoder:
        assert encoder.graph == "fp32-cpu"
        assert "CPU" in encoder.reason
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["graphs"]["fp32-cpu"]
    manifest["sha256"] = canonical_hash(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with Encoder.load(bundle) as encoder:
        assert encoder.graph == "fp32"


def test_a_gpu_that_is_not_there_is_an_error_not_a_fallback(exported: Path) -> None:
    """A CUDA backend is refused because ONNX Runtime's CPU build does not offer it."""
    with pytest.raises(BackendError, match="offers only"):
        Encoder.load(exported, backend="onnxruntime-gpu")


def test_verify_repeats_the_certificate(exported: Path) -> None:
    """Every row passes on this device and is paired with the row of the certificate."""
    rows = verify(exported)
    assert all(row.today.passed for row in rows)
    assert all(row.certified is not None for row in rows)
    assert {row.today.graph for row in rows} == {"", *GRAPHS}


def flip_byte(path: Path, offset: int = -5) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def rehash(bundle: Path, name: str) -> None:
    """Updates the manifest's hash of a changed file, as an attacker or a faulty tool could.

    Only the golden vectors can then detect the change.
    """
    from lame_runtime.bundle.manifest import sha256_file

    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] = sha256_file(bundle / name)
    manifest["sha256"] = canonical_hash(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_a_perturbed_weight_is_caught_by_the_golden_vectors(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Changes one weight and updates its hash: every hash matches, and the golden vectors fail."""
    import onnx_ir as ir

    path = bundle / "graphs/encoder.fp32.onnx"
    model = ir.load(path)
    value = model.graph.initializers["blocks.1.down.weight_io"]
    weight = value.const_value.numpy().copy()  # type: ignore[union-attr]
    weight[:, 3] += 0.5
    value.const_value = ir.tensor(weight, name=value.name)
    ir.save(model, path, external_data=path.name + ".data")
    for name in ("graphs/encoder.fp32.onnx", "graphs/encoder.fp32.onnx.data"):
        rehash(bundle, name)
    assert main(["verify", str(bundle), "--graph", "fp32"]) == 1
    assert "FAILED" in capsys.readouterr().out


class Neighborly(FakeBackend):
    """A backend whose rows depend on how far their batch is padded."""

    def encoder(self, batch: Batch, features_FD: Floats) -> Floats:
        """Returns the fake rows, shifted slightly by the padded length."""
        return super().encoder(batch, features_FD) + np.float32(batch.input_ids.shape[1] / 1000)


def test_batch_mates_that_change_a_row_are_caught(exported: Path) -> None:
    """Rows that depend on their batch fail the gate on single against batched inputs."""
    with Encoder.load(exported) as encoder:
        golden = read_golden(exported)
        for backend, passed in ((FakeBackend(64, 64), True), (Neighborly(64, 64), False)):
            rows = graph_rows(Encoder(encoder.preparer, backend), "fp32", golden)
            assert [row.passed for row in rows if row.comparison == "alone vs in a batch"] == [
                passed
            ]


def test_a_graph_that_returns_nan_fails_with_the_reason(exported: Path) -> None:
    """A graph that returns NaN fails the gate on finite outputs; JSON stores the figure as null."""
    with Encoder.load(exported) as encoder:
        rows = graph_rows(
            Encoder(encoder.preparer, FakeBackend(64, 64, poison=True)),
            "fp32",
            read_golden(exported),
        )
    assert not any(row.passed for row in rows)
    assert all("not finite" in row.describe() for row in rows)
    assert (
        json.loads(json.dumps([row.to_json() for row in rows], allow_nan=False))[0]["figure"][
            "min_cosine"
        ]
        is None
    )


def test_a_constant_encoder_is_caught(exported: Path) -> None:
    """An encoder that returns the same unit vector for every input fails the cosine gates."""
    from lame_runtime.backends.fake import FakeBackend

    class Constant(FakeBackend):
        def encoder(self, batch, features_FD):  # type: ignore[no-untyped-def]
            return np.tile(np.eye(1, 64, dtype=np.float32), (len(batch.input_ids), 1))

    with Encoder.load(exported) as encoder:
        rows = graph_rows(
            Encoder(encoder.preparer, Constant(64, 64)), "fp32", read_golden(exported)
        )
    assert all(row.passed is False for row in rows if row.comparison == "graph vs PyTorch")


def test_mapped_weights_give_the_same_vectors(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`reason` mentions mapped weights, and `map_weights` is refused if a GPU holds the weights."""
    items = [entry.item for entry in read_golden(exported).inputs[:12]]
    with Encoder.load(exported) as plain, Encoder.load(exported, map_weights=True) as mapped:
        assert np.abs(plain.encode(items) - mapped.encode(items)).max() < 1e-5
        assert "weights mapped, as asked" in mapped.reason
    monkeypatch.setattr(
        "lame_runtime.backends.onnxruntime.choose_provider",
        lambda backend: ("CUDAExecutionProvider", "pretended"),
    )
    with pytest.raises(UsageError, match="`map_weights` is for CPUs"):
        Encoder.load(exported, map_weights=True)


def test_nothing_is_sent_and_no_identifier_kept(exported: Path, tmp_path: Path) -> None:
    """Telemetry, which some builds of ONNX Runtime include, is off by default.

    `ORT_DISABLE_TELEMETRY=0` turns it on.
    """
    code = f"from lame_runtime import Encoder; Encoder.load({str(exported)!r}).encode(['seven'])"
    plain = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    }
    subprocess.run([sys.executable, "-c", code], env={**plain, "HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_onnx_runtime_cannot_use_is_one_line(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A GPU build of ONNX Runtime without a usable GPU is reported in one line.

    That build lists CUDA on every machine and silently falls back to the CPU. TF32 is disabled.
    """
    import onnxruntime

    calls: list[object] = []

    def session(path: object, options: object, providers: object, **_: object) -> object:
        calls.append(providers)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    pretended = types.SimpleNamespace(
        **{
            **vars(onnxruntime),
            "cuda_version": "13.0",
            "get_available_providers": lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
            "preload_dlls": lambda: print("Failed to load libcublasLt.so.13"),
            "set_default_logger_severity": calls.append,
            "InferenceSession": session,
        }
    )
    monkeypatch.setattr("lame_runtime.backends.onnxruntime._onnxruntime", lambda: pretended)
    with pytest.raises(
        BackendError,
        match=r"cannot use a GPU here.*NVIDIA driver and CUDA 13: .*or use backend onnxruntime",
    ):
        Encoder.load(exported)
    assert calls == [4, [("CUDAExecutionProvider", {"use_tf32": "0"})], 2]
    assert capfd.readouterr() == ("", "")


def test_a_swapped_patch_order_is_caught(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches in another order fail the contract gate."""
    from lame_runtime.bundle import golden
    from lame_runtime.contract.preparer import Visual
    from lame_runtime.parity import compare

    original = Visual.pixel_patches
    monkeypatch.setattr(
        Visual, "pixel_patches", lambda visual, contract: original(visual, contract)[:, ::-1]
    )
    with Encoder.load(exported) as encoder:
        rows = compare.contract_rows(encoder.preparer, golden.read_golden(exported))
    assert {row.modality: row.passed for row in rows}["image"] is False
    assert {row.modality: row.passed for row in rows}["text"] is True


def damage(bundle: Path, kind: str) -> Path:
    if kind == "flipped byte":
        flip_byte(bundle / "graphs/encoder.fp32.onnx.data")
    elif kind == "missing file":
        (bundle / "graphs/vision.fp32.onnx.data").unlink()
    elif kind == "missing tokenizer":
        (bundle / "tokenizer.json").unlink()
    elif kind == "unknown format":
        manifest = json.loads((bundle / "manifest.json").read_text())
        (bundle / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    elif kind == "no manifest":
        (bundle / "manifest.json").unlink()
    elif kind == "truncated manifest":
        flip = (bundle / "manifest.json").read_text()
        (bundle / "manifest.json").write_text(flip[: len(flip) // 2])
    elif kind == "missing":
        return bundle / "nowhere"
    return bundle


DAMAGE = {
    "flipped byte": "wrong sha256",
    "missing file": "is missing",
    "missing tokenizer": "is missing",
    "unknown format": "format_version 99",
    "no manifest": "has no manifest.json",
    "truncated manifest": "cannot be read",
    "missing": "no such folder",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_bundle_is_refused_in_one_line(
    kind: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command exits with 2, names the file and the remedy, and writes nothing."""
    out = tmp_path / "v.npy"
    assert main(["embed", str(damage(bundle, kind)), "--text", "fifteen", "-o", str(out)]) == 2
    error = capsys.readouterr().err
    assert DAMAGE[kind] in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_checkpoint_where_a_bundle_belongs_is_recognized(checkpoint: Path) -> None:
    """The message gives the command that exports the checkpoint to a bundle."""
    with pytest.raises(BundleError, match=r"lame-export bundle"):
        Encoder.load(checkpoint)


def test_an_unlisted_file_fails_verify(bundle: Path) -> None:
    """A file that was added after the export was not certified and is refused."""
    (bundle / "graphs/extra.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="not part of the bundle"):
        verify(bundle)


def test_an_unknown_graph_lists_the_known_ones(exported: Path) -> None:
    """The message lists the graphs that the bundle has."""
    with pytest.raises(UsageError, match="int8-cpu"):
        Encoder.load(exported, graph="fp8")


def test_embed_writes_paths_then_texts(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`embed` reads a folder, a JSONL file with relative paths, a picture, two texts, and stdin."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    photo(folder / "b.jpg")
    Image.new("RGB", (1, 1)).save(folder / "a.png")
    (folder / "notes.txt").write_text("ignored")
    (tmp_path / "in.jsonl").write_text(
        json.dumps({"image": "pictures/b.jpg", "text": "数字 🙂"})
        + "\n\n"
        + json.dumps("seven")
        + "\n",
        encoding="utf-8",
    )
    out = tmp_path / "v.npy"
    names = [str(folder), str(tmp_path / "in.jsonl"), str(folder / "b.jpg")]
    assert (
        main(
            ["embed", str(exported), *names, "--text", "seven", "--text", "fifteen", "-o", str(out)]
        )
        == 0
    )
    vectors = np.load(out)
    assert vectors.shape == (7, 64)
    assert np.allclose(vectors[3], vectors[5], atol=1e-5)
    assert np.allclose(vectors[1], vectors[4], atol=1e-5)
    command = [
        sys.executable,
        "-m",
        "lame_runtime",
        "embed",
        str(exported),
        "-",
        "-o",
        str(out),
        "--json",
    ]
    done = subprocess.run(command, input='"seven"\n', capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["shape"] == [1, 64]


@pytest.mark.parametrize(
    ("precision", "kept", "width"),
    [("int8", 64, 64), ("uint8", 32, 32), ("binary", 64, 8), ("ubinary", 20, 3)],
)
def test_vectors_in_fewer_bits(
    exported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    precision: str,
    kept: int,
    width: int,
) -> None:
    """Vectors have the requested type; 8-bit vectors use their range and rank like float32 ones."""
    out = tmp_path / "v.npy"
    texts = ["--text", "seven", "--text", "digits that add up to fifteen", "--text", "two"]
    options = ["--precision", precision, "--truncate-dim", str(kept)]
    assert main(["embed", str(exported), *texts, *options, "-o", str(out)]) == 0
    assert f"3 × {width} {'u' if precision.startswith('u') else ''}int8" in capsys.readouterr().out
    vectors = np.load(out)
    with Encoder.load(exported) as encoder:
        floats = encoder.encode(
            ["seven", "digits that add up to fifteen", "two"], truncate_dim=kept
        )
        assert encoder.encode([], precision=precision, truncate_dim=kept).dtype == vectors.dtype  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="`precision` is 'int4': use float32, int8"):
            encoder.encode("seven", precision="int4")  # type: ignore[arg-type]
    back = restore(vectors, precision, kept)  # type: ignore[arg-type]
    cosine = (back * floats).sum(1) / np.linalg.norm(back, axis=1)
    assert cosine.min() > (0.999 if "int8" in precision else 0.6)


BAD = {
    "nothing to embed": ([], "nothing to embed"),
    "missing picture": (["nowhere.png"], "no such file"),
    "empty text": (["--text", ""], "empty"),
    "long text": (["--text", "digits " * 9999], "--truncate"),
    "not a picture": ([__file__], "not a picture"),
    "unknown role": (["--text", "a", "--role", "passage"], "unknown role"),
    "wrong width": (["--text", "a", "--truncate-dim", "65"], "use 1 to 64"),
    "an empty JSONL": (["EMPTY"], "nothing to embed"),
    "an empty path": ([""], "is empty"),
    "a text for a path": (["x" * 300], "--text"),
    "not Unicode": (["--text", "a\udcff"], "not Unicode"),
    "an empty batch": (["--text", "a", "--batch-size", "0"], "use 1 to"),
    "too many threads": (["--text", "a", "--threads", "100000"], "use 1 to"),
    "no threads": (["--text", "a", "--threads", "0"], "use 1 to"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_line_and_writes_nothing(
    kind: str, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command exits with 2, prints one line and writes nothing."""
    arguments, message = BAD[kind]
    out = tmp_path / "out/v.npy"
    out.parent.mkdir()
    (tmp_path / "empty.jsonl").touch()
    arguments = [str(tmp_path / "empty.jsonl")] if "EMPTY" in arguments else arguments
    assert main(["embed", str(exported), *arguments, "-o", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(out.parent.iterdir()) == []


def test_an_output_keeps_links_and_spares_what_is_no_file(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The target of a link is replaced; a pipe or an input file as the output is refused."""
    photo(tmp_path / "photo.jpg")
    (tmp_path / "link.npy").symlink_to(tmp_path / "real.npy")
    assert main(["embed", str(exported), "--text", "a", "-o", str(tmp_path / "link.npy")]) == 0
    assert (tmp_path / "link.npy").is_symlink()
    assert np.load(tmp_path / "real.npy").shape == (1, 64)
    os.mkfifo(tmp_path / "pipe")
    assert main(["embed", str(exported), "--text", "a", "-o", str(tmp_path / "pipe")]) == 2
    assert "not a regular file" in capsys.readouterr().err
    before = (tmp_path / "photo.jpg").read_bytes()
    assert (
        main(
            ["embed", str(exported), str(tmp_path / "photo.jpg"), "-o", str(tmp_path / "photo.jpg")]
        )
        == 2
    )
    assert "also an input" in capsys.readouterr().err
    assert (tmp_path / "photo.jpg").read_bytes() == before


def test_an_edited_certificate_is_not_shown(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The certificate's hash is checked before `info` prints its contents."""
    path = bundle / "parity.json"
    path.write_text(path.read_text().replace('"passed": true', '"passed": false', 1))
    assert main(["info", str(bundle)]) == 2
    assert "wrong sha256" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error(exported: Path) -> None:
    """`lame-runtime info … | true` prints no error and exits with the shell's code for SIGPIPE."""
    command = (
        f"{sys.executable} -m lame_runtime info {exported} --json | true; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("0", "141")
    assert done.stderr == ""


def test_a_console_without_our_characters_gets_substitutes(exported: Path, tmp_path: Path) -> None:
    """Characters that the console cannot encode are replaced, without a traceback."""
    command = [
        sys.executable,
        "-m",
        "lame_runtime",
        "embed",
        str(exported),
        "--text",
        "a",
        "-o",
        str(tmp_path / "v.npy"),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert "1 ? 64" in done.stdout


def test_an_output_that_cannot_be_written_is_named(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An output in a folder that does not exist is refused, and the message names it."""
    assert main(["embed", str(exported), "--text", "a", "-o", str(tmp_path / "no/v.npy")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_full_disk_leaves_the_old_output(exported: Path, tmp_path: Path) -> None:
    """If the disk is full, the write fails and the old file stays intact.

    The process's file size limit stands in for the full disk.
    """
    out = tmp_path / "v.npy"
    np.save(out, np.zeros(3))
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100));"
        "from lame_runtime.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "embed", str(exported), "--text", "a", "-o", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert done.stderr.count("\n") == 1
    assert np.load(out).tolist() == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["v.npy"]


def test_ctrl_c_leaves_nothing_behind(exported: Path, tmp_path: Path) -> None:
    """Ctrl-C prints one line, exits with 130 and leaves no temporary file."""
    import signal
    import time

    code = (
        "import signal, sys; from lame_runtime.__main__ import main; "
        # a shell starts background jobs with SIGINT ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        "print('ready', flush=True); sys.exit(main(sys.argv[1:]))"
    )
    lines = tmp_path / "in.jsonl"
    lines.write_text('"seven"\n' * 200_000)
    out = tmp_path / "out"
    out.mkdir()
    command = [
        sys.executable,
        "-c",
        code,
        "embed",
        str(exported),
        str(lines),
        "-o",
        str(out / "v.npy"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.strip() == "stopped; nothing was written"
    assert list(out.iterdir()) == []


def test_info_verify_and_bench_speak_json(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command prints JSON on request; `verify` also writes this device's certificate."""
    assert main(["info", str(exported), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["dim"] == 64
    assert facts["certificate"]["passed"] is True
    assert (
        main(
            [
                "verify",
                str(exported),
                "--graph",
                "int8-cpu",
                "--json",
                "-o",
                str(tmp_path / "device.json"),
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["passed"] is True
    assert json.loads((tmp_path / "device.json").read_text())["rows"]
    assert main(["bench", str(exported), "--json", "--rounds", "1", "--graph", "fp32"]) == 0
    assert json.loads(capsys.readouterr().out)["graphs"]["fp32"]["single_ms"] > 0
    for command in ("info", "verify", "bench"):
        extra = ["--rounds", "1"] if command == "bench" else []
        assert main([command, str(exported), *extra]) == 0
    assert "int8-cpu" in capsys.readouterr().out


def test_rows_keep_unusual_line_ends_and_no_candidate_twice(data: Path, tmp_path: Path) -> None:
    """U+2028 does not split a line, and a repeated candidate is counted once.

    Otherwise the right answer would compete with its own copy.
    """
    row = {
        "qry_inst": "",
        "qry_text": "a\u2028b",
        "qry_img_path": "",
        "tgt_inst": "",
        "tgt_text": ["x", "y", "x"],
        "tgt_img_path": ["", "", ""],
    }
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval/t.jsonl").write_text(
        json.dumps(row, ensure_ascii=False) + "\n\n", encoding="utf-8"
    )
    (pool,) = read_rows(tmp_path, "t")
    assert pool.query.text == "a\u2028b"
    assert [item.text for item in pool.candidates] == ["x", "y"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"qry_inst": "", "qry_text": 5, "qry_img_path": "", '
            '"tgt_inst": "", "tgt_text": [], "tgt_img_path": []}',
            "not a string",
        ),
        (
            '{"qry_inst": "", "qry_text": "a", "qry_img_path": "", '
            '"tgt_inst": "", "tgt_text": [], "tgt_img_path": []}',
            "no candidates",
        ),
        ("", "holds no rows"),
    ],
)
def test_rows_that_cannot_be_scored_are_refused(line: str, message: str, tmp_path: Path) -> None:
    """The message names what is wrong with the row."""
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval/t.jsonl").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_rows(tmp_path, "t")
