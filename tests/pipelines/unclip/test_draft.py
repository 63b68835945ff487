"""The contract of drafts, rule by rule, from the first step of the prior to the last image."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from pipelines.drafts import draw
from pipelines.unclip.draft import UnclipDraft
from pipelines.unclip.image_prompt import ImagePrompt
from pipelines.unclip.pipeline import Unclip
from pipelines.unclip.prior import rank
from pipelines.unclip.stages import ROWS, DecoderStage

pytestmark = pytest.mark.slow

SEEDS = (11, 0, 5, 2**63 - 1)
STEPS: dict[str, Any] = {"prior_steps": 3, "steps": 4}
POOL: dict[str, Any] = {**STEPS, "prior_candidates": 6, "prior_seed": 11}
WAYS = pytest.mark.parametrize("settings", [STEPS, POOL], ids=["own", "pool"])
BOTH = pytest.mark.parametrize("name", ["own", "karlo"])


def max_difference(a: Image.Image | None, b: Image.Image | None) -> int:
    return int(np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max())


def difference(a: list[Image.Image | None], b: list[Image.Image | None]) -> int:
    assert len(a) == len(b)
    return max(map(max_difference, a, b))


@pytest.fixture
def exact(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Unclip:
    """A pipeline whose arithmetic does not depend on the batch, so that rows compare by bits."""
    pipeline: Unclip = request.getfixturevalue(request.getfixturevalue("name"))

    def predict(x: torch.Tensor, t: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor]:
        channels = pipeline.unet.config.out_channels // x.shape[1]
        return (torch.cat([x.clamp(-2, 2) * (0.3 + 0.0005 * t.float())] * channels, dim=1),)

    def enlarge(x: torch.Tensor, t: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        return (x[:, :3] * 0.5 + x[:, 3:] * 0.1,)

    unet = SimpleNamespace(config=pipeline.unet.config, dtype=torch.float32)
    monkeypatch.setattr(pipeline, "unet", _called(unet, predict))
    networks = dict(pipeline._parts.networks)
    for part in networks.keys() & {"super_res_first", "super_res_last"}:
        network = SimpleNamespace(config=networks[part].config, dtype=torch.float32)
        networks[part] = _called(network, enlarge)
    monkeypatch.setattr(pipeline, "_parts", replace(pipeline._parts, networks=networks))
    assert pipeline.prior is not None
    monkeypatch.setattr(
        type(pipeline.prior), "predict", lambda _, x, t, *rest: (x * 0.9).clamp(-1, 1)
    )
    return pipeline


def _called(namespace: SimpleNamespace, function: Callable[..., Any]) -> Any:
    return type("Exact", (), {**vars(namespace), "__call__": staticmethod(function)})()


def begin(pipeline: Unclip, seeds: tuple[int, ...] = SEEDS, **settings: Any) -> UnclipDraft:
    return pipeline.begin("a panda", seeds=seeds, **settings)


def tensors(draft: UnclipDraft) -> list[torch.Tensor]:
    """All that belongs to candidates, in rows."""
    state = draft._open
    found = [t for name in ROWS if (t := getattr(state, name)) is not None]
    if state.drawn is not None and state.drawn.places is None:
        found.append(state.drawn.x)
    return found


@BOTH
@WAYS
def test_alone_as_in_a_batch(
    request: pytest.FixtureRequest, name: str, settings: dict[str, Any]
) -> None:
    pipeline = request.getfixturevalue(name)
    together = draw(begin(pipeline, **settings))
    for seed, image in zip(SEEDS, together, strict=True):
        assert max_difference(draw(begin(pipeline, (seed,), **settings))[0], image) <= 2
    assert max_difference(together[0], together[1]) > 20
    assert difference(together, draw(begin(pipeline, **settings))) == 0


@BOTH
@WAYS
@pytest.mark.parametrize("at", [0, 1, 3, 5, 9])
def test_keep_is_the_full_run(exact: Unclip, name: str, settings: dict[str, Any], at: int) -> None:
    full = begin(exact, **settings)
    at = min(at, full.total - 1)
    kept = begin(exact, **settings)
    if at:
        kept.step(at)
    kept.keep([1, 3])
    full.step(full.total)
    kept.step(kept.total)
    assert kept.seeds == (SEEDS[1], SEEDS[3])
    for whole, part in zip(tensors(full), tensors(kept), strict=True):
        assert torch.equal(whole[[1, 3]], part)


@BOTH
@WAYS
@pytest.mark.parametrize("at", [1, 4])
def test_split_and_join(exact: Unclip, name: str, settings: dict[str, Any], at: int) -> None:
    full, halved = begin(exact, **settings), begin(exact, **settings)
    full.step(full.total)
    halved.step(at)
    first, second = halved.split()
    with pytest.raises(RuntimeError, match="closed"):
        _ = halved.seeds
    second.step()
    first.step()
    first.join(second)
    first.step(first.total)
    assert first.seeds == SEEDS
    for whole, part in zip(tensors(full), tensors(first), strict=True):
        assert torch.equal(whole, part)


@BOTH
def test_a_step_that_raises_changes_nothing(
    exact: Unclip, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in (1, 4):
        draft, expected = begin(exact, **STEPS), begin(exact, **STEPS)
        expected.step(expected.total)
        draft.step(at)
        stage, _ = draft._place(at)
        with monkeypatch.context() as patch:
            calls = iter([None])

            def break_second(*given: Any, real: Any = stage.step, left: Any = calls) -> Any:
                if next(left, 0) == 0:
                    raise MemoryError("no room")
                return real(*given)

            patch.setattr(type(stage), "step", lambda self, *a, f=break_second: f(*a))
            with pytest.raises(MemoryError):
                draft.step(2)
        assert draft.done == at
        draft.step(draft.total)
        for whole, part in zip(tensors(expected), tensors(draft), strict=True):
            assert torch.equal(whole, part)


@BOTH
def test_branches_share_the_past(exact: Unclip, name: str) -> None:
    draft = begin(exact, SEEDS[:2], **STEPS)
    draft.step(4)
    before = tensors(draft)
    draft.branch([0, 0, 1], [11, 99, 0])
    for whole, part in zip(before, tensors(draft), strict=True):
        assert torch.equal(whole[[0, 0, 1]], part)
    plain = begin(exact, SEEDS[:2], **STEPS)
    plain.step(plain.total)
    draft.step(draft.total)
    latents, expected = draft._open.latents, plain._open.latents
    assert latents is not None
    assert expected is not None
    assert torch.equal(latents[[0, 2]], expected)
    if name == "karlo":  # ours draws no noise on the way
        assert not torch.equal(latents[0], latents[1])


@BOTH
def test_previews(request: pytest.FixtureRequest, name: str) -> None:
    pipeline: Unclip = request.getfixturevalue(name)
    draft = begin(pipeline, **STEPS)
    draft.step(3)
    assert draft.preview() is None
    assert draft.embeddings is not None
    with pytest.raises(RuntimeError, match="nothing to complete"):
        draft.completed()
    draft.step()
    rough, sharp = draft.preview([1]), draft.preview(exact=True)
    assert rough is not None
    assert rough[0] is not None
    assert rough[0].size == (pipeline.spec.defaults["width"],) * 2
    assert sharp is not None
    assert len(sharp) == len(draft.completed()) == len(SEEDS)
    draft.step(draft.total)
    last = draft.preview(exact=True)
    assert last is not None
    assert difference(last, draft.images()) == 0
    assert draft.pixels().shape[:2] == (4, 3)


def test_what_is_not_finite_has_failed(own: Unclip) -> None:
    draft = begin(own, SEEDS[:2], **STEPS)
    draft.step(draft.total)
    latents = draft._open.latents
    assert latents is not None
    spoilt = torch.stack([latents[0], torch.full_like(latents[1], torch.nan)])
    draft._state = replace(draft._open, latents=spoilt)
    assert [image is None for image in draft.images()] == [False, True]
    assert draft.failed == {0: "the network made values that are not finite"}


def test_closing_frees_the_state(own: Unclip) -> None:
    draft = begin(own, **STEPS)
    draft.step(4)
    held = weakref.ref(draft._open)
    draft.close()
    gc.collect()
    assert held() is None
    with pytest.raises(RuntimeError, match="closed"):
        draft.step()


# --- embeddings ---


def cosines(pipeline: Unclip, draft: UnclipDraft) -> torch.Tensor:
    assert pipeline.prior is not None
    text = pipeline.prior.reader.read("a panda").embedding
    assert text is not None
    assert draft.embeddings is not None
    return functional.cosine_similarity(draft.embeddings, text)


def test_each_candidate_takes_the_nearer_of_its_embeddings(own: Unclip) -> None:
    """Article, §2.2. The first is what a candidate draws alone."""
    one, two = (begin(own, **STEPS, prior_draws=draws) for draws in (1, 2))
    for draft in (one, two):
        draft.step(3)
    near, nearer = cosines(own, one), cosines(own, two)
    assert (nearer >= near - 1e-7).all()
    assert (nearer > near + 1e-6).any()


def test_a_pool_is_ranked_and_its_places_are_taken_in_turn(own: Unclip) -> None:
    seeds = tuple(range(11, 19))
    draft = begin(own, seeds, **POOL)
    draft.step(3)
    first, embeddings = cosines(own, draft), draft.embeddings
    assert embeddings is not None
    assert int(first.argmax()) == 0  # the nearest is taken first
    assert torch.pdist(embeddings[:6]).min() > 0  # no two are the same one
    assert torch.equal(embeddings[6:], embeddings[:2])  # more candidates than embeddings
    alone = begin(own, (13,), **POOL)
    alone.step(3)
    assert alone.embeddings is not None
    assert torch.allclose(alone.embeddings[0], embeddings[2], atol=1e-5)


def test_ranking_is_of_what_is_near_and_different() -> None:
    embeddings = torch.tensor([[1.0, 0.1], [1.0, 0.11], [0.9, -0.6], [0.6, -0.9]])
    order = rank(torch.tensor([0.9, 0.89, 0.87, 0.3]), embeddings)
    assert order == [0, 2, 1, 3]  # the twin of the best comes after what is nearly as near


def test_given_embeddings_need_no_prior(own: Unclip, picture: Image.Image) -> None:
    given = ImagePrompt((picture,))
    draft = begin(own, images=given, steps=4)
    assert draft.total == 4
    images = draw(draft)
    assert max_difference(images[0], images[1]) > 20
    again = draw(own.begin("something else", seeds=SEEDS, images=given, steps=4))
    assert difference(images, again) == 0  # the decoder reads no text beside an image
    read = draw(begin(own, images=given, steps=4, decoder_text=True))
    assert difference(images, read) > 2


def test_the_embedding_is_followed_apart_from_the_prompt(own: Unclip, picture: Image.Image) -> None:
    def drawn(w: float, other: Image.Image) -> list[Image.Image | None]:
        settings = {"decoder_text": True, "image_guidance": w, "images": ImagePrompt((other,))}
        return draw(begin(own, SEEDS[:2], steps=4, **settings))

    turned = picture.transpose(Image.Transpose.ROTATE_90)
    assert difference(drawn(0, picture), drawn(0, turned)) == 0  # by the prompt alone
    assert difference(drawn(50, picture), drawn(50, turned)) > 2
    assert difference(drawn(1, picture), drawn(50, picture)) > 2


def test_without_an_image_s_weight_it_draws_as_by_text(own: Unclip) -> None:
    x_t, t = torch.randn(2, own.unet.config.in_channels, 8, 8), torch.tensor(500)
    stage = begin(own, SEEDS[:2], **STEPS, image_guidance=0)._stages[-1]
    assert isinstance(stage, DecoderStage)
    assert stage.texts is not None
    told = torch.randn(2, own.decoder.image_tokens.config.embedding_dim)
    with torch.inference_mode():
        guided = stage.predict(x_t, t, told)
        without, with_text = (
            own.unet(x_t, t, text.hidden.expand(2, -1, -1), return_dict=False)[0]
            for text in (stage.texts.negative, stage.texts.prompt)
        )
    expected = without + stage.guidance * (with_text - without)
    assert torch.allclose(guided, expected, atol=1e-4)


def test_values_that_cannot_be(own: Unclip) -> None:
    for settings, rule in (
        ({"width": 60}, "width is 60; it must be a multiple of 8"),
        ({"guidance": float("nan")}, "guidance is nan; it must be a finite number"),
        ({"image_guidance": float("inf")}, "image_guidance is inf; it must be a finite number"),
        ({"prior_steps": 1}, "takes 2 or more"),
        ({"seeds": []}, "seeds must be one or more"),
    ):
        with pytest.raises(ValueError, match=rule):
            own.begin("a panda", **{"seeds": [1], **settings})
    with pytest.raises(TypeError, match="no setting sampler"):
        own.begin("a panda", seeds=[1], sampler="ddim")  # type: ignore[call-arg]


# --- images in the place of the prompt ---


def test_mixes_begin_and_end_at_their_images(own: Unclip, picture: Image.Image) -> None:
    other = picture.transpose(Image.Transpose.ROTATE_90)

    def mixed(*images: Image.Image, at: float | None = None) -> list[Image.Image | None]:
        return draw(begin(own, SEEDS[:2], images=ImagePrompt(images, at), steps=4))

    assert difference(mixed(picture, other, at=0), mixed(picture)) <= 2
    assert difference(mixed(picture, other, at=1), mixed(other)) <= 2
    assert difference(mixed(picture, other), mixed(picture, other, at=0.5)) == 0
    a, b, middle = (own._turned(ImagePrompt((picture, other), at)) for at in (0, 1, 0.5))
    assert functional.cosine_similarity(middle, a) == pytest.approx(
        float(functional.cosine_similarity(middle, b)), abs=1e-5
    )
    assert float(middle.norm()) == pytest.approx(float(a.norm() + b.norm()) / 2, rel=1e-4)


@BOTH
def test_an_inverted_image_comes_back(
    exact: Unclip, name: str, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing changed and no noise of its own, an image is what it was."""
    if exact._parts.image_processor is None:
        return  # Karlo's folder reads no images
    monkeypatch.setattr("pipelines.unclip.stages.SPREAD", 0.0)
    monkeypatch.setattr(exact.unet, "__class__", _linear(exact))
    images = ImagePrompt((picture,), at=0, toward="a panda", away_from="a panda on the left")
    draft = begin(exact, SEEDS[:2], images=images, steps=60, guidance=1.0)
    assert draft.total == 59 + 60
    draft.step(draft.total)
    latents, image = draft._open.latents, exact._encode(picture, (4, 8, 8), (64, 64))
    assert latents is not None
    assert (latents - image).abs().mean() < 0.05 * image.abs().mean()


def _linear(pipeline: Unclip) -> type:
    """A UNet whose noise changes little from step to step."""
    kind = type(pipeline.unet)

    def predict(self: Any, x: torch.Tensor, t: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        return (0.1 * x,)

    return type("Linear", (kind,), {"__call__": predict})


def test_words_change_an_image(own: Unclip, picture: Image.Image) -> None:
    def changed(at: float | None, toward: str) -> torch.Tensor:
        return own._turned(ImagePrompt((picture,), at, toward, "a red balloon"))

    assert own.reader is not None
    texts = [own.reader.read(t).embedding for t in ("a panda", "a red balloon")]
    difference = functional.normalize(texts[0]) - functional.normalize(texts[1])
    assert functional.cosine_similarity(changed(1.0, "a panda"), difference) > 0.999
    assert functional.cosine_similarity(changed(0.0, "a panda"), own.embed([picture])) > 0.999
    with pytest.raises(ValueError, match="mix and toward each say"):
        ImagePrompt((picture, picture), toward="a cat")
    with pytest.raises(ValueError, match="mix_at is 2; it must be from 0 to 1"):
        ImagePrompt((picture, picture), at=2)
