"""The models of an engine: where they run, loaded when first used; and what front ends ask."""

import gc
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import rerank.model.specs
from gen import enlarging
from gen.errors import InputError, RoomError
from gen.events import Loading, Note, Watch, ignore_events
from gen.memory import collect_garbage, free_on_host
from pipelines import families
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.hashes import spec_hash
from pipelines.checkpoints.specs import Adapters, Spec
from pipelines.families import DEFAULT_MODEL, find, shipped
from pipelines.loading import LoadOptions
from pipelines.runtime.limits import wait_politely
from rerank import scorers
from rerank.scorers import Scorer, Weighted

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from gen.plan import Plan
    from pipelines.drafts import Pipeline
    from pipelines.segmentation.finding import Finder
    from pipelines.segmentation.models import Kind
    from pipelines.upscale.enlarging import Upscaler
    from rerank import Reranker

__all__ = ["DEFAULT_MODEL", "Models", "Spec", "WeightsError", "find", "shipped"]

NO_RERANKER = "none"
LARGEST = 4096  # pixels a side of what a network makes of an image that is sent
FLAGS = {  # options that not every family understands, as people write them
    "safety": "--safety",
    "compiled": "--compile",
    "offload": "--offload",
    "vae_tiling": "--vae-tiling",
}


@dataclass
class Models:
    """Pipelines and scorers, loaded when first used, and how they are to run.

    `reranker` is a model's name or folder, several with weights, or "none"; None is the one that
    ships. `aesthetic` is the file of a head on the first reranker's features, and its weight.
    `scorer` takes the place of both: an object with `score(prompt, images) -> list[float]`, or a
    function like it; it gets a uint8 tensor (N, 3, H, W) of new images, a list of PIL images of
    earlier ones. `threads` is how many cores of a CPU a network keeps busy, None all that this
    process may use. The other fields are those of `pipelines.loading.LoadOptions`.
    """

    device: str | None = None
    dtype: str | None = None
    attention: str | None = None
    reranker: str | Sequence[Weighted] | None = None
    batch_size: int | None = None  # None: what memory allows
    safety: bool = False
    offload: str | None = None
    vae_tiling: bool = False
    compiled: bool = False
    aesthetic: tuple[Path, float] | None = None
    scorer: Scorer | Callable[[str, Any], list[float]] | None = None
    threads: int | None = None
    _pipelines: dict[tuple[Path, Adapters], "Pipeline"] = field(default_factory=dict, repr=False)
    _hashes: dict[tuple[Path, Adapters], str] = field(default_factory=dict, repr=False)
    _upscalers: dict[Path, "Upscaler"] = field(default_factory=dict, repr=False)
    _finder: "tuple[Any, Finder] | None" = field(default=None, repr=False)
    _scratch: TemporaryDirectory[str] | None = field(default=None, repr=False)
    _scorer: Any = field(default=None, repr=False)

    @property
    def options(self) -> LoadOptions:
        """How networks are to be loaded."""
        return LoadOptions(
            self.device,
            self.dtype,
            self.attention,
            self.safety,
            self.offload,
            self.vae_tiling,
            self.compiled,
        )

    def pipeline(self, spec: Spec, watch: Watch = ignore_events) -> "Pipeline":
        """Return the pipeline of a model, loaded when first asked for."""
        key = spec.folder, spec.adapters
        if key not in self._pipelines:
            watch(Loading(spec.name))
            self.refuse_what_it_lacks(spec)
            self._make_room(spec)
            with _loading("the model", watch):
                use_threads(self.threads)
                self._pipelines[key] = load_pipeline(spec, self.options, watch)
        self._pipelines[key] = self._pipelines.pop(key)  # the last one used comes last
        return self._pipelines[key]

    def upscaler(self, path: Path, watch: Watch = ignore_events) -> "Upscaler":
        """Return the upscaler of a file or folder, loaded when first asked for."""
        if path not in self._upscalers:
            from pipelines.runtime.devices import choose_device
            from pipelines.upscale.loading import load

            watch(Loading(f"the upscaler {path.name}"))
            with _loading("the upscaler", watch):
                self._upscalers[path] = load(path, choose_device(self.device))
        return self._upscalers[path]

    def _make_room(self, spec: Spec) -> None:
        """Let go of models on the CPU, those used longest ago first, until another one fits."""
        needed = weights_size(spec) if self._pipelines else None
        while needed is not None and self._pipelines and needed > free_on_host():
            first = next(iter(self._pipelines))
            if getattr(self._pipelines[first].device, "type", "cpu") != "cpu":
                return
            del self._pipelines[first]
            collect_garbage()

    def release(self, spec: Spec) -> None:
        """Let go of a model's networks, whatever adapters they were loaded with."""
        for key in [key for key in self._pipelines if key[0] == spec.folder]:
            del self._pipelines[key]
        collect_garbage()

    def loaded(self, spec: Spec) -> "Pipeline | None":
        """Return the pipeline of a model if it is in memory."""
        return self._pipelines.get((spec.folder, spec.adapters))

    def upscaler_for(
        self, plan: "Plan", spec: Spec, watch: Watch = ignore_events
    ) -> "Upscaler | None":
        """Return the upscaler that one model's images of a plan need; None for none."""
        own = next(request for each, request in plan.models if each.folder == spec.folder)
        file = enlarging.needed(own, spec)
        return None if file is None else self.upscaler(file, watch)

    def enlarged(
        self, image: "Image.Image", upscaler: Path, times: float, watch: Watch = ignore_events
    ) -> "Image.Image":
        """Return an RGB image so many times larger. Raises InputError for one that is too large."""
        from pipelines.drafts import to_image, to_pixels

        network = self.upscaler(upscaler, watch)
        if max(image.size) * network.scale > LARGEST:
            most = LARGEST // network.scale
            raise InputError(f"{network.name} enlarges images of at most {most} pixels a side")
        return to_image(network.enlarge(to_pixels(image)[None], times)[0])

    def finder(self, folders: "Mapping[Kind, Path]") -> "Finder":
        """Return what finds masks with networks in these folders, loaded when first needed."""
        key = tuple(folders.items())
        if self._finder is None or self._finder[0] != key:
            from pipelines.runtime.devices import choose_device
            from pipelines.segmentation.finding import Finder

            with _loading("what finds masks", ignore_events):
                found = Finder(folders, choose_device(self.device))
            self._finder = key, found
        return self._finder[1]

    def scratch(self) -> Path:
        """Return a folder that is gone when this is."""
        if self._scratch is None:
            self._scratch = TemporaryDirectory(prefix="salon-")
        return Path(self._scratch.name)

    def refuse_what_it_lacks(self, spec: Spec) -> None:
        """Raise InputError for a wish that only other kinds of models fulfil."""
        if lacking := families.lacking(spec, self.options):
            flags = ", ".join(flag for name, flag in FLAGS.items() if name in lacking)
            raise InputError(f"{spec.name} runs without {flags}: leave that out")

    def model_hash(self, spec: Spec) -> str:
        """Return what tells a model's weights from others; WeightsError if they are not there."""
        key = spec.folder, spec.adapters
        if key not in self._hashes:
            if not spec.folder.exists():
                raise WeightsError(
                    f"the weights of {spec.name} are not in {spec.folder}: install salon again, "
                    "or choose another model with -m"
                )
            self._hashes[key] = spec_hash(spec)
        return self._hashes[key]

    @property
    def rerankers(self) -> list[Weighted]:
        """The rerankers by name, with their weights; none where nothing is scored by a model."""
        if self.scorer is not None or self.reranker == NO_RERANKER:
            return []
        if self.reranker is None or isinstance(self.reranker, str):
            return [(self.reranker or rerank.model.specs.DEFAULT, 1.0)]
        return list(self.reranker)

    def known_rerankers(self) -> dict[str, Weighted]:
        """Return by name those of this engine, those that ship, and those in the hub's cache."""
        known = dict(
            zip((spec.name for spec in self.reranker_specs()), self.rerankers, strict=True)
        )
        for name in (*rerank.model.specs.SPECS, *rerank.model.specs.PUBLIC):
            with suppress(WeightsError):
                known.setdefault(rerank.model.specs.find(name).name, (name, 1.0))
        return known

    def score_with(
        self, rerankers: Sequence[Weighted], aesthetic: tuple[Path, float] | None = None
    ) -> None:
        """Score with these models from here on, and let go of those of before."""
        if (list(rerankers), aesthetic) != (self.rerankers, self.aesthetic):
            self.reranker = list(rerankers) or NO_RERANKER
            self.aesthetic, self._scorer = aesthetic, None

    def reranker_specs(self) -> list[rerank.model.specs.Spec]:
        """Return the facts of the rerankers. Raises WeightsError for one that is not there."""
        return [rerank.model.specs.find(name) for name, _ in self.rerankers]

    def reranker_spec(self) -> rerank.model.specs.Spec | None:
        """Return the facts of the first reranker, None for none; WeightsError if there is none."""
        return next(iter(self.reranker_specs()), None)

    def scorer_name(self) -> str | None:
        """Return what scores are called that are written down; None if nothing is scored.

        Raises what `scored_parts` raises.
        """
        if self.scorer is not None:
            own = getattr(self.scorer, "__name__", type(self.scorer).__name__)
            return str(getattr(self.scorer, "name", own))
        return " + ".join(self._reranker_names()) or None

    def scored_parts(self) -> list[str]:
        """Return the names of the scorers whose scores are combined; none if there is but one.

        Raises WeightsError for a model that there is not, InputError for an impossible choice.
        """
        if self.scorer is not None:
            return [member.scorer.name for member in getattr(self.scorer, "members", ())]
        names = self._reranker_names()
        return names if len(names) > 1 else []

    def _reranker_names(self) -> list[str]:
        if not self.rerankers:
            if self.aesthetic is not None and self.scorer is None:
                raise InputError("an aesthetic head needs the features of a reranker: name one")
            return []
        try:
            return scorers.check(self.rerankers, self.aesthetic)
        except ValueError as error:
            raise InputError(str(error)) from error

    def load_scorer(self, watch: Watch = ignore_events) -> Any:
        """Return what scores, loaded when first asked for; None if nothing is to be scored."""
        if self._scorer is None and self.scorer is not None:
            self._scorer = self.scorer
        if self._scorer is None and self.rerankers:
            watch(Loading("the reranker"))
            with _loading("the reranker", watch):
                use_threads(self.threads)
                self._scorer = load_scorer(self)
        return self._scorer

    def load_reranker(self, watch: Watch = ignore_events) -> "Reranker":
        """Return the first reranker, for what only a reranker can: calibration and claims."""
        scorer = self.load_scorer(watch)
        return scorer.members[0].scorer if hasattr(scorer, "members") else scorer

    def choose_machine(self) -> tuple[str, str, float, float]:
        """Return device and dtype of the networks, and the bytes free there and on the host.

        Raises InputError for a device or dtype that there is not.
        """
        from pipelines.runtime.devices import choose_device, choose_dtype
        from pipelines.runtime.offloading import check_offload

        with _loading("nothing", ignore_events):
            device = choose_device(self.device)
            dtype = choose_dtype(device, self.dtype)
            check_offload(self.offload, device)
        name = str(dtype).removeprefix("torch.")
        return str(device), name, free_memory(device), free_on_host()


def use_threads(threads: int | None) -> None:
    """Let networks on the CPU compute in so many threads, which wait without disturbing others."""
    wait_politely()
    from pipelines.runtime import cpu

    cpu.use_threads(threads)


def weights_size(spec: Spec) -> int | None:
    """Return the bytes of a model's weights in float32; None where their files are damaged."""
    try:
        return families.weights_memory(spec, 4).weights
    except WeightsError:
        return None


def load_pipeline(spec: Spec, options: LoadOptions, watch: Watch) -> "Pipeline":
    """Load a model's networks. Takes seconds."""
    return families.load(
        spec, options, lambda loaded, total: watch(Loading(spec.name, loaded, total))
    )


def load_scorer(models: Models) -> Any:
    """Load what scores."""
    device = None if models.device == "auto" else models.device
    return scorers.load(models.rerankers, models.aesthetic, device)


def free_memory(device: Any) -> float:
    """Return the bytes free where networks run."""
    if getattr(device, "type", "cpu") != "cuda":
        return free_on_host()
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def count_gpus() -> int:
    """Return how many CUDA devices there are."""
    import torch

    return torch.cuda.device_count()


def to_pixels(arrays: "Sequence[np.ndarray]") -> Any:
    """Return images, uint8 (H, W, 3) each, as one tensor (N, 3, H, W) for a scorer."""
    import torch

    rows = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays]
    return torch.stack(rows) if rows else torch.empty(0, 3, 1, 1, dtype=torch.uint8)


def describe_devices() -> tuple[str, str]:
    """Return the devices that networks can run on, the best first, and the best one's attention."""
    import torch

    from pipelines.runtime.devices import choose_device, choose_dtype, set_attention

    best = choose_device(None)
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    threads = f"cpu with {torch.get_num_threads()} threads"
    attention = set_attention([], None, best, choose_dtype(best, None))
    return ", ".join(dict.fromkeys([str(best), *names, threads])), attention


def raise_unless_out_of_memory(
    error: Exception, *, candidates: int, what: str = "one candidate alone"
) -> None:
    """Raise the error unless memory is short and several candidates can be halved.

    Raises RoomError, with what to try, if memory is short and there is nothing to halve.
    """
    from pipelines.runtime.devices import is_out_of_memory

    if not is_out_of_memory(error):
        raise error
    if candidates == 1:
        raise RoomError(
            f"not enough memory for {what}: try a smaller --width and --height, "
            "--offload model on a GPU, another --device, or a smaller model"
        ) from error


@contextmanager
def _loading(what: str, watch: Watch) -> Iterator[None]:
    """Turn what loading warns of into notes, and a wrong device or dtype into an InputError."""
    collecting = gc.isenabled()
    gc.disable()  # looking for garbage among all that importing leaves costs a quarter of its time
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        except ValueError as error:
            raise InputError(str(error)) from error
        except Exception as error:
            raise_unless_out_of_memory(error, candidates=1, what=f"loading {what}")
            raise
        finally:
            if collecting:
                gc.enable()
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            watch(Note(str(warning.message)))
