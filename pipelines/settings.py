"""The one list of settings, of which this is what all families of models share.

A setting is one entry of a TypedDict: its type, and a `Setting` with its facts. What only one
family takes stands in that family's folder (`pipelines/diffusion/settings.py` and so on), what
belongs to a whole request in `gen/settings/request.py`. Flags, keys of prompt files, keywords,
the schema of the HTTP API, fields of the page and metadata all follow from these entries.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, TypedDict, get_args, get_type_hints

MAX_TEXT = 10_000  # characters; the largest text encoders read some hundred words
# Control characters but for newline and tab, and what bytes become that are not UTF-8.
UNREADABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

# What may be written for a setting that is on or off; a flag without a value is on.
SPELLINGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

Value = str | int | float  # and bool, which is an int


class InputError(ValueError):
    """Something asked for cannot be done as asked; nothing was drawn. Exit code 2."""


@dataclass(frozen=True)
class Setting:
    """The facts of one setting; flags, file keys and labels in images come from it.

    `low` and `high` are the widest range that any model allows; a model's own limits come on top.
    """

    help: str
    label: str = ""  # its name in the `parameters` text that AUTOMATIC1111's web UI introduced
    short: str = ""  # one-letter flag
    aliases: tuple[str, ...] = ()  # what other tools call it, in flags and in prompt files
    low: float | None = None
    high: float | None = None
    local: bool = False  # only for who sits at this machine: it has to do with a file by its name
    loads: bool = False  # it changes the model while it loads, not how a prompt is drawn
    asked: bool = True  # people say it; else it is only recorded, and has no flag
    many: bool = False  # its flag may be repeated; the texts are joined by commas
    pair: bool = False  # its flag takes two files at once, joined likewise
    metavar: str = "TEXT"  # what --help calls a text that it takes
    names: Callable[[], Mapping[str, str]] | None = None  # what may be written → its value
    find: Callable[[str], str | None] | None = None  # reads names as other tools write them
    name: str = ""  # `settings_of` fills it in, as well as kind
    kind: type[Value] = str

    @property
    def flags(self) -> tuple[str, ...]:
        """Its command-line flags, the short one first."""
        return (self.short, _flag(self.name)) if self.short else (_flag(self.name),)

    @property
    def alias_flags(self) -> tuple[str, ...]:
        """The flags that are accepted beside its own."""
        return tuple(_flag(name) for name in self.aliases)

    def read(self, text: str) -> Value:
        """Read the value that a flag or a line of a prompt file gives as text; InputError if
        invalid."""
        if self.kind is bool:
            return self.check(SPELLINGS.get(text.strip().lower(), text))
        stripped = text.strip()  # of more than `int` and `float` take off
        if self.kind is int and re.fullmatch(r"[+-]?[0-9]{1,30}", stripped):
            return self.check(int(stripped))
        if self.kind is float:
            try:
                return self.check(float(stripped))
            except ValueError as error:
                raise self._error(text) from error
        return self.check(text)

    def check(self, value: Any) -> Value:
        """Return `value` if it has the right type and range, else raise InputError."""
        if self.kind is str:
            return self._check_text(value)
        if self.kind is bool and isinstance(value, bool):
            return value
        if self.kind is bool or isinstance(value, bool) or not isinstance(value, int | float):
            raise self._error(value)
        if self.kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, float) and (self.kind is int or not math.isfinite(value)):
            raise self._error(value)
        if not self._in_range(value):
            raise self._error(value)
        return self.kind(value)

    def rule(self) -> str:
        """Describe what the setting accepts, for errors and for --help."""
        if self.names is not None:
            return "one of " + ", ".join(dict.fromkeys(self.names().values()))
        if self.kind is str:
            return "text"
        if self.kind is bool:
            return "true or false"
        number = "a whole number" if self.kind is int else "a number"
        return f"{number} from {self.span}"

    @property
    def span(self) -> str:
        """The range of a number."""
        return f"{self.low} to {self.high}"

    def _in_range(self, value: float) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def _check_text(self, value: Any) -> str:
        if not isinstance(value, str):
            raise self._error(value)
        if len(value) > MAX_TEXT:
            raise InputError(
                f"{self.name}: {len(value)} characters are too many, at most {MAX_TEXT} are read"
            )
        if match := UNREADABLE.search(value):
            code, place = ord(match[0]), match.start() + 1
            what = "not valid UTF-8" if code >= 0xD800 else f"control character U+{code:04X}"
            raise InputError(f"{self.name}: {what} at character {place}: remove it")
        if self.names is None:
            return value
        found = _by_lower_case(self.names).get(value.strip().lower())
        if found is None and self.find is not None:
            found = self.find(value)
        if found is None:
            raise self._error(value)
        return found

    def _error(self, value: Any) -> InputError:
        shown = value if isinstance(value, str) else repr(value)
        if len(shown) > 40:
            shown = shown[:40] + "…"
        near = [] if self.names is None else get_close_matches(shown, [*self.names()], 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        return InputError(f"{self.name} {shown}: must be {self.rule()}{meant}")


@cache  # checked for every prompt of a long file
def _by_lower_case(names: Callable[[], Mapping[str, str]]) -> Mapping[str, str]:
    return {key.lower(): name for key, name in names().items()}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


class SharedSettings(TypedDict, total=False):
    """Settings that every family takes."""

    negative_prompt: Annotated[
        str | None,
        Setting("what to keep out", "Negative prompt", short="-n", aliases=("negative",)),
    ]
    guidance: Annotated[
        float | None,
        Setting(
            "how closely to follow the prompt; 1 and less: no guidance",
            "CFG scale",
            aliases=("cfg_scale", "guidance_scale", "cfg", "cfgscale"),
            low=0,
            high=100,
        ),
    ]


class SizedSettings(SharedSettings, total=False):
    """Settings of families that denoise, at any size."""

    width: Annotated[
        int | None,
        Setting("pixels across", "Size", short="-W", aliases=("W",), low=64, high=8192),
    ]
    height: Annotated[
        int | None,
        Setting("pixels down", "Size", short="-H", aliases=("H",), low=64, high=8192),
    ]
    steps: Annotated[
        int | None,
        Setting(
            "denoising steps",
            "Steps",
            aliases=("num_inference_steps", "ddim_steps", "sampling_steps"),
            low=1,
            high=1000,
        ),
    ]


def resize_modes() -> dict[str, str]:
    """Return the ways in which an image of another shape is brought to size."""
    return {name: name for name in ("fit", "fill", "stretch")}


def mask_fills() -> dict[str, str]:
    """Return what may be under the mask where drawing begins."""
    return {name: name for name in ("original", "noise", "blur")}


def inpaint_areas() -> dict[str, str]:
    """Return what may be drawn around the mask, with the names of AUTOMATIC1111's web UI."""
    return {"whole": "whole", "masked": "masked", "whole picture": "whole", "only masked": "masked"}


class EditingSettings(TypedDict, total=False):
    """How an image that there is becomes the beginning of others. Families that can take it."""

    init_image: Annotated[
        str | None,
        Setting("an image file to begin from", metavar="IMAGE", local=True),
    ]
    strength: Annotated[
        float | None,
        Setting(
            "how much of --init-image is drawn anew: near 0 nearly nothing, 1 all; by default "
            "0.75, and 1 under a mask",
            "Denoising strength",
            aliases=("denoising_strength",),
            low=0,
            high=1,
        ),
    ]
    resize_mode: Annotated[
        str | None,
        Setting(
            "how --init-image is brought to another shape: fit keeps all of it, fill covers all "
            "and cuts the rest, stretch bends it",
            "Resize mode",
            names=resize_modes,
        ),
    ]
    mask: Annotated[
        str | None,
        Setting(
            "an image file that is white where --init-image is drawn anew and black where it stays",
            metavar="IMAGE",
            local=True,
        ),
    ]
    mask_text: Annotated[
        str | None,
        Setting(
            "what is drawn anew, in words: the panda; several are joined by + and -, as in the "
            "panda + the ball - the hat",
            "Mask text",
        ),
    ]
    mask_point: Annotated[
        str | None,
        Setting(
            "what is drawn anew, by pixels on it: 40,30; more are joined by + and, beside it, by -",
            "Mask point",
            metavar="X,Y",
        ),
    ]
    mask_box: Annotated[
        str | None,
        Setting(
            "what is drawn anew, by a box around it: left,top,right,bottom; several are joined by "
            "+ and -",
            "Mask box",
            metavar="BOX",
        ),
    ]
    mask_model: Annotated[
        str | None,
        Setting(
            "a folder with a network that finds masks: CLIPSeg by words, SAM by points and boxes; "
            "by default words are looked for by a small one that knows what stickers draws",
            local=True,
            many=True,
        ),
    ]
    invert_mask: Annotated[
        bool | None,
        Setting("draw anew what is black in the mask, keep what is white", "Mask mode"),
    ]
    mask_blur: Annotated[
        int | None,
        Setting(
            "by how many pixels the edge of the mask is softened; at 0 all outside is kept to the "
            "bit",
            "Mask blur",
            low=0,
            high=256,
        ),
    ]
    mask_fill: Annotated[
        str | None,
        Setting("what is under the mask at first", "Masked content", names=mask_fills),
    ]
    mask_resampling: Annotated[
        int | None,
        Setting(
            "how hard what is new looks for its place among what is there: how often each noisy "
            "step under a mask is taken, each time from new noise, or in how many ways at once "
            "image tokens are drawn; by default as the model advises, else once",
            "Mask resampling",
            low=1,
            high=64,
        ),
    ]
    inpaint_area: Annotated[
        str | None,
        Setting(
            "what is drawn: the whole image, or what is masked alone, enlarged to the size of "
            "the model",
            "Inpaint area",
            names=inpaint_areas,
        ),
    ]
    padding: Annotated[
        int | None,
        Setting(
            "pixels around the mask that the model sees too; with --inpaint-area masked",
            "Masked area padding",
            low=0,
            high=1024,
        ),
    ]
    extend: Annotated[
        str | None,
        Setting(
            "by how many pixels --init-image grows, as left=64,right=64, or to which size, as "
            "768x512: what is new is drawn",
            "Extend",
        ),
    ]
    init_image_hash: Annotated[
        str | None,
        Setting("the SHA-256 of the file of --init-image", "Init image hash", asked=False),
    ]
    mask_hash: Annotated[
        str | None, Setting("the SHA-256 of the file of --mask", "Mask hash", asked=False)
    ]


def settings_of(record: type) -> dict[str, Setting]:
    """Return the settings that a TypedDict lists, by name, those that it inherits included."""
    table = {}
    for name, hint in get_type_hints(record, include_extras=True).items():
        optional, setting = get_args(hint)
        kind, *_ = get_args(optional) or (optional,)  # int of `int | None`
        table[name] = replace(setting, name=name, kind=kind)
    return table


def with_defaults(
    record: type, settings: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings that are given, and the defaults of those that are not.

    Only names of the TypedDict `record` are allowed, as in a signature: TypeError for others.
    """
    known = settings_of(record)
    if unknown := [name for name in settings if name not in known]:
        raise TypeError(f"no setting {', '.join(unknown)}; there are {', '.join(known)}")
    given = {name: value for name, value in settings.items() if value is not None}
    return {**{k: v for k, v in defaults.items() if v is not None}, **given}
