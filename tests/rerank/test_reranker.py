import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rerank import BadImageError, Ranked, Reranker, rank
from rerank.model import towers
from rerank.model.encoding import CACHED_TEXTS
from rerank.model.weights import Model

pytestmark = pytest.mark.slow

PROMPTS = ("a red panda", "two blue apples, left of a balloon!", "Ünïcødé 🐼", "")
SIZES = [(32, 32), (33, 32), (64, 64), (200, 77), (77, 200), (17, 23), (640, 480)]


def noise(count: int, width: int = 32, height: int = 32, seed: int = 0) -> np.ndarray:
    """(count, height, width, 3) uint8 with smooth colours."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    sized = [Image.fromarray(each).resize((width, height)) for each in coarse]
    return np.stack([np.array(each) for each in sized])


def as_tensor(arrays: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(arrays).permute(0, 3, 1, 2)


def test_equal_to_transformers(tiny_clip_folder: Path) -> None:
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    images = [Image.fromarray(noise(1, *size)[0]) for size in SIZES]
    model = CLIPModel.from_pretrained(tiny_clip_folder, dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(tiny_clip_folder)
    processor = CLIPImageProcessorPil.from_pretrained(tiny_clip_folder)
    with torch.no_grad():
        expected = model(
            **tokenizer(list(PROMPTS), padding=True, return_tensors="pt"),
            pixel_values=processor(images, return_tensors="pt")["pixel_values"],
        )
    cosines = expected.text_embeds @ expected.image_embeds.T
    assert cosines.std() > 0.01  # else being equal would mean nothing

    reranker = Reranker.load(tiny_clip_folder, "cpu", exact=True)
    ours = reranker.similarity(PROMPTS, images)
    torch.testing.assert_close(ours, cosines, atol=1e-5, rtol=0)
    for row, prompt in enumerate(PROMPTS):
        logits = torch.tensor(reranker.logits(prompt, images))
        torch.testing.assert_close(logits, expected.logits_per_text[row], atol=1e-3, rtol=0)


def test_every_kind_of_image_has_the_same_score(reranker: Reranker, tmp_path: Path) -> None:
    arrays = noise(3)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for array, path in zip(arrays, paths, strict=True):
        Image.fromarray(array).save(path)
    scores = reranker.score("a panda", arrays)
    assert len(set(scores)) == 3
    assert all(-1 <= score <= 1 and isinstance(score, float) for score in scores)
    for images in (
        as_tensor(arrays),
        list(as_tensor(arrays)),
        [Image.fromarray(array) for array in arrays],
        paths,
        [str(path) for path in paths],
        (Image.open(path) for path in paths),
        [arrays[0], paths[1], as_tensor(arrays)[2]],
        [reranker.prepare(path) for path in paths],
    ):
        assert reranker.score("a panda", images) == scores


def test_resized_tensors_score_as_resized_images(reranker: Reranker) -> None:
    for width, height in SIZES:
        arrays = noise(2, width, height)
        by_pil = reranker.score("a panda", arrays)
        by_torch = reranker.score("a panda", as_tensor(arrays))
        assert by_torch == pytest.approx(by_pil, abs=1e-4)  # single pixels differ by 1 of 255


def test_scores_do_not_depend_on_the_batch(reranker: Reranker) -> None:
    arrays = noise(70)
    alone = [reranker.score("a panda", [array])[0] for array in arrays]
    assert reranker.score("a panda", arrays) == pytest.approx(alone, abs=1e-6)
    assert reranker.score("a panda", as_tensor(arrays)) == pytest.approx(alone, abs=1e-6)


def test_no_images(reranker: Reranker) -> None:
    assert reranker.score("a panda", []) == []
    assert reranker.score("a panda", torch.zeros(0, 3, 32, 32, dtype=torch.uint8)) == []
    assert reranker.top_k("a panda", [], 4) == []
    assert reranker.similarity([], []).shape == (0, 0)
    assert reranker.similarity(["a", "b"], []).shape == (2, 0)
    assert reranker.similarity([], noise(3)).shape == (0, 3)


@pytest.mark.parametrize("images", ["a.png", Path("a.png"), Image.new("RGB", (4, 4)), b"png"])
def test_one_image_instead_of_a_list(reranker: Reranker, images: object) -> None:
    with pytest.raises(ValueError, match="a list of images"):
        reranker.score("a panda", images)  # type: ignore[arg-type]


def test_one_text_instead_of_a_list(reranker: Reranker) -> None:
    with pytest.raises(ValueError, match="a list of texts"):
        reranker.similarity("a panda", noise(1))


# ---- ranking


def test_top_k(reranker: Reranker) -> None:
    arrays = noise(9)
    scores = reranker.score("a panda", arrays)
    order = sorted(range(9), key=lambda i: -scores[i])
    best = reranker.top_k("a panda", arrays, 4)
    assert [ranked.index for ranked in best] == order[:4]
    assert [ranked.score for ranked in best] == pytest.approx([scores[i] for i in order[:4]])
    assert [ranked.index for ranked in reranker.top_k("a panda", arrays, 100)] == order


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one(reranker: Reranker, k: int) -> None:
    with pytest.raises(ValueError, match=f"k is {k}"):
        reranker.top_k("a panda", noise(2), k)


def test_copies_keep_their_order(reranker: Reranker) -> None:
    # The same image gets another last digit at another place in the batch.
    array = noise(2)
    copies = np.stack([array[i % 2] for i in range(77)])
    indices = [ranked.index for ranked in reranker.top_k("a panda", copies, 77)]
    assert sorted((list(range(0, 77, 2)), list(range(1, 77, 2)))) == sorted(
        (indices[: 39 - indices[0]], indices[39 - indices[0] :])
    )


def test_rank() -> None:
    nan, infinity = math.nan, math.inf
    scores = [0.1, nan, 0.3, 0.1 + 1e-8, -infinity, 0.3, infinity, -1.0]
    assert [ranked.index for ranked in rank(scores)] == [2, 5, 0, 3, 7]
    assert rank([0.5]) == [Ranked(index=0, score=0.5)]
    assert rank([nan]) == rank([]) == []


def test_a_image_without_a_finite_score_is_seen_and_never_ranked(
    reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = towers.image_features

    def fail_on_black(model: Model, pixels: torch.Tensor) -> torch.Tensor:
        features = original(model, pixels)
        features[(pixels < -1).flatten(1).all(1)] = torch.nan
        return features

    monkeypatch.setattr(towers, "image_features", fail_on_black)
    arrays = noise(5)
    others = reranker.score("a panda", arrays[[0, 1, 3, 4]])
    arrays[2] = 0
    scores = reranker.score("a panda", arrays)
    assert math.isnan(scores[2])
    assert scores[:2] + scores[3:] == pytest.approx(others, abs=1e-6)
    ranked = reranker.top_k("a panda", arrays, 5)
    assert {each.index for each in ranked} == {0, 1, 3, 4}
    assert math.isnan(reranker.logits("a panda", arrays)[2])


# ---- texts


def test_texts_are_remembered(reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    first = reranker.score("a panda on the left", noise(2))
    monkeypatch.setattr(reranker, "_encode_texts", None)
    assert reranker.score("a panda on the left", noise(2)) == first


def test_memory_for_texts_is_bounded(tiny_clip_folder: Path) -> None:
    reranker = Reranker.load(tiny_clip_folder, device="cpu")
    reranker._texts = {str(i): torch.zeros(16) for i in range(CACHED_TEXTS)}
    reranker.text_features(["0", "a panda"])
    assert len(reranker._texts) == CACHED_TEXTS
    assert "a panda" in reranker._texts
    assert "0" not in reranker._texts


def test_texts_do_not_depend_on_the_batch(tiny_clip_folder: Path) -> None:
    together = Reranker.load(tiny_clip_folder, device="cpu").text_features(PROMPTS)
    reranker = Reranker.load(tiny_clip_folder, device="cpu")
    alone = torch.cat([reranker.text_features([prompt]) for prompt in PROMPTS])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(PROMPTS)))


def test_short_texts_are_one_chunk(reranker: Reranker) -> None:
    assert reranker.chunks("a red panda") == ["a red panda"]
    assert reranker.chunks("") == [""]
    full = " ".join(["apple"] * (reranker.context - 2))
    assert reranker.chunks(full) == [full]
    assert reranker.chunks(full + " apple") == [full, "apple"]


def test_long_texts_are_the_weighted_mean_of_their_chunks(reranker: Reranker) -> None:
    text = "a red panda on the left of a blue balloon, " * 6
    chunks = reranker.chunks(text)
    assert len(chunks) > 2
    assert " ".join(chunks).split() == text.split()
    features = reranker.text_features(chunks)
    lengths = [len(reranker._reader.tokenizer(chunk).input_ids) for chunk in chunks]
    assert max(lengths) <= reranker.context
    mean = sum(length * feature for length, feature in zip(lengths, features, strict=True))
    expected = mean / mean.norm()
    torch.testing.assert_close(reranker.text_features([text])[0], expected, atol=1e-5, rtol=0)
    # What comes after the context counts.
    ends = [text + word for word in ("apple", "panda")]
    assert not torch.allclose(*reranker.text_features(ends), atol=1e-4)


def test_a_word_longer_than_the_context_is_cut(reranker: Reranker) -> None:
    word = "xyz" * 40
    chunks = reranker.chunks(word)
    assert "".join(chunks) == word
    assert all(len(chunk) <= reranker.context - 2 for chunk in chunks)
    assert math.isfinite(reranker.score(word, noise(1))[0])


# ---- devices


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x"])
def test_devices_that_are_not_there(tiny_clip_folder: Path, device: str) -> None:
    with pytest.raises(ValueError, match=f"no device '{device}' here"):
        Reranker.load(tiny_clip_folder, device=device)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.fault("one seed, every batch and device")
def test_gpu_scores_are_those_of_the_cpu(tiny_clip_folder: Path, reranker: Reranker) -> None:
    on_gpu = Reranker.load(tiny_clip_folder, device="cuda")
    for size in SIZES:
        tensor = as_tensor(noise(4, *size))
        expected = reranker.score("a red panda", tensor)
        assert on_gpu.score("a red panda", tensor.cuda()) == pytest.approx(expected, abs=1e-3)
        assert on_gpu.score("a red panda", tensor) == pytest.approx(expected, abs=1e-3)
    arrays = noise(4)
    expected = reranker.score("a red panda", arrays)
    assert on_gpu.score("a red panda", arrays) == pytest.approx(expected, abs=1e-4)


# ---- many images


def test_encoded_images_take_the_place_of_images(reranker: Reranker) -> None:
    arrays = noise(5)
    encoded = reranker.encode(arrays)
    assert len(encoded) == 5
    assert reranker.encode(encoded) is encoded
    assert reranker.score("a panda", encoded) == reranker.score("a panda", arrays)
    assert reranker.top_k("a panda", encoded, 2) == reranker.top_k("a panda", arrays, 2)


def test_a_folder_and_bytes(reranker: Reranker, tmp_path: Path) -> None:
    arrays = noise(3)
    for number, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / f"{number}.png")
    expected = reranker.score("a panda", arrays)
    assert reranker.score("a panda", tmp_path) == expected
    assert reranker.score("a panda", str(tmp_path)) == expected
    assert (
        reranker.score("a panda", [p.read_bytes() for p in sorted(tmp_path.iterdir())]) == expected
    )


def test_floats_score_as_bytes(reranker: Reranker) -> None:
    tensor = as_tensor(noise(3))
    assert reranker.score("a panda", tensor.float() / 255) == reranker.score("a panda", tensor)


def test_bad_images_are_raised_or_skipped(reranker: Reranker, tmp_path: Path) -> None:
    array = noise(1)[0]
    images = [array, tmp_path / "gone.png", array, b"nothing"]
    with pytest.raises(BadImageError, match=r"gone\.png"):
        reranker.score("a panda", images)
    encoded = reranker.encode(images, skip_bad=True)
    assert list(encoded.failed) == [1, 3]
    assert "no such image file" in encoded.failed[1]
    ranking = reranker.top_k("a panda", encoded, 9)
    assert [each.index for each in ranking] == [0, 2]
    assert ranking.failed == encoded.failed


def test_progress(reranker: Reranker) -> None:
    for images in (noise(40), as_tensor(noise(40))):
        done: list[int] = []
        reranker.score("a panda", images, progress=done.append)
        assert done[-1] == 40
        assert len(done) > 1


def test_memory_running_out_is_healed(
    tiny_clip_folder: Path, reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = Reranker.load(tiny_clip_folder, "cpu")
    encode, sizes = towers.image_features, []

    def short_of_memory(model: Model, pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        if len(pixels) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(model, pixels)

    expected = reranker.score("a panda", noise(40))
    monkeypatch.setattr(towers, "image_features", short_of_memory)
    assert fresh.score("a panda", noise(16)) == pytest.approx(expected[:16], abs=1e-6)
    assert sizes[:4] == [16, 8, 4, 2]
    assert max(sizes[4:]) == 2  # what did not fit is not tried again

    sizes.clear()
    assert fresh.score("a panda", noise(40)) == pytest.approx(expected, abs=1e-6)
    assert set(sizes) == {2}  # and never again

    sizes.clear()
    fresh = Reranker.load(tiny_clip_folder, "cpu")  # whose cores find it out at the same time
    assert fresh.score("a panda", noise(40)) == pytest.approx(expected, abs=1e-6)
    assert set(sizes) == {16, 8, 4, 2}

    def no_memory(model: Model, pixels: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    monkeypatch.setattr(towers, "image_features", no_memory)
    with pytest.raises(RuntimeError, match="can't allocate"):
        fresh.score("a panda", noise(4))


def test_the_class_token_is_that_of_the_whole_network(reranker: Reranker) -> None:
    pixels = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = reranker._model.vision_model(pixels).pooler_output
        ours = towers.class_token(reranker._model, pixels)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


# ---- labels and templates


def test_classes_are_the_softmax_of_the_logits(reranker: Reranker) -> None:
    labels = ["a panda", "an apple", "a balloon"]
    arrays = noise(4)
    logits = torch.tensor([reranker.logits(label, arrays) for label in labels])
    expected = logits.softmax(0).T
    for row, found in zip(expected, reranker.classify(arrays, labels), strict=True):
        assert found == pytest.approx(dict(zip(labels, row.tolist(), strict=True)), abs=1e-6)
        assert list(found.values()) == sorted(found.values(), reverse=True)
    for wrong in ([], ["a", "a"]):
        with pytest.raises(ValueError, match="labels are different texts"):
            reranker.classify(arrays, wrong)


def test_templates_are_the_mean_of_their_features(reranker: Reranker) -> None:
    templates = ["a {}", "the {} on the left", "{}, red"]
    features = reranker.text_features([t.replace("{}", "panda") for t in templates])
    mean = features.mean(0)
    [found] = reranker.text_features(["panda"], templates)
    torch.testing.assert_close(found, mean / mean.norm())
    scores = reranker.score("panda", noise(2), templates=templates)
    assert scores == pytest.approx((reranker.image_features(noise(2)) @ found).tolist(), abs=1e-6)
    for wrong in (["no place"], ["{} and {}"], "a {}"):
        with pytest.raises(ValueError, match="template"):
            reranker.text_features(["panda"], wrong)


def test_the_ranking_says_in_how_many_parts_a_prompt_was_scored(reranker: Reranker) -> None:
    assert reranker.top_k("a panda", noise(1), 1).chunks == 1
    assert reranker.top_k("a red panda " * 20, noise(1), 1).chunks > 1


def test_check_and_claims(reranker: Reranker) -> None:
    prompt = "two red apples to the left of a cat"
    checked = reranker.check(prompt, noise(2))
    assert [[v.claim for v in each.results] for each in checked] == [
        list(reranker.claims(prompt).claims)
    ] * 2
    for image, each in zip(noise(2), checked, strict=True):
        before, after = (reranker.score(text, [image])[0] for text in (prompt, each.corrected))
        assert after >= before
        assert (after == before) == all(verdict.holds for verdict in each.results)
