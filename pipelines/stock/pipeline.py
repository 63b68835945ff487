"""Any other text-to-image pipeline of diffusers, behind the contract of drafts.

The stock `__call__` runs in a thread of its own, which waits behind every `scheduler.step` until
the draft is asked to go on. Nothing else is common to all pipelines: some have no callback, others
fix their batch before the loop. So candidates are drawn one after the other, each with a call of
its own, and a candidate's pictures are those of the stock call with the same generator.
"""

import copy
import functools
import importlib
import inspect
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines import families
from pipelines.checkpoints import specs
from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.headers import read_header, shards
from pipelines.checkpoints.loading import first_line, refuse
from pipelines.checkpoints.specs import Spec
from pipelines.diffusion import decoding
from pipelines.drafts import check_indices, check_seeds
from pipelines.runtime.devices import choose_device, choose_dtype
from pipelines.runtime.offloading import check_offload

LIBRARIES = ("diffusers", "transformers")
THREAD = "stock pipeline"
UNFINISHED = "it was stopped before it was finished"


class AnyPipeline:
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
    ) -> "AnyPipeline":
        """Load a diffusers folder of any pipeline that has a scheduler and draws from a prompt.

        `offload` and `vae_tiling` as in `LatentDiffusion.from_pretrained`.

        Raises WeightsError for what is missing, damaged or not a class of diffusers or
        transformers, and ValueError for a device, dtype or offload that there is not, and for tiles
        where there is no VAE that makes them.
        """
        spec = families.find(str(folder))
        specs.warn_of_licence(spec)
        chosen_device = choose_device(device)
        chosen_dtype = choose_dtype(chosen_device, dtype)
        offload = check_offload(offload, chosen_device)
        stock = _load(spec.folder, chosen_dtype)
        if vae_tiling and not hasattr(getattr(stock, "vae", None), "enable_tiling"):
            raise ValueError(f"{type(stock).__name__} has no VAE that decodes in tiles")
        if vae_tiling:
            stock.vae.enable_tiling()
        if offload == "none":
            stock.to(chosen_device)
        elif offload == "model":
            stock.enable_model_cpu_offload(device=chosen_device)
        else:
            stock.enable_sequential_cpu_offload(device=chosen_device)
        stock.set_progress_bar_config(disable=True)
        return cls(spec, stock, chosen_device, chosen_dtype)

    def begin(
        self,
        prompt: str,
        negative_prompt: str | None = None,
        *,
        seeds: Sequence[int],
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> "Draft":
        """Start one candidate per seed. What is None is the stock pipeline's own default.

        Raises ValueError for seeds that cannot be, and for a setting that this pipeline lacks.
        """
        check_seeds(seeds)
        takes = inspect.signature(self.stock.__call__).parameters
        asked = {
            "negative_prompt": negative_prompt,
            "width": width,
            "height": height,
            "num_inference_steps": steps,
            "guidance_scale": guidance,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        if lacking := [name for name in given if name not in takes]:
            raise ValueError(f"{type(self.stock).__name__} takes no {', '.join(lacking)}")
        if steps is None:
            steps = takes["num_inference_steps"].default
        return Draft(self.stock, {"prompt": prompt, **given}, tuple(seeds), steps)

    def __call__(
        self,
        prompt: str,
        negative_prompt: str | None = None,
        *,
        seeds: Sequence[int],
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> list[Image.Image | None]:
        """One picture per seed; None where there is none to show. See `begin`."""
        with self.begin(
            prompt,
            negative_prompt,
            seeds=seeds,
            width=width,
            height=height,
            steps=steps,
            guidance=guidance,
        ) as draft:
            draft.step(draft.total)
            return draft.images()

    def token_count(self, prompt: str) -> int:
        """How many tokens the first of the pipeline's tokenizers makes of a prompt."""
        return len(self.stock.tokenizer(prompt, verbose=False).input_ids)

    def dropped_text(self, prompt: str) -> str:
        """Nothing: what a stock pipeline does not read is not known from outside."""
        return ""


class Draft:
    """Candidates of a stock pipeline, drawn one after the other.

    `keep` ends the run in the making if it is dropped; `split`, and a step that raises, let it
    begin anew.
    """

    log_likelihoods: list[float] | None = None  # no tokens, so nothing to tell

    def __init__(
        self, stock: Any, arguments: dict[str, Any], seeds: tuple[int, ...], steps: int
    ) -> None:
        self.failed: dict[int, str] = {}
        self._stock = stock
        self._arguments = arguments
        self._seeds: tuple[int, ...] | None = seeds
        self._steps = steps  # of one candidate; the scheduler may make more of them
        self._pictures: dict[int, torch.Tensor | None] = {}  # by seed, uint8 (3, H, W)
        self._run: _Run | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """The candidates still in."""
        if self._seeds is None:
            raise RuntimeError("this draft is closed")
        return self._seeds

    @property
    def total(self) -> int:
        """Calls of the scheduler in all."""
        return self._steps * len(self.seeds)

    @property
    def done(self) -> int:
        """Those so far."""
        begun = 0 if self._run is None else self._run.done
        return self._steps * sum(seed in self._pictures for seed in self.seeds) + begun

    def step(self, count: int = 1) -> None:
        """Go on for `count` calls of the scheduler, or fewer if the draft is done before that.

        If it raises, the candidate in the making is begun anew by the next step.
        """
        if count < 1:
            raise ValueError(f"count is {count}; it must be at least 1")
        self.failed = {}
        for _ in range(min(count, self.total - self.done)):
            try:
                self._step()
            except BaseException:
                self._end_run()
                raise

    def preview(
        self, indices: Sequence[int] | None = None, exact: bool = False
    ) -> list[Image.Image | None] | None:
        """None, since how latents look is not known; with `exact` the pictures that are whole."""
        if not exact:
            return None
        chosen = range(len(self.seeds)) if indices is None else indices
        check_indices(chosen, len(self.seeds))
        for seed in (self.seeds[i] for i in chosen):
            if seed not in self._pictures:
                self.failed[seed] = UNFINISHED
        return [self._image(self.seeds[i]) for i in chosen]

    def keep(self, indices: Sequence[int]) -> None:
        """Drop all other candidates. Raises ValueError unless `indices` increase."""
        check_indices(indices, len(self.seeds))
        self._seeds = tuple(self.seeds[i] for i in indices)
        self._pictures = {s: p for s, p in self._pictures.items() if s in self._seeds}
        self.failed = {s: reason for s, reason in self.failed.items() if s in self._seeds}
        if self._run is not None and self._run.seed not in self._seeds:
            self._end_run()

    def split(self) -> "tuple[Draft, Draft]":
        """Two drafts of half the candidates each; this one closes.

        Raises ValueError if there is one candidate only.
        """
        N = len(self.seeds)
        if N < 2:
            raise ValueError("one candidate cannot be split")
        self._end_run()
        first, second = copy.copy(self), copy.copy(self)
        first.keep(range(N // 2))
        second.keep(range(N // 2, N))
        self.close()
        return first, second

    def images(self) -> list[Image.Image | None]:
        """The finished pictures; None for those in `failed`. RuntimeError before the last step."""
        self._check_done()
        return [self._image(seed) for seed in self.seeds]

    def pixels(self) -> torch.Tensor:
        """The finished pictures as uint8 (M, 3, H, W), without those in `failed`."""
        self._check_done()
        pictures = [self._pictures[seed] for seed in self.seeds]
        there = [picture for picture in pictures if picture is not None]
        return torch.stack(there) if there else torch.empty((0, 3, 0, 0), dtype=torch.uint8)

    def close(self) -> None:
        """End the thread and free everything."""
        self._end_run()
        self._seeds = None
        self._pictures = {}

    def __enter__(self) -> "Draft":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _step(self) -> None:
        if self._run is None:
            seed = next(seed for seed in self.seeds if seed not in self._pictures)
            self._run = _Run(self._stock, self._arguments, seed)
        self._run.step()
        self._steps = self._run.steps
        if self._run.done == self._steps:
            self._pictures[self._run.seed] = _to_pixels(self._run.finish())
            self._run = None

    def _end_run(self) -> None:
        if self._run is not None:
            self._run.stop()
            self._run = None

    def _check_done(self) -> None:
        if self.done < self.total:
            raise RuntimeError(f"the draft is at step {self.done} of {self.total}, not done")

    def _image(self, seed: int) -> Image.Image | None:
        picture = self._pictures.get(seed)
        if picture is not None:
            return decoding.to_image(picture)
        if seed in self._pictures:
            self.failed[seed] = "the networks made values that are not finite"
        return None


class _Stopped(BaseException):
    """Ends a stock call from inside; no `except Exception` of its own may hold it up."""


@dataclass
class _Run:
    """One stock call in a thread of its own."""

    stock: Any
    arguments: dict[str, Any]
    seed: int
    steps: int = 0  # known from the first step on
    done: int = 0
    _orders: "queue.SimpleQueue[bool]" = field(default_factory=queue.SimpleQueue)  # go on?
    _reports: "queue.SimpleQueue[Callable[[], Any]]" = field(default_factory=queue.SimpleQueue)
    _thread: threading.Thread | None = None

    def step(self) -> None:
        """Let the call go on until its next `scheduler.step` is done; raises what it raises."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._call, name=THREAD, daemon=True)
            self._thread.start()
        else:
            self._orders.put(True)
        self.steps = self._reports.get()()
        self.done += 1

    def finish(self) -> np.ndarray:
        """What the call returns, as (H, W, 3) from 0 to 1."""
        self._orders.put(True)
        picture = self._reports.get()()
        if self._thread is not None:
            self._thread.join()
        return picture

    def stop(self) -> None:
        """End the call at its next `scheduler.step`, and wait until it has."""
        self._orders.put(False)
        if self._thread is not None:
            self._thread.join()

    def _call(self) -> None:
        try:
            pipeline = copy.copy(self.stock)
            scheduler = type(self.stock.scheduler).from_config(self.stock.scheduler.config)
            scheduler.step = self._waiting(scheduler)
            pipeline.scheduler = scheduler
            generator = torch.Generator().manual_seed(self.seed)
            picture = pipeline(**self.arguments, generator=generator, output_type="np").images[0]
        except _Stopped:
            return
        except BaseException as error:
            self._reports.put(functools.partial(_raise, error))
            return
        self._reports.put(lambda: picture)

    def _waiting(self, scheduler: Any) -> Callable[..., Any]:
        step = scheduler.step

        @functools.wraps(step)  # stock pipelines look at what it takes
        def waiting(*positional: Any, **named: Any) -> Any:
            stepped = step(*positional, **named)
            steps = len(scheduler.timesteps)
            self._reports.put(lambda: steps)
            if not self._orders.get():
                raise _Stopped
            return stepped

        return waiting


def _raise(error: BaseException) -> None:
    raise error


def _to_pixels(picture: np.ndarray) -> torch.Tensor | None:
    """uint8 (3, H, W) of (H, W, 3) from 0 to 1; None if it is not finite."""
    if not np.isfinite(picture).all():
        return None
    return torch.from_numpy((picture * 255).round().astype("uint8")).permute(2, 0, 1)


def _load(folder: Path, dtype: torch.dtype) -> Any:
    """The stock pipeline of a folder, each part by its own class and fully checked."""
    import diffusers

    index = read_config(folder / "model_index.json")
    kind = getattr(diffusers, str(index.get("_class_name")), None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
        raise WeightsError(f"{folder} holds a {index.get('_class_name')}, unknown to diffusers")
    takes = inspect.signature(kind.__call__).parameters.values()
    needs = {p.name for p in takes if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
    if not needs <= {"self", "prompt"} or "mask_image" in {p.name for p in takes}:
        raise WeightsError(f"{folder} holds a {kind.__name__}, which draws from more than text")
    entries = {part: entry for part, entry in index.items() if isinstance(entry, list)}
    parts = {part: _load_part(folder, part, entry, dtype) for part, entry in entries.items()}
    settings = {
        name: value
        for name, value in index.items()
        if name in inspect.signature(kind).parameters and name not in parts
    }
    if parts.get("scheduler") is None:
        raise WeightsError(f"{folder}: {kind.__name__} has no scheduler, so it has no steps")
    try:
        return kind(**parts, **settings)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{folder} does not fit together: {first_line(error)}") from error


def _load_part(folder: Path, part: str, entry: list[Any], dtype: torch.dtype) -> Any:
    """One part of a pipeline; None for one that the pipeline does without."""
    if entry == [None, None]:
        return None
    library, class_name = (str(entry[0]), str(entry[-1])) if entry else ("", "")
    kind = None
    if library in LIBRARIES:
        kind = getattr(importlib.import_module(library), class_name, None)
    if kind is None or not (folder / part).is_dir():
        raise WeightsError(
            f"{folder}: {part} is a {library}.{class_name}, which is not there; parts must be "
            f"folders of classes of {' or '.join(LIBRARIES)}"
        )
    for path in sorted((folder / part).glob("*.json")):
        read_config(path)  # refuses code
    paths, variant = shards(folder / part)
    for path in paths:
        read_header(path)  # refuses what is cut off
    try:
        if not issubclass(kind, torch.nn.Module):
            return kind.from_pretrained(folder / part, local_files_only=True)
        network, told = kind.from_pretrained(
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
        refuse(folder / part, f"{what} keys", sorted(told[named]))
    refuse(folder / part, "keys of the wrong shape", [str(k) for k in told["mismatched_keys"]])
    return network.eval()
