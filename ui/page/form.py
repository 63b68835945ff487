"""The form: prompt, models, and the fields of the settings that the chosen models take."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from gen.models import Spec
from gen.plan import DEFAULT_CANDIDATES, DEFAULT_TOP_K, draw_seed
from gen.search.schedule import BEAM, PRUNE
from gen.settings import Setting, Value
from gen.settings.request import EXACT_IN_JSON, MODEL_SETTINGS, SETTINGS, Request
from gen.settings.vocabulary import unknown_words
from ui.page.wiring import QUIET
from ui.service.catalog import described
from ui.service.service import Service
from ui.service.styles import PLACE, Style, apply

LEFT = "default"  # what a field says that is left to each model
COUNTS: Mapping[str, Value] = {"candidates": DEFAULT_CANDIDATES, "top_k": DEFAULT_TOP_K}
PLAIN: Mapping[str, str] = {"top_k": "Keep the best", "init_image": "The image"}
SEARCHES = (PRUNE, BEAM)
FLAG = re.compile(r"--([a-z][a-z-]+)")
SEARCHING = "begins more than it finishes; prune goes on with the best, beam also branches them"
EXAMPLES = (
    "a panda to the left of a red balloon",
    "three strawberries on a light blue background",
    "a blue star and a yellow circle",
    "a large sunflower",
    "a rocket above a house",
    "a small frog in the top right corner",
)


@dataclass(frozen=True)
class Form:
    """The fields that make a request."""

    service: Service
    prompt: gr.Textbox
    models: gr.CheckboxGroup
    fields: Mapping[str, Component]  # of all other settings, by name
    loras: Mapping[str, gr.Slider]  # by name; 0 leaves it out
    vae: gr.Dropdown
    styles: gr.CheckboxGroup
    rerankers: gr.CheckboxGroup
    dice: gr.Button

    @property
    def controls(self) -> list[Component]:
        """All components, in the order of `asked`'s and `filled`'s values."""
        return [
            *(self.prompt, self.models, *self.fields.values()),
            *(*self.loras.values(), self.vae, self.styles, self.rerankers),
        ]

    def asked(self, values: Sequence[Any]) -> dict[str, Any]:
        """Return the settings that are filled in, but for those of models that are not chosen.

        Raises InputError for a number that is none.
        """
        prompt, models, *rest = values
        given = dict(zip(self.fields, rest, strict=False))
        more = [*rest[len(self.fields) :], *[None] * (len(self.controls) - len(values))]
        *weights, given["vae"], styles, _ = more
        if not given.get("search"):
            given["budget"] = None  # which is a search's
        given["lora"] = ",".join(
            f"{name}:{weight:g}" for name, weight in zip(self.loras, weights, strict=True) if weight
        )
        prompt, given["negative_prompt"] = apply(
            [style for style in self.service.styles if style.name in (styles or ())],
            prompt,
            given.get("negative_prompt") or "",
        )
        chosen = self.service.specs(models)
        # In the table's order, not that of the clicks: the candidates go to them in turn.
        named = ",".join(name for name in self.service.models if name in models)
        shown = {"prompt": prompt, "model": named} | {
            name: value for name, value in given.items() if taken(name, chosen)
        }
        return {
            name: SETTINGS[name].read(value) if isinstance(value, str) else value
            for name, value in shown.items()
            if value not in (None, "")
        }

    def rerankers_of(self, values: Sequence[Any]) -> list[str]:
        """Return the rerankers that are chosen, if all values are given; none is the usual ones."""
        is_chosen = self.service.chooses_rerankers and len(values) == len(self.controls)
        return list(values[-1] or ()) if is_chosen else []

    def filled(self, request: Request, models: Sequence[str]) -> list[Any]:
        """Return what the controls become to use a request's settings, while `models` are chosen.

        A model that is not here, and how many images are made, stay as they are.
        """
        name = None if request.model is None else self.service.catalog.name_of(request.model)
        if name in self.service.models:
            models = [name]
        chosen = self.service.specs(models)
        given = {k: value for k, value in request.to_json().items() if k not in COUNTS}
        fields = [
            field_of(SETTINGS[name], chosen, given.get(name))
            if name in given or name not in COUNTS
            else gr.skip()
            for name in self.fields
        ]
        weights = weights_of(request.lora)
        loras = [gr.Slider(value=weights.get(name, 0)) for name in self.loras]
        vae = "" if request.vae is None else Path(request.vae).stem
        return [
            request.prompt,
            list(models),
            *fields,
            *loras,
            gr.Dropdown(value=vae),
            [],
            gr.skip(),
        ]

    def restored(self, values: Sequence[Any]) -> list[Any]:
        """Return what the controls become to hold what a browser kept of them.

        The prompt stays as it is: who types at once is not to lose it.
        """
        _, models, *rest = values
        models = [name for name in models if name in self.service.models]
        chosen = self.service.specs(models)
        fields: list[Any] = []
        for name, value in zip(self.fields, rest, strict=False):
            kept = default_of(name, chosen) if value in (None, "") else value
            fields.append(field_of(SETTINGS[name], chosen, kept))
        models = models or [self.service.default]
        *more, rerankers = rest[len(self.fields) :]
        known = [name for name in rerankers or () if name in self.service.rerankers]
        return [gr.skip(), models, *fields, *more, known or self.service.usual_rerankers]


def weights_of(lora: object) -> dict[str, float]:
    """Return the weights of LoRAs by the names of their files, as a request has them."""
    found = {}
    for part in str(lora or "").split(","):
        path, colon, weight = part.rpartition(":")
        if colon and path:
            found[Path(path).stem] = float(weight)
        elif weight:
            found[Path(weight).stem] = 1.0
    return found


def build_prompt() -> gr.Textbox:
    """Build the field of the prompt in the block that is open."""
    return gr.Textbox(
        label=label_of("prompt"),
        placeholder="Describe an image, then press Enter",
        max_lines=6,
        autofocus=True,
        elem_id="prompt",
    )


def build_quick(service: Service) -> tuple[dict[str, Component], gr.Button]:
    """Build what is changed most: how many images, the seed, and a new one by chance."""
    first = service.specs([])
    fields: dict[str, Component] = {name: field_of(SETTINGS[name], first) for name in COUNTS}
    fields["seed"] = field_of(SETTINGS["seed"], first)
    dice = gr.Button("New seed", size="sm", elem_id="dice", elem_classes="quiet")
    return fields, dice


def build_form(
    service: Service, prompt: gr.Textbox, quick: Mapping[str, Component], dice: gr.Button
) -> Form:
    """Build the other settings in the block that is open; the models are those that are there."""
    models = service.models
    first = service.specs([])
    chosen = gr.CheckboxGroup(
        [(described(spec), name) for name, spec in models.items()],
        value=[service.default],
        label="Models",
        info="several take turns: each draws its share of the candidates",
        visible=len(models) > 1,
        elem_id="model",
    )
    fields = dict(quick)
    with gr.Row(elem_id="drawing-settings"):
        for name in service.offered(models.values()):
            fields[name] = field_of(SETTINGS[name], first)
    for name in ("search", "budget", "upscale"):
        fields[name] = field_of(SETTINGS[name], first)
    loras, vaes = service.catalog.loras, service.catalog.vaes
    with gr.Accordion("LoRAs", visible=bool(loras), open=True, elem_id="loras"):
        sliders = {
            name: gr.Slider(-1, 2, 0, step=0.05, label=name, info="0 leaves it out")
            for name in loras
        }
    vae = gr.Dropdown(
        [("the model's own", ""), *vaes], value="", label="VAE", visible=bool(vaes), elem_id="vae"
    )
    names = [style.name for style in service.styles if _fits(style, service)]
    with gr.Accordion("Styles", visible=bool(names), open=False):
        styles = gr.CheckboxGroup(names, show_label=False, label="Styles", elem_id="styles")
    rerankers = gr.CheckboxGroup(
        list(service.rerankers),
        value=service.usual_rerankers,
        label="Ranked by",
        info="several are combined: each says its own, and the mean ranks",
        visible=service.chooses_rerankers,
        elem_id="rerankers",
    )
    form = Form(service, prompt, chosen, fields, sliders, vae, styles, rerankers, dice)
    _connect(form)
    return form


def _fits(style: Style, service: Service) -> bool:
    """Return whether some model knows the words of a style."""
    words = style.prompt.replace(PLACE, "")
    return any(not unknown_words(words, spec.vocabulary) for spec in service.models.values())


def _connect(form: Form) -> None:
    own = [form.fields[name] for name in form.fields if name in MODEL_SETTINGS]
    names = [name for name in form.fields if name in MODEL_SETTINGS]
    before = gr.State([form.service.default])

    def fit(models: list[str], previous: list[str], *values: Any) -> list[Any]:
        chosen, earlier = form.service.specs(models), form.service.specs(previous)
        fields = []
        for name, value in zip(names, values, strict=True):
            touched = taken(name, earlier) and not _is_default(value, default_of(name, earlier))
            fields.append(field_of(SETTINGS[name], chosen, value if touched else None))
        return [models, *fields]

    form.models.change(fit, [form.models, before, *own], [before, *own], **QUIET)
    form.dice.click(lambda: str(draw_seed()), outputs=form.fields["seed"], **QUIET)


def field_of(
    setting: Setting, chosen: Sequence[Spec], value: Value | None = None, within: str = ""
) -> Component:
    """Build the field of a setting, which is hidden if none of the chosen models takes it.

    By default it holds what they do when they are not told. Its id is the setting's name, behind
    that of the tab that it is `within`, if it has one.
    """
    if setting.name == "search":
        choices = [("none", ""), *SEARCHES]
        chosen_one = value if value in SEARCHES else ""
        return gr.Dropdown(
            choices, value=chosen_one, label="Search", info=SEARCHING, elem_id="search"
        )
    default = default_of(setting.name, chosen) if value is None else value
    facts: dict[str, Any] = {
        "label": label_of(setting.name),
        "visible": taken(setting.name, chosen),
        "min_width": 140,
        "elem_id": f"{within}{setting.name}",
    }
    if setting.name not in COUNTS and setting.name != "seed":
        facts["info"] = told(setting)
    if setting.kind is bool:
        return gr.Checkbox(bool(default), **facts)
    if setting.names is not None:
        names = list(dict.fromkeys(setting.names().values()))
        if default is None:
            return gr.Dropdown([(LEFT, ""), *names], value="", **facts)
        return gr.Dropdown(names, value=default, **facts)
    # A browser's numbers are doubles, which lose the last digits of a large seed.
    if setting.kind is str or (setting.high is not None and setting.high > EXACT_IN_JSON):
        hint = "random" if setting.name == "seed" else None
        shown = None if default is None else str(default)
        return gr.Textbox(shown, max_lines=4, placeholder=hint, **facts)
    if setting.name not in COUNTS:  # may be left to the model, but an empty Number says 0
        shown = None if default is None else str(default)
        return gr.Textbox(shown, max_lines=1, placeholder=LEFT, **facts)
    return gr.Number(value=default, step=1 if setting.kind is int else 0.5, **facts)


def taken(name: str, chosen: Sequence[Spec]) -> bool:
    """Return whether a setting is one of all models, or one that a chosen model takes."""
    return name not in MODEL_SETTINGS or any(name in spec.settings for spec in chosen)


def default_of(name: str, chosen: Sequence[Spec]) -> Value | None:
    """Return what the chosen models do when they are not told; None where they differ."""
    if name in COUNTS:
        return COUNTS[name]
    values = {spec.defaults.get(name) for spec in chosen if name in spec.settings}
    return values.pop() if len(values) == 1 else None


def _is_default(shown: Any, default: Value | None) -> bool:
    """Return whether a field shows what its models do when they are not told."""
    return shown in (None, "") or (default is not None and str(shown) == str(default))


def told(setting: Setting) -> str:
    """Return what a setting does, in words of the page, where there are no flags."""
    return FLAG.sub(lambda flag: label_of(flag[1].replace("-", "_")).lower(), setting.help)


def examples(service: Service) -> list[str]:
    """Return prompts that a model which is there knows all words of."""
    return [
        prompt
        for prompt in EXAMPLES
        if any(not unknown_words(prompt, spec.vocabulary) for spec in service.models.values())
    ]


def label_of(name: str) -> str:
    """Return the name of a setting for people."""
    return PLAIN.get(name, name.replace("_", " ").capitalize())
