"""The Draft contract on the DALL·E path, rule by rule."""

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.hashes import spec_hash
from pipelines.dalle import draft as dalle
from pipelines.dalle.draft import DalleDraft as Draft
from pipelines.dalle.pipeline import REMEMBERED_PROMPTS, Dalle
from pipelines.dalle.spec import tensors
from pipelines.diffusion.pipeline import LatentDiffusion
from pipelines.families import find

pytestmark = pytest.mark.slow

SEEDS = (11, 0, 5, 2**63 - 1)
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def pipeline(tiny_dalle_folder: Path) -> Dalle:
    return Dalle.from_pretrained(tiny_dalle_folder, device="cpu")


def finished(draft: Draft) -> Draft:
    draft.step(draft.total)
    return draft


def tokens_of(draft: Draft) -> torch.Tensor:
    return draft._open.tokens


def same(first: Image.Image | None, second: Image.Image | None) -> bool:
    assert first is not None
    assert second is not None
    return first.tobytes() == second.tobytes()


# --- begin ---


def test_defaults_and_what_a_draft_says(pipeline: Dalle) -> None:
    draft = pipeline.begin("a panda", seeds=SEEDS)
    assert (draft.seeds, draft.total, draft.done, draft.failed) == (SEEDS, 16, 0, {})
    assert draft.log_likelihoods == [0, 0, 0, 0]
    assert pipeline.attention == "sdpa"
    assert find(str(pipeline.spec.folder)).kind == "dalle"


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"temperature": -0.1}, "temperature is -0.1; it must be 0 or more"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"token_top_k": 0}, "token_top_k is 0; it must be 1 or more"),
        ({"token_top_p": 1.5}, "token_top_p is 1.5; it must be from 0 to 1"),
        ({"guidance": float("inf")}, "guidance is inf; it must be a finite number"),
        ({"seeds": []}, "seeds must be one or more different numbers"),
        ({"seeds": [2**63]}, "a seed is a whole number from 0"),
        ({"forced": {16: 0}}, "positions are below 16"),
        ({"forced": {0: 64}}, "tokens below 64"),
        ({"keep_rows": 2}, "init_image and keep_rows go together"),
    ],
)
def test_begin_refuses_what_cannot_be(pipeline: Dalle, settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        pipeline.begin("a panda", **{"seeds": [1], **settings})


def test_the_uniforms_of_a_seed_are_a_table_of_its_own(pipeline: Dalle) -> None:
    draft = pipeline.begin("a", seeds=SEEDS)
    by_hand = torch.rand(16, generator=torch.Generator().manual_seed(5))
    assert torch.equal(draft._open.uniforms[2], by_hand)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    pipeline("a", seeds=[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_prompts_are_encoded_once_and_remembered(
    pipeline: Dalle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_texts", {})
    first = pipeline.encode("the first")
    for i in range(REMEMBERED_PROMPTS - 1):
        pipeline.encode(f"other {i}")
        assert pipeline.encode("the first") is first
    pipeline.encode("one more")
    assert len(pipeline._texts) == REMEMBERED_PROMPTS
    assert "other 0" not in pipeline._texts


def test_text_beyond_the_context(pipeline: Dalle) -> None:
    assert pipeline.token_count("a panda") == 4
    words = ["panda"] * 30
    assert pipeline.dropped_text(" ".join(words)) == ""
    assert pipeline.dropped_text(" ".join([*words, "left of"])) == "left of"
    present = pipeline.encode("a panda").present
    assert present[0].tolist() == [True] * 4 + [False] * 28


# --- drawing ---


def test_draws_what_teacher_forcing_says(pipeline: Dalle) -> None:
    """Step by step with guidance, against one pass over the tokens that came out."""
    draft = pipeline.begin(
        "a red panda",
        negative_prompt="blue",
        seeds=SEEDS,
        guidance=2.0,
        temperature=0.7,
        token_top_k=20,
    )
    finished(draft)
    tokens = tokens_of(draft)
    with_text, without = (
        pipeline.transformer(text.read.expand(4, -1, -1), text.present.expand(4, -1), tokens).image
        for text in (pipeline.encode("a red panda"), pipeline.encode("blue"))
    )
    guided = without + 2.0 * (with_text - without)
    expected = [
        dalle.draw_tokens(guided[:, i], draft._open.uniforms[:, i], 0.7, top_k=20)
        for i in range(16)
    ]
    assert torch.equal(torch.stack(expected, dim=1), tokens)
    chosen = with_text.log_softmax(-1).gather(2, tokens[..., None])[..., 0].sum(1)
    assert draft.log_likelihoods == pytest.approx(chosen.tolist(), abs=1e-3)
    codes = tokens.view(4, 4, 4)
    pictures = (pipeline.dvae.decode(codes) * 255).round().to(torch.uint8)
    assert torch.equal(draft.pixels(), pictures)


def test_a_candidate_alone_is_the_same_among_sixteen(pipeline: Dalle) -> None:
    settings = {"guidance": 1.5, "temperature": 1.0, "token_top_p": 0.95}
    whole = tokens_of(finished(pipeline.begin("a panda", seeds=range(16), **settings)))
    assert len({tuple(row.tolist()) for row in whole}) == 16
    for seed in (0, 7, 15):
        alone = finished(pipeline.begin("a panda", seeds=[seed], **settings))
        assert torch.equal(tokens_of(alone)[0], whole[seed])


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.99), ("bfloat16", 0.5)])
@pytest.mark.fault("one seed, every batch and device")
def test_a_candidate_alone_on_a_gpu(tiny_dalle_folder: Path, dtype: str, least: float) -> None:
    """Kernels round differently for different batches, so some tokens may differ in bfloat16."""
    pipeline = Dalle.from_pretrained(tiny_dalle_folder, device="cuda", dtype=dtype)
    whole = tokens_of(finished(pipeline.begin("a panda", seeds=range(16), guidance=2.0)))
    alone = [
        tokens_of(finished(pipeline.begin("a panda", seeds=[i], guidance=2.0))) for i in range(16)
    ]
    share = (torch.cat(alone) == whole).float().mean().item()
    print(f"{dtype}: {share:.1%} of the tokens are the same")
    assert share >= least


def test_the_prompt_matters_and_so_does_what_is_kept_out(pipeline: Dalle) -> None:
    def draw(prompt: str, negative: str | None = None, *, guidance: float) -> torch.Tensor:
        draft = pipeline.begin(prompt, negative_prompt=negative, seeds=SEEDS, guidance=guidance)
        return tokens_of(finished(draft))

    assert not torch.equal(draw("a panda", guidance=1), draw("red", guidance=1))
    assert torch.equal(draw("a", "red", guidance=1), draw("a", "blue", guidance=1))
    assert not torch.equal(draw("a", "red", guidance=3), draw("a", "blue", guidance=3))
    assert torch.equal(draw("a", guidance=0), draw("a", guidance=1))


def test_temperature_zero_takes_the_likeliest(pipeline: Dalle) -> None:
    tokens = tokens_of(finished(pipeline.begin("a panda", seeds=SEEDS, temperature=0.0)))
    assert (tokens == tokens[0]).all()


def test_text_tokens_in_the_stream(make_dalle_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_dalle_folder(tmp_path / "model", text_tokens=True)
    pipeline = Dalle.from_pretrained(folder, device="cpu")
    assert pipeline.text_encoder is None
    first, second = (
        tokens_of(finished(pipeline.begin(prompt, seeds=SEEDS))) for prompt in ("a panda", "red")
    )
    assert not torch.equal(first, second)


# --- step, keep, split, close ---


def test_steps_come_in_any_portions(pipeline: Dalle) -> None:
    draft = pipeline.begin("a panda", seeds=SEEDS, guidance=2.0)
    for count in (1, 3, 100):
        draft.step(count)
    assert draft.done == 16
    whole = finished(pipeline.begin("a panda", seeds=SEEDS, guidance=2.0))
    assert torch.equal(tokens_of(draft), tokens_of(whole))
    with pytest.raises(ValueError, match="at least 1"):
        draft.step(0)


@pytest.mark.parametrize("fails_at", [0, 4])
def test_a_step_that_fails_leaves_the_draft_as_it_was(
    pipeline: Dalle, fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where rings of the cache have moved on meanwhile: it is filled again."""
    whole = finished(pipeline.begin("a panda", seeds=SEEDS, guidance=2.0))
    draft = pipeline.begin("a panda", seeds=SEEDS, guidance=2.0)
    draft.step(7)
    before = draft.log_likelihoods
    calls = []

    def failing(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) > fails_at:
            raise KeyboardInterrupt
        return real(*arguments)

    real = dalle.advance
    monkeypatch.setattr(dalle, "advance", failing)
    with pytest.raises(KeyboardInterrupt):
        draft.step(9)
    monkeypatch.setattr(dalle, "advance", real)
    assert (draft.done, draft.log_likelihoods) == (7, before)
    finished(draft)
    assert torch.equal(tokens_of(draft), tokens_of(whole))
    assert draft.log_likelihoods == whole.log_likelihoods


@pytest.mark.parametrize("indices", [[1, 3], [2]])
def test_keep_goes_on_with_the_same_rows(pipeline: Dalle, indices: list[int]) -> None:
    settings = {"guidance": 2.0, "temperature": 1.3}
    whole = finished(pipeline.begin("a panda", seeds=SEEDS, **settings))
    draft = pipeline.begin("a panda", seeds=SEEDS, **settings)
    draft.step(9)
    draft.keep(indices)
    assert draft.seeds == tuple(SEEDS[i] for i in indices)
    finished(draft)
    assert torch.equal(tokens_of(draft), tokens_of(whole)[indices])
    expected = [whole.log_likelihoods[i] for i in indices]
    assert draft.log_likelihoods == pytest.approx(expected, abs=1e-4)
    for picture, i in zip(draft.images(), indices, strict=True):
        assert same(picture, whole.images()[i])


@pytest.mark.parametrize("indices", [[], [1, 1], [2, 1], [4], [-1]])
def test_keep_refuses_what_is_no_choice(pipeline: Dalle, indices: list[int]) -> None:
    with pytest.raises(ValueError, match="indices must strictly increase within 0 to 3"):
        pipeline.begin("a", seeds=SEEDS).keep(indices)


def test_keep_frees_memory(pipeline: Dalle) -> None:
    draft = pipeline.begin("a", seeds=SEEDS, guidance=2.0)
    draft.step(3)
    before, gone = draft._cache.own_bytes, weakref.ref(draft._cache.layers[0].image)
    draft.keep([0])
    gc.collect()
    assert draft._cache.own_bytes == before // 4
    assert gone() is None


def test_halves_are_the_whole(pipeline: Dalle) -> None:
    whole = finished(pipeline.begin("a panda", seeds=SEEDS[:3], guidance=2.0))
    draft = pipeline.begin("a panda", seeds=SEEDS[:3], guidance=2.0)
    draft.step(6)
    halves = draft.split()
    with pytest.raises(RuntimeError, match="closed"):
        draft.step()
    assert [half.seeds for half in halves] == [SEEDS[:1], SEEDS[1:3]]
    found = torch.cat([tokens_of(finished(half)) for half in halves])
    assert torch.equal(found, tokens_of(whole))
    with pytest.raises(ValueError, match="one candidate cannot be split"):
        halves[0].split()


def test_drafts_of_one_pipeline_take_turns(pipeline: Dalle) -> None:
    alone = [tokens_of(finished(pipeline.begin(p, seeds=SEEDS))) for p in ("a panda", "red")]
    drafts = [pipeline.begin(prompt, seeds=SEEDS) for prompt in ("a panda", "red")]
    for _ in range(16):
        for draft in drafts:
            draft.step()
    for draft, tokens in zip(drafts, alone, strict=True):
        assert torch.equal(tokens_of(draft), tokens)


def test_close_frees_everything(pipeline: Dalle) -> None:
    with pipeline.begin("a", seeds=SEEDS) as draft:
        finished(draft)
        kept = weakref.ref(draft._cache.layers[0].image)
        draft.images()
    gc.collect()
    assert kept() is None
    draft.close()
    for use in (draft.step, draft.images, draft.preview, lambda: draft.seeds):
        with pytest.raises(RuntimeError, match="closed"):
            use()


# --- pictures ---


def test_previews_show_what_is_there_and_grey(pipeline: Dalle) -> None:
    draft = pipeline.begin("a panda", seeds=SEEDS)
    assert draft.preview() is None
    draft.step(6)  # one row of four and a half
    previews = draft.preview([1, 3])
    assert previews is not None
    assert len(previews) == 2
    for picture in previews:
        assert picture is not None
        assert picture.size == (32, 32)
        assert picture.crop((16, 8, 32, 16)).getcolors() == [(128, (128, 128, 128))]
        assert picture.crop((0, 16, 32, 32)).getcolors() == [(512, (128, 128, 128))]
        assert picture.crop((0, 0, 32, 8)).getcolors() != [(256, (128, 128, 128))]
    finished(draft)
    for preview, image in zip(draft.preview(exact=True) or [], draft.images(), strict=True):
        assert same(preview, image)
    with pytest.raises(ValueError, match="indices must"):
        draft.preview([3, 1])


def test_pictures_only_when_done(pipeline: Dalle) -> None:
    draft = pipeline.begin("a", seeds=[1])
    draft.step(15)
    with pytest.raises(RuntimeError, match="at token 15 of 16"):
        draft.images()


def test_what_is_not_finite_has_failed(pipeline: Dalle, monkeypatch: pytest.MonkeyPatch) -> None:
    real = dalle.advance

    def broken(transformer: Any, cache: Any, tokens: torch.Tensor, position: int) -> torch.Tensor:
        logits = real(transformer, cache, tokens, position)
        if position == 3:
            logits[1] = torch.nan
        return logits

    monkeypatch.setattr(dalle, "advance", broken)
    draft = finished(pipeline.begin("a", seeds=[5, 6, 7]))
    assert [image is None for image in draft.images()] == [False, True, False]
    assert draft.failed == {6: "the network made values that are not finite"}
    assert draft.pixels().shape == (2, 3, 32, 32)


def test_decoding_heals_itself_when_memory_is_short(
    pipeline: Dalle, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = finished(pipeline.begin("a", seeds=range(5)))
    expected = pipeline.dvae.decode(tokens_of(draft).view(5, 4, 4))
    real, sizes = pipeline.dvae.decode, []

    def small(codes: torch.Tensor) -> torch.Tensor:
        if len(codes) > 2:
            raise MemoryError
        sizes.append(len(codes))
        return real(codes)

    monkeypatch.setattr(pipeline.dvae, "decode", small)
    assert torch.equal(draft.pixels(), (expected * 255).round().to(torch.uint8))
    assert sizes == [2, 2, 1]


# --- image prompts and forced tokens ---


def test_a_completion_is_teacher_forcing(pipeline: Dalle) -> None:
    """Upper rows are kept, and the rest is drawn as if those rows had been drawn before."""
    whole = finished(pipeline.begin("a panda", seeds=SEEDS[:1], guidance=2.0))
    tokens = tokens_of(whole)[0].tolist()
    kept = dict(enumerate(tokens[:8]))
    draft = pipeline.begin("a panda", seeds=SEEDS[:2], guidance=2.0, forced=kept)
    assert draft.done == 8
    assert draft.log_likelihoods == [0, 0]
    assert draft.preview() is not None
    finished(draft)
    assert tokens_of(draft)[0].tolist() == tokens
    assert tokens_of(draft)[1].tolist()[:8] == tokens[:8]
    assert tokens_of(draft)[1].tolist() != tokens


def test_any_tokens_may_be_forced(pipeline: Dalle) -> None:
    draft = finished(pipeline.begin("a", seeds=SEEDS, forced={2: 7, 15: 9}))
    assert (tokens_of(draft)[:, [2, 15]] == torch.tensor([7, 9])).all()
    free = finished(pipeline.begin("a", seeds=SEEDS))
    assert torch.equal(tokens_of(draft)[:, :2], tokens_of(free)[:, :2])
    every = pipeline.begin("a", seeds=[1], forced=dict.fromkeys(range(16), 3))
    assert (every.done, every.log_likelihoods) == (16, [0])
    assert len(every.images()) == 1


def test_image_prompts_keep_the_upper_rows(pipeline: Dalle, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=generator)
    image = Image.fromarray(pixels.numpy())
    image.save(tmp_path / "picture.png")
    codes = pipeline.dvae.encode(pixels.permute(2, 0, 1)[None])[0]
    assert torch.equal(pipeline.tokens(image), codes)
    drafts = [
        finished(pipeline.begin("a", seeds=SEEDS, init_image=source, keep_rows=3))
        for source in (image, tmp_path / "picture.png", str(tmp_path / "picture.png"))
    ]
    for draft in drafts:
        assert (tokens_of(draft)[:, :12] == codes.flatten()[:12]).all()
        assert torch.equal(tokens_of(draft), tokens_of(drafts[0]))


@pytest.mark.parametrize(
    ("size", "mode", "rows", "rule"),
    [
        ((32, 64), "RGB", 2, "init_image is 32x64; it must be 32x32: resize it"),
        ((32, 32), "L", 2, "init_image is in mode L; it must be RGB: convert it"),
        ((32, 32), "RGBA", 2, "init_image is in mode RGBA"),
        ((32, 32), "RGB", 0, "keep_rows is 0; it must be from 1 to 3"),
        ((32, 32), "RGB", 4, "keep_rows is 4; it must be from 1 to 3"),
        ((32, 32), "RGB", None, "init_image and keep_rows go together"),
    ],
)
def test_image_prompts_that_cannot_be(
    pipeline: Dalle, size: tuple[int, int], mode: str, rows: int | None, rule: str
) -> None:
    with pytest.raises(ValueError, match=rule):
        pipeline.begin("a", seeds=[1], init_image=Image.new(mode, size), keep_rows=rows)


# --- folders ---


@pytest.mark.parametrize(
    ("part", "changes", "reason"),
    [
        ("dvae", {"vocabulary": 32}, "dvae vocabulary is 32, transformer image_vocabulary is 64"),
        ("dvae", {"size": 64}, "dvae grid is 8, transformer grid is 4"),
        ("transformer", {"prefix_width": 16}, "text_encoder hidden_size is 32, .* is 16"),
        ("transformer", {"text_length": 16}, "text_encoder positions is 32, .* is 16"),
        ("text_encoder", {"vocab_size": 100}, r"ids up to \d+, text_encoder vocab_size is 100"),
        ("transformer", {"width": 40}, "has missing keys|keys of the wrong shape"),
        ("transformer", {"masks": ["diagonal"]}, "builds no network: 'diagonal'"),
        ("transformer", {"depth": 3}, "builds no network: .*unexpected keyword argument 'depth'"),
        ("dvae", {"encoder": {"patch": 8}}, "builds no network"),
        ("dvae", {"size": 30}, "builds no network: size 30 is no multiple of 8"),
    ],
)
def test_folders_that_do_not_fit(
    part: str, changes: dict[str, Any], reason: str, tiny_dalle_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_dalle_folder, tmp_path / "model"))
    path = folder / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(WeightsError, match=reason) as error:
        Dalle.from_pretrained(folder, device="cpu")
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("part", ["dvae", "transformer", "text_encoder"])
def test_weights_that_are_not_numbers(part: str, tiny_dalle_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_dalle_folder, tmp_path / "model"))
    file = folder / part / "model.safetensors"
    state = load_file(file)
    name = max(state, key=lambda key: state[key].numel())
    state[name].flatten()[0] = torch.nan
    save_file(state, file)
    with pytest.raises(WeightsError, match="NaN or infinite values"):
        Dalle.from_pretrained(folder, device="cpu")
    file.unlink()
    with pytest.raises(WeightsError, match="is missing"):
        Dalle.from_pretrained(folder, device="cpu")


def test_a_model_may_read_by_the_text_encoder_of_another(
    tiny_dalle_folder: Path, tiny_diffusion_folder: Path, tmp_path: Path
) -> None:
    folder, other = tmp_path / "model", tmp_path / "other"
    shutil.copytree(tiny_dalle_folder, folder)
    other.mkdir()
    for part in ("text_encoder", "tokenizer"):
        (folder / part).rename(other / part)
    facts = folder / "salon.json"
    shared = {part: f"../other/{part}" for part in ("text_encoder", "tokenizer")}
    facts.write_text(json.dumps({"shared": shared}))
    sharing, whole = find(str(folder)), find(str(tiny_dalle_folder))
    assert spec_hash(sharing) == spec_hash(whole)
    assert [part.keys() for part in tensors(sharing).values()] == [
        part.keys() for part in tensors(whole).values()
    ]
    drawn = []
    for model in (folder, tiny_dalle_folder):
        with Dalle.from_pretrained(model, device="cpu").begin("a panda", seeds=[1]) as draft:
            draft.step(draft.total)
            drawn.append(draft.pixels())
    assert torch.equal(*drawn)
    for named in ("../nobody", "../../elsewhere"):
        facts.write_text(json.dumps({"shared": {"tokenizer": named}}))
        with pytest.raises(WeightsError, match="there is no such folder"):
            find(str(folder))
    diffusion = Path(shutil.copytree(tiny_diffusion_folder, tmp_path / "diffusion"))
    (diffusion / "salon.json").write_text(json.dumps({"shared": shared}))
    with pytest.raises(WeightsError, match="has all parts in its folder"):
        find(str(diffusion))


def test_folders_of_the_other_kind(
    tiny_dalle_folder: Path, tiny_diffusion_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match="holds no Dalle, but a StableDiffusionPipeline"):
        Dalle.from_pretrained(tiny_diffusion_folder)
    with pytest.raises(WeightsError, match="holds no latent_diffusion model, but a Dalle"):
        LatentDiffusion.from_pretrained(tiny_dalle_folder)
    with pytest.raises(WeightsError, match="has no safety_checker/"):
        Dalle.from_pretrained(tiny_dalle_folder, safety=True)
    folder = Path(shutil.copytree(tiny_dalle_folder, tmp_path / "model"))
    (folder / "transformer" / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="transformer no grid"):
        find(str(folder))


def test_half_precision_files_load_as_float32(tiny_dalle_folder: Path) -> None:
    pipeline = Dalle.from_pretrained(tiny_dalle_folder, device="cpu")
    stored = load_file(tiny_dalle_folder / "transformer" / "model.safetensors")
    for key, value in pipeline.transformer.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, stored[key].float())
