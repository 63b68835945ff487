"""Single files of Stable Diffusion, in its original layout: which one it is, and what is where.

Such a file holds all networks under the names of CompVis' and Stability AI's code; diffusers gave
the same weights other names. A `Piece` says where one of our weights lies. Loads no torch.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.headers import Tensor

CONFIGS = Path(__file__).parent / "layouts"
VOCABULARY = CONFIGS / "bpe_simple_vocab_16e6.txt.gz"  # of OpenAI's CLIP, which all layouts read
UNET, VAE = "model.diffusion_model.", "first_stage_model."
LATENT_CHANNELS = 4  # of all layouts


@dataclass(frozen=True)
class Layout:
    """One family of files, known by one of its keys."""

    name: str  # of its folder of configs
    marker: str
    text: Mapping[str, str]  # component of a diffusers folder → beginning of its keys
    scheduler: Mapping[str, Any] = field(default_factory=dict)  # instead of those configs'

    @property
    def configs(self) -> Path:
        """A diffusers folder without weights."""
        return CONFIGS / self.name


LAYOUTS = (
    Layout(
        "sdxl",
        "conditioner.embedders.1.model.ln_final.weight",
        {
            "text_encoder": "conditioner.embedders.0.transformer.text_model.",
            "text_encoder_2": "conditioner.embedders.1.model.",
        },
    ),
    Layout(
        "sd2",
        "cond_stage_model.model.ln_final.weight",
        {"text_encoder": "cond_stage_model.model."},
    ),
    # SD-Turbo, which Stability AI wrote with the code of SDXL.
    Layout(
        "sd2",
        "conditioner.embedders.0.model.ln_final.weight",
        {"text_encoder": "conditioner.embedders.0.model."},
        {
            "_class_name": "EulerDiscreteScheduler",
            "prediction_type": "epsilon",
            "timestep_spacing": "trailing",
        },
    ),
    Layout(
        "sd1",
        "cond_stage_model.transformer.text_model.final_layer_norm.weight",
        {"text_encoder": "cond_stage_model.transformer.text_model."},
    ),
    # NovelAI's model, and those that descend from it.
    Layout(
        "sd1",
        "cond_stage_model.transformer.final_layer_norm.weight",
        {"text_encoder": "cond_stage_model.transformer."},
    ),
)
ADDED_EMBEDDING = UNET + "label_emb.0.0.weight"  # of the sizes that SDXL and its refiner are told

# Keys that no network of ours reads, by how they begin or what they are, and why.
UNREAD_BEGINNINGS = {
    "model_ema.": "a second, averaged copy of the weights for training on",
    "first_stage_model.loss.": "the critic that the VAE was trained against",
    "cond_stage_model.model.transformer.resblocks.23.": "the last layer, which SD 2 does not use",
    "conditioner.embedders.0.model.transformer.resblocks.23.": "the same, in SD-Turbo",
    "alphas_cumprod": "the noise schedule, which is computed",
    "sqrt_": "the noise schedule",
    "log_one_minus_alphas_cumprod": "the noise schedule",
    "posterior_": "the noise schedule",
    "denoiser.sigmas": "the noise schedule",
}
UNREAD = {
    "betas": "the noise schedule",
    "logvar": "of the training loss",
    "lvlb_weights": "of the training loss",
    "scale_factor": "the scale of latents, which the config says",
    "global_step": "how long it was trained",
    "v_pred": "a mark that the network predicts v",
    "ztsnr": "a mark that the schedule ends in pure noise",
    "cond_stage_model.model.attn_mask": "a constant",
    "cond_stage_model.model.logit_scale": "of CLIP's comparison with images",
    "cond_stage_model.model.text_projection": "of CLIP's comparison with images",
    "cond_stage_model.logit_scale": "of CLIP's comparison with images",
    "cond_stage_model.text_projection": "of CLIP's comparison with images",
    "conditioner.embedders.0.model.attn_mask": "a constant",
    "conditioner.embedders.0.model.logit_scale": "of CLIP's comparison with images",
    "conditioner.embedders.0.model.text_projection": "of CLIP's comparison with images",
    "conditioner.embedders.1.model.attn_mask": "a constant",
    "conditioner.embedders.1.model.logit_scale": "of CLIP's comparison with images",
}


@dataclass(frozen=True)
class Piece:
    """Where a file holds one weight: a whole tensor, or one of three stacked ones."""

    key: str
    third: int | None = None
    transposed: bool = False


def identify(path: Path, header: Mapping[str, Tensor]) -> Layout:
    """Identify the layout of a single file. Raises WeightsError if it is unknown."""
    for layout in LAYOUTS:
        if layout.marker in header:
            if layout.name == "sd2" and ADDED_EMBEDDING in header:
                raise WeightsError(
                    f"{path} is the refiner of SDXL, which changes finished images: give the base "
                    "model"
                )
            channels = unet_channels(header)
            if channels not in (LATENT_CHANNELS, 2 * LATENT_CHANNELS + 1, None):
                raise WeightsError(
                    f"{path} takes {channels} channels: it draws from more than text and masks"
                )
            return layout
    raise WeightsError(
        f"{path} has none of the layouts that can be loaded: a single file must be a whole "
        "Stable Diffusion 1.x, 2.x or SDXL base model"
    )


def unet_channels(header: Mapping[str, Tensor]) -> int | None:
    """Return how many channels the UNet of a file reads; None if it does not say."""
    into = header.get(UNET + "input_blocks.0.0.weight")
    return into.shape[1] if into is not None and len(into.shape) == 4 else None


def scheduler(header: Collection[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what a file says of its noise schedule and of what its network predicts.

    Files say what is predicted in the metadata of Stability AI's "modelspec", or by a key named
    `v_pred`. One named `ztsnr` says that the last step of the schedule is pure noise (Lin et al.,
    arXiv 2305.08891), so that drawing begins there.
    """
    said = metadata.get("modelspec.prediction_type")
    predicts = {"v": "v_prediction", "epsilon": "epsilon"}.get(str(said))
    if "v_pred" in header:
        predicts = "v_prediction"
    entries: dict[str, Any] = {} if predicts is None else {"prediction_type": predicts}
    if "ztsnr" in header:
        entries |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return entries


def pieces(
    layout: Layout,
    component: str,
    config: Mapping[str, Any],
    names: Iterable[str],
    header: Collection[str] = (),
) -> dict[str, Piece]:
    """Locate the weights `names` of a component, as diffusers calls them, in a file.

    `header` are the keys of the file, where spellings of one layout differ.
    """
    if component == "unet":
        modules = unet_modules(config)
        return {name: Piece(UNET + renamed(name, modules)) for name in names}
    if component == "vae":
        return vae_pieces(VAE, config, names)
    prefix = layout.text[component]
    if prefix.endswith(".model."):
        found = {name: _open_clip_piece(prefix, name) for name in names}
        if f"{prefix}{PROJECTION}" in header:  # not transposed, as a layer has it
            found[PROJECTION] = Piece(f"{prefix}{PROJECTION}")
        return found
    return {name: Piece(prefix + name.removeprefix("text_model.")) for name in names}


def is_unread(key: str) -> bool:
    """Return whether a key is one that none of our networks uses."""
    return key.removesuffix(".weight") in UNREAD or key.startswith(tuple(UNREAD_BEGINNINGS))


def vae_pieces(prefix: str, config: Mapping[str, Any], names: Iterable[str]) -> dict[str, Piece]:
    """Locate the weights of a VAE in a file whose keys begin with `prefix`."""
    modules = vae_modules(config)
    return {name: Piece(prefix + renamed(name, modules)) for name in names}


_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def unet_modules(config: Mapping[str, Any]) -> dict[str, str]:
    """Map the modules of a UNet2DConditionModel to their names in the original code.

    That code counts its blocks through: `input_blocks.3` is the first downsampling.
    """
    modules = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.attentions.0": "middle_block.1",
    }

    def resnet(ours: str, theirs: str) -> None:
        modules.update({f"{ours}.{new}": f"{theirs}.{old}" for new, old in _RESNET.items()})

    resnet("mid_block.resnets.0", "middle_block.0")
    resnet("mid_block.resnets.1", "middle_block.2")
    layers, down, up = (
        config["layers_per_block"],
        config["down_block_types"],
        config["up_block_types"],
    )
    number = 1
    for i, block in enumerate(down):
        for j in range(layers):
            resnet(f"down_blocks.{i}.resnets.{j}", f"input_blocks.{number}.0")
            if block == "CrossAttnDownBlock2D":
                modules[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{number}.1"
            number += 1
        if i < len(down) - 1:
            modules[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    number = 0
    for i, block in enumerate(up):
        attends = block == "CrossAttnUpBlock2D"
        for j in range(layers + 1):
            resnet(f"up_blocks.{i}.resnets.{j}", f"output_blocks.{number}.0")
            if attends:
                modules[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{number}.1"
            number += 1
        if i < len(up) - 1:
            place = f"output_blocks.{number - 1}.{2 if attends else 1}.conv"
            modules[f"up_blocks.{i}.upsamplers.0.conv"] = place
    return modules


def vae_modules(config: Mapping[str, Any]) -> dict[str, str]:
    """Map the modules of an AutoencoderKL to their names in the original code.

    That decoder counts its levels from the full size down.
    """
    modules = {
        f"{tower}.conv_norm_out": f"{tower}.norm_out" for tower in ("encoder", "decoder")
    } | {
        f"{tower}.mid_block.attentions.0.{new}": f"{tower}.mid.attn_1.{old}"
        for tower in ("encoder", "decoder")
        for new, old in _VAE_ATTENTION.items()
    }

    def resnet(ours: str, theirs: str) -> None:
        modules[ours] = theirs
        modules[f"{ours}.conv_shortcut"] = f"{theirs}.nin_shortcut"

    for tower in ("encoder", "decoder"):
        for j in (0, 1):
            resnet(f"{tower}.mid_block.resnets.{j}", f"{tower}.mid.block_{j + 1}")
    blocks, layers = len(config["block_out_channels"]), config["layers_per_block"]
    for i in range(blocks):
        for j in range(layers):
            resnet(f"encoder.down_blocks.{i}.resnets.{j}", f"encoder.down.{i}.block.{j}")
        modules[f"encoder.down_blocks.{i}.downsamplers.0.conv"] = (
            f"encoder.down.{i}.downsample.conv"
        )
        level = blocks - 1 - i
        for j in range(layers + 1):
            resnet(f"decoder.up_blocks.{i}.resnets.{j}", f"decoder.up.{level}.block.{j}")
        modules[f"decoder.up_blocks.{i}.upsamplers.0.conv"] = f"decoder.up.{level}.upsample.conv"
    return modules


_OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
PROJECTION = "text_projection.weight"
_STACKED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def _open_clip_piece(prefix: str, name: str) -> Piece:
    """Locate a weight of a CLIPTextModel in OpenCLIP's naming, which the larger text encoders use.

    It stacks the projections to queries, keys and values in one tensor.
    """
    name = name.removeprefix("text_model.")
    if name == PROJECTION:
        return Piece(prefix + "text_projection", transposed=True)
    if name in _OPEN_CLIP:
        return Piece(prefix + _OPEN_CLIP[name])
    number, _, rest = name.removeprefix("encoder.layers.").partition(".")
    module, _, kind = rest.rpartition(".")
    layer = f"{prefix}transformer.resblocks.{number}."
    if module in _STACKED:
        return Piece(f"{layer}attn.in_proj_{kind}", third=_STACKED.index(module))
    return Piece(f"{layer}{_OPEN_CLIP_LAYER[module]}.{kind}")


def renamed(name: str, modules: Mapping[str, str]) -> str:
    """Rename the longest module in `name` that has another name."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        if module in modules:
            return ".".join([modules[module], *parts[length:]])
    return name
