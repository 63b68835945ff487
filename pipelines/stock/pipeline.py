"""Any other text-to-image pipeline of diffusers, behind the contract of drafts.

The stock `__call__` runs in a thread of its own, which waits behind every `scheduler.step` until
the draft is asked to go on. Nothing else is common to all pipelines: some have no callback, others
fix their batch before the loop. So candidates are drawn one after the other, each with a call of
its own, and a candidate's images are those of the stock call with the same generator.
"""

import importlib.util
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Unpack

import torch
from diffusers.utils import BaseOutput
from PIL import Image
from transformers import PreTrainedTokenizerBase

from pipelines.checkpoints import specs
from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.headers import read_header, shards
from pipelines.checkpoints.loading import first_line, refuse
from pipelines.checkpoints.places import class_of, locate
from pipelines.checkpoints.specs import Spec
from pipelines.checkpoints.tokenizer_files import MAX_BYTES, check_tokenizer_files
from pipelines.drafts import check_seeds, draw
from pipelines.loading import LoadOptions, Report, ignore_progress
from pipelines.runtime.devices import choose_device, choose_dtype
from pipelines.runtime.offloading import check_offload
from pipelines.settings import with_defaults
from pipelines.stock.draft import StockDraft
from pipelines.stock.memory import parts_of_index
from pipelines.stock.settings import StockSettings
from pipelines.stock.spec import read_spec

THEIR_NAMES = {"steps": "num_inference_steps", "guidance": "guidance_scale"}
IMAGES = ("image", "control_image")  # of the parameters of stock pipelines
# Whose signatures do not tell that they need more than text, and what is made that is no image.
NEED_MORE = (
    "QwenImageEditPipeline",
    "QwenImageEditPlusPipeline",
    "QwenImageLayeredPipeline",
    "LongCatImageEditPipeline",
    "HunyuanImageRefinerPipeline",
    "BriaFiboEditPipeline",
    "StableDiffusionGLIGENPipeline",
    "StableDiffusionGLIGENTextImagePipeline",
    "StableDiffusionPix2PixZeroPipeline",
)
NO_IMAGE: Mapping[str, str] = {
    "ShapEPipeline": "views of a shape",
    "TextToVideoZeroPipeline": "a video",
    "TextToVideoZeroSDXLPipeline": "a video",
}
LIBRARIES = ("diffusers", "transformers")


class StockPipeline:
    """A stock pipeline with its networks, and what really runs."""

    def __init__(self, spec: Spec, stock: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.spec = spec
        self.stock = stock
        self.device = device
        self.dtype = dtype
        self.attention = "sdpa"  # what diffusers' newer networks choose by themselves

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        *,
        offload: str | None = None,
        vae_tiling: bool = False,
    ) -> "StockPipeline":
        """Load a diffusers folder of any pipeline that has a scheduler and draws from a prompt.

        `offload` and `vae_tiling` as in `LatentDiffusion.from_pretrained`.

        Raises WeightsError for what is missing, damaged or not a class of diffusers or
        transformers, and ValueError for an unavailable device, dtype or offload, and for tiles
        where there is no VAE that makes them.
        """
        spec = read_spec(locate(str(folder)))
        return cls.load(spec, LoadOptions(device, dtype, offload=offload, vae_tiling=vae_tiling))

    @classmethod
    def load(
        cls, spec: Spec, options: LoadOptions, report: Report = ignore_progress
    ) -> "StockPipeline":
        """Load the model of a Spec; see `from_pretrained`."""
        specs.warn_of_licence(spec)
        device = choose_device(options.device)
        dtype = choose_dtype(device, options.dtype)
        offload = check_offload(options.offload, device)
        stock = _load(spec.folder, dtype)
        if options.vae_tiling and not hasattr(getattr(stock, "vae", None), "enable_tiling"):
            raise ValueError(f"{type(stock).__name__} has no VAE that decodes in tiles")
        if options.vae_tiling:
            stock.vae.enable_tiling()
        if offload == "none":
            stock.to(device)
        elif offload == "model":
            stock.enable_model_cpu_offload(device=device)
        else:
            stock.enable_sequential_cpu_offload(device=device)
        stock.set_progress_bar_config(disable=True)
        return cls(spec, stock, device, dtype)

    def begin(
        self, prompt: str, *, seeds: Sequence[int], **settings: Unpack[StockSettings]
    ) -> StockDraft:
        """Start one candidate per seed. What is not given is the stock pipeline's own default.

        Raises ValueError for seeds that cannot be, and for a setting that this pipeline lacks.
        """
        check_seeds(seeds)
        takes = inspect.signature(self.stock.__call__).parameters
        asked = with_defaults(StockSettings, settings, {})
        given = {THEIR_NAMES.get(name, name): value for name, value in asked.items()}
        if lacking := [name for name in given if name not in takes]:
            raise ValueError(f"{type(self.stock).__name__} takes no {', '.join(lacking)}")
        own = takes["num_inference_steps"].default if "num_inference_steps" in takes else None
        steps = given.get("num_inference_steps", own if isinstance(own, int) else 1)
        return StockDraft(self.stock, {"prompt": prompt, **given}, seeds, steps, self.device)

    def __call__(
        self, prompt: str, *, seeds: Sequence[int], **settings: Unpack[StockSettings]
    ) -> list[Image.Image | None]:
        """Return one image per seed; None where there is none to show. See `begin`."""
        return draw(self.begin(prompt, seeds=seeds, **settings))

    def token_count(self, prompt: str) -> int:
        """Return how many tokens the first of the pipeline's tokenizers makes of a prompt."""
        return len(self.stock.tokenizer(prompt, verbose=False).input_ids)

    def dropped_text(self, prompt: str) -> str:
        """Return "": what a stock pipeline does not read is unknown from outside."""
        return ""


def _load(folder: Path, dtype: torch.dtype) -> Any:
    """Load the stock pipeline of a folder, each part by its own class and fully checked."""
    import diffusers

    index = read_config(folder / "model_index.json")
    class_name = class_of(folder)
    kind = getattr(diffusers, class_name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
        lacking = [name for name in getattr(kind, "_backends", ()) if not _is_installed(name)]
        raise WeightsError(
            f"{folder} holds a {class_name}, which diffusers {diffusers.__version__} as it is "
            "installed here does not have"
            + (f": it takes {', '.join(lacking)}, which is not installed" if lacking else "")
        )
    _check_kind(folder, kind)
    known = inspect.signature(kind).parameters
    entries = {part: entry for part, entry in parts_of_index(index).items() if part in known}
    parts = {part: _load_part(folder, part, entry, dtype) for part, entry in entries.items()}
    settings = {name: value for name, value in index.items() if name in known and name not in parts}
    if parts.get("scheduler") is None:
        raise WeightsError(f"{folder}: {kind.__name__} has no scheduler, so it has no steps")
    try:
        return kind(**parts, **settings)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{folder} does not fit together: {first_line(error)}") from error


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package.replace("-", "_")) is not None


def _check_kind(folder: Path, kind: Any) -> None:
    """Raise WeightsError for a pipeline that does not draw images, or not from text alone."""
    takes = inspect.signature(kind.__call__).parameters.values()
    needs = {p.name for p in takes if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
    names = {parameter.name for parameter in takes}
    needs |= {  # some have no image by default, and then complain
        p.name for p in takes if p.name in IMAGES and "None" not in str(p.annotation)
    }
    has_text = needs <= {"self", "prompt"} and "prompt" in names and "mask_image" not in names
    if not has_text or kind.__name__ in NEED_MORE:
        raise WeightsError(f"{folder} holds a {kind.__name__}, which draws from more than text")
    returned = {
        entry.name
        for each in vars(importlib.import_module(kind.__module__)).values()
        if isinstance(each, type) and issubclass(each, BaseOutput) and is_dataclass(each)
        for entry in fields(each)
    }
    other = NO_IMAGE.get(kind.__name__)
    if other or "num_frames" in names or not (returned & {"images", "image"} or not returned):
        is_video = returned & {"frames", "video"}
        what = other or ("a video" if is_video else ", ".join(sorted(returned)))
        raise WeightsError(f"{folder} holds a {kind.__name__}, which makes {what}, not an image")


def _class_of_part(library: str, name: str) -> Any:
    """Return a class of diffusers or transformers, also of a module of one of diffusers' pipelines,
    as `kolors`, or of those it has put away, as `wuerstchen`; None if there is none."""
    if library in LIBRARIES:
        return getattr(importlib.import_module(library), name, None)
    if not re.fullmatch("[a-z0-9_]{1,60}", library):
        return None
    for place in ("diffusers.pipelines", "diffusers.pipelines.deprecated"):
        if importlib.util.find_spec(f"{place}.{library}") is not None:
            found = getattr(importlib.import_module(f"{place}.{library}"), name, None)
            return found if isinstance(found, type) else None
    return None


def _load_part(folder: Path, part: str, entry: list[Any], dtype: torch.dtype) -> Any:
    """Load one part of a pipeline; None for one that the pipeline does without."""
    if entry == [None, None]:
        return None
    library, class_name = (str(entry[0]), str(entry[-1])) if entry else ("", "")
    kind = _class_of_part(library, class_name)
    if kind is None or not (folder / part).is_dir():
        raise WeightsError(
            f"{folder}: {part} is a {library}.{class_name}, which is not there; parts must be "
            f"folders of classes of {' or '.join(LIBRARIES)}"
        )
    for path in sorted((folder / part).glob("*.json")):
        read_config(path, most=MAX_BYTES)  # refuses code
    if issubclass(kind, PreTrainedTokenizerBase):
        check_tokenizer_files(folder / part)
    paths, variant = shards(folder / part)
    for path in paths:
        read_header(path)  # refuses what is cut off
    try:
        if not issubclass(kind, torch.nn.Module):
            return kind.from_pretrained(folder / part, local_files_only=True)
        network, info = kind.from_pretrained(
            folder / part,
            dtype=dtype,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # two libraries check files, with errors of their own
        raise WeightsError(f"{folder}/{part} cannot be loaded: {first_line(error)}") from error
    for what, named in (("missing", "missing_keys"), ("unknown", "unexpected_keys")):
        refuse(folder / part, f"{what} keys", sorted(info[named]))
    refuse(folder / part, "keys of the wrong shape", [str(k) for k in info["mismatched_keys"]])
    return network.eval()
