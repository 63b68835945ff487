"""The one record of what was asked, the same for every door.

Each field of `Request` carries its own facts, and the table `SETTINGS` is read off the fields:
flags, keys of prompt files, JSON and the text inside pictures all follow from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, get_args, get_type_hints

from gen.errors import InputError
from gen.settings.setting import Setting, Value
from pipelines.diffusion import prompt_weights, samplers

MAX_SEED = 2**63 - 1
RANDOM_SEED = -1
EXACT_IN_JSON = 2**53  # larger integers lose digits in readers that take every number as a double


def sampler_names() -> dict[str, str]:
    """What may be written for a sampler: our names and those of AUTOMATIC1111's web UI."""
    ours = {name: name for name in samplers.SAMPLERS}
    return ours | {sampler.a1111: name for name, sampler in samplers.SAMPLERS.items()}


def schedule_names() -> dict[str, str]:
    """What may be written for a schedule, likewise."""
    ours = {name: name for name in samplers.SCHEDULES}
    return ours | {schedule.a1111: name for name, schedule in samplers.SCHEDULES.items()}


def syntax_names() -> dict[str, str]:
    """The ways to read brackets."""
    return {name: name for name in prompt_weights.SYNTAXES}


@dataclass(frozen=True)
class Request:
    """What was asked. None means unset: the model's default holds; 0 is a value."""

    prompt: Annotated[str, Setting("what to draw", short="-p")]
    negative_prompt: Annotated[
        str | None,
        Setting("what to keep out", "Negative prompt", short="-n", by_model=True),
    ] = None
    model: Annotated[
        str | None,
        Setting(
            "a known model, a folder, or several with commas between: candidate i is drawn by "
            "the i-th in turn",
            "Model",
            short="-m",
            aliases=("sd_model",),
            metavar="MODEL",
        ),
    ] = None
    seed: Annotated[
        int | None,
        Setting(
            "where the noise starts; candidate i takes seed + i; -1: a new one each time",
            "Seed",
            short="-s",
            low=RANDOM_SEED,
            high=MAX_SEED,
        ),
    ] = None
    width: Annotated[
        int | None,
        Setting("pixels across", "Size", short="-W", low=64, high=8192, by_model=True),
    ] = None
    height: Annotated[
        int | None,
        Setting("pixels down", "Size", short="-H", low=64, high=8192, by_model=True),
    ] = None
    steps: Annotated[
        int | None, Setting("denoising steps", "Steps", low=1, high=1000, by_model=True)
    ] = None
    guidance: Annotated[
        float | None,
        Setting(
            "how closely to follow the prompt; 1 and less: no guidance",
            "CFG scale",
            aliases=("cfg_scale", "guidance_scale"),
            low=0,
            high=100,
            by_model=True,
        ),
    ] = None
    sampler: Annotated[
        str | None,
        Setting(
            "how noise becomes a picture",
            "Sampler",
            aliases=("sampler_name",),
            names=sampler_names,
            by_model=True,
        ),
    ] = None
    schedule: Annotated[
        str | None,
        Setting(
            "how the steps are spaced",
            "Schedule type",
            aliases=("scheduler",),
            names=schedule_names,
            by_model=True,
        ),
    ] = None
    candidates: Annotated[
        int | None,
        Setting(
            "how many pictures are made",
            "Candidates",
            aliases=("best_of", "n_iter"),
            low=1,
            high=10_000,
        ),
    ] = None
    top_k: Annotated[
        int | None,
        Setting("how many are returned, best first", short="-k", low=1, high=10_000),
    ] = None
    temperature: Annotated[
        float | None,
        Setting(
            "how daringly image tokens are drawn; 0: always the likeliest",
            "Temperature",
            low=0,
            high=10,
            by_model=True,
        ),
    ] = None
    token_top_k: Annotated[
        int | None,
        Setting(
            "draw each image token from the k likeliest",
            "Token top k",
            low=1,
            high=1_000_000,
            by_model=True,
        ),
    ] = None
    token_top_p: Annotated[
        float | None,
        Setting(
            "draw each image token from the likeliest whose probabilities add up to this",
            "Token top p",
            low=0,
            high=1,
            by_model=True,
        ),
    ] = None
    init_image: Annotated[
        str | None,
        Setting(
            "a picture file whose upper rows are kept while the rest is drawn",
            metavar="PICTURE",
            by_model=True,
            local=True,
        ),
    ] = None
    keep_rows: Annotated[
        int | None,
        Setting(
            "how many rows of image tokens of --init-image are kept",
            "Keep rows",
            low=1,
            high=1000,
            by_model=True,
            local=True,
        ),
    ] = None

    wildcards: Annotated[
        str | None,
        Setting(
            "a folder with a file of lines for each __name__ in prompts",
            local=True,
            metavar="FOLDER",
        ),
    ] = None
    template: Annotated[
        str | None,
        Setting("the prompt before its choices were made", "Template", asked=False),
    ] = None
    clip_skip: Annotated[
        int | None,
        Setting(
            "from which layer of the text encoders to read, counted from the end; 1: the usual one",
            "Clip skip",
            low=1,
            high=12,
            by_model=True,
        ),
    ] = None
    prompt_syntax: Annotated[
        str | None,
        Setting(
            "how brackets in prompts are read, by default as a1111, where they are weights",
            names=syntax_names,
            by_model=True,
        ),
    ] = None
    lora: Annotated[
        str | None,
        Setting(
            "a LoRA file that changes the model, with its weight: FILE.safetensors:0.8",
            by_model=True,
            local=True,
            loads=True,
            many=True,
        ),
    ] = None
    vae: Annotated[
        str | None,
        Setting(
            "a file or folder with another VAE for the model",
            "VAE",
            metavar="PATH",
            by_model=True,
            local=True,
            loads=True,
        ),
    ] = None
    embedding: Annotated[
        str | None,
        Setting(
            "a file with a word that was learned by textual inversion",
            by_model=True,
            local=True,
            loads=True,
            many=True,
        ),
    ] = None

    def __post_init__(self) -> None:
        """Check every field; raises InputError, so that a Request that exists is a sound one."""
        for name, setting in SETTINGS.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, setting.check(value))
        if not self.prompt.strip():
            raise InputError("prompt: empty: say what to draw")
        made = self.candidates
        if made is not None and self.top_k is not None and self.top_k > made:
            raise InputError(f"top_k {self.top_k}: more than the {made} candidates that are made")

    def given(self) -> dict[str, Value]:
        """The settings that are not None, by name."""
        values = {name: getattr(self, name) for name in SETTINGS}
        return {name: value for name, value in values.items() if value is not None}

    def with_defaults(self, defaults: Mapping[str, Value]) -> "Request":
        """The same request with its unset fields filled in from `defaults`."""
        values: dict[str, Any] = {**defaults, **self.given()}
        return replace(self, **values)

    def to_json(self) -> dict[str, Value]:
        """Plain JSON values; a seed that a double cannot hold exactly becomes text."""
        values = self.given()
        if self.seed is not None:
            values["seed"] = seed_to_json(self.seed)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Request":
        """The request of a JSON object. Raises InputError for unknown keys and wrong types."""
        known: dict[str, Any] = {}
        for key, value in values.items():
            setting = find_setting(key)
            if setting.name in known:
                raise InputError(f"{key}: given twice")
            if setting.name == "seed" and isinstance(value, str):
                value = setting.read(value)
            known[setting.name] = value if value is None else setting.check(value)
        if known.get("prompt") is None:
            raise InputError("prompt: missing: say what to draw")
        return cls(**known)


def _settings_of_fields() -> dict[str, Setting]:
    table = {}
    hints = get_type_hints(Request, include_extras=True)
    for field in fields(Request):
        hint, setting = get_args(hints[field.name])
        kind = get_args(hint)[0] if get_args(hint) else hint  # int of `int | None`
        table[field.name] = replace(setting, name=field.name, kind=kind)
    return table


SETTINGS = _settings_of_fields()
MODEL_SETTINGS = tuple(name for name, setting in SETTINGS.items() if setting.by_model)
LOADING_SETTINGS = tuple(name for name, setting in SETTINGS.items() if setting.loads)
_NAME_OF_KEY = {key: name for name, setting in SETTINGS.items() for key in (name, *setting.aliases)}


def seed_to_json(seed: int) -> int | str:
    """The seed, as text if a double cannot hold it exactly; `int` gives it back."""
    return str(seed) if seed >= EXACT_IN_JSON else seed


def find_setting(key: str) -> Setting:
    """The setting that a key of a prompt file or of JSON names, hyphens being underscores.

    Raises InputError with the known names.
    """
    name = _NAME_OF_KEY.get(key.replace("-", "_"))
    if name is None:
        shown = key if len(key) <= 40 else key[:40] + "…"
        raise InputError(f"unknown setting {shown!r}: known are {', '.join(SETTINGS)}")
    return SETTINGS[name]
