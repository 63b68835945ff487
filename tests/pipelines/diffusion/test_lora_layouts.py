"""The layouts of LoRA files that people bring, each against stock diffusers, peft, or a formula.

Stock is the pipeline's own `load_lora_weights` and `fuse_lora`; where diffusers reads no such file,
peft's layers are; and where that has none either, the public formula, written out with einsum.
"""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from reduced_models import build, layout_named, write_configs, write_folder
from safetensors.torch import save_file

from pipelines.checkpoints import single_file
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.specs import Lora
from pipelines.diffusion import lora

pytestmark = pytest.mark.slow

RANK, ALPHA, STRENGTH = 2, 8.0, 0.5
BLOCK = "mid_block.attentions.0.transformer_blocks.0"
QUERY, OUT = f"{BLOCK}.attn1.to_q", f"{BLOCK}.attn2.to_out.0"
CONV, PROJ = "down_blocks.1.resnets.0.conv1", "down_blocks.1.attentions.0.proj_in"
TEXT = "encoder.layers.0.self_attn.q_proj"
TEXT_MLP = "encoder.layers.1.mlp.fc1"

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Layout:
    """A file: how its tensors are called, what else it says, and who says what is right."""

    state: Callable[["Model"], State]
    reference: str | Callable[["Model", State], Mapping[str, torch.Tensor]] = "stock"
    metadata: Mapping[str, Any] | None = None
    config: Mapping[str, Any] | None = None  # adapter_config.json beside it
    model: str = "sd1"
    strength: float = STRENGTH


@dataclass
class Model:
    """A small model of the true architecture, and the stock pipeline of its folder."""

    name: str
    stock: Any
    networks: dict[str, Any] = field(default_factory=dict)

    def named(self, component: str, module: str) -> str:
        """What the network calls a module: only some text encoders have a prefix."""
        names = dict(self.networks[component].named_modules())
        return module if module in names else f"text_model.{module}"

    def shape(self, component: str, module: str) -> tuple[int, ...]:
        name = self.named(component, module)
        return tuple(self.networks[component].get_submodule(name).weight.shape)

    def pair(self, component: str, module: str, rank: int = RANK) -> tuple[Any, Any]:
        """up (out, r, 1, 1), down (r, in, k, k): random, but always the same."""
        out, into, *kernel = self.shape(component, module)
        generator = torch.Generator().manual_seed(len(module))
        up = torch.randn(out, rank, *[1] * len(kernel), generator=generator) * 0.3
        return up, torch.randn(rank, into, *kernel, generator=generator) * 0.3


def keyed(
    name: Callable[[str, str], str],
    ends: tuple[str, str],
    modules: tuple[str, ...] = (QUERY, OUT),
    component: str = "unet",
    **options: Any,
) -> Callable[[Model], State]:
    """A file with both matrices of some modules; `name` makes a key of component and module."""

    def state(model: Model) -> State:
        made = {}
        for module in modules:
            up, down = model.pair(component, module, options.get("rank", RANK))
            dtype = options.get("dtype", torch.float32)
            stem = name(component, module)
            made[stem + ends[0]], made[stem + ends[1]] = up.to(dtype), down.to(dtype)
            if "alpha" in options:
                made[f"{stem}.alpha"] = torch.tensor(options["alpha"])
            if "magnitude" in options:
                out, into = model.shape(component, module)[:2]
                size = {"out": (out,), "column": (out, 1), "row": (1, into)}[options["shape"]]
                made[stem + options["magnitude"]] = 1 + torch.rand(size, generator=seeded())
        return made

    return state


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def dotted(component: str, module: str) -> str:
    return f"{component}.{module}"


def bare(component: str, module: str) -> str:
    return module


def peft(component: str, module: str) -> str:
    return f"base_model.model.{module}"


def with_text_model(component: str, module: str) -> str:
    return f"{component}.text_model.{module}"


def kohya(component: str, module: str) -> str:
    prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}[component]
    return prefix + module.replace(".", "_")


def kohya_1(component: str, module: str) -> str:
    return "lora_te1_text_model_" + module.replace(".", "_")


def kohya_2(component: str, module: str) -> str:
    return "lora_te2_text_model_" + module.replace(".", "_")


def original(module: str, model: str) -> str:
    configs = layout_named(model).configs / "unet" / "config.json"
    modules = single_file.unet_modules(json.loads(configs.read_text()))
    return single_file.renamed(module, modules)


def kohya_xl(component: str, module: str) -> str:
    return "lora_unet_" + original(module, "sdxl").replace(".", "_")


def comfyui(component: str, module: str) -> str:
    return f"diffusion_model.{original(module, 'sd1')}"


def lycoris(component: str, module: str) -> str:
    return "lycoris_" + module.replace(".", "_")


def processors(component: str, module: str) -> str:
    stem, _, end = module.removesuffix(".0").rpartition(".")
    return f"{component}.{stem}.processor.{end}"


def bare_processors(component: str, module: str) -> str:
    return processors(component, module).removeprefix("unet.")


def old_text(component: str, module: str) -> str:
    return f"{component}.text_model.{module.removesuffix('.q_proj')}.to_q"


AB, DOWN_UP = (".lora_B.weight", ".lora_A.weight"), (".lora_up.weight", ".lora_down.weight")
DEFAULT = (".lora_B.default.weight", ".lora_A.default.weight")
OLD, PROCESSOR = (".lora.up.weight", ".lora.down.weight"), ("_lora.up.weight", "_lora.down.weight")
LINEAR = (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight")


def product(
    factor: float, modules: tuple[str, ...] = (QUERY, OUT), component: str = "unet"
) -> Callable[[Model, State], Mapping[str, torch.Tensor]]:
    """up · down · factor, of the tensors that `keyed` writes."""

    def changes(model: Model, state: State) -> Mapping[str, torch.Tensor]:
        made = {}
        for module in modules:
            up, down = model.pair(component, module)
            change = factor * (up.flatten(1) @ down.flatten(1))
            name = model.named(component, module)
            made[f"{component}.{name}.weight"] = change.reshape(model.shape(component, module))
        return made

    return changes


def lycoris_state(module: str, **shapes: tuple[int, ...]) -> Callable[[Model], State]:
    """Random tensors of LyCORIS for one module, in kohya's spelling, with α."""

    def state(model: Model) -> State:
        generator = seeded()
        made = {
            f"{kohya('unet', module)}.{name}": torch.randn(size, generator=generator) * 0.3
            for name, size in shapes.items()
        }
        return {**made, f"{kohya('unet', module)}.alpha": torch.tensor(ALPHA)}

    return state


def formula(module: str, rank: int | None, text: str, *names: str) -> Callable[..., Any]:
    """The change by einsum over tensors of LyCORIS, times α / rank."""

    def changes(model: Model, state: State) -> Mapping[str, torch.Tensor]:
        stem = kohya("unet", module)
        tensors = [state[f"{stem}.{name}"] for name in names]
        scale = STRENGTH * (1 if rank is None else ALPHA / rank)
        if "*" in text:  # the product of two
            halves = [torch.einsum(part, *tensors[i::2]) for i, part in enumerate(text.split("*"))]
            change = halves[0] * halves[1]
        else:
            change = torch.einsum(text, *tensors)
        return {f"unet.{module}.weight": scale * change.reshape(model.shape("unet", module))}

    return changes


def per_input(model: Model, state: State) -> Mapping[str, torch.Tensor]:
    """DoRA of LyCORIS, whose magnitude is that of the columns."""
    stem = kohya("unet", QUERY)
    weight = model.networks["unet"].get_submodule(QUERY).weight.detach()
    change = state[f"{stem}.lora_up.weight"] @ state[f"{stem}.lora_down.weight"]
    whole = weight + STRENGTH * ALPHA / RANK * change
    columns = whole.square().sum(0, keepdim=True).sqrt()
    return {f"unet.{QUERY}.weight": state[f"{stem}.dora_scale"] * whole / columns - weight}


def per_output(model: Model, state: State) -> Mapping[str, torch.Tensor]:
    """DoRA of the article, whose magnitude is that of the rows."""
    stem = kohya("unet", QUERY)
    weight = model.networks["unet"].get_submodule(QUERY).weight.detach()
    change = state[f"{stem}.lora_up.weight"] @ state[f"{stem}.lora_down.weight"]
    whole = weight + STRENGTH * ALPHA / RANK * change
    rows = whole.square().sum(1, keepdim=True).sqrt()
    return {f"unet.{QUERY}.weight": state[f"{stem}.dora_scale"] * whole / rows - weight}


def peft_layers(kind: str) -> Callable[..., Any]:
    """What peft's own layers of a kind make of a file that it wrote."""

    def changes(model: Model, state: State) -> Mapping[str, torch.Tensor]:
        import peft as library

        network = copy.deepcopy(model.networks["unet"])
        config = getattr(library, f"{kind}Config")(**PEFT[kind])
        wrapped = library.get_peft_model(network, config)
        library.set_peft_model_state_dict(wrapped, dict(state))
        made = {}
        for name, layer in wrapped.base_model.model.named_modules():
            if hasattr(layer, "get_delta_weight"):
                change = STRENGTH * layer.get_delta_weight("default").detach()
                made[f"unet.{name}.weight"] = change
        return made

    return changes


PEFT: Mapping[str, dict[str, Any]] = {
    "LoHa": {"r": RANK, "alpha": ALPHA, "target_modules": [QUERY, CONV]},
    "LoKr": {"r": RANK, "alpha": ALPHA, "target_modules": [QUERY, CONV]},
}


def made_by_peft(kind: str) -> Callable[[Model], State]:
    def state(model: Model) -> State:
        import peft as library

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = copy.deepcopy(model.networks["unet"])
            config = getattr(library, f"{kind}Config")(**PEFT[kind], init_weights=False)
            wrapped = library.get_peft_model(network, config)
            return {
                key: value.contiguous()
                for key, value in library.get_peft_model_state_dict(wrapped).items()
            }

    return state


def with_bias(model: Model) -> State:
    up, down = model.pair("unet", OUT)
    stem = f"unet.{OUT}"
    return {
        f"{stem}.lora_B.weight": up,
        f"{stem}.lora_A.weight": down,
        f"{stem}.lora_B.bias": torch.ones(len(up)),
    }


def bias_changes(model: Model, state: State) -> Mapping[str, torch.Tensor]:
    stem = f"unet.{OUT}"
    change = state[f"{stem}.lora_B.weight"] @ state[f"{stem}.lora_A.weight"]
    return {
        f"{stem}.weight": STRENGTH * change,
        f"{stem}.bias": STRENGTH * state[f"{stem}.lora_B.bias"],
    }


def differences(model: Model) -> State:
    shape = model.shape("unet", QUERY)
    return {
        f"{kohya('unet', QUERY)}.diff": torch.randn(shape, generator=seeded()),
        f"{kohya('unet', OUT)}.diff_b": torch.ones(model.shape("unet", OUT)[0]),
    }


def difference_changes(model: Model, state: State) -> Mapping[str, torch.Tensor]:
    first, second = state.values()
    return {f"unet.{QUERY}.weight": STRENGTH * first, f"unet.{OUT}.bias": STRENGTH * second}


SAID = {"unet.r": RANK, "unet.lora_alpha": ALPHA, "unet.target_modules": [QUERY, OUT]}


def patterns(module: str, alpha: float) -> dict[str, Any]:
    return {**SAID, "unet.alpha_pattern": {module: alpha}}


CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA}
SUFFIX = "attn1.to_q"
K = ALPHA / RANK * STRENGTH
TE, TE_2 = "text_encoder", "text_encoder_2"
TEXTS = (TEXT, TEXT_MLP)
MLP = (f"{BLOCK}.ff.net.0.proj", f"{BLOCK}.ff.net.2")

LAYOUTS: Mapping[str, Layout] = {
    "diffusers": Layout(keyed(dotted, AB)),
    "diffusers, convolutions": Layout(keyed(dotted, AB, (CONV, PROJ))),
    "diffusers, older": Layout(keyed(dotted, OLD)),
    "diffusers, processors": Layout(keyed(processors, PROCESSOR)),
    "diffusers, processors without unet.": Layout(
        keyed(bare_processors, PROCESSOR), product(STRENGTH)
    ),
    "diffusers, half precision": Layout(keyed(dotted, AB, dtype=torch.float16)),
    "diffusers, bfloat16": Layout(keyed(dotted, AB, dtype=torch.bfloat16)),
    "diffusers, a negative weight": Layout(keyed(dotted, AB), strength=-1.5),
    "diffusers, for SDXL": Layout(keyed(dotted, AB), model="sdxl"),
    "without unet.": Layout(keyed(bare, AB), product(STRENGTH)),
    "alpha in the metadata": Layout(keyed(dotted, AB), metadata=SAID),
    "alpha_pattern of a module": Layout(keyed(dotted, AB), metadata=patterns(QUERY, 1.0)),
    "alpha_pattern of the end of a name": Layout(keyed(dotted, AB), metadata=patterns(SUFFIX, 1.0)),
    "use_rslora": Layout(
        keyed(dotted, AB),
        metadata={**SAID, "unet.use_rslora": True},
    ),
    "kohya": Layout(keyed(kohya, DOWN_UP, alpha=ALPHA)),
    "kohya without alpha": Layout(keyed(kohya, DOWN_UP), product(STRENGTH)),
    "kohya, convolutions": Layout(keyed(kohya, DOWN_UP, (CONV, PROJ), alpha=ALPHA)),
    "kohya for SDXL": Layout(keyed(kohya_xl, DOWN_UP, alpha=ALPHA), model="sdxl"),
    "kohya, the MLP": Layout(keyed(kohya, DOWN_UP, MLP, alpha=1.0)),
    "peft": Layout(keyed(peft, AB), product(K), config=CONFIG),
    "peft with the adapter's name": Layout(keyed(peft, DEFAULT), product(K), config=CONFIG),
    "peft with use_rslora": Layout(
        keyed(peft, AB),
        product(ALPHA / RANK**0.5 * STRENGTH),
        config={**CONFIG, "use_rslora": True},
    ),
    "text encoder": Layout(keyed(dotted, AB, TEXTS, TE), product(STRENGTH, TEXTS, TE)),
    "text encoder with text_model.": Layout(
        keyed(with_text_model, AB, TEXTS, TE), product(STRENGTH, TEXTS, TE)
    ),
    "text encoder, older": Layout(
        keyed(with_text_model, LINEAR, TEXTS, TE), product(STRENGTH, TEXTS, TE)
    ),
    "text encoder, oldest": Layout(
        keyed(old_text, PROCESSOR, (TEXT,), TE), product(STRENGTH, (TEXT,), TE)
    ),
    "text encoder of peft": Layout(
        keyed(peft, AB, TEXTS, TE), product(K, TEXTS, TE), config=CONFIG
    ),
    "text encoder of kohya": Layout(
        keyed(kohya, DOWN_UP, TEXTS, TE, alpha=ALPHA), product(K, TEXTS, TE)
    ),
    "first text encoder of SDXL": Layout(
        keyed(kohya_1, DOWN_UP, TEXTS, TE, alpha=ALPHA), product(K, TEXTS, TE), model="sdxl"
    ),
    "second text encoder of SDXL": Layout(
        keyed(kohya_2, DOWN_UP, TEXTS, TE_2, alpha=ALPHA), product(K, TEXTS, TE_2), model="sdxl"
    ),
    "text encoders of diffusers, SDXL": Layout(
        keyed(dotted, AB, TEXTS, TE_2), product(STRENGTH, TEXTS, TE_2), model="sdxl"
    ),
    "DoRA": Layout(keyed(dotted, AB, magnitude=".lora_magnitude_vector", shape="out")),
    "DoRA of kohya": Layout(
        keyed(kohya, DOWN_UP, (QUERY,), alpha=ALPHA, magnitude=".dora_scale", shape="column"),
        per_output,
    ),
    "DoRA of LyCORIS": Layout(
        keyed(kohya, DOWN_UP, (QUERY,), alpha=ALPHA, magnitude=".dora_scale", shape="row"),
        per_input,
    ),
    "LoHa of peft": Layout(made_by_peft("LoHa"), peft_layers("LoHa"), config=PEFT["LoHa"]),
    "LoKr of peft": Layout(made_by_peft("LoKr"), peft_layers("LoKr"), config=PEFT["LoKr"]),
    "LoHa": Layout(
        lycoris_state(
            QUERY, hada_w1_a=(16, 2), hada_w1_b=(2, 16), hada_w2_a=(16, 2), hada_w2_b=(2, 16)
        ),
        formula(
            QUERY, 2, "or,ri->oi*or,ri->oi", "hada_w1_a", "hada_w2_a", "hada_w1_b", "hada_w2_b"
        ),
    ),
    "LoHa of convolutions": Layout(
        lycoris_state(
            CONV,
            hada_w1_a=(2, 16),
            hada_w1_b=(2, 8),
            hada_t1=(2, 2, 3, 3),
            hada_w2_a=(2, 16),
            hada_w2_b=(2, 8),
            hada_t2=(2, 2, 3, 3),
        ),
        formula(
            CONV,
            2,
            "pqkl,po,qi->oikl*pqkl,po,qi->oikl",
            *("hada_t1", "hada_t2", "hada_w1_a", "hada_w2_a", "hada_w1_b", "hada_w2_b"),
        ),
    ),
    "LoKr of whole matrices": Layout(
        lycoris_state(QUERY, lokr_w1=(4, 2), lokr_w2=(4, 8)),
        formula(QUERY, None, "ab,cd->acbd", "lokr_w1", "lokr_w2"),
    ),
    "LoKr of products": Layout(
        lycoris_state(QUERY, lokr_w1=(4, 4), lokr_w2_a=(4, 3), lokr_w2_b=(3, 4)),
        formula(QUERY, 3, "ab,cr,rd->acbd", "lokr_w1", "lokr_w2_a", "lokr_w2_b"),
    ),
    "LoKr of convolutions": Layout(
        lycoris_state(
            CONV, lokr_w1=(4, 4), lokr_t2=(3, 3, 3, 3), lokr_w2_a=(3, 4), lokr_w2_b=(3, 2)
        ),
        formula(CONV, 3, "ab,pqkl,pc,qd->acbdkl", "lokr_w1", "lokr_t2", "lokr_w2_a", "lokr_w2_b"),
    ),
    "LoCon with a core": Layout(
        lycoris_state(
            CONV,
            **{
                "lora_up.weight": (16, 2, 1, 1),
                "lora_mid.weight": (2, 2, 3, 3),
                "lora_down.weight": (2, 8, 1, 1),
            },
        ),
        formula(
            CONV,
            2,
            "pqkl,opxx,qixx->oikl",
            *("lora_mid.weight", "lora_up.weight", "lora_down.weight"),
        ),
    ),
    "ComfyUI": Layout(keyed(comfyui, DOWN_UP), product(STRENGTH)),
    "LyCORIS": Layout(keyed(lycoris, DOWN_UP, alpha=ALPHA), product(K)),
    "differences of whole weights": Layout(differences, difference_changes),
    "a bias": Layout(with_bias, bias_changes),
}


@pytest.fixture(scope="module")
def models(
    tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Callable[..., Any]
) -> dict[str, Model]:
    import diffusers

    made = {}
    for name in ("sd1", "sdxl"):
        root = tmp_path_factory.mktemp(name)
        configs = write_configs(name, root / "configs")
        folder = write_folder(configs, build(configs), root / name, make_tokenizer)
        stock = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
        names = [each for each in ("unet", TE, TE_2) if hasattr(stock, each)]
        networks = {each: copy.deepcopy(getattr(stock, each)) for each in names}
        made[name] = Model(name, stock, networks)
    return made


def by_stock(model: Model, path: Path, strength: float) -> Mapping[str, torch.Tensor]:
    """The changes that the stock pipeline makes."""
    stock = model.stock
    stock.load_lora_weights(path.parent, weight_name=path.name)
    stock.fuse_lora(lora_scale=strength)
    changes = {}
    for component, network in model.networks.items():
        before = dict(network.named_parameters())
        for name, value in getattr(stock, component).named_parameters():
            plain = name.replace(".base_layer", "")
            if plain in before:
                changes[f"{component}.{plain}"] = value.detach() - before[plain].detach()
    stock.unload_lora_weights()
    for component, network in model.networks.items():
        getattr(stock, component).load_state_dict(network.state_dict())
    return changes


def by_salon(model: Model, path: Path, strength: float) -> Mapping[str, torch.Tensor]:
    networks = copy.deepcopy(model.networks)
    lora.merge([Lora(path, strength)], networks)
    return {
        f"{component}.{name}": value.detach() - before.detach()
        for component, network in networks.items()
        for (name, value), before in zip(
            network.named_parameters(), model.networks[component].parameters(), strict=True
        )
    }


def write(layout: Layout, state: State, folder: Path) -> Path:
    path = folder / ("adapter_model.safetensors" if layout.config else "lora.safetensors")
    said = layout.metadata and {"lora_adapter_metadata": json.dumps(layout.metadata)}
    save_file(state, path, said)
    if layout.config:
        (folder / "adapter_config.json").write_text(json.dumps(layout.config))
    return path


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(name: str, models: dict[str, Model], tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    model = models[layout.model]
    state = layout.state(model)
    path = write(layout, state, tmp_path)
    if isinstance(layout.reference, str):
        expected = by_stock(model, path, layout.strength)
    else:
        expected = layout.reference(model, state)
    ours = by_salon(model, path, layout.strength)
    assert max(value.abs().max() for value in expected.values()) > 0.01
    for key, change in ours.items():
        right = expected.get(key, torch.zeros_like(change))
        assert torch.allclose(change, right, atol=1e-4, rtol=1e-4), key
    assert expected.keys() <= ours.keys()


def test_the_table_is_as_long_as_asked() -> None:
    assert len(LAYOUTS) >= 37


def test_the_order_of_files_makes_no_difference(models: dict[str, Model], tmp_path: Path) -> None:
    model = models["sd1"]
    files = []
    for name in ("DoRA", "kohya"):
        (tmp_path / name).mkdir()
        files.append(write(LAYOUTS[name], LAYOUTS[name].state(model), tmp_path / name))
    weights = []
    for order in (files, files[::-1]):
        networks = copy.deepcopy(model.networks)
        lora.merge([Lora(path) for path in order], networks)
        weights.append(networks["unet"].get_submodule(QUERY).weight)
    assert torch.allclose(*weights, atol=1e-6)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"lora_unet_x.oft_blocks": (1, 2, 2)}, "changes of the kind OFT"),
        ({"lora_unet_x.on_input": (2,)}, r"changes of the kind \(IA\)³"),
        ({"lora_unet_double_blocks_0_img_mod_lin.lora_up.weight": (2, 2)}, "made for FLUX"),
        ({"transformer.blocks.0.to_q.lora_A.weight": (2, 2)}, "such as Stable Diffusion 3"),
        (
            {f"{kohya('unet', QUERY)}.hada_w1_a": (16, 2)},
            "keys without the other half: lora_unet_mid_block_",
        ),
        (
            {f"unet.{BLOCK}.attn2.to_k.lora_{x}.weight": (2, 2048) if x == "A" else (16, 2)
             for x in "AB"},
            "made for SDXL",
        ),
        (
            {f"{kohya('unet', QUERY)}.lokr_w{i}": (400, 400) for i in (1, 2)},
            "does not fit this model",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(
    keys: dict[str, tuple[int, ...]], reason: str, models: dict[str, Model], tmp_path: Path
) -> None:
    save_file({key: torch.zeros(shape) for key, shape in keys.items()}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=reason):
        lora.merge([Lora(tmp_path / "x.safetensors")], models["sd1"].networks)
