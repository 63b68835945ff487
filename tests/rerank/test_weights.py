import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rerank import Reranker, WeightsError
from rerank.model.weights import load_model

Tensors = dict[str, torch.Tensor]


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder: Path, edit: Callable[[Tensors], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_equal_to_from_pretrained(tiny_clip_folder: Path) -> None:
    from transformers import CLIPModel

    ours = load_model(tiny_clip_folder)
    theirs = CLIPModel.from_pretrained(tiny_clip_folder, dtype=torch.float32)
    state = theirs.state_dict()
    assert ours.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in ours.state_dict().items())
    assert {value.dtype for value in ours.state_dict().values()} == {torch.float32}
    for (name, ours_buffer), (_, theirs_buffer) in zip(
        ours.named_buffers(), theirs.named_buffers(), strict=True
    ):
        assert torch.equal(ours_buffer, theirs_buffer), name
    assert not ours.training


def test_half_precision_config_still_runs_in_fp32(damaged: Path) -> None:
    edit_json(damaged / "config.json", dtype="float16")
    model = load_model(damaged)
    assert model.get_image_features(torch.rand(1, 3, 32, 32)).pooler_output.dtype == torch.float32


def test_loading_leaves_the_global_generator_alone(tiny_clip_folder: Path) -> None:
    before = torch.get_rng_state()
    load_model(tiny_clip_folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_old_position_ids_are_ignored(damaged: Path) -> None:
    def add(tensors: Tensors) -> None:
        tensors["text_model.embeddings.position_ids"] = torch.arange(32)[None]

    edit_tensors(damaged, add)
    assert load_model(damaged).text_model.embeddings.position_ids.shape == (1, 32)


def test_parts_listed_by_an_index(damaged: Path, reranker: Reranker) -> None:
    tensors = load_file(damaged / "model.safetensors")
    (damaged / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for part, keys in (("a.safetensors", names[:9]), ("b.safetensors", names[9:])):
        save_file({key: tensors[key] for key in keys}, damaged / part)
        weight_map |= dict.fromkeys(keys, part)
    index = damaged / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    expected = reranker.score("a panda", image)
    assert Reranker.load(damaged).score("a panda", image) == pytest.approx(expected, abs=1e-6)


PROJECTION = "visual_projection.weight"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop(PROJECTION), f"1 weights are missing: {PROJECTION}"),
        (lambda t: t.update(extra=torch.zeros(1)), "1 weights are not the model's: extra"),
        (
            lambda t: t.update({PROJECTION: torch.zeros(3, 5)}),
            rf"{PROJECTION} \(3, 5\) instead of \(16, 32\)",
        ),
        (
            lambda t: t.update({PROJECTION: torch.full((16, 32), torch.nan)}),
            f"not finite: {PROJECTION}",
        ),
        (
            lambda t: t.update({PROJECTION: torch.zeros(16, 32, dtype=torch.int8)}),
            f"not floats: {PROJECTION}",
        ),
    ],
)
def test_tensors_that_do_not_fit(
    damaged: Path, edit: Callable[[Tensors], None], message: str
) -> None:
    edit_tensors(damaged, edit)
    with pytest.raises(WeightsError, match=message):
        Reranker.load(damaged)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[: len(content) // 2], r"incomplete \({size} of \d+ bytes\)"),
        (lambda _: b"", r"incomplete \({size} of at least 8 bytes\)"),
        (lambda _: b"\x00\x01\x02\x03\x04\x05\x06\x07", "its header claims 506097522914230528"),
        (lambda content: (2**63).to_bytes(8, "little") + content[8:], f"claims {2**63} bytes"),
        (lambda _: b"version https://git-lfs.github.com/spec/v1\noid 0\nsize 9\n", "git lfs pull"),
        (lambda _: b"<!DOCTYPE html><html>Not found</html>", "is a web page, not weights"),
    ],
    ids=["half", "empty", "random", "huge header", "git-lfs pointer", "html"],
)
def test_damaged_weight_files(
    damaged: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    file = damaged / "model.safetensors"
    content = damage(file.read_bytes())
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=message.replace("{size}", str(len(content)))) as error:
        Reranker.load(damaged)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["config.json"], "config.json is missing"),
        (["model.safetensors"], "no model.safetensors"),
        (["preprocessor_config.json"], "preprocessor_config.json is missing"),
        (["tokenizer.json", "merges.txt"], "no tokenizer.json"),
    ],
)
def test_missing_files(damaged: Path, missing: list[str], message: str) -> None:
    for name in missing:
        (damaged / name).unlink()
    with pytest.raises(WeightsError, match=message):
        Reranker.load(damaged)


def test_the_older_tokenizer_files_are_enough(damaged: Path, reranker: Reranker) -> None:
    (damaged / "tokenizer.json").unlink()
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    prompt = "a red panda, left of 2 apples!"
    expected = reranker.score(prompt, image)
    assert Reranker.load(damaged).score(prompt, image) == pytest.approx(expected, abs=1e-6)


def test_another_kind_of_model_is_refused(damaged: Path) -> None:
    edit_json(damaged / "config.json", model_type="blip")
    with pytest.raises(WeightsError, match="'blip', not 'clip' or 'siglip'"):
        Reranker.load(damaged)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"config\.json cannot be read"),
        ("[" * 100_000, r"config\.json cannot be read"),
        ("[]", r"config\.json is not a JSON object"),
        ('{"model_type": "clip", "text_config": 7}', r"config\.json: not a configuration"),
    ],
    ids=["cut off", "deep", "list", "no configuration"],
)
def test_config_that_is_none(damaged: Path, content: str, message: str) -> None:
    (damaged / "config.json").write_text(content)
    with pytest.raises(WeightsError, match=message) as error:
        Reranker.load(damaged)
    assert "\n" not in str(error.value)


def test_text_must_be_read_at_its_end(damaged: Path) -> None:
    config = json.loads((damaged / "config.json").read_text())
    vocab_size, end = config["text_config"]["vocab_size"], config["text_config"]["eos_token_id"]

    # 2 stands for "the highest id", which the end token has here: that is how OpenAI's files are.
    config["text_config"]["eos_token_id"] = 2
    (damaged / "config.json").write_text(json.dumps(config))
    assert end == vocab_size - 1
    Reranker.load(damaged)

    # No text has token 7: every prompt would get the feature of its first token.
    config["text_config"]["eos_token_id"] = 7
    (damaged / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=f"end with token {end}, but .* looks for token 7"):
        Reranker.load(damaged)


def test_tokenizer_larger_than_the_vocabulary(damaged: Path) -> None:
    config = json.loads((damaged / "config.json").read_text())
    vocab_size = config["text_config"]["vocab_size"]
    config["text_config"]["vocab_size"] = vocab_size - 5
    (damaged / "config.json").write_text(json.dumps(config))
    key = "text_model.embeddings.token_embedding.weight"
    edit_tensors(damaged, lambda tensors: tensors.update({key: tensors[key][:-5].contiguous()}))
    with pytest.raises(WeightsError, match=rf"ids up to {vocab_size - 1}.* of {vocab_size - 5}"):
        Reranker.load(damaged)
