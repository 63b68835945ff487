"""LoRA files, other VAEs, learned words and skipped layers, against the stock pipelines."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reduced_models import build, layout_named, write_configs, write_folder
from safetensors.torch import save_file

from pipelines.checkpoints import single_file
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.hashes import spec_hash
from pipelines.checkpoints.specs import Adapters, Lora, read_adapters, with_adapters
from pipelines.diffusion.pipeline import LatentDiffusion
from pipelines.families import find

pytestmark = pytest.mark.slow

UNET_MODULES = (
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0",
    "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "down_blocks.1.attentions.0.proj_in",
)
TEXT_MODULE = "text_model.encoder.layers.0.self_attn.q_proj"
RANK, ALPHA = 2, 8.0


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def folder(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    make_tokenizer: Callable[..., Any],
) -> Path:
    root = tmp_path_factory.mktemp(request.param)
    configs = write_configs(request.param, root / "configs")
    return write_folder(configs, build(configs), root / request.param, make_tokenizer)


def load(folder: Path, **adapters: Any) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(folder, device="cpu", adapters=Adapters(**adapters))


def encoders_of(pipeline: LatentDiffusion) -> dict[str, torch.nn.Module]:
    """By their names in a folder: one, or the two of SDXL."""
    encoders = [reader.encoder for reader in pipeline.text.readers]
    return dict(zip(("text_encoder", "text_encoder_2"), encoders, strict=False))


def weight_name(network: torch.nn.Module, module: str) -> str:
    """What transformers calls a module's weight: since 5, most text encoders without a prefix."""
    names = dict(network.named_parameters())
    plain = f"{module.removeprefix('text_model.')}.weight"
    return plain if plain in names else f"{module}.weight"


def encoder_of(pipeline: LatentDiffusion) -> torch.nn.Module:
    return pipeline.text.readers[0].encoder


def stock_of(folder: Path) -> Any:
    import diffusers

    stock = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    return stock


def matrices(folder: Path, seed: int) -> dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """The two matrices (up, down) of some modules, by component and by module."""
    pipeline = load(folder)
    generator = torch.Generator().manual_seed(seed)

    def pair(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out, into = weight.flatten(1).shape
        shapes = (out, RANK, *[1] * (weight.ndim - 2)), (RANK, into, *[1] * (weight.ndim - 2))
        up, down = (torch.randn(shape, generator=generator) for shape in shapes)
        return up, down

    unet = {name: pair(pipeline.unet.get_parameter(f"{name}.weight")) for name in UNET_MODULES}
    texts = {
        component: {TEXT_MODULE: pair(encoder.get_parameter(weight_name(encoder, TEXT_MODULE)))}
        for component, encoder in encoders_of(pipeline).items()
    }
    return {"unet": unet, **texts}


def write_diffusers(path: Path, parts: Mapping[str, Any]) -> Path:
    state = {}
    for component, modules in parts.items():
        for module, (up, down) in modules.items():
            state[f"{component}.{module}.lora_B.weight"] = up
            state[f"{component}.{module}.lora_A.weight"] = down
    save_file(state, path)
    return path


def write_kohya(path: Path, parts: Mapping[str, Any], folder: Path) -> Path:
    state = {}
    is_xl = folder.name == "sdxl"
    config = dict(load(folder).unet.config)
    for component, modules in parts.items():
        for module, (up, down) in modules.items():
            if component != "unet":
                prefix = {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}[component]
                stem = (prefix if is_xl else "lora_te_") + module.replace(".", "_")
            else:
                [piece] = single_file.pieces(
                    layout_named(folder.name), "unet", config, [module]
                ).values()
                original = piece.key.removeprefix(single_file.UNET)
                stem = "lora_unet_" + (original if is_xl else module).replace(".", "_")
            state[f"{stem}.lora_up.weight"] = up
            state[f"{stem}.lora_down.weight"] = down
            state[f"{stem}.alpha"] = torch.tensor(ALPHA)
    save_file(state, path)
    return path


def draw(pipeline: LatentDiffusion, prompt: str = "a panda", **settings: Any) -> torch.Tensor:
    with pipeline.begin(
        prompt, seeds=[3], steps=1, sampler="ddim", width=64, height=64, **settings
    ) as draft:
        draft.step()
        return draft._open.latents


def stock_latents(stock: Any, prompt: str = "a panda", **settings: Any) -> torch.Tensor:
    from diffusers import DDIMScheduler

    stock.scheduler = DDIMScheduler.from_config(stock.scheduler.config)
    return stock(
        prompt,
        generator=torch.Generator().manual_seed(3),
        num_inference_steps=1,
        guidance_scale=1.0,
        width=64,
        height=64,
        output_type="latent",
        **settings,
    ).images


@pytest.mark.parametrize("style", ["diffusers", "kohya"])
def test_several_loras_are_those_of_the_stock_pipeline(
    folder: Path, tmp_path: Path, style: str
) -> None:
    files = []
    for i in (1, 2):
        # The stock pipeline cannot put one into the text encoders of transformers 5.
        path, parts = tmp_path / f"{i}.safetensors", {"unet": matrices(folder, i)["unet"]}
        files.append(
            write_diffusers(path, parts)
            if style == "diffusers"
            else write_kohya(path, parts, folder)
        )
    ours = load(folder, loras=(Lora(files[0], 8.0), Lora(files[1], -5.0)))
    stock = stock_of(folder)
    stock.load_lora_weights(files[0], adapter_name="one")
    stock.load_lora_weights(files[1], adapter_name="two")
    stock.set_adapters(["one", "two"], [8.0, -5.0])
    expected = stock_latents(stock)
    assert (draw(ours, guidance=1.0) - expected).abs().max() < 1e-3
    assert (draw(load(folder), guidance=1.0) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("style", ["diffusers", "kohya"])
def test_lora_is_the_product_of_its_matrices(folder: Path, tmp_path: Path, style: str) -> None:
    """In the UNet, and in the one or two text encoders."""
    parts = matrices(folder, 1)
    assert len(parts) == (3 if folder.name == "sdxl" else 2)
    if style == "kohya":
        path, scale = write_kohya(tmp_path / "one.safetensors", parts, folder), ALPHA / RANK
    else:
        path, scale = write_diffusers(tmp_path / "one.safetensors", parts), 1.0
    before, after = load(folder), load(folder, loras=(Lora(path, 0.5),))
    networks = {
        component: (network, encoders_of(after).get(component, after.unet))
        for component, network in {"unet": before.unet, **encoders_of(before)}.items()
    }
    for component, modules in parts.items():
        for module, (up, down) in modules.items():
            name = weight_name(networks[component][0], module)
            weight, changed = (network.get_parameter(name) for network in networks[component])
            change = 0.5 * scale * (up.flatten(1) @ down.flatten(1))
            assert torch.allclose(changed, weight + change.reshape(weight.shape), atol=1e-4)
            assert (changed - weight).abs().max() > 0.1


def test_alpha_may_be_in_the_metadata(folder: Path, tmp_path: Path) -> None:
    (module, (up, down)), (other, pair) = list(matrices(folder, 1)["unet"].items())[:2]
    state = {
        f"unet.{module}.lora_B.weight": up,
        f"unet.{module}.lora_A.weight": down,
        f"unet.{other}.lora_B.weight": pair[0],
        f"unet.{other}.lora_A.weight": pair[1],
    }
    said = {"unet.r": RANK, "unet.lora_alpha": ALPHA, "unet.alpha_pattern": {other: 1.0}}
    path = tmp_path / "one.safetensors"
    save_file(state, path, {"lora_adapter_metadata": json.dumps(said)})
    before, after = load(folder).unet, load(folder, loras=(Lora(path),)).unet
    for name, alpha, (b, a) in ((module, ALPHA, (up, down)), (other, 1.0, pair)):
        weight, changed = (unet.get_parameter(f"{name}.weight") for unet in (before, after))
        assert torch.allclose(changed - weight, alpha / RANK * (b @ a), atol=1e-4)


def test_lora_for_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    key = f"unet.{UNET_MODULES[0]}.lora_A.weight"
    other = f"unet.{UNET_MODULES[0]}.lora_B.weight"
    cases = {
        "no module of this model, or of an unknown kind: unet.elsewhere": {
            "unet.elsewhere.lora_A.weight": torch.zeros(1)
        },
        "unknown kind: unet.mid.hada_w1_a": {"unet.mid.hada_w1_a": torch.zeros(1)},
        "without the other half": {key: torch.zeros(2, 16)},
        "does not fit this model": {key: torch.zeros(2, 5), other: torch.zeros(16, 2)},
        "NaN": {key: torch.full((2, 16), torch.nan), other: torch.zeros(16, 2)},
        "not floating point": {
            key: torch.zeros(2, 16, dtype=torch.int32),
            other: torch.zeros(16, 2),
        },
    }
    for reason, state in cases.items():
        save_file(state, tmp_path / "bad.safetensors")
        with pytest.raises(WeightsError) as error:
            load(folder, loras=(Lora(tmp_path / "bad.safetensors"),))
        assert reason in str(error.value)


def test_learned_words_are_those_of_the_stock_pipeline(folder: Path, tmp_path: Path) -> None:
    if folder.name == "sdxl":
        path = tmp_path / "cat.safetensors"
        learned = {"clip_l": torch.randn(2, 16), "clip_g": torch.randn(2, 24)}
        save_file(learned, path)
        stock = stock_of(folder)
        for key, end in (("clip_l", ""), ("clip_g", "_2")):
            stock.load_textual_inversion(
                {"cat": learned[key]},
                text_encoder=getattr(stock, f"text_encoder{end}"),
                tokenizer=getattr(stock, f"tokenizer{end}"),
            )
        # For configs that say 2, which SDXL's do, transformers takes the highest id for the end:
        # that of a learned word.
        for module in stock.text_encoder_2.modules():
            if hasattr(module, "eos_token_id"):
                module.eos_token_id = stock.tokenizer_2.eos_token_id
        expected, _, pooled, _ = stock.encode_prompt(
            "a cat on red", device="cpu", do_classifier_free_guidance=False
        )
        ours = load(folder, embeddings=(path,)).text.encode("a cat on red")
        assert (ours.hidden - expected).abs().max() < 1e-4
        assert (ours.pooled - pooled).abs().max() < 1e-4
        assert (load(folder).text.encode("a cat on red").hidden - expected).abs().max() > 0.1
        return
    path = tmp_path / "learned_embeds.safetensors"
    save_file({"<cat>": torch.randn(2, 16)}, path)
    stock = stock_of(folder)
    stock.load_textual_inversion(path)
    prompt = "a <cat> on red"
    expected, _ = stock.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)
    ours = load(folder, embeddings=(path,)).text.encode(prompt).hidden
    assert (ours - expected).abs().max() < 1e-4
    assert (load(folder).text.encode(prompt).hidden - expected).abs().max() > 0.1


def test_several_words_in_a_file_in_any_capitals(folder: Path, tmp_path: Path) -> None:
    if folder.name == "sdxl":
        return
    vectors = {"<S1>": torch.randn(16), "<S2>": torch.randn(2, 16)}
    path = tmp_path / "two.safetensors"
    save_file(vectors, path)
    pipeline = load(folder, embeddings=(path,))
    encoded = {
        text: pipeline.text.encode(text).hidden
        for text in ("a <S1> on <S2>", "a <s1> on embedding:<s2>", "a Embedding:<S1> on <s2>", "a")
    }
    first, *same, other = encoded.values()
    assert all(torch.equal(first, each) for each in same)
    assert not torch.equal(first, other)
    assert pipeline.token_count("a <s2>") == 2 + 1 + 2


def test_words_in_a_folder_of_the_model_are_its_own(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "embeddings").mkdir()
    own, asked = copy / "embeddings" / "own.safetensors", tmp_path / "asked.safetensors"
    for path in (own, asked):
        vectors = {"clip_l": torch.randn(2, 16), "clip_g": torch.randn(2, 24)}
        save_file(vectors if folder.name == "sdxl" else {path.stem: vectors["clip_l"]}, path)
    spec = find(str(copy))
    assert spec.adapters == Adapters(embeddings=(own,))
    both = with_adapters(spec, Adapters(embeddings=(asked, own)))
    assert both.adapters.embeddings == (own, asked)
    assert spec_hash(both) != spec_hash(spec) != spec_hash(find(str(folder)))
    pipeline = load(copy, embeddings=(asked,))
    assert pipeline.token_count("own asked") == 2 + 2 + 2
    assert load(copy).token_count("own asked") > 2 + 2 + 1


def test_another_vae(folder: Path, tmp_path: Path) -> None:
    pipeline = load(folder)
    vae = pipeline.vae
    vae.decoder.conv_out.bias.data += 0.5
    vae.save_pretrained(tmp_path / "vae")
    names = list(vae.state_dict())
    pieces = single_file.vae_pieces("", dict(vae.config), names)
    state = {pieces[name].key: value.contiguous() for name, value in vae.state_dict().items()}
    save_file(state, tmp_path / "vae.safetensors")
    for path in (tmp_path / "vae", tmp_path / "vae.safetensors"):
        changed = load(folder, vae=path).vae
        assert torch.equal(changed.decoder.conv_out.bias, vae.decoder.conv_out.bias)
    del state["decoder.conv_in.bias"]
    save_file(state, tmp_path / "vae.safetensors")
    with pytest.raises(WeightsError, match=r"missing keys: decoder\.conv_in\.bias"):
        load(folder, vae=tmp_path / "vae.safetensors")


def test_clip_skip_is_the_layer_before(folder: Path) -> None:
    pipeline = load(folder)
    encoder = encoder_of(pipeline)
    tokenizer = pipeline.text.readers[0].tokenizer
    ids = tokenizer("a panda", padding="max_length", max_length=32, return_tensors="pt").input_ids
    with torch.inference_mode():
        states = encoder(ids, output_hidden_states=True).hidden_states
        expected = encoder.final_layer_norm(states[-2]) if folder.name == "sd1" else states[-3]
    hidden = pipeline.text.encode("a panda", clip_skip=2).hidden[..., :16]
    assert torch.allclose(hidden, expected, atol=1e-6)
    with pytest.raises(ValueError, match="clip_skip is 9; this model takes 1 to"):
        pipeline.begin("a panda", seeds=[1], clip_skip=9)
    if folder.name == "sdxl":
        expected = stock_latents(stock_of(folder), clip_skip=1)
        assert (draw(pipeline, guidance=1.0, clip_skip=2) - expected).abs().max() < 1e-3


def test_additions_as_text(tmp_path: Path) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    one.touch()
    two.touch()
    adapters = read_adapters(f"{one}:0.8, {two}", None, str(one))
    assert adapters == Adapters((Lora(one, 0.8), Lora(two, 1.0)), None, (one,))
    assert adapters.paths == (one, two, one)
    assert read_adapters(None, None, None) == replace(adapters, loras=(), embeddings=())
    with pytest.raises(ValueError, match="behind the colon must be a number"):
        read_adapters(f"{one}:much", None, None)
    with pytest.raises(WeightsError, match="does not exist"):
        read_adapters(str(tmp_path / "none.safetensors"), None, None)
