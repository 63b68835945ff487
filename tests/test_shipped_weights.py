"""What the committed files do: for other tools, for a person with a picture, for a prompt."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from benchmarks.upsampling import edges, halos
from gen.cli import main
from gen.search.looking import find_head
from pipelines import families
from pipelines.diffusion.pipeline import LatentDiffusion
from pipelines.drafts import to_image, to_pixels
from pipelines.loading import LoadOptions
from pipelines.segmentation.models import SHIPPED
from pipelines.segmentation.named import Small
from pipelines.unclip.image_prompt import ImagePrompt
from pipelines.unclip.pipeline import Unclip
from pipelines.upscale.loading import load as load_upscaler
from rerank import Reranker
from rerank.model.specs import SPECS as JURIES
from train.evaluate import STICKERS
from train.masks import measure
from train.stickers.judge import judge
from train.stickers.masks import LESSON
from train.stickers.prompts import read_prompts
from train.stickers.renderer import render
from train.stickers.scene import Placed, Scene, draw_scene
from train.stickers.vocabulary import Thing
from train.unclip_quality import kept_of, prior_gain

pytestmark = pytest.mark.slow

PAINTER = families.shipped()["stickers"].folder
UPSAMPLER = PAINTER.parent / "stickers-upsampler"
JURY = JURIES["stickers-clip"].folder
TOLERANCE = 2  # of 255
PROMPT = "a panda to the left of a red balloon"


@pytest.fixture(scope="module")
def painter() -> LatentDiffusion:
    return LatentDiffusion.from_pretrained("stickers", device="cpu")


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 16 candidates by the command."""
    out = tmp_path_factory.mktemp("candidates")
    assert main([PROMPT, "--candidates", "16", "--top-k", "4", "--seed", "7", "-o", str(out)]) == 0
    return out


def test_stock_diffusers_draws_the_same_picture(painter: LatentDiffusion) -> None:
    """From the committed half-precision files, without a dtype, with the same generators."""
    stock = StableDiffusionPipeline.from_pretrained(PAINTER)
    stock.set_progress_bar_config(disable=True)
    assert stock.unet.dtype == stock.vae.dtype == stock.text_encoder.dtype == torch.float32
    defaults, seeds = painter.spec.defaults, [7, 8]
    expected = stock(
        PROMPT,
        num_images_per_prompt=len(seeds),
        num_inference_steps=defaults["steps"],
        guidance_scale=defaults["guidance"],
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="np",
    ).images  # (N, H, W, 3) in [0, 1]
    with painter.begin(PROMPT, seeds=seeds) as draft:
        draft.step(draft.total)
        ours = draft.pixels().permute(0, 2, 3, 1)
    assert ours.shape == expected.shape
    assert (ours - torch.from_numpy(expected) * 255).abs().max() <= TOLERANCE


def test_stock_transformers_scores_the_same(painter: LatentDiffusion) -> None:
    clip = CLIPModel.from_pretrained(JURY)
    assert clip.dtype == torch.float32
    with painter.begin(PROMPT, seeds=[0, 1], steps=4) as draft:
        draft.step(draft.total)
        pictures = draft.pixels()
    tokens = CLIPTokenizer.from_pretrained(JURY)(PROMPT, return_tensors="pt")
    settings = json.loads((JURY / "preprocessor_config.json").read_text())
    mean, std = (torch.tensor(settings[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    with torch.no_grad():
        output = clip(pixel_values=(pictures / 255 - mean) / std, **tokens)
    expected = (output.image_embeds @ output.text_embeds.T).flatten().tolist()
    assert Reranker.load().score(PROMPT, pictures) == pytest.approx(expected, abs=1e-5)


def test_every_kept_picture_can_be_made_again(candidates: Path, tmp_path: Path) -> None:
    """Alone, in a fresh process, against the batch of 16."""
    kept = sorted(candidates.glob("0001-*.png"))
    assert len(kept) == 4
    for picture in kept:
        command = [sys.executable, "-m", "gen", "--again", str(picture), "--json"]
        ran = subprocess.run(
            [*command, "-o", str(tmp_path)], capture_output=True, text=True, check=True
        )
        assert json.loads(ran.stdout)["difference"] <= TOLERANCE
        assert "weights" not in ran.stderr


def test_other_weights_are_told(
    candidates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(PAINTER, other)
    shutil.copytree(UPSAMPLER, tmp_path / UPSAMPLER.name)  # which the model's facts name
    file = other / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-2] ^= 1  # the last bit of the last weight but one byte
    file.write_bytes(content)
    picture = next(iter(sorted(candidates.glob("0001-*.png"))))
    words = ["--again", str(picture), "-m", str(other), "-o", str(tmp_path / "out")]
    assert main(words) == 0
    assert "was made by weights" in capsys.readouterr().err


def test_masks_have_no_holes(tmp_path: Path) -> None:
    """Nothing of what is replaced stays as a speck, in images that came out enlarged, too."""
    rng, finder = random.Random(8), Small(SHIPPED, torch.device("cpu"))
    for noun in ("panda", "cat", "lion", "donut", "rocket", "robot") * 2:
        place = Placed(Thing(noun), rng.randrange(1, 3), rng.randrange(1, 3), 4)
        large = render([Scene("single", (place,), "white")], size=256)[0]
        image = to_image(large).resize((64, 64)).resize((256, 256), Image.Resampling.BICUBIC)
        named = finder.chances(image, [f"the {noun}"])[0] >= 0.5
        mask = named | finder.room(image, [f"the {noun}"])
        assert mask.any()
        assert not holes(mask), noun


def holes(mask: np.ndarray) -> int:
    """How many pixels are not masked, and cannot be reached from the edge of the image."""
    framed = Image.fromarray(np.pad(mask, 1).astype(np.uint8)).copy()  # which can be drawn on
    ImageDraw.floodfill(framed, (0, 0), 1)
    return int((np.asarray(framed) == 0).sum())


def test_images_come_out_four_times_larger_and_nearer_to_the_truth(candidates: Path) -> None:
    with Image.open(next(candidates.glob("0001-r1-*.png"))) as image:
        assert image.size == (256, 256)
    scenes = [draw_scene(random.Random(seed), held_out=True) for seed in range(12)]
    truth = render(scenes, size=256).float() / 255
    small = torch.nn.functional.avg_pool2d(truth, 4)
    lanczos = (
        torch.stack(
            [
                to_pixels(
                    to_image((each * 255).byte()).resize((256, 256), Image.Resampling.LANCZOS)
                )
                for each in small
            ]
        ).float()
        / 255
    )
    upscaler = load_upscaler(UPSAMPLER, torch.device("cpu"))
    with torch.inference_mode():
        made = upscaler.network(small).clamp(0, 1)
    assert (made - truth).square().mean() < 0.6 * (lanczos - truth).square().mean()
    assert edges(made) > 1.3 * edges(lanczos)
    assert halos(made, truth) < 2 / 255


def test_the_painter_follows_plain_prompts(painter: LatentDiffusion) -> None:
    """A smoke test, far below what `train.evaluate` measures: single things, one seed."""
    prompts = [prompt for prompt in read_prompts() if prompt.tag == "single_object"][:16]
    right = 0
    for prompt in prompts:
        with painter.begin(prompt.text, seeds=[0]) as draft:
            draft.step(draft.total)
            right += judge(draft.pixels(), prompt.description)[0].right
    assert right >= len(prompts) // 2


def test_stickers_are_recognised_by_the_jury() -> None:
    from train.stickers.renderer import render
    from train.stickers.scene import Placed, Scene
    from train.stickers.vocabulary import NOUN_THINGS

    shown = [Scene("single", (Placed(thing, 2, 3, 3),), "white") for thing in NOUN_THINGS]
    names = [f"a {thing.name}" for thing in NOUN_THINGS]
    best = Reranker.load().similarity(names, render(shown)).argmax(0)
    assert (best == torch.arange(len(names))).float().mean() >= 0.95


def test_things_are_found_by_their_names() -> None:
    """In combinations that training never saw; `salon-train found` asks for more of them."""
    finder = Small(SHIPPED, torch.device("cpu")).network
    found = measure(finder, LESSON, scenes=50, seed=11)
    assert found["there"] > 0.9
    assert found["absent"] > 0.8


def test_one_thing_is_swapped_for_another_by_one_command(tmp_path: Path) -> None:
    pair = (Placed(Thing("panda"), 0, 2, 3), Placed(Thing("lion"), 4, 2, 3))
    photo = tmp_path / "photo.png"
    before = render([Scene("pair", pair, "white")])[0].permute(1, 2, 0).numpy()
    Image.fromarray(before).save(photo)
    words = ["a cat to the left of a lion", "--init-image", str(photo), "--mask-text", "the panda"]
    few = ["--candidates", "2", "--steps", "4", "--seed", "1", "-o", str(tmp_path / "out")]
    assert main([*words, *few]) == 0
    [best] = (tmp_path / "out").glob("0001-r1-*.png")
    after = np.asarray(Image.open(best).convert("RGB"))
    assert np.array_equal(after[:, 32:], before[:, 32:])  # the lion
    assert not np.array_equal(after[24:32, 8:16], before[24:32, 8:16])  # the panda


def test_what_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = tmp_path / "photo.png"
    scene = Scene("single", (Placed(Thing("panda"), 1, 1, 5),), "pink")
    Image.fromarray(render([scene])[0].permute(1, 2, 0).numpy()).save(photo)
    words = ["a cat", "--init-image", str(photo), "--mask-text", "the rocket"]
    assert main([*words, "-o", str(tmp_path / "out")]) == 2
    assert "nothing of the rocket is found" in capsys.readouterr().err


@pytest.fixture(scope="module")
def unclip() -> Unclip:
    return Unclip.load(families.find("stickers-unclip"), LoadOptions(device="cpu"))


def test_embeddings_are_those_of_the_reranker(unclip: Unclip) -> None:
    images = STICKERS.source().render([draw_scene(random.Random(3))])
    clip, processor = CLIPModel.from_pretrained(JURY), CLIPImageProcessorPil.from_pretrained(JURY)
    pixels = processor(to_image(images[0]), return_tensors="pt").pixel_values
    with torch.inference_mode():
        expected = clip.get_image_features(pixels).pooler_output
    assert (unclip.embed([to_image(images[0])]) - expected).abs().max() < 1e-5


def test_the_prior_is_nearer_to_images_than_the_text_is(unclip: Unclip) -> None:
    source, rng = STICKERS.source(), random.Random(5)
    scenes = [source.draw(rng) for _ in range(16)]
    captions = [source.caption(scene, rng) for scene in scenes]
    gain = prior_gain(unclip, captions, [to_image(each) for each in source.render(scenes)])
    assert gain.prior > gain.text + 0.05


def test_variations_show_the_same_things(unclip: Unclip) -> None:
    source, rng = STICKERS.source(), random.Random(6)
    scenes = [source.draw(rng) for _ in range(8)]
    images = [ImagePrompt((to_image(each),)) for each in source.render(scenes)]
    kept = kept_of(unclip, Reranker.load(), STICKERS, scenes, images)
    assert kept.one().value >= 0.5
    assert kept.best(1).value >= kept.one().value


@pytest.mark.parametrize("name", ["stickers", "stickers-dalle"])
def test_what_previews_tell_was_learned_with_the_reranker_that_ships(name: str) -> None:
    spec = families.shipped()[name]
    head = find_head(spec, Reranker.load())
    course = families.family_of(spec).course(spec, spec.defaults)
    assert head is not None, "`salon-train previews` has to be run again"
    assert course is not None
    likelihoods = [-2.0, -1.0] if name == "stickers-dalle" else None
    for share in (*course.looks, *course.forks):
        worse, better = head.probabilities(share, [0.5, 0.7], likelihoods)  # type: ignore[misc]
        assert 0 < worse < better < 1
