"""From the folders of a run to the checkpoints that are shipped: half precision, the formats of
diffusers and transformers, and the vocabulary of the world."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import StableDiffusionPipeline
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file

from pipelines.checkpoints.places import FACTS, shared_parts
from pipelines.checkpoints.specs import CHECKPOINTS as MODELS
from pipelines.dalle.spec import DALLE_CLASS
from pipelines.unclip.spec import OWN_CLASS
from rerank.model.specs import CHECKPOINTS as RERANKERS
from train.diffusion import SCHEDULER
from train.stickers.captions import PLACE_PHRASES, RELATION_PHRASES, phrase
from train.stickers.facts import describe
from train.stickers.scene import draw_scene
from train.stickers.vocabulary import (
    COLOURS,
    GROUNDS,
    NOUNS,
    NUMBERS,
    SHAPES,
    Noun,
    Shape,
    article,
)
from train.stickers.wording import BACKGROUND, COLOURED, naming_words, other_words
from train.world.captions import (
    ALONE,
    BACKGROUND_ENDS,
    BACKGROUND_FORMS,
    JOINTS,
    PLACE_FORMS,
    RELATION_FORMS,
    REQUESTS,
    STANDING,
    TWO_PLACES,
    WITH_FORMS,
)
from train.world.captions import OPENINGS as WORLD_OPENINGS
from train.world.lexicon import plural
from train.world.vocabulary import BACKGROUND_WORDS, SIZE_WORDS

Writer = Callable[[Path, Path], None]  # of a run's networks into a checkpoint's folder

CLIP = RERANKERS / "stickers-clip"
LORA = "pytorch_lora_weights.safetensors"  # as diffusers names it
# Each checkpoint, and the network that was trained last for it.
SHIPPED = {
    "stickers": "diffusion",
    "stickers-clip": "clip",
    "stickers-dalle": "dalle",
    "stickers-unclip": "unclip-decoder",
    "stickers-masks": "masks",
    "stickers-upsampler": "upsampler",
}
SILENT = ("stickers-masks", "stickers-upsampler")  # of which nobody asks what words they know


def ship(
    run: Path,
    models: Path = MODELS,
    rerankers: Path = RERANKERS,
    only: str | None = None,
    known: dict[str, Any] | None = None,
) -> list[Path]:
    """Assemble the checkpoints whose networks `run` has trained, or `only` one; returns folders.
    `known` is what vocabulary.json says; without it, what the stickers' world knows.

    Raises FileNotFoundError if there is nothing to ship.
    """
    writers = _taught(run) | {
        name: _WRITE[name]
        for name, network in SHIPPED.items()
        if (run / network / "weights").is_dir()
    }
    names = [name for name in writers if only in (None, name)]
    if not names:
        wanted = " or ".join(SHIPPED.values()) if only is None else SHIPPED[only]
        raise FileNotFoundError(f"{run} holds no trained {wanted}")
    known = world_vocabulary() if known is None else known
    vocabulary = json.dumps(known, indent=1, ensure_ascii=False) + "\n"
    folders = []
    for name in names:
        folder = (rerankers if name == "stickers-clip" else models) / name
        facts = folder / FACTS  # written by hand, so they stay
        written = facts.read_text(encoding="utf-8") if facts.is_file() else None
        writers[name](run, folder)
        if written is not None:
            facts.write_text(written, encoding="utf-8")
        for file in folder.rglob("*.safetensors"):
            _halve(file)
        if name == "stickers-dalle":
            _leave_shared(folder)
        if name not in SILENT:
            (folder / "vocabulary.json").write_text(vocabulary, encoding="utf-8")
        folders.append(folder)
    return folders


def _leave_shared(model: Path) -> None:
    """Leave away those parts of a model that it shares with another, as its facts say.

    Raises ValueError if they are not the same to the byte.
    """
    for part, path in shared_parts(model).items():
        if not (model / part).is_dir():  # the transformer alone was taught
            continue
        for file in sorted((model / part).iterdir()):
            other = path / file.name
            if not other.is_file() or file.read_bytes() != other.read_bytes():
                raise ValueError(
                    f"{file} is not the same as {other}: ship {path.parent.name} of this run "
                    f"first, or take {part} out of what is shared in {model / FACTS}"
                )
        shutil.rmtree(model / part)


def _write_reranker(run: Path, reranker: Path) -> None:
    """Copy a CLIP folder as it was trained."""
    _replace(run / "clip" / "weights", reranker)


def _write_dalle(run: Path, model: Path) -> None:
    """Lay out a folder for `pipelines.dalle.pipeline`."""
    _replace(run / "dalle" / "weights", model)  # with the networks that it was trained with
    _replace(run / "tokenizer", model / "tokenizer")
    _write_json(model / "model_index.json", {"_class_name": DALLE_CLASS})


def _write_pipeline(run: Path, model: Path) -> None:
    """Lay out a Stable Diffusion folder: its parts, then what ties them together."""
    decoder = run / "decoder" / "weights"  # the same autoencoder, whose decoder has gone on
    vae = decoder if decoder.is_dir() else run / "autoencoder" / "weights"
    _replace(vae, model / "vae")
    _replace(run / "diffusion" / "weights" / "unet", model / "unet")
    _replace(run / "tokenizer", model / "tokenizer")
    _replace(run / "diffusion" / "weights" / "text_encoder", model / "text_encoder")
    scheduler = DPMSolverMultistepScheduler.from_config(SCHEDULER)
    scheduler.save_config(model / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    _write_json(model / "model_index.json", index)


def _write_unclip(run: Path, model: Path) -> None:
    """Lay out a folder for `pipelines.unclip.pipeline`; what draws by text alone is shared."""
    for part in ("prior", "prior_scheduler"):
        _replace(run / "prior" / "weights" / part, model / part)
    decoder = run / "unclip-decoder" / "weights"
    _replace(decoder / "image_tokens", model / "image_tokens")
    if (decoder / "unet").is_dir():  # else it is that of `stickers`, and the reranker's CLIP
        _replace(decoder / "unet", model / "unet")
        _replace(run / "clip" / "weights", model / "clip")
    if not (model / FACTS).is_file():
        parts = ("tokenizer", "text_encoder", "scheduler", "vae")
        shared = {part: f"../stickers/{part}" for part in parts}
        _write_json(model / FACTS, {"shared": shared})
    _write_json(model / "model_index.json", {"_class_name": OWN_CLASS})


def _write_masks(run: Path, model: Path) -> None:
    """Copy the network that finds things as it was trained."""
    _replace(run / "masks" / "weights", model)


def _write_upsampler(run: Path, model: Path) -> None:
    """Copy what enlarges as it was trained; the facts of the models name it."""
    _replace(run / "upsampler" / "weights", model)


_WRITE = {
    "stickers": _write_pipeline,
    "stickers-clip": _write_reranker,
    "stickers-dalle": _write_dalle,
    "stickers-unclip": _write_unclip,
    "stickers-masks": _write_masks,
    "stickers-upsampler": _write_upsampler,
}


def _taught(run: Path) -> dict[str, Writer]:
    """Return what writes a checkpoint that `prefer` or `reinforce` has taught, by name.

    Raises ValueError where both have taught image tokens.
    """
    taught = [run / step / "weights" / "transformer" for step in ("prefer", "reinforce")]
    there = [folder for folder in taught if folder.is_dir()]
    if len(there) > 1:
        raise ValueError(f"{there[0]} and {there[1]} are both there: keep the one that is to ship")
    writers: dict[str, Writer] = {}
    if there:
        writers["stickers-dalle"] = partial(_write_tokens, there[0])
    if (run / "prefer" / "weights" / LORA).is_file():
        writers["stickers"] = _fuse
    return writers


def _fuse(run: Path, model: Path) -> None:
    """Put a LoRA into the UNet that it was learned for; its config stays."""
    pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipeline.load_lora_weights(run / "prefer" / "weights")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    weights = {name: value.contiguous() for name, value in pipeline.unet.state_dict().items()}
    save_file(weights, model / "unet" / SAFETENSORS_WEIGHTS_NAME, {"format": "pt"})


def _write_tokens(transformer: Path, run: Path, model: Path) -> None:
    """Copy a transformer; what reads the prompt and the discrete VAE stayed as they are."""
    _replace(transformer, model / "transformer")


def _halve(path: Path) -> None:
    tensors = {name: value.half().contiguous() for name, value in load_file(path).items()}
    if not all(torch.isfinite(value).all() for value in tensors.values()):
        raise FloatingPointError(f"{path} has weights that half precision cannot hold")
    save_file(tensors, path, {"format": "pt"})


def _replace(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def world_vocabulary() -> dict[str, Any]:
    """Return what the weights know, for tools that know nothing of this world.

    `words` holds every word of its captions that tells something, or that is part of asking.
    """
    return {
        "nouns": [
            {
                "name": noun.name,
                "plural": noun.plural,
                "article": article(noun.name),
                "synonyms": _synonyms(noun),
                "category": noun.category,
                "codepoint": f"U+{noun.codepoint:04X}",
            }
            for noun in NOUNS
        ],
        "shapes": [
            {
                "name": shape.name,
                "plural": shape.plural,
                "article": article(shape.name),
                "synonyms": _synonyms(shape),
            }
            for shape in SHAPES
        ],
        "colours": [{"name": colour.name, "rgb": list(colour.rgb)} for colour in COLOURS],
        "grounds": [
            {"name": g.name, "rgb": list(g.rgb), "synonyms": list(g.synonyms)} for g in GROUNDS
        ],
        "relations": {name: list(phrases) for name, phrases in RELATION_PHRASES.items()},
        "places": {name: list(phrases) for name, phrases in PLACE_PHRASES.items()},
        "counts": {NUMBERS[count]: count for count in range(1, 6)},
        "words": caption_words(),
    }


def _synonyms(known: Noun | Shape) -> list[dict[str, str]]:
    """Return what else a thing is called, with plurals: in its own table, then in the world's."""
    plurals = {word: plural(word) for word in other_words()[known.name]} | dict(known.synonyms)
    return [{"name": one, "plural": many} for one, many in plurals.items()]


def caption_words(samples: int = 40_000) -> list[str]:
    """Return every word that captions use, lower case: of the own grammar found by saying many, of
    free wordings the forms of speech and the names of things, sizes and backgrounds; fillers and
    words that mean nothing are none of them."""
    rng = random.Random(0)
    captions = {phrase(describe(draw_scene(rng, held_out=True), rng), rng) for _ in range(samples)}
    grounds = [BACKGROUND.get(ground.name, ground.name) for ground in GROUNDS]
    forms = (
        *REQUESTS,
        *ALONE,
        *JOINTS,
        *BACKGROUND_FORMS,
        *BACKGROUND_ENDS,
        *COLOURED,
        *WORLD_OPENINGS,
        *(word for ground in grounds for word in BACKGROUND_WORDS[ground]),
        *(form for forms in PLACE_FORMS.values() for form in forms),
        *(form for forms in RELATION_FORMS.values() for form in forms),
        *(form for forms in WITH_FORMS.values() for form in forms),
        *(place for pairs in TWO_PLACES.values() for pair in pairs for place in pair),
        *STANDING,
        *(word for words in SIZE_WORDS.values() for word in words),
    )
    said = {re.sub(r"{\w*}", " ", form) for form in forms}
    found = {word for text in captions | said for word in re.findall(r"[a-z0-9]+", text)}
    return sorted(found | naming_words())
