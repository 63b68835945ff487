"""What LoRA files call the weights that they change. Loads no torch.

A key names a module and the role of its tensor there. diffusers writes
`unet.mid_block….to_q.lora_A.weight`, kohya's scripts `lora_unet_mid_block_…_to_q.lora_down.weight`,
peft `base_model.model.mid_block….to_q.lora_A.weight`; ComfyUI keeps the names of the original code.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pipelines.checkpoints.headers import Tensor
from pipelines.checkpoints.single_file import renamed, unet_modules

# How keys end, by the role of the tensor; longer ones come before those that they end with.
ENDINGS: Mapping[str, tuple[str, ...]] = {
    "down": (
        ".lora_down.weight",
        ".lora_A.weight",
        ".lora_A.default.weight",
        ".lora.down.weight",
        ".lora_linear_layer.down.weight",
    ),
    "up": (
        ".lora_up.weight",
        ".lora_B.weight",
        ".lora_B.default.weight",
        ".lora.up.weight",
        ".lora_linear_layer.up.weight",
    ),
    "up_bias": (".lora_B.bias", ".lora_up.bias"),
    "mid": (".lora_mid.weight",),
    "alpha": (".alpha",),
    "magnitude": (
        ".dora_scale",
        ".lora_magnitude_vector",
        ".lora_magnitude_vector.weight",
        ".lora_magnitude_vector.default.weight",
    ),
    "difference": (".diff", ".w_norm"),
    "bias_difference": (".diff_b", ".b_norm"),
    **{
        name: (f".{name}",)
        for name in (
            *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
            *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
        )
    },
}

# What must be there of a module, and all else that may be; each kind of file by its name.
KINDS: Mapping[str, tuple[tuple[frozenset[str], ...], frozenset[str]]] = {
    "LoRA": (
        (frozenset({"up", "down"}),),
        frozenset({"mid", "alpha", "magnitude", "up_bias", "bias_difference"}),
    ),
    "LoHa": (
        (frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}),),
        frozenset({"hada_t1", "hada_t2", "alpha", "magnitude", "bias_difference"}),
    ),
    "LoKr": (
        tuple(
            frozenset({*first, *second})
            for first in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
            for second in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))
        ),
        frozenset({"lokr_t2", "alpha", "magnitude", "bias_difference"}),
    ),
    "difference": ((frozenset({"difference"}),), frozenset({"bias_difference", "alpha"})),
    "bias": ((frozenset({"bias_difference"}),), frozenset({"alpha"})),
}

# Parts of keys that only other kinds have, which are not merged here.
OTHER_KINDS = {
    ".oft_": "OFT",
    ".boft_": "BOFT",
    ".on_input": "(IA)³",
    ".ia3_": "(IA)³",
    ".a1.weight": "GLoRA",
    ".vera_": "VeRA",
    ".hra_": "HRA",
    ".diff_weight": "an extracted model",
}

# Diffusers before 0.26 kept what it learned in processors of the attention.
_OLD_MODULES = {
    "unet": {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"},
    "text": {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"},
}

_PREFIXES: Mapping[str, tuple[str, ...]] = {
    "unet": ("unet.", "", "base_model.model.unet.", "base_model.model."),
    "text_encoder": (
        "text_encoder.",
        "base_model.model.text_encoder.",
        "base_model.model.",
        "text_encoders.clip_l.transformer.",
        "clip_l.transformer.",
        "te1.",
    ),
    "text_encoder_2": (
        "text_encoder_2.",
        "base_model.model.text_encoder_2.",
        "text_encoders.clip_g.transformer.",
        "clip_g.transformer.",
        "te2.",
    ),
}
_ORIGINAL_PREFIXES = ("diffusion_model.", "model.diffusion_model.")
_KOHYA_PREFIXES: Mapping[str, tuple[str, ...]] = {
    "unet": ("lora_unet_", "lycoris_", "lycoris_unet_"),
    "text_encoder": ("lora_te_", "lora_te1_", "lycoris_te_"),
    "text_encoder_2": ("lora_te2_", "lycoris_te2_"),
}


def split(key: str) -> tuple[str, str] | None:
    """Split a key into its module and the role of its tensor there; None if it ends like none."""
    for direction in ("down", "up"):
        for old in _OLD_MODULES["unet"]:
            if key.endswith(f".{old}_lora.{direction}.weight"):
                kind = "unet" if ".processor." in key or "encoder.layers" not in key else "text"
                module = key.removesuffix(f".{old}_lora.{direction}.weight")
                return f"{module.removesuffix('.processor')}.{_OLD_MODULES[kind][old]}", direction
    for role, endings in ENDINGS.items():
        for ending in endings:
            if key.endswith(ending):
                return key.removesuffix(ending), role
    return None


def spellings(component: str, module: str, original: Mapping[str, str]) -> Iterator[str]:
    """Yield every name that a file may give a module of a network.

    `component` is what a diffusers folder calls the network, `original` maps the UNet's modules to
    the names of the original code, see `original_names`.
    """
    names = {module, renamed(module, original)}  # kohya keeps the original names for SDXL
    if component != "unet":
        bare = module.removeprefix("text_model.")
        names = {bare, f"text_model.{bare}"}
    for name in names:
        for prefix in _PREFIXES[component]:
            yield prefix + name
        for prefix in _KOHYA_PREFIXES[component]:
            yield prefix + name.replace(".", "_")
    if component == "unet":
        for prefix in _ORIGINAL_PREFIXES:
            yield prefix + renamed(module, original)


def original_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Map modules of a UNet to the names in the original code."""
    return unet_modules(config)


def kind_of(roles: Collection[str]) -> str | None:
    """Return which of `KINDS` the tensors of one module are; None for none, or half of one."""
    return next(
        (
            name
            for name, (wholes, more) in KINDS.items()
            if any(whole <= set(roles) <= whole | more for whole in wholes)
        ),
        None,
    )


def other_kind(keys: Collection[str]) -> str | None:
    """Return which kind of file keys belong to that is not merged here; None for no known one."""
    return next((kind for part, kind in OTHER_KINDS.items() if any(part in k for k in keys)), None)


def made_for(header: Mapping[str, Tensor]) -> str | None:
    """Return which model a file seems to be made for, as far as its keys tell; None if they do not.

    The width of the text that the UNet's attention reads tells the versions of Stable Diffusion.
    """
    names = " ".join(header)
    if "double_blocks" in names or "single_transformer_blocks" in names:
        return "FLUX"
    if "joint_blocks" in names or any(key.startswith("transformer.") for key in header):
        return "a model with a transformer, such as Stable Diffusion 3"
    for key, tensor in header.items():
        is_cross = "attn2" in key and ("to_k" in key or "to_v" in key)
        if is_cross and key.endswith(ENDINGS["down"]) and len(tensor.shape) > 1:
            widths = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}
            return widths.get(tensor.shape[1])
    return "SDXL" if "lora_te2_" in names or "text_encoder_2." in names else None
