"""Writes Sentence Transformers folders in random weights, with Sentence Transformers itself.

They are what the tests hold imported models against. The chat template prints what the published
ones print: a default system message in two families, an assistant's turn where it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lame_training.fixtures import sample_backbone
from PIL import Image
from tokenizers import Tokenizer, processors

FAMILIES = tuple(sample_backbone.TINY)
WIDTH = 64
END = "<|endoftext|>"
PIXELS = {"shortest_edge": 3_136, "longest_edge": 65_536}
TEMPLATE = """\
{% for m in messages %}\
{% if loop.first and m['role'] != 'system' and DEFAULT %}\
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}\
{% endif %}\
{{ '<|im_start|>' + m['role'] + '\\n' }}\
{% for c in m['content'] %}\
{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>\
{% elif c['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>\
{% else %}{{ c['text'] }}{% endif %}\
{% endfor %}\
{{ '<|im_end|>\\n' }}\
{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


@dataclass(frozen=True)
class Form:
    """A combination of what a folder may say.

    Attributes:
        pooling: of `Pooling`.
        dense: activation of a `Dense` module: "identity" or "tanh"; None for no such module.
        dense_bias: whether it has a bias.
        out: number of values that it returns.
        normalize: whether `Normalize` is the last module.
        generation: whether an assistant's turn is opened.
        end_token: whether the tokenizer adds <|endoftext|> to every text.
        prompts: instructions by name.
        default: name of the default prompt.
        truncate_dim: number of values that are kept.
    """

    pooling: str = "lasttoken"
    dense: str | None = None
    dense_bias: bool = True
    out: int = 48
    normalize: bool = True
    generation: bool = True
    end_token: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default: str | None = None
    truncate_dim: int | None = None


def write_backbone(family: str, folder: Path, *, end_token: bool) -> None:
    """Writes a backbone with its processor, as `save_pretrained` does."""
    import transformers
    from transformers import PreTrainedTokenizerFast

    sample_backbone.write_sample(family, folder)
    if end_token:
        path = str(folder / "tokenizer.json")
        tokenizer = Tokenizer.from_file(path)
        special = [(END, tokenizer.token_to_id(END))]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {END}", special_tokens=special
        )
        tokenizer.save(path)
    fast = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token=END)
    names = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
    names["qwen3_vl_moe"] = names["qwen3_vl"]
    is_third = family.startswith("qwen3_vl")
    videos = "Qwen3VL" if is_third else "Qwen2VL"
    image_processor = transformers.Qwen2VLImageProcessor.from_pretrained(folder, size=PIXELS)
    video_processor = getattr(transformers, f"{videos}VideoProcessor").from_pretrained(folder)
    processor = getattr(transformers, f"{names[family]}Processor")(
        image_processor=image_processor,
        video_processor=video_processor,
        tokenizer=fast,
        chat_template=TEMPLATE.replace("DEFAULT", str(not is_third).lower()),
    )
    processor.save_pretrained(folder)


def write_published(backbone: Path, folder: Path, form: Form = Form()) -> Path:
    """Writes a Sentence Transformers folder on a backbone of `write_backbone`; returns it."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    torch.manual_seed(1)
    chat = {"chat_template": {"add_generation_prompt": True}} if form.generation else {}
    modules: list[Any] = [Transformer(str(backbone), processing_kwargs=chat)]
    modules.append(Pooling(WIDTH, form.pooling))
    if form.dense is not None:
        activation = torch.nn.Tanh() if form.dense == "tanh" else torch.nn.Identity()
        modules.append(Dense(WIDTH, form.out, bias=form.dense_bias, activation_function=activation))
    if form.normalize:
        modules.append(Normalize())
    model = SentenceTransformer(
        modules=modules,
        prompts=form.prompts,
        default_prompt_name=form.default,
        truncate_dim=form.truncate_dim,
        device="cpu",
    )
    model.save(str(folder))
    return folder


def load_published(folder: Path) -> Any:
    """Loads a folder with Sentence Transformers.

    Pictures are resized with PIL, as the contract does, and as the reference scripts of the
    published models do; the default, torchvision, rounds differently.
    """
    from sentence_transformers import SentenceTransformer
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    model = SentenceTransformer(str(folder), device="cpu", trust_remote_code=False)
    # with a Router, there may be several backbones
    backbones: list[Any] = [part for part in model.modules() if hasattr(part, "processor")]
    own = backbones[-1].processor.image_processor
    for backbone in backbones:
        backbone.processor.image_processor = Qwen2VLImageProcessorPil(
            size={name: own.size[name] for name in ("shortest_edge", "longest_edge")},
            image_mean=list(own.image_mean),
            image_std=list(own.image_std),
            patch_size=own.patch_size,
            temporal_patch_size=own.temporal_patch_size,
            merge_size=own.merge_size,
        )
    return model


TEXTS = (
    "a red bicycle",
    "  two spaces before and after  ",
    "\n\n a line break first",
    "tab\tand\ttrailing newline\n",
    " ",
    "x",
    "Straße, façade, naïve, Ærøskøbing",
    "красный велосипед у стены",
    "κόκκινο ποδήλατο",
    "دراجة حمراء بجانب الجدار",
    "אופניים אדומים ליד הקיר",
    "लाल साइकिल दीवार के पास",
    "লাল সাইকেল",
    "சிவப்பு மிதிவண்டி",
    "จักรยานสีแดง",
    "红色的自行车靠在墙上",
    "赤い自転車が壁のそばにある",
    "빨간 자전거가 벽 옆에 있다",
    "წითელი ველოსიპედი",
    "ቀይ ብስክሌት",
    "emoji 🚲🧱 and a family 👨‍👩‍👧",
    "e\u0301 decomposed, \u00e9 composed",
    "def f(x):\n    return x ** 2  # code",
    "1,234.56 €; 50 % of 0x1F",
    "<b>markup</b> & <image> and <|image_1|>",
    "word " * 40,
)
SHAPES = ((56, 56), (140, 100), (100, 140), (400, 60), (60, 400), (10, 12), (320, 240), (33, 57))


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Returns a picture of smooth colors."""
    rng = np.random.default_rng(seed)
    colors = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return colors.resize((width, height), Image.Resampling.BICUBIC)


def frames(count: int, seed: int) -> np.ndarray[Any, Any]:
    """Returns the frames of a video: uint8 (count, height, width, 3)."""
    pictures = [np.asarray(picture(112, 84, seed + number)) for number in range(count)]
    return np.stack(pictures)


def mixed_inputs() -> list[tuple[Any, Any]]:
    """Returns inputs as Sentence Transformers takes them, and the same ones as we do."""
    pictures = [picture(*shape, seed) for seed, shape in enumerate(SHAPES)]
    same: list[Any] = [*TEXTS, *pictures]
    same += [{"image": pictures[0], "text": text} for text in TEXTS[:4]]
    same += [{"text": text, "image": pictures[1]} for text in TEXTS[:4]]
    same += [{"image": pictures[2:5], "text": "three of them"}, {"image": pictures[5:7]}]
    same += [{"text": TEXTS[1]}, {"image": pictures[7]}]
    pairs = [(item, item) for item in same]
    for count, rate in ((4, 2.0), (7, 2.0), (5, 1.0)):
        clip = frames(count, 40 + count)
        metadata = {
            "fps": rate,
            "total_num_frames": count,
            "frames_indices": list(range(count)),
        }
        theirs = {"array": clip, "video_metadata": metadata}
        pairs.append(({"video": theirs}, {"video": list(clip), "fps": rate}))
        pairs.append(
            (
                {"text": "what?", "video": theirs},
                {"text": "what?", "video": list(clip), "fps": rate},
            )
        )
    return pairs
