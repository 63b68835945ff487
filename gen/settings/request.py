"""The one record of what was asked, the same for every door.

Each field of `Request` carries its own facts, and the table `SETTINGS` is read off the fields:
flags, keys of prompt files, JSON and the text inside images all follow from it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, Unpack

from gen.search import schedule
from pipelines.diffusion import samplers
from pipelines.families import ModelSettings
from pipelines.runtime.terminal import did_you_mean
from pipelines.settings import InputError, Setting, Value, settings_of

MAX_UPSCALE = 8
NAMES_SHOWN = 250  # characters, of all settings
MAX_SEED = 2**63 - 1
RANDOM_SEED = -1
EXACT_IN_JSON = 2**53  # larger integers lose digits in readers that take every number as a double


class RequestSettings(TypedDict, total=False):
    """The settings of a whole request, whatever models draw it."""

    model: Annotated[
        str | None,
        Setting(
            "a known model, a folder, or several with commas between: candidate i is drawn by "
            "the i-th in turn",
            "Model",
            short="-m",
            aliases=("sd_model", "sd_model_checkpoint", "sd_model_name", "checkpoint"),
            metavar="MODEL",
        ),
    ]
    seed: Annotated[
        int | None,
        Setting(
            "where the noise starts; candidate i takes seed + i; -1: a new one each time",
            "Seed",
            short="-s",
            aliases=("noise_seed",),
            low=RANDOM_SEED,
            high=MAX_SEED,
        ),
    ]
    candidates: Annotated[
        int | None,
        Setting(
            "how many images are made",
            "Candidates",
            aliases=("best_of", "n_iter", "num_images_per_prompt"),
            low=1,
            high=10_000,
        ),
    ]
    top_k: Annotated[
        int | None,
        Setting("how many are returned, best first", short="-k", low=1, high=10_000),
    ]
    search: Annotated[
        str | None,
        Setting(
            "spend the same time on the candidates that look best half-way: prune drops the worst "
            "at several steps, beam also branches the best",
            "Search",
            names=lambda: {name: name for name in schedule.NAMES},
        ),
    ]
    budget: Annotated[
        int | None,
        Setting(
            "what a search may spend: steps or image tokens of all candidates together; default: "
            "what --candidates would take",
            "Budget",
            low=1,
            high=100_000_000,
        ),
    ]
    refine: Annotated[
        int | None,
        Setting(
            "draw the candidates quickly, in few steps and no larger than the model's own size; so "
            "many of the best are drawn again at full steps and size, and ranked anew",
            "Refine",
            low=1,
            high=10_000,
        ),
    ]
    upscale: Annotated[
        int | None,
        Setting(
            "how many times larger images come out than they are drawn, by --upscale-model or the "
            "model's own upsampler; without one no detail is added; 1: as drawn",
            "Postprocess upscale by",
            low=1,
            high=MAX_UPSCALE,
        ),
    ]
    upscale_model: Annotated[
        str | None,
        Setting(
            "a file with a network that enlarges images, of Real-ESRGAN's and ESRGAN's kind",
            "Postprocess upscaler",
            metavar="FILE",
            local=True,
        ),
    ]
    upscale_model_hash: Annotated[
        str | None,
        Setting("the SHA-256 of the file of --upscale-model", "Upscaler hash", asked=False),
    ]
    variations_of: Annotated[
        str | None,
        Setting(
            "an image of ours to stay near: its seed becomes --base-seed, and its settings hold "
            "where no others are given; any image, with models that draw from embeddings",
            local=True,
            metavar="IMAGE",
        ),
    ]
    mix: Annotated[
        str | None,
        Setting(
            "two image files whose embeddings are mixed, --mix-at 0.5 of the way by default, for "
            "models that draw from embeddings of images",
            local=True,
            pair=True,
        ),
    ]
    wildcards: Annotated[
        str | None,
        Setting(
            "a folder with a file of lines for each __name__ in prompts",
            local=True,
            metavar="FOLDER",
        ),
    ]
    template: Annotated[
        str | None,
        Setting("the prompt before its choices were made", "Template", asked=False),
    ]
    branches: Annotated[
        str | None,
        Setting(
            "the seeds whose noise an image of a search began with, each with the step where it "
            "ended",
            "Branches",
            asked=False,
        ),
    ]


class Settings(RequestSettings, ModelSettings, total=False):
    """All that a prompt can be drawn with, in the order in which people see it."""


SETTINGS: Mapping[str, Setting] = {
    "prompt": Setting("what to draw", short="-p", name="prompt", aliases=("positive_prompt",)),
    **settings_of(Settings),
}
# Those that only some models take, each with a default of its own.
MODEL_SETTINGS = tuple(settings_of(ModelSettings))
LOADING_SETTINGS = tuple(name for name, setting in SETTINGS.items() if setting.loads)
_NUMBER = re.compile(r"\s*[+-]?[0-9.]{1,30}\s*")
_NAME_OF_KEY = {key: name for name, setting in SETTINGS.items() for key in (name, *setting.aliases)}


def _with_fields(cls: type["Request"]) -> type["Request"]:
    """Give a record a field, by default None, for every setting but the prompt."""
    for name in SETTINGS:
        if name != "prompt":
            cls.__annotations__[name] = Value | None
            setattr(cls, name, None)
    return cls


@dataclass(frozen=True)
@_with_fields
class Request:
    """What was asked: a prompt, and a field for every setting.

    None means unset: the model's default holds; 0 is a value. The fields follow from `Settings`,
    so type checkers know those of the constructor and of `replace`, and take reading one on trust.
    """

    prompt: str

    if TYPE_CHECKING:

        def __init__(self, prompt: str, **settings: Unpack[Settings]) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

    def __post_init__(self) -> None:
        """Check every field; raises InputError, so that a Request that exists is a sound one."""
        self._check(vars(self))

    def _check(self, names: Iterable[str]) -> None:
        """Check the fields of these names, and what several say together."""
        own = vars(self)
        own |= {name: SETTINGS[name].check(own[name]) for name in names if own[name] is not None}
        if self.sampler is not None:
            given = {name: own[name] for name in ("sampler", "schedule") if own[name] is not None}
            own |= with_schedule(given)
            _check_sampler(self)
        self.check_prompt()
        made = self.candidates
        if made is not None and self.top_k is not None and self.top_k > made:
            raise InputError(f"top_k {self.top_k}: more than the {made} candidates that are made")

    def check_prompt(self) -> None:
        """Raise InputError where there is nothing to draw."""
        if not self.prompt.strip():
            raise InputError("prompt: empty: say what to draw")

    def replace(self, prompt: str | None = None, **settings: Unpack[Settings]) -> "Request":
        """Return the same request with other settings, or another prompt; None unsets a setting."""
        changed: dict[str, Any] = dict(settings)
        if prompt is not None:
            changed["prompt"] = prompt
        own = vars(self)
        if unknown := changed.keys() - own.keys():
            raise TypeError(f"no setting {', '.join(sorted(unknown))}")
        changed = {name: value for name, value in changed.items() if own[name] is not value}
        if not changed:
            return self
        made = object.__new__(type(self))
        vars(made).update(own, **changed)
        made._check(changed)  # all else was checked
        return made

    def given(self) -> dict[str, Value]:
        """Return the settings that are not None, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def with_defaults(self, defaults: Mapping[str, Value]) -> "Request":
        """Return the same request with its unset fields filled in from `defaults`."""
        own = vars(self)
        unset: dict[str, Any] = {n: value for n, value in defaults.items() if own[n] is None}
        return self.replace(**unset)

    def to_json(self) -> dict[str, Value]:
        """Plain JSON values; a seed that a double cannot hold exactly becomes text."""
        values = self.given()
        if self.seed is not None:
            values["seed"] = seed_to_json(self.seed)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Request":
        """Return the request of a JSON object. Raises InputError for unknown keys and wrong
        types."""
        known: dict[str, Any] = {}
        for key, value in values.items():
            setting = find_setting(key)
            if setting.name in known:
                raise InputError(f"{key}: given twice")
            if setting.name == "seed" and isinstance(value, str):
                value = setting.read(value)
            if setting.kind in (int, float) and isinstance(value, str) and _NUMBER.fullmatch(value):
                raise InputError(f'{key}: "{value}" is text: write the number without quotes')
            known[setting.name] = value if value is None else setting.check(value)
        if known.get("prompt") is None:
            raise InputError("prompt: missing: say what to draw")
        return cls(**known)


class WithoutPrompt(Request):
    """The settings of an image that does not say its prompt: to be looked at, not to be drawn."""

    def check_prompt(self) -> None:
        """Accept that there is none."""


def with_schedule(settings: Mapping[str, Value]) -> dict[str, Value]:
    """Return settings with a sampler that names its schedule, as in "DPM++ 2M Karras", as two.

    Raises InputError for two schedules.
    """
    made = dict(settings)
    sampler, _, schedule = str(made.get("sampler", "")).partition(" ")
    if schedule:
        given = made.setdefault("schedule", schedule)
        if given != schedule:
            raise InputError(f"sampler {sampler} {schedule}, schedule {given}: say one schedule")
        made["sampler"] = sampler
    return made


def _check_sampler(request: Request) -> None:
    """Raise InputError for a schedule or a number of steps that the sampler does not have."""
    if request.sampler is not None:
        schedule = "default" if request.schedule is None else request.schedule
        steps = 1 if request.steps is None else request.steps
        try:
            samplers.check_sampler(request.sampler, schedule, steps)
        except ValueError as error:
            raise InputError(str(error)) from error


def seed_to_json(seed: int) -> int | str:
    """Return the seed, as text if a double cannot hold it exactly; `int` gives it back."""
    return str(seed) if seed >= EXACT_IN_JSON else seed


class UnknownSettingError(InputError):
    """A key that names no setting. What was meant is looked for when somebody reads it: a file may
    have thousands of such rows, of which few are shown."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        shown = self.key if len(self.key) <= 40 else self.key[:40] + "…"
        meant = did_you_mean(self.key.replace("-", "_"), _NAME_OF_KEY)
        known = shorten(", ".join(SETTINGS), NAMES_SHOWN, placeholder=" … (--help shows all)")
        return f"unknown setting {shown!r}{meant}: known are {known}"


def find_setting(key: str) -> Setting:
    """Return the setting that a key of a prompt file or of JSON names, hyphens being underscores.

    Raises InputError with the known names.
    """
    name = _NAME_OF_KEY.get(key.replace("-", "_"))
    if name is None:
        raise UnknownSettingError(key)
    return SETTINGS[name]
