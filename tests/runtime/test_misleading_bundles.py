"""Certificates, golden inputs, vectors and plans' files that mislead are refused in one line."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from lame_runtime import BundleError, Encoder, LameError
from lame_runtime.__main__ import main
from lame_runtime.backends.tensorrt.plans import Build, PlanFacts, builds, read_facts
from lame_runtime.backends.tensorrt.signature import sign
from lame_runtime.bundle import golden
from lame_runtime.bundle.bundle import Bundle
from lame_runtime.bundle.certificate import read_certificate
from lame_runtime.bundle.engine_files import read_device_report
from lame_runtime.bundle.golden import read_golden
from lame_runtime.bundle.vector_file import read_vectors
from lame_runtime.contract.batch import Batch, Floats
from lame_runtime.errors import StorageError
from lame_runtime.parity import verify as verification
from lame_runtime.parity.verify import table, verify
from tampering import (
    TINY,
    copy_tiny,
    edit_file,
    golden_rows,
    rehash,
    write_golden_rows,
    write_vectors,
)

VECTORS = "golden/embeddings.npy"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Returns a copy of the tiny bundle."""
    return copy_tiny(tmp_path / "tiny")


def fewer_inputs(bundle: Path, number: int = 1) -> None:
    """Leaves the first golden inputs alone, with every hash computed anew."""
    write_golden_rows(bundle, golden_rows(bundle)[:number])
    write_vectors(bundle, np.load(bundle / VECTORS)[:number])
    rehash(bundle)


@pytest.mark.parametrize("number", [1, 16])
def test_fewer_golden_inputs_than_were_certified_do_not_pass(
    number: int, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of the certificate say how many inputs there were.

    Control: with the check taken out, the inputs that are left pass.
    """
    fewer_inputs(tiny, number)
    with pytest.raises(BundleError, match=r"was certified on \d+ golden inputs, \d+ are left"):
        verify(tiny, ["fp32"])
    monkeypatch.setattr(verification, "require_as_certified", lambda *_: None)
    assert all(row.today.passed for row in verify(tiny, ["fp32"]))


def test_nothing_to_verify_does_not_pass(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """No graphs, no golden inputs, no rows: each is an error, and none is "0 of 0 rows hold"."""
    edits: list[Callable[[Path], object]] = [
        lambda path: rehash(path, lambda raw: raw["graphs"].clear()),
        lambda path: write_golden_rows(path, []),
        lambda path: edit_file(path, "parity.json", lambda raw: raw["rows"].clear()),
        # the rows of the contract alone
        lambda path: edit_file(path, "parity.json", lambda raw: raw.update(rows=raw["rows"][:14])),
    ]
    for number, edit in enumerate(edits):
        edit(bundle := copy_tiny(tmp_path / str(number)))
        rehash(bundle)
        assert main(["verify", str(bundle)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_golden_file_that_was_not_certified_is_refused(tiny: Path) -> None:
    """The certificate holds the hashes of the files that its figures were measured on."""
    (tiny / "golden/images/0000.png").write_bytes((tiny / "golden/images/0001.png").read_bytes())
    rehash(tiny)
    with pytest.raises(BundleError, match=r"0000\.png: is not the file that was certified"):
        verify(tiny, ["fp32"])


@pytest.mark.parametrize("name", ["golden/inputs.jsonl", "golden/images/0000.png", ""])
def test_a_golden_file_without_a_certified_hash_is_refused(name: str, tiny: Path) -> None:
    """Every exporter has written the hashes of all golden files; "" takes all of them out."""

    def edit(raw: dict[str, Any]) -> None:
        raw["hashes"] = {
            each: raw["hashes"][each] for each in raw["hashes"] if name and each != name
        }

    edit_file(tiny, "parity.json", edit)
    rehash(tiny)
    with pytest.raises(BundleError, match="is not the file that was certified"):
        verify(tiny, ["fp32"])


def test_a_graph_without_a_certified_hash_is_noted(tiny: Path) -> None:
    """The golden vectors judge a graph, whoever made it; the table says that it is another."""
    name = "graphs/encoder.fp32.onnx"
    edit_file(tiny, "parity.json", lambda raw: raw["hashes"].pop(name))
    rehash(tiny)
    assert f"{name} is not the file that was certified" in table(verify(tiny, ["fp32"]))


def test_copies_of_a_golden_input_do_not_count(tiny: Path) -> None:
    """The number of inputs is the certificate's, but two of them are one."""
    rows = golden_rows(tiny)
    assert rows[0]["modality"] == rows[1]["modality"]
    write_golden_rows(tiny, [rows[0], rows[0], *rows[2:]])
    vectors = np.load(tiny / "golden/embeddings.npy")
    write_vectors(tiny, vectors[[0, 0, *range(2, len(vectors))]])
    rehash(tiny)
    with pytest.raises(BundleError, match=r"inputs\.jsonl: input 2 repeats input 1; copy"):
        verify(tiny, ["fp32"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"role": "x"}, "unknown role 'x'"),
        ({"content": [{"text": ""}], "instruction": ""}, "empty"),
    ],
)
def test_a_golden_input_that_the_contract_refuses_is_named(
    change: dict[str, Any], message: str, tiny: Path
) -> None:
    """The message gives the file, the number of the input, and a remedy."""
    rows = golden_rows(tiny)
    write_golden_rows(tiny, [rows[0], {**rows[1], **change}, *rows[2:]])
    rehash(tiny)
    with pytest.raises(BundleError, match=rf"inputs\.jsonl: input 2: .*{message}.*copy or export"):
        verify(tiny, ["fp32"])


def test_a_graph_without_gates_is_refused_by_name(tiny: Path) -> None:
    """A graph that this runtime knows no bounds for cannot be verified."""
    rehash(tiny, lambda raw: raw["graphs"].update(fp4=raw["graphs"]["fp32"]))
    with pytest.raises(BundleError, match="the certificate has no row for graph fp4"):
        verify(tiny)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda raw: raw["rows"][0].update(figure={"cosine": "x"}), r"rows\[0\].figure must be"),
        (lambda raw: raw["rows"][0].update(figure={"x": 10**400}), r"rows\[0\].figure.x is"),
        (lambda raw: raw["rows"][0].update(gate={}), r"rows\[0\].gate has 0 entries"),
        (lambda raw: raw["rows"].extend(raw["rows"][:1]), "repeats the comparison of rows.0"),
        (lambda raw: raw["rows"][0].update(inputs=-1), r"rows\[0\].inputs is -1"),
        (lambda raw: raw["rows"][0].update(modality="\x1b[2J"), r"rows\[0\].modality is"),
        (lambda raw: raw["rows"][0].update(gate={"x": ["=", 1]}), r"rows\[0\].gate.x\[0\] is"),
        (lambda raw: raw["rows"][0].update(figure={"mismatches": 7}), r"rows\[0\].passed is True"),
        (lambda raw: raw["rows"][0].update(passed=None), r"rows\[0\].passed is None"),
        (lambda raw: raw.update(passed=False), "passed is False, by its rows it is True"),
        (lambda raw: raw["environment"].update(date="\x1b]0;x\x07"), "environment.date is"),
        (lambda raw: raw.update(rows=5), "cannot be read"),
    ],
)
def test_a_certificate_that_misleads_is_refused(
    edit: Callable[[Any], object], message: str, tiny: Path
) -> None:
    """Types, ranges, and outcomes that do not follow from their figures."""
    read_certificate(tiny)
    edit_file(tiny, "parity.json", edit)
    with pytest.raises(BundleError, match=message) as refusal:
        read_certificate(tiny)
    assert str(refusal.value).isprintable()


def test_a_figure_that_was_not_measured_is_null_and_not_nan(tiny: Path) -> None:
    """JSON has no NaN; a row whose figure is null has failed."""
    text = (tiny / "parity.json").read_text()
    for value, message in (("NaN", "a figure is NaN"), ("null", r"by its figures it is False")):
        changed = text.replace('"mismatches": 0', f'"mismatches": {value}', 1)
        assert changed != text
        (tiny / "parity.json").write_text(changed)
        with pytest.raises(BundleError, match=message):
            read_certificate(tiny)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"content": [{"image": "../outside.png"}]}, "'../outside.png', which is outside"),
        ({"content": [{"image": "/etc/passwd"}]}, "which is outside the bundle"),
        ({"content": [{"image": "contract.json"}]}, "which is outside golden/"),
        ({"content": [{"image": "golden/unlisted.png"}]}, "which is not listed"),
        ({"content": [{"image": "https://127.0.0.1/a.png"}]}, "which is outside the bundle"),
        ({"content": [{"image": ["golden/images/0000.png"]}]}, "content: image must be str"),
        ({"content": [{"video": "golden/images/0000.png"}]}, "content: lacks fps"),
        ({"content": [{"video": ["../a"], "fps": 1}]}, "which is outside the bundle"),
        ({"content": [{"video": [], "fps": 1}]}, "content: video has 0 entries"),
        ({"content": [{"video": ["golden/images/0000.png"], "fps": 0}]}, "content: fps is 0"),
        ({"content": [{"text": 5}]}, "content: text must be str"),
        ({"content": [{"text": "a", "image": "b"}]}, "content: has unknown fields text"),
        ({"content": []}, "content has 0 entries"),
        ({"role": ["x"]}, "role must be str"),
        ({"role": "\x1b"}, "role is"),
        ({"ids": [-1]}, r"ids\[0\] is -1"),
        ({"positions": "x"}, "positions is"),
        ({"surprise": 1}, "has unknown fields surprise"),
    ],
)
def test_a_golden_input_that_misleads_is_refused(
    change: dict[str, Any], message: str, tiny: Path
) -> None:
    """The message names the input by its number, and no file elsewhere is opened."""
    (tiny / "golden/unlisted.png").write_bytes((tiny / "golden/images/0000.png").read_bytes())
    first, *others = golden_rows(tiny)
    write_golden_rows(tiny, [{**first, **change}, *others])
    rehash(tiny)
    with pytest.raises(BundleError, match=rf"input 1:? .*{message}"):
        Bundle.open(tiny).golden()


def test_without_the_check_of_names_a_picture_elsewhere_is_read(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: with the guards taken out, the golden input names a file outside."""
    first, *others = golden_rows(tiny)
    write_golden_rows(tiny, [{**first, "content": [{"image": "golden/../../out.png"}]}, *others])
    monkeypatch.setattr(golden, "name_problem", lambda _: None)
    monkeypatch.setattr(golden, "open_member", lambda folder, name: (folder / name).open("rb"))
    (tiny.parent / "out.png").write_bytes((tiny / "golden/images/0000.png").read_bytes())
    assert "out.png" in str(read_golden(tiny).inputs[0].item)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((17, 64), np.float64), "does not hold float32 values in two dimensions"),
        (np.zeros(64, np.float32), "does not hold float32"),
        (np.zeros((17, 0), np.float32), "out of range"),
        (np.zeros((17, 64), np.float32), "not of unit length"),
        (np.full((17, 64), np.nan, np.float32), "not finite"),
        (np.array([[None]], dtype=object), "does not hold float32"),
        (np.eye(17, 7, dtype=np.float32) + np.eye(17, 7, -7) + np.eye(17, 7, -14), "float32"),
        (np.tile(np.eye(1, 7, dtype=np.float32), (17, 1)), "vectors of 7 values, the model's"),
        (np.eye(16, 64, dtype=np.float32), "17 inputs but 16 embeddings"),
    ],
)
def test_vectors_of_another_kind_are_refused(
    array: npt.NDArray[Any], message: str, tiny: Path
) -> None:
    """Type, dimensions, number, length and values are checked."""
    write_vectors(tiny, array)
    rehash(tiny)
    with pytest.raises(BundleError, match=message):
        Bundle.open(tiny).golden()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff" + b"[" * 65_535,
        b"\x93NUMPY\x01\x00\x46\x00"
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999, 65536), }\n",
        b"PK\x03\x04",
        b"\x80\x04cos\nsystem\n.",
    ],
)  # fmt: skip
def test_a_file_that_is_no_array_is_refused_before_it_is_read(content: bytes, tiny: Path) -> None:
    """Nothing is evaluated, unpickled or allocated by what a header claims."""
    (tiny / VECTORS).write_bytes(content)
    with pytest.raises(BundleError, match=r"embeddings\.npy: "):
        read_vectors(tiny, VECTORS)


def test_vectors_are_read_as_numpy_reads_them() -> None:
    """The bundle's own file gives the same array as `numpy.load`."""
    assert np.array_equal(read_vectors(TINY, VECTORS), np.load(TINY / VECTORS))


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("images", "patch_size", 8),
        ("images", "temporal_patch_size", 1),
        ("images", "merge_size", 4),
        ("tower", "window", 4),
        ("tower", "position_side", 4),
        ("tokens", "first_latent", 321),
        ("tokens", "n_reason", 5),
    ],
)
def test_a_contract_of_another_graph_gives_no_vector(
    part: str, field: str, value: int, tiny: Path
) -> None:
    """Values that are in their range, but not those of the graphs; the message names the field."""
    edit_file(tiny, "contract.json", lambda raw: raw[part].update({field: value}))
    rehash(tiny)
    picture = {"image": tiny / "golden/images/0000.png"}
    with pytest.raises(LameError, match=field), Encoder.load(tiny, threads=1) as encoder:
        encoder.encode([picture])


def test_without_the_count_of_features_pictures_get_those_of_other_places(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: with the guard taken out, another merge size gives another vector in silence."""
    picture = {"image": TINY / "golden/images/0000.png"}
    with Encoder.load(TINY, threads=1) as encoder:
        expected = encoder.encode([picture])
    edit_file(tiny, "contract.json", lambda raw: raw["images"].update(merge_size=4))
    rehash(tiny)

    def unchecked(batch: Batch, features_FD: Floats) -> dict[str, npt.NDArray[Any]]:
        feeds = original(batch, features_FD[:0])
        return {**feeds, "features": features_FD}

    original = Batch.encoder_feeds
    monkeypatch.setattr(Batch, "encoder_feeds", unchecked)
    with Encoder.load(tiny, threads=1) as encoder:
        assert np.abs(encoder.encode([picture]) - expected).max() > 1e-3


FACTS = PlanFacts(
    graph="fp32",
    built_graph="fp32",
    graph_files={"graphs/a.onnx": "0" * 64},
    module="tensorrt",
    version="10.3.0",
    gpu="Orin",
    capability="sm87",
    profile="latency",
    profiles={"vision": [{"patches": [1, 2, 3]}]},
    flags=[],
    optimization_level=3,
    workspace=None,
    level="as exported",
    files={"vision.plan": "0" * 64, "encoder.plan": "0" * 64},
)


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"vision.plan": "0" * 64, "encoder.plan": "0" * 64, "../../x": "0" * 64}},
        {"files": {"vision.plan": "x", "encoder.plan": "0" * 64}},
        {"version": "9" * 5000},
        {"version": "²"},
        {"version": "10.a.0"},
        {"level": "\x1b[2J"},
        {"workspace": -1},
        {"profiles": {"vision": [{"patches": [10**400]}]}},
        {"format_version": 1},
    ],
)
def test_facts_of_plans_that_mislead_are_no_build(change: dict[str, Any], tmp_path: Path) -> None:
    """Such a folder is passed over, as one that another version of LaME wrote."""
    path = tmp_path / "build.json"
    path.write_text(FACTS.to_json())
    assert read_facts(path) == FACTS
    path.write_text(json.dumps({**json.loads(FACTS.to_json()), **change}))
    assert read_facts(path) is None


def _make_large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 33)


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text('{"files": 1'),
        Path.mkdir,
        _make_large,
    ],
)
def test_hostile_files_of_engines_neither_hang_nor_raise(
    make: Callable[[Path], object], tiny: Path
) -> None:
    """Facts and certificates that cannot be read are passed over, and the bundle embeds."""
    folder = tiny / "engines/fp32.latency.0"
    folder.mkdir(parents=True)
    make(folder / "build.json")
    make(folder / "device-0.json")
    assert read_facts(folder / "build.json") is None
    assert read_device_report(folder / "device-0.json") is None
    bundle = Bundle.open(tiny)
    assert list(builds(bundle, "fp32")) == []
    assert not Build(folder, FACTS).failed_somewhere(bundle)
    with Encoder.load(tiny) as encoder:
        assert encoder.encode(["seven"]).shape == (1, 64)


def test_plans_elsewhere_and_names_with_control_characters_are_passed_over(
    tiny: Path, tmp_path: Path
) -> None:
    """A build lies in its folder; a reason never repeats escape sequences."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/build.json").write_text(FACTS.to_json())
    (tiny / "engines").mkdir()
    (tiny / "engines/linked").symlink_to(tmp_path / "elsewhere")
    escaping = tiny / "engines/a\x1b[2J"
    escaping.mkdir()
    (escaping / "build.json").write_text(FACTS.to_json())
    bundle = Bundle.open(tiny)
    assert list(builds(bundle, "fp32")) == []
    escaping.rename(tiny / "engines/plain")
    assert [build.folder.name for build in builds(bundle, "fp32")] == ["plain"]
    assert list(builds(bundle, "fp16")) == []


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no modes of files")
def test_a_key_that_others_may_use_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mode, owner and kind of the key's file are checked; the message gives the remedy."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    signature, key = sign(FACTS), tmp_path / "lame/plan-key"
    assert sign(FACTS) == signature
    for mode in (0o644, 0o660, 0o602):
        key.chmod(mode)
        with pytest.raises(StorageError, match=f"mode 0?{mode & 0o077:03o}.*chmod 600"):
            sign(FACTS)
    key.chmod(0o600)
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    with pytest.raises(StorageError, match="belongs to another account"):
        sign(FACTS)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    key.unlink()
    os.mkfifo(key)
    with pytest.raises(StorageError, match="is a pipe"):
        sign(FACTS)


HOSTILE = (
    None, True, -1, 0, 1, 3, 10**9, 10**30, 10**400, 0.5, float("nan"), float("inf"), "", "\x1b[2J",
    "\ud800", "<|image_pad|>", "x" * 5000, "../x", "/etc/passwd", [], [[]], ["x"], {}, {"a": 1},
)  # fmt: skip
MUTATED = ("contract.json", "manifest.json", "parity.json", "golden/inputs.jsonl")


def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns the places of all values in parsed JSON."""
    if not isinstance(value, dict | list):
        return [place]
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    inner = [deeper for key, part in entries for deeper in places(part, (*place, key))]
    return [place, *inner] if place else inner


def mutate(rng: random.Random, raw: Any) -> None:
    """Replaces or drops one value in parsed JSON."""
    *parents, last = rng.choice(places(raw))
    for name in parents:
        raw = raw[name]
    if rng.random() < 0.15:
        del raw[last]
    else:
        raw[last] = rng.choice(HOSTILE)


@pytest.mark.parametrize("seed", range(24))
def test_a_mutated_bundle_is_refused_or_unchanged(seed: int, tiny: Path) -> None:
    """One value is replaced by a hostile one and every hash is computed anew.

    The bundle gives its vectors, or an error of LaME in one printable line; no other exception.
    """
    rng, name = random.Random(seed), MUTATED[seed % len(MUTATED)]
    if name == "golden/inputs.jsonl":
        rows = golden_rows(tiny)
        mutate(rng, rng.choice(rows))
        (tiny / name).write_bytes("\n".join(map(json.dumps, rows)).encode("utf-8", "surrogatepass"))
        rehash(tiny)
    elif name == "manifest.json":
        rehash(tiny, lambda raw: mutate(rng, raw))
    else:
        edit_file(tiny, name, lambda raw: mutate(rng, raw))
        rehash(tiny)
    message = outcome(tiny)
    assert message.isprintable()
    assert len(message) < 1000


def outcome(bundle: Path) -> str:
    """Returns the error of embedding and verifying a bundle; empty if it gives the right vector."""
    try:
        with Encoder.load(bundle, backend="onnxruntime", threads=1) as encoder:
            vectors = encoder.encode(["seven"])
        verify(bundle, ["fp32"])
    except LameError as error:
        return str(error)
    with Encoder.load(TINY, backend="onnxruntime", threads=1) as encoder:
        assert np.abs(vectors - encoder.encode(["seven"])).max() < 1e-6
    return ""
