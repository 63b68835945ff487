"""Folders of Karlo, Kandinsky and Stable unCLIP draw what diffusers' own pipelines draw of them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.checkpoints.errors import WeightsError
from pipelines.families import family_of, find, weights_memory
from pipelines.unclip.draft import UnclipDraft
from pipelines.unclip.image_prompt import ImagePrompt
from pipelines.unclip.pipeline import Unclip

pytestmark = pytest.mark.slow

Layouts = Callable[[str], tuple[Any, Path]]
PROMPT = "a panda on the left"
STEPS: dict[str, Any] = {"prior_steps": 3, "steps": 4}
SIZE: dict[str, Any] = {"width": 64, "height": 128}


def difference(drawn: Image.Image | None, expected: Image.Image) -> int:
    assert np.asarray(expected).std() > 5  # a flat image would prove nothing
    return int(np.abs(np.asarray(drawn, dtype=int) - np.asarray(expected, dtype=int)).max())


def finish(draft: UnclipDraft) -> Image.Image | None:
    with draft:
        draft.step(draft.total - draft.done)
        return draft.images()[0]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_karlo(layouts: Layouts, guidance: float) -> None:
    stock, folder = layouts("karlo")
    expected = stock(
        PROMPT,
        generator=seeded(7),
        prior_num_inference_steps=3,
        decoder_num_inference_steps=4,
        prior_guidance_scale=guidance,
        decoder_guidance_scale=guidance,
    ).images[0]
    pipeline = Unclip.from_pretrained(folder, device="cpu")
    draft = pipeline.begin(PROMPT, seeds=[7], **STEPS, guidance=guidance, prior_guidance=guidance)
    assert draft.total == 3 + 4 + 7
    assert difference(finish(draft), expected) <= 2


@pytest.mark.parametrize("version", ["21", "22"])
@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_kandinsky(layouts: Layouts, version: str, guidance: float) -> None:
    stock, folder = layouts(f"kandinsky_{version}")
    prior, prior_folder = layouts("old_kandinsky_prior" if version == "21" else "kandinsky_prior")
    generator = seeded(7)
    told = prior(PROMPT, generator=generator, num_inference_steps=3, guidance_scale=guidance)
    own = (PROMPT,) if version == "21" else ()
    expected = stock(
        *own,
        image_embeds=told.image_embeds,
        negative_image_embeds=told.negative_image_embeds,
        generator=generator,
        num_inference_steps=4,
        guidance_scale=guidance,
        **SIZE,
    ).images[0]

    pipeline = Unclip.from_pretrained(folder, device="cpu", prior=prior_folder)
    draft = pipeline.begin(
        PROMPT, seeds=[7], **STEPS, **SIZE, guidance=guidance, prior_guidance=guidance
    )
    draft.step(3)
    assert draft.embeddings is not None
    assert torch.allclose(draft.embeddings, told.image_embeds, atol=1e-5)
    assert difference(finish(draft), expected) <= 2


@pytest.mark.parametrize("guidance", [10.0, 1.0])
def test_stable_unclip(layouts: Layouts, guidance: float) -> None:
    stock, folder = layouts("stable")
    expected = stock(
        PROMPT,
        generator=seeded(7),
        prior_num_inference_steps=3,
        num_inference_steps=4,
        guidance_scale=guidance,
    ).images[0]
    pipeline = Unclip.from_pretrained(folder, device="cpu")
    draft = pipeline.begin(PROMPT, seeds=[7], **STEPS, guidance=guidance)
    assert draft.total == 3 + 5  # PNDM has one evaluation more
    assert difference(finish(draft), expected) <= 2


def test_variations_by_karlo(layouts: Layouts, picture: Image.Image) -> None:
    stock, folder = layouts("karlo_variations")
    expected = stock(picture, generator=seeded(7), decoder_num_inference_steps=4).images[0]
    pipeline = Unclip.from_pretrained(folder, device="cpu")
    assert (
        difference(
            finish(pipeline.begin(PROMPT, seeds=[7], steps=4, images=ImagePrompt((picture,)))),
            expected,
        )
        <= 2
    )


def test_variations_by_stable_unclip(layouts: Layouts, picture: Image.Image) -> None:
    stock, folder = layouts("stable_variations")
    expected = stock(picture, generator=seeded(7), num_inference_steps=4).images[0]
    pipeline = Unclip.from_pretrained(folder, device="cpu")
    assert (
        difference(
            finish(pipeline.begin("", seeds=[7], steps=4, images=ImagePrompt((picture,)))), expected
        )
        <= 2
    )


def test_a_prior_for_stable_unclip_is_karlos(layouts: Layouts) -> None:
    """What the hub has of it comes without a prior."""
    folder = layouts("stable_variations")[1]
    alone = Unclip.from_pretrained(folder, device="cpu")
    with pytest.raises(ValueError, match="no prior of its own: name the folder of one"):
        alone.begin(PROMPT, seeds=[7])
    pipeline = Unclip.from_pretrained(folder, device="cpu", prior=layouts("karlo")[1])
    assert finish(pipeline.begin(PROMPT, seeds=[7], **STEPS)) is not None


NAMES = ("karlo", "karlo_variations", "kandinsky_21", "kandinsky_22", "stable", "stable_variations")


@pytest.mark.parametrize("name", NAMES)
def test_facts_are_read_without_weights(layouts: Layouts, name: str) -> None:
    folder = layouts(name)[1]
    spec = find(str(folder))
    assert spec.kind == "unclip"
    width = 512 if name.startswith("kandinsky") else 32 if name.startswith("karlo") else 64
    assert spec.defaults["width"] == width
    assert ("width" in spec.settings) != name.startswith("karlo")
    memory = weights_memory(spec, 4)
    files = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    assert memory.weights == pytest.approx(files, rel=0.3)
    course = family_of(spec).course(spec, spec.defaults)
    assert course is not None
    assert (course.start, course.branches) == (
        25,
        name not in ("stable", "stable_variations", "kandinsky_21"),
    )


def test_a_prior_inside_the_folder_is_found(layouts: Layouts, tmp_path: Path) -> None:
    folder = shutil.copytree(layouts("kandinsky_22")[1], tmp_path / "kandinsky")
    with pytest.raises(WeightsError, match="no prior of its own"):
        Unclip.from_pretrained(folder, device="cpu")
    shutil.copytree(layouts("kandinsky_prior")[1], folder / "prior")
    drawn = finish(
        Unclip.from_pretrained(folder, device="cpu").begin(PROMPT, seeds=[7], **STEPS, **SIZE)
    )
    beside = Unclip.from_pretrained(
        layouts("kandinsky_22")[1], device="cpu", prior=layouts("kandinsky_prior")[1]
    )
    assert drawn == finish(beside.begin(PROMPT, seeds=[7], **STEPS, **SIZE))


def test_folders_that_do_not_fit_are_refused(layouts: Layouts, tmp_path: Path) -> None:
    folder = shutil.copytree(layouts("karlo")[1], tmp_path / "karlo")
    with pytest.raises(WeightsError, match="holds a StableUnCLIPImg2ImgPipeline, which has no"):
        Unclip.from_pretrained(layouts("kandinsky_22")[1], prior=layouts("stable_variations")[1])
    scheduler = folder / "decoder_scheduler" / "scheduler_config.json"
    known = scheduler.read_text()
    scheduler.write_text(json.dumps({**json.loads(known), "_class_name": "HeunScheduler"}))
    with pytest.raises(WeightsError, match="is a HeunScheduler; what is drawn with are DDIM"):
        find(str(folder))
    scheduler.write_text(known)
    config = folder / "prior" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "embedding_dim": 24}))
    with pytest.raises(WeightsError, match="prior embedding_dim is 24, text_encoder proj"):
        Unclip.from_pretrained(folder)
    shutil.rmtree(folder / "text_proj")
    with pytest.raises(WeightsError, match="has no text_proj/: the model folder is not complete"):
        find(str(folder))
