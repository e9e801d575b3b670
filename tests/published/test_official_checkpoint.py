"""The checkpoint of LaME's authors is read if its tensors allow one reading, and refused if not.

Its layout is not known. The layouts here are plausible ones, in random weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folder_edits import read, write
from lame_runtime.errors import BundleError, UsageError
from lame_training.__main__ import main
from lame_training.fixtures.sample_backbone import write_sample
from lame_training.model.checkpoint import load_model
from lame_training.model.torch_backend import load_encoder
from lame_training.published.forms.published_forms import published_form
from lame_training.published.import_embedder import ImportLimits
from lame_training.published.official.import_official import import_official
from lame_training.published.official.official_card import LAME_2B
from safetensors.torch import load_file, save_file

WIDTH, DECODER = 64, 96
LIMITS = ImportLimits(max_length=512, max_pixels=28 * 28 * 16)
Tensors = dict[str, torch.Tensor]
Layout = Callable[[Tensors, Path], Tensors]


def rows(count: int, width: int = WIDTH) -> torch.Tensor:
    """Returns random rows."""
    return torch.randn(count, width)


def part(weights: Tensors, name: str) -> Tensors:
    """Returns the tensors of one part of the backbone, without its name."""
    return {
        key.removeprefix(f"{name}."): value
        for key, value in weights.items()
        if key.startswith(f"{name}.")
    }


def backbone(weights: Tensors, text: str, vision: str) -> Tensors:
    """Returns the backbone's tensors under other prefixes."""
    return {
        **{text + name: value for name, value in part(weights, "language_model").items()},
        **{vision + name: value for name, value in part(weights, "visual").items()},
    }


def decoder(prefix: str) -> Tensors:
    """Returns the tensors of a small Qwen3, with its head."""
    layer = f"{prefix}model.layers.0."
    return {
        f"{layer}self_attn.q_proj.weight": rows(DECODER, DECODER),
        f"{layer}self_attn.q_norm.weight": torch.ones(24),
        f"{layer}mlp.up_proj.weight": rows(200, DECODER),
        f"{prefix}model.norm.weight": torch.ones(DECODER),
        f"{prefix}model.embed_tokens.weight": rows(320, DECODER),
        f"{prefix}lm_head.weight": rows(320, DECODER),
    }


def add_tokens(folder: Path, *tokens: str) -> None:
    """Adds special tokens to the tokenizer."""
    raw = read(folder, "tokenizer.json")
    first = len(raw["model"]["vocab"].keys() | {entry["content"] for entry in raw["added_tokens"]})
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    raw["added_tokens"] += [
        {"id": first + place, "content": token, **plain, "special": True}
        for place, token in enumerate(tokens)
    ]
    write(folder, "tokenizer.json", raw)


def trained_alike(weights: Tensors, folder: Path) -> Tensors:
    """Returns a layout of parameters beside an older Qwen2-VL, with decoder and connector."""
    return {
        **backbone(weights, "model.", "visual."),
        "lm_head.weight": weights["language_model.embed_tokens.weight"].clone(),
        "reason_tokens": rows(8),
        "embed_token": rows(1)[0],
        "embed_proj.weight": rows(3584),
        **decoder("latent_decoder."),
        "connector.norm.weight": torch.ones(WIDTH),
        "connector.up.weight": rows(DECODER, WIDTH),
        "connector.up.bias": torch.zeros(DECODER),
    }


def wrapped(weights: Tensors, folder: Path) -> Tensors:
    """Returns a layout inside of a wrapper, with other names, extra axes and a bias."""
    return {
        **backbone(weights, "encoder.model.language_model.", "encoder.model.visual."),
        "bottleneck.latent": rows(8)[None],
        "bottleneck.query": rows(1)[None],
        "head.0.weight": rows(3584),
        "head.0.bias": torch.randn(3584),
    }


def vocabulary(*tokens: str) -> Layout:
    """Returns the layout whose latent tokens are rows of the vocabulary."""

    def make(weights: Tensors, folder: Path) -> Tensors:
        name, config = "language_model.embed_tokens.weight", read(folder, "config.json")
        weights[name] = torch.cat([weights[name], rows(len(tokens))])
        config["text_config"]["vocab_size"] = len(weights[name])
        write(folder, "config.json", config)
        add_tokens(folder, *tokens)
        return {**backbone(weights, "model.", "visual."), "projection.weight": rows(3584)}

    return make


def plus(layout: Layout, *without: str, **tensors: torch.Tensor) -> Layout:
    """Returns a layout with more tensors, or fewer; a double underline stands for a dot."""

    def make(weights: Tensors, folder: Path) -> Tensors:
        made = {
            name: value for name, value in layout(weights, folder).items() if name not in without
        }
        return {**made, **{name.replace("__", "."): value for name, value in tensors.items()}}

    return make


def twice(weights: Tensors, folder: Path) -> Tensors:
    """Returns a layout that holds two copies of the language model."""
    copy = {f"ema.{name}": value.clone() for name, value in part(weights, "language_model").items()}
    return {**trained_alike(weights, folder), **copy}


REASONS = tuple(f"<|reason_{number}|>" for number in range(8))
GOOD: dict[str, Layout] = {
    "parameters": trained_alike,
    "wrapped": wrapped,
    "eight tokens": vocabulary(*REASONS[::-1], "<|embed|>"),
    "one token": vocabulary("[REASON]", "[EMBED]"),
    "two of one shape": plus(trained_alike, latent_positions=torch.ones(DECODER, 8)),
}
BAD: dict[str, tuple[Layout, str]] = {
    "no reason tokens": (plus(trained_alike, "reason_tokens"), "token of the .* the reason tokens"),
    "seven rows": (plus(trained_alike, "reason_tokens", reason_x=rows(7)), "reason_x is none of"),
    "both in one": (
        plus(trained_alike, "reason_tokens", "embed_token", latents=rows(9)),
        r"9 rows may be reason tokens and \[EMBED\], in an unknown order",
    ),
    "two sets": (plus(wrapped, other__latent=rows(8)), "2 tensors may be the reason tokens"),
    "two of [EMBED]": (plus(wrapped, other__query=rows(1)), r"2 tensors may be the \[EMBED\]"),
    "no [EMBED]": (plus(trained_alike, "embed_token"), r"nor a token .* is the \[EMBED\]"),
    "no projection": (plus(trained_alike, "embed_proj.weight"), "no tensor of 3584 × 64"),
    "two layers": (
        plus(trained_alike, embed_proj__2__weight=rows(WIDTH)),
        r"embed_proj\.2\.weight is none of the known parts",
    ),
    "an adapter": (
        plus(trained_alike, model__x__lora_A__weight=rows(4)),
        r"lora_A\.weight is none of the known parts",
    ),
    "two backbones": (twice, "2 copies of the language_model"),
    "no vision": (plus(trained_alike, "visual.patch_embed.proj.weight"), "no tensors of a visual"),
    "a layer is gone": (
        plus(trained_alike, "model.layers.1.mlp.up_proj.weight"),
        r"model\.layers\.1\.mlp\.up_proj\.weight is missing, the config says",
    ),
    "a grown table": (
        plus(trained_alike, model__embed_tokens__weight=rows(999)),
        r"embed_tokens\.weight is \[999, 64\], the config says",
    ),
    "five tokens": (vocabulary(*REASONS[:5], "<|embed|>"), "5 tokens of the vocabulary may be"),
    "an odd order": (
        vocabulary(*(f"<|reason_{letter}|>" for letter in "abcdefgh"), "<|embed|>"),
        "8 tokens of the vocabulary may be the reason tokens",
    ),
    "two embeddings": (
        vocabulary("[REASON]", "<disc_emb>", "<gen_emb>"),
        r"2 tokens of the vocabulary may be the \[EMBED\]: <disc_emb>, <gen_emb>",
    ),
    "token and tensor": (
        plus(vocabulary("[REASON]", "[EMBED]"), reason_tokens=rows(8)),
        r"reason_tokens and \[REASON\] of the vocabulary may be the same tokens",
    ),
}


@pytest.fixture
def make(tmp_path: Path) -> Callable[[Layout], tuple[Path, Tensors]]:
    """Returns a function that writes a folder in a layout; its tensors are returned, too."""

    def write_folder(layout: Layout) -> tuple[Path, Tensors]:
        folder = tmp_path / "folder"
        torch.manual_seed(3)
        write_sample("qwen2_vl", folder)
        write(folder, "modeling_lame.py", "raise SystemExit('code of the folder was run')")
        config = read(folder, "config.json")
        auto = {"AutoModel": "modeling_lame.LaME"}
        write(folder, "config.json", {**config, "auto_map": auto})
        tensors = layout(load_file(folder / "model.safetensors"), folder)
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "x")
        (folder / "x").rename(folder / "model.safetensors")
        return folder, tensors

    return write_folder


@pytest.mark.parametrize("name", GOOD)
def test_a_plausible_layout_is_read(name: str, make: Any, tmp_path: Path) -> None:
    """Every weight arrives where it belongs; the table has all tensors, and what is assumed."""
    folder, tensors = make(GOOD[name])
    original = {value.sum().item() for value in tensors.values()}
    lines: list[str] = []
    contract = import_official(folder, tmp_path / "out", LIMITS, lines.append)
    assert (contract.tokens.n_reason, contract.dim) == (8, 3584)
    model, _ = load_model(tmp_path / "out")
    assert model.decoder is None
    taken = {value.sum().item() for value in model.backbone.state_dict().values()}
    assert taken <= original
    report = "\n".join(lines)
    assert "not known, and done as in our own models" in report
    assert "not clear" not in report
    source = json.loads((tmp_path / "out/recipe.json").read_text())["source"]
    assert source["card"].startswith("huggingface.co/leafyseay/LaME-2B")
    assert len(source["assumed"]) == 5
    with load_encoder(tmp_path / "out") as encoder:
        assert np.isfinite(encoder.encode(["a text"])).all()


def test_latent_rows_and_the_projection_are_the_folders(make: Any, tmp_path: Path) -> None:
    """Rows and matrix are equal to what the folder holds, also with extra axes and a bias."""
    folder, tensors = make(wrapped)
    import_official(folder, tmp_path / "out", LIMITS, lambda line: None)
    model, _ = load_model(tmp_path / "out")
    assert torch.equal(model.reason_KD, tensors["bottleneck.latent"][0])
    assert torch.equal(model.embed_1D, tensors["bottleneck.query"][0])
    assert torch.equal(model.head.linear.weight, tensors["head.0.weight"])
    assert torch.equal(model.head.linear.bias, tensors["head.0.bias"])


def test_tokens_of_the_vocabulary_have_the_order_of_their_numbers(
    make: Any, tmp_path: Path
) -> None:
    """The rows are written into the tokenizer in reverse, and are read by their numbers."""
    folder, tensors = make(GOOD["eight tokens"])
    import_official(folder, tmp_path / "out", LIMITS, lambda line: None)
    model, _ = load_model(tmp_path / "out")
    entries = read(folder, "tokenizer.json")["added_tokens"]
    ids = {entry["content"]: entry["id"] for entry in entries}
    table = tensors["model.embed_tokens.weight"]
    assert torch.equal(model.reason_KD, table[[ids[token] for token in REASONS]])
    assert torch.equal(model.embed_1D[0], table[ids["<|embed|>"]])


@pytest.mark.parametrize("name", BAD)
def test_an_unclear_layout_stops(name: str, make: Any, tmp_path: Path) -> None:
    """Nothing is written, one line says what is not clear, and the table was shown."""
    layout, pattern = BAD[name]
    folder, _ = make(layout)
    lines: list[str] = []
    with pytest.raises(BundleError, match=pattern) as caught:
        import_official(folder, tmp_path / "out", LIMITS, lines.append)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 900
    assert "it is not imported, because that would be a guess" in message
    assert lines
    assert lines[0].startswith("tensor")
    assert not (tmp_path / "out").exists()


def test_the_backbone_must_be_the_one_of_the_card(make: Any, tmp_path: Path) -> None:
    """A config of another model is refused before any tensor is read."""
    folder, _ = make(trained_alike)
    write(folder, "config.json", {**read(folder, "config.json"), "model_type": "lame"})
    with pytest.raises(BundleError, match="model_type is 'lame'; supported are"):
        import_official(folder, tmp_path / "out", LIMITS, lambda line: None)
    write_sample("qwen3_vl", tmp_path / "other")
    with pytest.raises(BundleError, match=r"is a qwen3_vl model; .* names a qwen2_vl"):
        import_official(tmp_path / "other", tmp_path / "out", LIMITS, lambda line: None)


def test_the_command_shows_the_table(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--form lame-2b` imports; without it the folder's code is named, and nothing is guessed."""
    folder, _ = make(trained_alike)
    out = str(tmp_path / "out")
    assert main(["import", str(folder), out]) == 2
    assert "with custom code, which is never run" in capsys.readouterr().err
    limit = ["--max-length", "512", "--form", "lame-2b"]
    assert main(["import", str(folder), out, *limit]) == 0
    shown = capsys.readouterr().out
    assert "reason_tokens" in shown
    assert "latent decoder, left out" in shown
    assert "compare its vectors with the authors' code before use" in shown
    with pytest.raises(UsageError, match="only `lame-train import` reads"):
        published_form("lame-2b")
    with pytest.raises(UsageError, match="`max_length` is 9000: use 8192 or less"):
        import_official(folder, tmp_path / "y", ImportLimits(9_000), lambda line: None)


def test_the_card_is_dated() -> None:
    """The facts stand with their source."""
    assert (LAME_2B.n_reason, LAME_2B.dim, LAME_2B.family) == (8, 3584, "qwen2_vl")
    assert LAME_2B.date == "2026-11-28"
