"""SD3, FLUX and PixArt of few channels behind the contract of drafts."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stock_parts import clip, t5
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pipelines.checkpoints.errors import WeightsError
from pipelines.families import find, weights_memory
from pipelines.stock.draft import THREAD, UNFINISHED
from pipelines.stock.pipeline import StockPipeline, _load

pytestmark = pytest.mark.slow

SIZE: dict[str, Any] = {"width": 32, "height": 32}
STEPS = 3


def vae(levels: int) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8,) * levels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def sd3(tokenizer: Any) -> Any:
    import diffusers

    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae(2),
        text_encoder=clip(CLIPTextModelWithProjection, tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=clip(CLIPTextModelWithProjection, tokenizer),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def flux(tokenizer: Any) -> Any:
    import diffusers

    second, encoder = t5()
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
    )
    return diffusers.FluxPipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae(2),
        text_encoder=clip(CLIPTextModel, tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=encoder,
        tokenizer_2=second,
    )


def pixart(tokenizer: Any) -> Any:
    import diffusers

    second, encoder = t5()
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=32,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        caption_channels=16,
        cross_attention_dim=16,
        use_additional_conditions=False,
    )
    return diffusers.PixArtSigmaPipeline(
        tokenizer=second,
        text_encoder=encoder,
        vae=vae(4),
        transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )


@pytest.fixture(scope="module", params=[sd3, flux, pixart])
def folder(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    make_tokenizer: Callable[..., Any],
) -> Path:
    root = tmp_path_factory.mktemp(request.param.__name__)
    make_tokenizer(root / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(root / "tokenizer", model_max_length=77)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        request.param(tokenizer).save_pretrained(root / "model")
    return root / "model"


@pytest.fixture(scope="module")
def ours(folder: Path) -> StockPipeline:
    return StockPipeline.from_pretrained(folder, device="cpu")


def threads() -> int:
    return sum(thread.name == THREAD for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert threads() == 0


def stock_picture(folder: Path, seed: int) -> np.ndarray:
    from diffusers import DiffusionPipeline

    index = json.loads((folder / "model_index.json").read_text())
    without = {part: None for part, entry in index.items() if entry == [None, None]}
    stock = DiffusionPipeline.from_pretrained(folder, local_files_only=True, **without)
    stock.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    named: dict[str, Any] = {**SIZE, "num_inference_steps": STEPS, "guidance_scale": 2.0}
    picture = stock("a panda", generator=generator, output_type="np", **named).images[0]
    return (picture * 255).round().astype("uint8")


def test_pictures_are_those_of_the_stock_call(ours: StockPipeline, folder: Path) -> None:
    pictures = ours("a panda", seeds=[7, 3], steps=STEPS, guidance=2.0, **SIZE)
    for seed, picture in zip((7, 3), pictures, strict=True):
        assert np.array_equal(np.asarray(picture), stock_picture(folder, seed))


def test_the_contract_of_drafts(ours: StockPipeline) -> None:
    whole = ours("a panda", seeds=[1, 2, 3], steps=STEPS, **SIZE)
    with ours.begin("a panda", seeds=[1, 2, 3], steps=STEPS, **SIZE) as draft:
        assert (draft.done, draft.total, draft.preview()) == (0, 3 * STEPS, None)
        draft.step(STEPS + 1)  # the first is whole, the second begun
        assert draft.done == STEPS + 1
        first, second, third = draft.preview(exact=True) or []
        assert first is not None
        assert (second, third) == (None, None)
        assert draft.failed == {2: UNFINISHED, 3: UNFINISHED}
        with pytest.raises(RuntimeError, match="not done"):
            draft.images()
        draft.keep([0, 2])  # ends the one in the making
        assert (draft.seeds, draft.done, draft.total) == ((1, 3), STEPS, 2 * STEPS)
        draft.step(draft.total)
        kept = draft.images()
        assert draft.pixels().shape == (2, 3, 32, 32)
    for picture, expected in zip(kept, (whole[0], whole[2]), strict=True):
        assert np.array_equal(np.asarray(picture), np.asarray(expected))


def test_a_draft_that_is_split_or_raises_goes_on(
    ours: StockPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ours("a panda", seeds=[1, 2], steps=STEPS, **SIZE)
    draft = ours.begin("a panda", seeds=[1, 2], steps=STEPS, **SIZE)
    draft.step(2)
    with monkeypatch.context() as broken:
        network = ours.stock.transformer

        def short(*_: Any, **__: Any) -> None:
            raise MemoryError

        broken.setattr(network, "forward", short)
        with pytest.raises(MemoryError):
            draft.step()
    assert draft.done == 0
    pictures = []
    for half in draft.split():
        with half:
            half.step(half.total)
            pictures += half.images()
    for picture, expected in zip(pictures, whole, strict=True):
        assert np.array_equal(np.asarray(picture), np.asarray(expected))


def test_closing_ends_the_thread_within_a_step(ours: StockPipeline) -> None:
    draft = ours.begin("a panda", seeds=[1], steps=STEPS, **SIZE)
    draft.step()
    assert threads() == 1
    draft.close()
    assert threads() == 0
    draft.close()
    with pytest.raises(RuntimeError, match="closed"):
        draft.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_it_needs_is_told_before(folder: Path, dtype: torch.dtype) -> None:
    """T5 is partly in float32 where the rest is in float16."""
    taken = {}
    for part, network in _load(folder, dtype).components.items():
        if isinstance(network, torch.nn.Module):  # some of whose tensors have two names
            tensors = {t.data_ptr(): t.nbytes for t in network.state_dict().values()}
            taken[part] = sum(tensors.values())
    told = weights_memory(find(str(folder)), dtype.itemsize).parts
    assert told.keys() == taken.keys()
    for part, size in taken.items():
        assert told[part] >= size if dtype == torch.bfloat16 else told[part] == size


def test_a_variant_where_there_is_no_other(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    told = weights_memory(find(str(copy)), 4)
    for path in copy.glob("*/*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    assert weights_memory(find(str(copy)), 4) == told
    [picture] = StockPipeline.from_pretrained(copy, "cpu")(
        "a panda", seeds=[7], steps=STEPS, guidance=2.0, **SIZE
    )
    assert np.array_equal(np.asarray(picture), stock_picture(folder, 7))


def test_damaged_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    damaged = Path(shutil.copytree(folder, tmp_path / "model"))
    file = damaged / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    key = sorted(state)[0]
    save_file({k: v for k, v in state.items() if k != key}, file)
    with pytest.raises(WeightsError, match=f"missing keys: {key}"):
        StockPipeline.from_pretrained(damaged, device="cpu")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="file is incomplete"):
        StockPipeline.from_pretrained(damaged, device="cpu")
    index = damaged / "model_index.json"
    evil = {part: ["evil", "Network"] for part in ("scheduler", "transformer")}
    index.write_text(json.dumps({**json.loads(index.read_text()), **evil}))
    with pytest.raises(WeightsError, match=r"is a evil\.Network, which is not there"):
        StockPipeline.from_pretrained(damaged, device="cpu")
