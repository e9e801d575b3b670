"""A local folder of any of the three families becomes a LaME checkpoint; what does not fit is named."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lame_runtime.contract import Contract
from lame_runtime.errors import BundleError, InputError
from lame_training import start
from lame_training.__main__ import main
from lame_training.adapters import merge_adapter
from lame_training.backbones import FAMILIES, load_backbone
from lame_training.checkpoint import load_model
from lame_training.derive import Budget, derive_contract, published_images, published_videos
from lame_training.loop import initialise, run
from lame_training.recipes import PUBLISHED, find_recipe
from lame_training.torch_backend import load_encoder
from PIL import Image
from safetensors.torch import load_file, save_file

BUDGET = Budget(1024, 28 * 28 * 16, 8)


@pytest.fixture(params=FAMILIES)
def backbone(request: pytest.FixtureRequest, backbones: dict[str, Path], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(backbones[request.param], tmp_path / "backbone"))


@pytest.fixture
def qwen2(backbones: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(backbones["qwen2_vl"], tmp_path / "backbone"))


def edit_new(path: Path, **content: object) -> None:
    path.write_text(json.dumps(content))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_folder_alone_becomes_a_checkpoint(backbone: Path, tmp_path: Path) -> None:
    """`--steps 0` needs no data; what comes out embeds, and is the backbone weight for weight."""
    assert main(["run", "digits-tiny", "--backbone", str(backbone), "--steps", "0", "--out", str(tmp_path / "out")]) == 0
    model, preparer = load_model(tmp_path / "out")
    theirs = load_backbone(backbone, "auto").state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in model.backbone.state_dict().items())
    assert preparer.contract.family == json.loads((backbone / "config.json").read_text())["model_type"]
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (backbone / "tokenizer.json").read_bytes()
    with load_encoder(tmp_path / "out") as encoder:
        frames = [Image.effect_noise((60, 40), 90).convert("RGB") for _ in range(3)]
        vectors = encoder.encode(["seven", {"image": frames[:2], "text": "two"}, {"video": frames}])
    assert vectors.shape == (3, 64)
    assert (vectors @ vectors.T)[0, 1] < 0.99


def as_published(folder: Path) -> None:
    """The layout of the families' published folders: older names of weights and of config keys, and a language-model head."""
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    head = weights["language_model.embed_tokens.weight"].clone()
    if config["model_type"] == "qwen3_vl":
        renamed = {f"model.{name}": value for name, value in weights.items()}
    else:
        renamed = {name.replace("language_model.", "model."): value for name, value in weights.items()}
        text = config.pop("text_config")
        rope = text.pop("rope_parameters")
        config |= {key: value for key, value in text.items() if key not in ("model_type", "dtype")}
        config |= {"rope_theta": rope["rope_theta"], "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]}}
    save_file({**renamed, "lm_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))


def test_the_layout_of_published_folders_is_read(backbone: Path) -> None:
    """Weight for weight the same model, and the same contract."""
    expected, contract = load_backbone(backbone, "auto").state_dict(), derive_contract(backbone, BUDGET, 8, 64, {})
    as_published(backbone)
    (backbone / "chat_template.json").write_text(json.dumps({"chat_template": (backbone / "chat_template.jinja").read_text()}))
    (backbone / "chat_template.jinja").unlink()
    found = load_backbone(backbone, "auto").state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert derive_contract(backbone, BUDGET, 8, 64, {}) == contract


def test_the_papers_recipes_take_a_backbone_of_any_width(backbones: dict[str, Path], tmp_path: Path) -> None:
    """Their projection dims are the paper's, and each says which of its values are."""
    assert {recipe.name: recipe.dim for recipe in PUBLISHED} == {
        "lame-qwen2-vl-2b": 3584,
        "lame-qwen2.5-vl-3b": 2048,
        "lame-qwen2-vl-7b": 3584,
        "lame-qwen3-vl-8b": 4096,
    }
    assert all("dim" in recipe.from_paper for recipe in PUBLISHED)
    with pytest.raises(InputError, match="needs a backbone"):
        start.start(PUBLISHED[0], None, [], tmp_path / "none", None, None)
    small = dataclasses.replace(PUBLISHED[0], decoder=find_recipe("digits").decoder)  # Qwen3-0.6B takes a minute to make
    initialise(small, tmp_path / "out", backbones["qwen2_vl"])
    model, preparer = load_model(tmp_path / "out")
    assert model.dim == preparer.contract.dim == 3584
    assert model.head.weight.shape == (3584, 64)  # type: ignore[union-attr]


def test_what_a_folder_lacks_is_written_down_as_published(backbone: Path) -> None:
    """Without processor files and chat template the family's published rules are in the contract."""
    whole = derive_contract(backbone, BUDGET, 8, 64, {})
    for name in ("preprocessor_config.json", "video_preprocessor_config.json", "chat_template.jinja"):
        (backbone / name).unlink()
    assert derive_contract(backbone, BUDGET, 8, 64, {}) == whole
    assert (whole.images.mean, whole.videos.sampling) == (published_images(whole.family).mean, published_videos(whole.family).sampling)


def test_the_folders_own_values_win(backbone: Path) -> None:
    """From the old files, and from the nested one that newer versions of transformers write."""
    edit(backbone / "preprocessor_config.json", min_pixels=5000, max_pixels=9000, image_mean=[0.1, 0.2, 0.3])
    edit(backbone / "video_preprocessor_config.json", fps=1.5, max_frames=6)
    old = derive_contract(backbone, BUDGET, 8, 64, {})
    assert (old.images.min_pixels, old.images.max_pixels, old.images.mean) == (5000, 9000, (0.1, 0.2, 0.3))
    assert (old.videos.fps, old.videos.max_frames) == (1.5, 6)
    nested = {
        "image_processor": json.loads((backbone / "preprocessor_config.json").read_text()),
        "video_processor": json.loads((backbone / "video_preprocessor_config.json").read_text()),
        "chat_template": (backbone / "chat_template.jinja").read_text(),
    }
    for name in ("preprocessor_config.json", "video_preprocessor_config.json", "chat_template.jinja"):
        (backbone / name).unlink()
    (backbone / "processor_config.json").write_text(json.dumps(nested))
    assert derive_contract(backbone, BUDGET, 8, 64, {}) == old


def test_every_video_fits_into_the_longest_prompt(backbone: Path) -> None:
    """Whatever its length and size, by the budget that the recipe sets."""
    from lame_runtime.contract.video import clip_size

    contract = derive_contract(backbone, BUDGET, 8, 64, {})
    for frames in (2, 3, 8):
        for size in ((40, 40), (300, 200), (2160, 3840)):
            height, width = clip_size(frames, *size, contract.videos, contract.images)
            factor = contract.images.patch_size * contract.images.merge_size
            assert -(-frames // 2) * height * width / factor**2 <= 0.85 * BUDGET.max_length


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_lora_adapter_is_merged(backbone: Path, tmp_path: Path) -> None:
    """As a folder of its own that names its base, and inside a checkpoint: the same as merging it with PEFT."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = get_peft_model(load_backbone(backbone, "auto"), config)
    adapted.peft_config["default"].base_model_name_or_path = str(backbone)
    adapted.save_pretrained(tmp_path / "adapter")
    expected = adapted.merge_and_unload().state_dict()
    plain = load_backbone(backbone, "auto").state_dict()
    merged = load_backbone(tmp_path / "adapter", "auto").state_dict()
    assert merged.keys() == expected.keys()
    assert all(torch.allclose(merged[name], expected[name], atol=1e-6) for name in merged)
    assert any(not torch.equal(merged[name], plain[name]) for name in merged)
    initialise(find_recipe("digits-tiny"), tmp_path / "own", tmp_path / "adapter")
    initialise(find_recipe("digits-tiny"), tmp_path / "beside", backbone)
    shutil.copytree(tmp_path / "adapter", tmp_path / "beside/adapter")
    own, beside = (load_model(tmp_path / name)[0].backbone.state_dict() for name in ("own", "beside"))
    assert all(torch.allclose(own[name], value, atol=1e-6) for name, value in beside.items())


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("dora", [False, True])
def test_small_changes_of_an_adapter_survive_weights_in_half(dora: bool, backbones: dict[str, Path], tmp_path: Path) -> None:
    """A checkpoint with a BF16 base is merged in FP32, as training added the two; in BF16 most of so small a change is lost."""
    from peft import LoraConfig, get_peft_model

    def adapted() -> Any:
        torch.manual_seed(0)
        config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, use_dora=dora)
        return get_peft_model(load_backbone(backbones["qwen2_vl"], torch.bfloat16), config)

    made = adapted()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.mul_(1e-3)
    made.save_pretrained(tmp_path / "adapter")
    base = load_backbone(backbones["qwen2_vl"], torch.bfloat16).float().state_dict()
    exact = made.float().merge_and_unload().state_dict()
    off = {}
    for widen in (False, True):
        merged = merge_adapter(load_backbone(backbones["qwen2_vl"], torch.bfloat16), tmp_path / "adapter", widen=widen).state_dict()
        changes = [(merged[name].float() - exact[name], exact[name] - base[name]) for name in base if "q_proj.weight" in name]
        off[widen] = max(float(wrong.norm() / change.norm()) for wrong, change in changes)
        assert {value.dtype for name, value in merged.items() if "k_proj" in name} == {torch.bfloat16}
    assert off[True] < 1e-3
    assert off[False] > 4e-3 if dora else off[False] > 0.3  # with DoRA the change is mostly one of length, which is large here


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_adapter_of_another_model_is_refused(backbones: dict[str, Path], tmp_path: Path) -> None:
    """And one whose base is not on the disk."""
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(load_backbone(backbones["qwen2_vl"], "auto"), LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    edit(tmp_path / "adapter/adapter_config.json", base_model_name_or_path="Qwen/Nowhere")
    with pytest.raises(InputError, match="no local folder"):
        load_backbone(tmp_path / "adapter", "auto")
    edit(tmp_path / "adapter/adapter_config.json", base_model_name_or_path=str(backbones["qwen3_vl"]))
    with pytest.raises(InputError, match="is it this model's"):
        load_backbone(tmp_path / "adapter", "auto")


def test_weights_are_mapped_in_the_type_they_have(backbones: dict[str, Path], tmp_path: Path) -> None:
    """A half-precision folder makes a half-precision checkpoint, which can be read as it is or in FP32."""
    model = load_backbone(backbones["qwen3_vl"], torch.float16)
    shutil.copytree(backbones["qwen3_vl"], tmp_path / "half")
    model.save_pretrained(tmp_path / "half")
    initialise(find_recipe("digits-tiny"), tmp_path / "out", tmp_path / "half")
    assert {value.dtype for value in load_file(tmp_path / "out/model.safetensors").values()} == {torch.float16}
    assert {p.dtype for p in load_model(tmp_path / "out", dtype=None, decoder=False)[0].parameters()} == {torch.float16}
    assert {p.dtype for p in load_model(tmp_path / "out")[0].parameters()} == {torch.float32}


def remove_weight(folder: Path, add: str | None = None) -> None:
    weights = load_file(folder / "model.safetensors")
    removed = weights.pop(sorted(weights)[0])
    if add:
        weights = {**load_file(folder / "model.safetensors"), add: removed}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def pickle_weights(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def template(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def run_code(folder: Path) -> None:
    """A config that asks for code of the folder to be run."""
    (folder / "evil.py").write_text("raise SystemExit('code of the folder was run')")
    edit(folder / "config.json", auto_map={"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}, model_type="evil")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another family": (lambda f: edit(f / "config.json", model_type="llava"), "supported are qwen2_vl, qwen2_5_vl, qwen3_vl"),
    "code of its own": (run_code, "model_type is 'evil'"),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "a config that is no JSON": (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
    "a list for a config": (lambda f: (f / "config.json").write_text("[]"), "not a JSON object"),
    "a config of nonsense": (lambda f: edit(f / "config.json", text_config={"hidden_size": "wide"}), "not a config of qwen2_vl"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
    "pickled weights": (pickle_weights, "pickled weights, which are never loaded"),
    "a missing weight": (remove_weight, "lacks the weight"),
    "an extra weight": (lambda f: remove_weight(f, "visual.extra.weight"), "unknown weight"),
    "truncated weights": (lambda f: (f / "model.safetensors").write_bytes(b"\x10\0\0\0"), "cannot be read"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
    "other special tokens": (lambda f: edit(f / "config.json", image_token_id=3), "they belong to two models"),
    "another patch size": (lambda f: edit(f / "preprocessor_config.json", patch_size=7), "they belong to two models"),
    "another filter": (lambda f: edit(f / "preprocessor_config.json", resample=2), "supported is 3"),
    "a filter of null": (lambda f: edit(f / "preprocessor_config.json", rescale_factor=None), "cannot be used"),
    "a mean of one": (lambda f: edit(f / "preprocessor_config.json", image_mean=0.5), "cannot be used"),
    "a size in words": (lambda f: edit(f / "preprocessor_config.json", size={"height": 448}), "is no pixel budget"),
    "a std of zero": (lambda f: edit(f / "preprocessor_config.json", image_std=[0, 0, 0]), "a std that is not positive"),
    "no frames": (lambda f: edit(f / "video_preprocessor_config.json", max_frames=0), "cannot be used"),
    "other patches for videos": (lambda f: edit(f / "video_preprocessor_config.json", patch_size=7), "videos are cut by"),
    "templates without a default": (
        lambda f: ((f / "chat_template.jinja").unlink(), edit_new(f / "tokenizer_config.json", chat_template=[{"name": "tools"}])),
        "none called default",
    ),
    "a template that is no text": (lambda f: (f / "chat_template.jinja").write_bytes(b"\xff\xfe"), "cannot be read"),
    "a template for texts": (template("{{ messages[0].content[0].text }}<|im_end|>"), "does not place"),
    "a broken template": (template("{% for %}"), "cannot be rendered"),
    "a template that runs code": (template("{{ ''.__class__.__mro__ }}"), "cannot be rendered|does not print"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_folder_that_does_not_fit_is_named_and_nothing_is_left(
    name: str, qwen2: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2, no checkpoint."""
    damage, message = FAULTS[name]
    damage(qwen2)
    assert main(["run", "digits-tiny", "--backbone", str(qwen2), "--steps", "0", "--out", str(tmp_path / "out")]) == 2
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(said) == 1
    assert any(part in said[0] for part in message.split("|")), said
    assert not (tmp_path / "out/config.json").exists()


def test_a_decoder_must_read_the_backbones_tokens(qwen2: Path, backbones: dict[str, Path], tmp_path: Path) -> None:
    """Another architecture, too few tokens, or another tokenizer."""
    from lame_training.vocabulary import train_tokenizer
    from transformers import Qwen3Config, Qwen3ForCausalLM

    recipe = find_recipe("digits-tiny")
    with pytest.raises(InputError, match="a latent decoder is a qwen3 model"):
        initialise(recipe, tmp_path / "a", qwen2, backbones["qwen3_vl"])
    shape = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 16,
        "num_key_value_heads": 1,
    }
    small = Qwen3ForCausalLM(Qwen3Config(vocab_size=100, **shape))
    small.save_pretrained(tmp_path / "small")
    with pytest.raises(InputError, match="knows 100 tokens"):
        initialise(recipe, tmp_path / "b", qwen2, tmp_path / "small")
    Qwen3ForCausalLM(Qwen3Config(vocab_size=400, **shape)).save_pretrained(tmp_path / "other")
    train_tokenizer(["quick brown fox"] * 9, 400, tmp_path / "other/tokenizer.json")
    with pytest.raises(InputError, match="its tokenizer is not the backbone's"):
        initialise(recipe, tmp_path / "c", qwen2, tmp_path / "other")
    shutil.copy(qwen2 / "tokenizer.json", tmp_path / "other/tokenizer.json")
    initialise(recipe, tmp_path / "d", qwen2, tmp_path / "other")
    assert load_model(tmp_path / "d")[0].decoder.config.hidden_size == 32  # type: ignore[union-attr]


def test_a_run_on_a_backbone_resumes_without_it(backbones: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """The run's own folder remembers what the backbone was."""
    recipe = dataclasses.replace(find_recipe("digits-tiny"), save_every=2)
    run(recipe, data, tmp_path / "whole", backbone=backbones["qwen3_vl"], steps=4, progress=False)
    run(recipe, data, tmp_path / "halves", backbone=backbones["qwen3_vl"], steps=3, progress=False)
    run(recipe, data, tmp_path / "halves", steps=4, resume=True, progress=False)
    first, second = (load_model(tmp_path / name)[0].state_dict() for name in ("whole", "halves"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_run_killed_before_its_first_state_begins_again(backbones: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """From the same weights: those of the recipe's seed, or of the backbone, which must be named once more."""
    recipe = find_recipe("digits-tiny")
    for backbone in (None, backbones["qwen2_vl"]):
        whole, killed = tmp_path / f"whole{backbone is None}", tmp_path / f"killed{backbone is None}"
        run(recipe, data, whole, backbone=backbone, steps=2, progress=False)
        run(recipe, data, killed, backbone=backbone, steps=0, progress=False)
        (killed / "config.json").unlink()
        if backbone is not None:
            with pytest.raises(InputError, match="give its --backbone"):
                run(recipe, data, killed, steps=2, resume=True, progress=False)
        run(recipe, data, killed, backbone=backbone, steps=2, resume=True, progress=False)
        first, second = (load_model(folder)[0].state_dict() for folder in (whole, killed))
        assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_an_older_contract_is_refused_with_the_remedy(backbones: dict[str, Path], tmp_path: Path) -> None:
    """Version 1 had no videos."""
    contract = derive_contract(backbones["qwen2_vl"], BUDGET, 8, 64, {})
    old = contract.to_json().replace('"contract_version": 2', '"contract_version": 1')
    with pytest.raises(BundleError, match=r"contract_version 1 is not known here.*export it again"):
        Contract.from_json(old)
    assert Contract.from_json(contract.to_json()) == contract
