"""Model folders that strangers made: JSON, links, tokenizers and headers are bounded and typed.

The three loaders share what is tested here; each case ends in one line, and in little time.
"""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import rerank.model.specs
from pipelines.checkpoints.configs import MAX_BYTES, parse_json, read_config, read_json
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.headers import read_header, shards
from pipelines.checkpoints.loading import load_tokenizer
from pipelines.checkpoints.specs import Lora, read_adapters, split_names
from pipelines.checkpoints.tokenizer_files import is_quick
from pipelines.diffusion.embeddings import read_words
from pipelines.diffusion.lora import Settings, Target, merge
from pipelines.diffusion.networks import load_networks
from pipelines.families import find

CPU = torch.device("cpu")
UNET = Path("unet") / "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tiny_diffusion_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_diffusion_folder, tmp_path / "model"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(folder: Path) -> str:
    with pytest.raises(WeightsError) as error:
        load_networks(find(str(folder)), CPU, torch.float32)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("depth", [250, 1000, 100_000])
@pytest.mark.parametrize(
    "file",
    [
        "model_index.json",
        "unet/config.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/tokenizer.json",
        "salon.json",
    ],
)
def test_deep_json(folder: Path, file: str, depth: int) -> None:
    (folder / file).write_text('{"a":' + "[" * depth + "]" * depth + "}")
    assert f"{file} cannot be read: recursion limit exceeded" in refusal(folder)


def test_what_json_may_be(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"low": -Infinity, "big": 1000000000000000019884624838656}')
    assert read_json(path) == {"low": float("-inf"), "big": 1000000000000000019884624838656}
    path.write_bytes(b'{"a": "' + b"x" * MAX_BYTES + b'"}')
    with pytest.raises(ValueError, match="more than 4194304 bytes"):
        read_json(path)
    for text in ("", "{", "[1]", '{"a": ' + "1" * 5000 + "}", '{"a": \ud800}', '{"a": 1} x'):
        with pytest.raises(ValueError, match=r"\w"):
            parse_json(text)


@pytest.mark.parametrize(
    ("file", "entry", "reason"),
    [
        ("unet/config.json", {"sample_size": "64"}, "sample_size"),
        ("unet/config.json", {"sample_size": [64]}, "sample_size"),
        ("unet/config.json", {"sample_size": -1}, "sample_size"),
        ("unet/config.json", {"in_channels": [4]}, "in_channels"),
        ("vae/config.json", {"block_out_channels": 8}, "block_out_channels"),
        ("scheduler/scheduler_config.json", {"_class_name": ["DDIMScheduler"]}, "_class_name"),
        ("salon.json", {"defaults": 5}, "defaults"),
        ("salon.json", {"context": "77"}, "context"),
        ("pulled.json", {"licence": ["mit"]}, "licence"),
        ("pulled.json", {"files": {"a": "b"}}, "files"),
    ],
)
def test_entries_of_another_type(
    folder: Path, file: str, entry: dict[str, Any], reason: str
) -> None:
    path = folder / file
    path.write_text(
        json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **entry})
    )
    said = refusal(folder)
    assert file in said
    assert reason in said


@pytest.mark.parametrize(
    ("part", "entry"),
    [
        ("text_encoder", {"num_hidden_layers": 10**9}),
        ("unet", {"layers_per_block": 10**9}),
        ("unet", {"transformer_layers_per_block": [[1, 10**9]]}),
        ("vae", {"block_out_channels": [8] * 2000}),
    ],
)
def test_networks_without_end_are_not_built(folder: Path, part: str, entry: Any) -> None:
    edit(folder / part / "config.json", **entry)
    with pytest.raises(WeightsError, match=r"more than 1000 layers|block_out_channels"):
        read_config(folder / part / "config.json")
    refusal(folder)


def test_ids_beyond_the_vocabulary(folder: Path) -> None:
    path = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["panda</w>"] = 10**6
    path.write_text(json.dumps(content))
    assert "the tokenizer has ids up to 1000000, text_encoder vocab_size is" in refusal(folder)


def test_expressions_of_tokenizers(folder: Path, tiny_clip_folder: Path, tmp_path: Path) -> None:
    clip = Path(shutil.copytree(tiny_clip_folder, tmp_path / "clip"))
    for path in (folder / "tokenizer" / "tokenizer.json", clip / "tokenizer.json"):
        content = json.loads(path.read_text())
        split = {"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Removed"}
        content["pre_tokenizer"] = {**split, "invert": False}
        path.write_text(json.dumps(content))
    assert "splits texts by '(a+)+b', which may take for ever" in refusal(folder)
    from rerank import Reranker

    with pytest.raises(WeightsError, match="may take for ever"):
        Reranker.load(clip, device="cpu")


# GPT-2's, Llama 3's, GPT-4o's, CLIP's and DeepSeek's.
PUBLIC = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{M}]*[\p{Ll}\p{Lm}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+",
    " {2,}",
)
ENDLESS = ("(a+)+b", "(a|a)*b", "(?:a*)*", "a*a*a*a*b", "((a+))+", "((a|b))+", "(a+){20}", "(a+",
           r"(?<n>a+)+", r"(?:(?:a|b)+)*", "[" * 4000, r"[a\]", "a" * 5000)  # fmt: skip


def test_which_expressions_are_quick() -> None:
    assert [pattern for pattern in PUBLIC if not is_quick(pattern)] == []
    assert [pattern for pattern in ENDLESS if is_quick(pattern)] == []


@pytest.mark.parametrize("where", [".", "unet"])
def test_links_that_leave_the_folder(folder: Path, tmp_path: Path, where: str) -> None:
    outside = tmp_path / "secret.json"
    outside.write_text("{}")
    (folder / where / "more.json").symlink_to(outside)
    with pytest.raises(WeightsError, match="a link that leads out of the model folder"):
        find(str(folder))
    (folder / where / "more.json").unlink()
    (folder / where / "more.json").symlink_to(folder / "model_index.json")
    assert find(str(folder)).kind == "latent_diffusion"
    (tmp_path / "name").symlink_to(folder)
    assert find(str(tmp_path / "name")).kind == "latent_diffusion"


def test_links_of_a_reranker_that_leave_the_folder(tiny_clip_folder: Path, tmp_path: Path) -> None:
    clip = Path(shutil.copytree(tiny_clip_folder, tmp_path / "clip"))
    (clip / "more.json").symlink_to("/etc/hostname")
    with pytest.raises(WeightsError, match="a link that leads out of the model folder"):
        rerank.model.specs.find(clip)


def test_pipes_are_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "unet" / "waits.json")
    with pytest.raises(WeightsError, match=r"waits\.json is neither a file nor a folder"):
        find(str(folder))


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [10**4000] * 3, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1] * 1000, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]},
        {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]},
        {"dtype": 7, "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
    ],
)
def test_headers_of_other_types(tmp_path: Path, entry: dict[str, Any]) -> None:
    header = json.dumps({"a": entry}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(WeightsError, match="its header is not readable"):
        read_header(path)


def test_names_that_are_none() -> None:
    for name in ("~nobody", "a\0b", "x" * 10_000, ""):
        with pytest.raises(WeightsError, match="no model"):
            find(name)
        with pytest.raises(WeightsError, match="no model or folder"):
            rerank.model.specs.find(name)


def test_names_with_commas(tmp_path: Path) -> None:
    both = [tmp_path / "a, b.safetensors", tmp_path / "c.safetensors"]
    for path in both:
        path.touch()
    text = f"{both[0]}:0.5, {both[1]}"
    assert [lora.path for lora in read_adapters(text, None, None).loras] == both
    assert read_adapters(read_adapters(text, None, None).texts["lora"], None, None).paths == (
        *both,
    )
    assert split_names("stickers, stickers-dalle,") == ["stickers", "stickers-dalle"]
    for weight in ("nan", "inf", "-inf", "1e999"):
        with pytest.raises(ValueError, match="must be a number"):
            read_adapters(f"{both[1]}:{weight}", None, None)
    with pytest.raises(ValueError, match="at most 100"):
        split_names("," * 200)


def test_folders_where_files_are_expected(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "pytorch_lora_weights.safetensors").touch()
    [lora] = read_adapters(f"{tmp_path / 'one'}:0.5", None, None).loras
    assert (lora.path.name, lora.weight) == ("pytorch_lora_weights.safetensors", 0.5)
    (tmp_path / "none.safetensors").mkdir()
    with pytest.raises(WeightsError, match=r"a folder with 0 \.safetensors files"):
        read_adapters(None, None, str(tmp_path / "none.safetensors"))
    with pytest.raises(WeightsError, match="is no file"):
        read_header(tmp_path / "none.safetensors")


def test_embeddings_without_end(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for state in ({"emb_params": torch.zeros(76, 4)}, {"a": torch.zeros(2, 2, 2)},
                  {str(i): torch.zeros(1) for i in range(1001)}):  # fmt: skip
        save_file(state, path)
        with pytest.raises(WeightsError, match="holds no words"):
            read_words(path)
    save_file({"<s1>": torch.zeros(4), "<s2>": torch.zeros(75, 4)}, path)
    assert [word.text for word in read_words(path)] == ["<s1>", "<s2>"]


def test_a_lora_of_a_rank_beyond_its_layer_is_not_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = load_networks(find(str(folder)), CPU, torch.float32).unet
    name, layer = next((n, m) for n, m in unet.named_modules() if isinstance(m, torch.nn.Linear))
    out, into = layer.weight.shape
    path = tmp_path / "a.safetensors"

    def write(rank: int) -> None:
        state = {"A": torch.zeros(rank, into), "B": torch.zeros(out, rank)}
        save_file({f"unet.{name}.lora_{half}.weight": t for half, t in state.items()}, path)

    write(64)  # more than a layer of this size has, and no harm
    merge([Lora(path, 1.0)], {"unet": unet})
    write(100_000)
    monkeypatch.setattr("pipelines.diffusion.lora.read_tensor", pytest.fail)
    with pytest.raises(WeightsError, match=r"does not fit this model.*down \[100000, "):
        merge([Lora(path, 1.0)], {"unet": unet})


def test_what_peft_says_is_bounded() -> None:
    target = Target("unet", "a")
    for said in ({"r": 10**400, "lora_alpha": 10**400}, {"r": -1, "lora_alpha": float("nan")}):
        settings = Settings(said)
        assert (settings.rank(target), settings.alpha(target)) == (None, None)
    assert Settings({"r": 8, "lora_alpha": 16}).alpha(target) == 16


def split_into_shards(path: Path, pattern: str) -> None:
    state = load_file(path)
    keys = sorted(state)
    for number, part in enumerate((keys[::2], keys[1::2]), 1):
        save_file({key: state[key] for key in part}, path.parent / (pattern % number))
    path.unlink()


@pytest.mark.parametrize(
    "pattern",
    [
        "diffusion_pytorch_model-%05d-of-00002.safetensors",
        "diffusion_pytorch_model.fp16-%05d-of-00002.safetensors",
        "diffusion_pytorch_model-%05d-of-00002.fp16.safetensors",
    ],
)
def test_shards(folder: Path, pattern: str) -> None:
    expected = load_networks(find(str(folder)), CPU, torch.float32).unet.state_dict()
    split_into_shards(folder / UNET, pattern)
    split_into_shards(
        folder / "text_encoder" / "model.safetensors", "model-%05d-of-00002.safetensors"
    )
    loaded = load_networks(find(str(folder)), CPU, torch.float32).unet.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.items())
    shutil.copy(folder / "unet" / (pattern % 1), folder / "unet" / (pattern % 2))
    assert "which another shard holds too" in refusal(folder)
    (folder / "unet" / (pattern % 2)).unlink()
    assert "unet holds 1 of 2 shards" in refusal(folder)


def test_variants(folder: Path) -> None:
    stem = folder / "unet" / "diffusion_pytorch_model"
    (folder / UNET).rename(f"{stem}.fp16.safetensors")
    shutil.copy(f"{stem}.fp16.safetensors", f"{stem}.non_ema.safetensors")
    assert shards(folder / "unet") == ([Path(f"{stem}.fp16.safetensors")], "fp16")
    Path(f"{stem}.fp16.safetensors").unlink()
    assert shards(folder / "unet")[1] == "non_ema"
    Path(f"{stem}.non_ema.safetensors").rename(f"{stem}.fp16.bin")
    assert "diffusion_pytorch_model.fp16.bin is a pickle" in refusal(folder)
    for name in ("a", "b"):
        shutil.copy(f"{stem}.fp16.bin", f"{stem}.{name}.safetensors")
    assert "holds the variants a, b: keep one" in refusal(folder)


def test_a_damaged_tokenizer_is_named(make_tokenizer: Callable[..., Any], tmp_path: Path) -> None:
    make_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "added_tokens.json").write_text("[" * 5000)
    with pytest.raises(WeightsError, match=r"added_tokens\.json cannot be read"):
        load_tokenizer(tmp_path / "tokenizer")
