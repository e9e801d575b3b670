"""A local folder of each family becomes a LaME checkpoint and its contract."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from lame_runtime.contract import Contract
from lame_runtime.contract.rules import CONTRACT_VERSION, OLDEST_CHECKPOINT_VERSION
from lame_runtime.errors import BundleError, UsageError
from lame_training import train
from lame_training.__main__ import main
from lame_training.contract_from.backbone import derive_contract
from lame_training.contract_from.budget import Budget
from lame_training.contract_from.published_rules import published_images, published_videos
from lame_training.model.backbones import FAMILIES, load_backbone
from lame_training.model.checkpoint import load_model
from lame_training.model.torch_backend import load_encoder
from lame_training.recipes.catalog import find_recipe
from lame_training.recipes.published import PUBLISHED
from lame_training.run import initialization
from lame_training.run.initialization import initialize
from PIL import Image
from safetensors.torch import load_file, save_file
from samples import edit_json

BUDGET = Budget(1024, 28 * 28 * 16, 8)


@pytest.fixture(params=FAMILIES)
def backbone(request: pytest.FixtureRequest, backbones: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of each family's folder that a test may damage."""
    return Path(shutil.copytree(backbones[request.param], tmp_path / "backbone"))


def test_a_folder_alone_becomes_a_checkpoint(backbone: Path, tmp_path: Path) -> None:
    """With `--steps 0` no data is needed; the checkpoint embeds and has the backbone's weights."""
    command = ["run", "digits-tiny", "--backbone", str(backbone), "--steps", "0"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    model, preparer = load_model(tmp_path / "out")
    weights = load_backbone(backbone, "auto").state_dict()
    assert all(
        torch.equal(value, weights[name]) for name, value in model.backbone.state_dict().items()
    )
    config = json.loads((backbone / "config.json").read_text())
    assert preparer.contract.family == config["model_type"]
    tokenizer = (backbone / "tokenizer.json").read_bytes()
    assert (tmp_path / "out/tokenizer.json").read_bytes() == tokenizer
    with load_encoder(tmp_path / "out") as encoder:
        frames = [Image.effect_noise((60, 40), 90).convert("RGB") for _ in range(3)]
        vectors = encoder.encode(["seven", {"image": frames[:2], "text": "two"}, {"video": frames}])
    assert vectors.shape == (3, 64)
    # the vectors are not all the same, as they would be if the inputs did not reach the model
    assert (vectors @ vectors.T)[0, 1] < 0.99


def as_published(folder: Path) -> None:
    """Rewrites a folder as the published ones are.

    They have older names of weights and of config keys, and a language-model head.
    """
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    # safetensors refuses two names for one tensor
    head = weights["language_model.embed_tokens.weight"].clone()
    if config["model_type"] == "qwen3_vl_moe":
        # experts are (in, out) there, and the router says what transformers no longer asks
        text = config["text_config"]
        text |= {"num_experts": text.pop("num_local_experts"), "norm_topk_prob": True}
        weights = {
            name: value.transpose(1, 2).contiguous() if ".experts." in name else value
            for name, value in weights.items()
        }
    if config["model_type"].startswith("qwen3_vl"):
        renamed = {f"model.{name}": value for name, value in weights.items()}
    else:
        renamed = {
            name.replace("language_model.", "model."): value for name, value in weights.items()
        }
        text = config.pop("text_config")
        # transformers 5 writes nested configs; the hub's files of these two families are flat
        rope = text.pop("rope_parameters")
        config |= {key: value for key, value in text.items() if key not in ("model_type", "dtype")}
        config |= {
            "rope_theta": rope["rope_theta"],
            "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
        }
    save_file(
        {**renamed, "lm_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    (folder / "config.json").write_text(json.dumps(config))


def test_the_layout_of_published_folders_is_read(backbone: Path) -> None:
    """A published folder gives the same weights and the same contract as one written today."""
    expected = load_backbone(backbone, "auto").state_dict()
    contract = derive_contract(backbone, BUDGET, 8, 64, {})
    as_published(backbone)
    # the older place of the chat template
    (backbone / "chat_template.json").write_text(
        json.dumps({"chat_template": (backbone / "chat_template.jinja").read_text()})
    )
    (backbone / "chat_template.jinja").unlink()
    weights = load_backbone(backbone, "auto").state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert derive_contract(backbone, BUDGET, 8, 64, {}) == contract


def test_the_papers_recipes_take_a_backbone_of_any_width(
    backbones: dict[str, Path], tmp_path: Path
) -> None:
    """The recipes' projection dims are the paper's, and each says which of its values are."""
    assert {recipe.name: recipe.dim for recipe in PUBLISHED} == {
        "lame-qwen2-vl-2b": 3584,
        "lame-qwen2.5-vl-3b": 2048,
        "lame-qwen2-vl-7b": 3584,
        "lame-qwen3-vl-8b": 4096,
    }
    assert all("dim" in recipe.from_paper for recipe in PUBLISHED)
    # these recipes have no backbone to train from scratch
    with pytest.raises(UsageError, match="needs a backbone"):
        initialization.initialize_run(PUBLISHED[0], None, [], tmp_path / "none", None, None)
    # a decoder of Qwen3-0.6B's size takes a minute to initialize
    small = dataclasses.replace(PUBLISHED[0], decoder=find_recipe("digits").decoder)
    initialize(small, tmp_path / "out", backbones["qwen2_vl"])
    model, preparer = load_model(tmp_path / "out")
    assert model.dim == preparer.contract.dim == 3584
    assert model.head.weight.shape == (3584, 64)  # type: ignore[union-attr]


def test_published_rules_take_the_place_of_missing_files(backbone: Path) -> None:
    """Without processor files and chat template the contract holds the family's published rules."""
    whole = derive_contract(backbone, BUDGET, 8, 64, {})
    for name in (
        "preprocessor_config.json",
        "video_preprocessor_config.json",
        "chat_template.jinja",
    ):
        (backbone / name).unlink()
    assert derive_contract(backbone, BUDGET, 8, 64, {}) == whole
    assert (whole.images.mean, whole.videos.sampling) == (
        published_images(whole.family).mean,
        published_videos(whole.family).sampling,
    )


def test_the_folders_own_values_win(backbone: Path) -> None:
    """They are read from the older files and from the nested one of newer transformers alike."""
    edit_json(
        backbone / "preprocessor_config.json",
        min_pixels=5000,
        max_pixels=9000,
        image_mean=[0.1, 0.2, 0.3],
    )
    edit_json(
        backbone / "video_preprocessor_config.json",
        fps=1.5,
        max_frames=6,
        image_mean=[0.1, 0.2, 0.3],
    )
    old = derive_contract(backbone, BUDGET, 8, 64, {})
    assert (old.images.min_pixels, old.images.max_pixels, old.images.mean) == (
        5000,
        9000,
        (0.1, 0.2, 0.3),
    )
    assert (old.videos.fps, old.videos.max_frames, old.videos.mean) == (1.5, 6, (0.1, 0.2, 0.3))
    nested = {
        "image_processor": json.loads((backbone / "preprocessor_config.json").read_text()),
        "video_processor": json.loads((backbone / "video_preprocessor_config.json").read_text()),
        "chat_template": (backbone / "chat_template.jinja").read_text(),
    }
    for name in (
        "preprocessor_config.json",
        "video_preprocessor_config.json",
        "chat_template.jinja",
    ):
        (backbone / name).unlink()
    (backbone / "processor_config.json").write_text(json.dumps(nested))
    assert derive_contract(backbone, BUDGET, 8, 64, {}) == old


def test_every_video_fits_into_the_longest_prompt(backbone: Path) -> None:
    """A video of any length and size keeps within the budget that the recipe sets."""
    from lame_runtime.contract.media.video import clip_size

    contract = derive_contract(backbone, BUDGET, 8, 64, {})
    for frames in (2, 3, 8):
        for size in ((40, 40), (300, 200), (2160, 3840)):
            height, width = clip_size(frames, *size, contract.videos, contract.images)
            factor = contract.images.patch_size * contract.images.merge_size
            # two frames make a temporal patch; an odd last frame makes one alone
            assert -(-frames // 2) * height * width / factor**2 <= 0.85 * BUDGET.max_length


def test_a_checkpoint_keeps_the_dtype_of_the_backbone(
    backbones: dict[str, Path], tmp_path: Path
) -> None:
    """An FP16 folder makes an FP16 checkpoint, which can be read as it is or in FP32."""
    model = load_backbone(backbones["qwen3_vl"], torch.float16)
    shutil.copytree(backbones["qwen3_vl"], tmp_path / "half")
    # over the copy, which keeps tokenizer and processor files
    model.save_pretrained(tmp_path / "half")
    initialize(find_recipe("digits-tiny"), tmp_path / "out", tmp_path / "half")
    assert {value.dtype for value in load_file(tmp_path / "out/model.safetensors").values()} == {
        torch.float16
    }
    assert {
        p.dtype for p in load_model(tmp_path / "out", dtype=None, decoder=False)[0].parameters()
    } == {torch.float16}
    assert {p.dtype for p in load_model(tmp_path / "out")[0].parameters()} == {torch.float32}


def test_a_run_on_a_backbone_resumes_without_it(
    backbones: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    """The run's own folder holds all that resuming needs."""
    # stopped at step 3, between two states that are saved anyway
    recipe = dataclasses.replace(find_recipe("digits-tiny"), save_every=2)
    train(recipe, data, tmp_path / "whole", backbone=backbones["qwen3_vl"], steps=4, progress=False)
    train(
        recipe, data, tmp_path / "halves", backbone=backbones["qwen3_vl"], steps=3, progress=False
    )
    train(recipe, data, tmp_path / "halves", steps=4, resume=True, progress=False)
    first, second = (load_model(tmp_path / name)[0].state_dict() for name in ("whole", "halves"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_run_killed_before_its_first_state_starts_again(
    backbones: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    """It starts from the same weights: the seed's, or those of the backbone, given once more."""
    recipe = find_recipe("digits-tiny")
    for backbone in (None, backbones["qwen2_vl"]):
        whole = tmp_path / f"whole{backbone is None}"
        killed = tmp_path / f"killed{backbone is None}"
        train(recipe, data, whole, backbone=backbone, steps=2, progress=False)
        train(recipe, data, killed, backbone=backbone, steps=0, progress=False)
        # the folder as it is when the process is killed before it has saved anything
        (killed / "config.json").unlink()
        if backbone is not None:
            with pytest.raises(UsageError, match="give its `backbone`"):
                train(recipe, data, killed, steps=2, resume=True, progress=False)
        train(recipe, data, killed, backbone=backbone, steps=2, resume=True, progress=False)
        first, second = (load_model(folder)[0].state_dict() for folder in (whole, killed))
        assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_pictures_and_videos_are_normalized_alike(backbone: Path) -> None:
    """Without a file for videos they take the pictures' values; other values are refused."""
    edit_json(backbone / "preprocessor_config.json", image_std=[0.3, 0.3, 0.4])
    with pytest.raises(
        BundleError, match=r"videos.std is .*: must be images.std, \[0.3, 0.3, 0.4\]"
    ):
        derive_contract(backbone, BUDGET, 8, 64, {})
    (backbone / "video_preprocessor_config.json").unlink()
    contract = derive_contract(backbone, BUDGET, 8, 64, {})
    assert contract.videos.std == contract.images.std == (0.3, 0.3, 0.4)


def test_an_older_contract_is_refused_with_the_remedy(
    backbones: dict[str, Path], tmp_path: Path
) -> None:
    """Version 1 had no videos, and the graphs of version 2 took floating-point patches.

    A checkpoint has no graphs, so version 2 is accepted there.
    """
    contract = derive_contract(backbones["qwen2_vl"], BUDGET, 8, 64, {})
    texts = {
        version: contract.to_json().replace(
            f'"contract_version": {CONTRACT_VERSION}', f'"contract_version": {version}'
        )
        for version in (1, 2, CONTRACT_VERSION)
    }
    for version in (1, 2):
        message = f"contract_version {version} is not known here.*export it again"
        with pytest.raises(BundleError, match=message):
            Contract.from_json(texts[version])
    with pytest.raises(BundleError, match=r"1 is not known here .*2 to \d\); train it"):
        Contract.from_json(texts[1], oldest=OLDEST_CHECKPOINT_VERSION)
    for version in (2, CONTRACT_VERSION):
        assert Contract.from_json(texts[version], oldest=OLDEST_CHECKPOINT_VERSION) == contract
