"""Tiny random-weight model folders in the true file formats, shared by all tests."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

EXPECTED_SKIPS = (
    "no CUDA device",
    "mounting is not allowed",
)  # elsewhere than on a CI machine, others are fine too
CONTEXT = 32
WORDS = ("a", "panda", "red", "blue", "balloon", "apple", "left", "right", "of", "the", "to", "on")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that need a GPU are left out where there is none."""
    for_gpu = [item for item in items if item.get_closest_marker("gpu") is not None]
    if not for_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        config.hook.pytest_deselected(items=for_gpu)
        items[:] = [item for item in items if item not in for_gpu]


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Have failures told when they happen: a run that is ended early names none at its end."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if "CI" in os.environ and reporter is not None:
        config.pluginmanager.register(ToldAtOnce(reporter))


class ToldAtOnce:
    """Writes each failure as one line, beside the dots."""

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self.reporter = reporter

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Name the test, how long it took, and what it said at last."""
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            message = "" if crash is None else crash.message.partition("\n")[0]
            line = f"FAILED {report.nodeid} ({report.duration:.0f} s) {message[:200]}"
            self.reporter.ensure_newline()
            self.reporter.write_line(line, red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where CI is set, a test skipped for another reason than those expected is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if "CI" not in os.environ or reporter is None:
        return
    reasons = {report.longrepr[2] for report in reporter.stats.get("skipped", [])}
    unexpected = {
        reason for reason in reasons if not any(known in reason for known in EXPECTED_SKIPS)
    }
    if unexpected:
        reporter.write_line(f"skipped without leave: {'; '.join(sorted(unexpected))}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def write_tokenizer(folder: Path, pad_token: str = "<|endoftext|>") -> tuple[int, int, int, int]:
    """Save a CLIPTokenizer that knows every byte and a few whole words, as new and old tools do.

    Returns its vocabulary size and the ids of bos, eos and pad.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    alphabet = sorted(ByteLevel.alphabet())
    vocab = {piece: i for i, piece in enumerate(alphabet + [char + "</w>" for char in alphabet])}
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:  # merge from the left: p a n da</w> → pa n da</w> → …
            pair = (pieces[0], pieces[1])
            pieces[:2] = ["".join(pair)]
            if pieces[0] not in vocab:
                vocab[pieces[0]] = len(vocab)
                merges.append(pair)
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)

    tokenizer = CLIPTokenizer(
        vocab=vocab, merges=merges, pad_token=pad_token, model_max_length=CONTEXT
    )
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    merges_lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(merges_lines) + "\n", encoding="utf-8")
    return len(vocab), vocab["<|startoftext|>"], vocab["<|endoftext|>"], vocab[pad_token]


def write_diffusion_folder(
    folder: Path,
    *,
    like_sd2: bool = False,
    prediction_type: str = "v_prediction",
    time_cond_proj_dim: int | None = None,
) -> Path:
    """Save a random latent diffusion model with 4-channel 8x8 latents of 64x64 pictures, in fp16.

    `like_sd2` adds what Stable Diffusion 2.x changed: linear projections, a list of head counts,
    gelu in the text encoder and "!" as padding. `time_cond_proj_dim` makes a UNet that takes
    guidance as an embedding, as latent consistency models do.
    """
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pad_token = "!" if like_sd2 else "<|endoftext|>"
        vocab_size, bos, eos, pad = write_tokenizer(folder / "tokenizer", pad_token)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocab_size,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=CONTEXT,
                hidden_act="gelu" if like_sd2 else "quick_gelu",
                projection_dim=32,
                bos_token_id=bos,
                eos_token_id=eos,
                pad_token_id=pad,
                architectures=["CLIPTextModel"],
            )
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=32,
            attention_head_dim=[2, 4] if like_sd2 else 4,
            use_linear_projection=like_sd2,
            time_cond_proj_dim=time_cond_proj_dim,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 16, 16),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=64,
        )
        # A fresh UNet draws latents that this decoder would paint in black and white only.
        vae.decoder.conv_out.weight.data *= 0.5

    unet.half().save_pretrained(folder / "unet")
    vae.half().save_pretrained(folder / "vae")
    text_encoder.half().save_pretrained(folder / "text_encoder")
    config_file = folder / "text_encoder" / "config.json"
    config = json.loads(config_file.read_text())
    config_file.write_text(json.dumps({**config, "dtype": "float32"}, indent=2))
    state = {
        key if key.startswith("text_model.") else f"text_model.{key}": value.contiguous()
        for key, value in text_encoder.state_dict().items()
    }
    save_file(state, folder / "text_encoder" / "model.safetensors", {"format": "pt"})

    scheduler = {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.38.0",
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": prediction_type,
        "steps_offset": 1,
        "clip_sample": False,
        "set_alpha_to_one": False,
    }
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler, indent=2))
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.38.0",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def write_dalle_folder(folder: Path, *, text_tokens: bool = False, size: int = 32) -> Path:
    """Save a random model of the DALL·E path, in fp16; 32x32 pixels are 4x4 tokens.

    `text_tokens` makes one that reads text tokens in the stream, without a text encoder.
    """
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    from pipelines.checkpoints.loading import save_network
    from pipelines.dalle.dvae import DiscreteVae, DvaeConfig, TowerConfig
    from pipelines.dalle.masks import Mask
    from pipelines.dalle.transformer import Transformer, TransformerConfig

    vocab_size, bos, eos, pad = write_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocab_size,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=1,
                num_attention_heads=4,
                max_position_embeddings=CONTEXT,
                projection_dim=32,
                bos_token_id=bos,
                eos_token_id=eos,
                pad_token_id=pad,
                architectures=["CLIPTextModel"],
            )
        )
        dvae = DiscreteVae(
            DvaeConfig(
                vocabulary=64,
                size=size,
                code_width=16,
                first_kernel=1,
                encoder=TowerConfig(widths=(16,), blocks=1, patch=8),
                decoder=TowerConfig(widths=(16, 16), blocks=1, patch=4),
            )
        )
        transformer = Transformer(
            TransformerConfig(
                grid=size // 8,
                image_vocabulary=64,
                text_length=CONTEXT,
                text_vocabulary=vocab_size if text_tokens else None,
                prefix_width=None if text_tokens else 32,
                width=32,
                heads=2,
                masks=(Mask.ROW, Mask.COLUMN, Mask.CONVOLUTION),
                reach=1,
            )
        )
        for parameter in transformer.parameters():  # a fresh one hardly listens to the prompt
            torch.nn.init.normal_(parameter, std=0.25)

    save_network(dvae.half(), dvae.config, folder / "dvae")
    save_network(transformer.half(), transformer.config, folder / "transformer")
    if not text_tokens:
        text_encoder.half().save_pretrained(folder / "text_encoder")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "Dalle"}))
    return folder


def write_safety_checker(
    folder: Path, threshold: float = 2.0, special_threshold: float = 2.0
) -> Path:
    """Add a random safety checker for 32x32 pictures to a diffusion folder, as saved in 2022.

    A picture is flagged whose cosine with a concept is above `threshold`, or 0.01 less if one with
    a special concept is above `special_threshold`: all of them at -2, none at 2.
    """
    import torch
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from safetensors.torch import save_file
    from transformers import CLIPConfig

    layers = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config = CLIPConfig(
        text_config=layers,
        vision_config={**layers, "image_size": 32, "patch_size": 8},
        projection_dim=16,
        architectures=["StableDiffusionSafetyChecker"],
    )
    checker = StableDiffusionSafetyChecker(config)
    generator = torch.Generator().manual_seed(0)
    state = {
        key.replace("vision_model.", "vision_model.vision_model."): torch.randn(
            value.shape, generator=generator
        )
        / 3
        for key, value in checker.state_dict().items()
    }
    state["concept_embeds_weights"] = torch.full((17,), threshold)
    state["special_care_embeds_weights"] = torch.full((3,), special_threshold)
    state["vision_model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    (folder / "safety_checker").mkdir()
    config.save_pretrained(folder / "safety_checker")
    save_file(state, folder / "safety_checker" / "model.safetensors", {"format": "pt"})

    preprocessor = {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "do_resize": True,
        "size": 32,
        "resample": 3,
        "do_center_crop": True,
        "crop_size": 32,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "do_convert_rgb": True,
    }
    (folder / "feature_extractor").mkdir()
    (folder / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    index_file = folder / "model_index.json"
    index = json.loads(index_file.read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPFeatureExtractor"]
    index_file.write_text(json.dumps(index))
    return folder


def write_clip_folder(folder: Path) -> Path:
    """Save a random CLIPModel for 32x32 pictures, its tokenizer and preprocessor config, in fp16.

    The config says "dtype": "float32", so transformers loads it in fp32.
    """
    import torch
    from transformers import CLIPConfig, CLIPModel

    vocab_size, bos, eos, pad = write_tokenizer(folder)
    special_ids = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}
    layers = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config = CLIPConfig(
        text_config={
            **layers,
            **special_ids,
            "vocab_size": vocab_size,
            "max_position_embeddings": CONTEXT,
        },
        vision_config={**layers, "image_size": 32, "patch_size": 8},
        projection_dim=16,
        architectures=["CLIPModel"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(config).half().save_pretrained(folder)
    config_file = folder / "config.json"
    saved = json.loads(config_file.read_text())
    saved["dtype"] = "float32"
    for tower in ("text_config", "vision_config"):
        saved[tower]["dtype"] = "float32"
    config_file.write_text(json.dumps(saved, indent=2))
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": 32},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "do_convert_rgb": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2))
    return folder


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., tuple[int, int, int, int]]:
    """`write_tokenizer`, for tests that write folders of their own."""
    return write_tokenizer


@pytest.fixture(scope="session")
def make_diffusion_folder() -> Callable[..., Path]:
    """`write_diffusion_folder`, for tests that need another kind than the shared one."""
    return write_diffusion_folder


@pytest.fixture(scope="session")
def tiny_unclip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that draws from embeddings of images, in our own layout."""
    import torch

    sys.path.insert(0, str(Path(__file__).parent / "pipelines" / "unclip"))
    import unclip_models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return unclip_models.write_own(write_tokenizer, tmp_path_factory.mktemp("tiny-unclip"))


@pytest.fixture(scope="session")
def tiny_diffusion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable-Diffusion-1.x-like folder with v-prediction. Read only: copy it to damage it."""
    return write_diffusion_folder(tmp_path_factory.mktemp("models") / "tiny-diffusion")


@pytest.fixture(scope="session")
def make_dalle_folder() -> Callable[..., Path]:
    """`write_dalle_folder`, for tests that need another kind than the shared one."""
    return write_dalle_folder


@pytest.fixture(scope="session")
def tiny_dalle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the DALL·E path, with a text encoder. Read only: copy it to damage it."""
    return write_dalle_folder(tmp_path_factory.mktemp("models") / "tiny-dalle")


@pytest.fixture
def make_checked_folder(tiny_diffusion_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the shared diffusion folder with `write_safety_checker`, which takes the rest."""

    def make(threshold: float = 2.0, special_threshold: float = 2.0) -> Path:
        copy = tmp_path / f"checked-{threshold:g}-{special_threshold:g}"
        shutil.copytree(tiny_diffusion_folder, copy)
        return write_safety_checker(copy, threshold, special_threshold)

    return make


@pytest.fixture(scope="session")
def tiny_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIPModel folder. Read only: copy it to damage it."""
    return write_clip_folder(tmp_path_factory.mktemp("models") / "tiny-clip")


@pytest.fixture
def tiny_by_default(
    tiny_diffusion_folder: Path, tiny_clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny models in place of the shipped ones."""
    import rerank.model.specs
    from pipelines import families

    model = replace(
        families.shipped()[families.DEFAULT_MODEL], folder=tiny_diffusion_folder, context=CONTEXT
    )
    jury = replace(rerank.model.specs.SPECS[rerank.model.specs.DEFAULT], folder=tiny_clip_folder)
    monkeypatch.setitem(families.shipped(), families.DEFAULT_MODEL, model)  # type: ignore[arg-type]
    monkeypatch.setitem(rerank.model.specs.SPECS, rerank.model.specs.DEFAULT, jury)
