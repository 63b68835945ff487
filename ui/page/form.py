"""The form: prompt, models, and the fields of the settings that the chosen models take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from gen.models import DEFAULT_MODEL, Spec, shipped
from gen.plan import DEFAULT_CANDIDATES, DEFAULT_TOP_K, draw_seed
from gen.settings import Setting, Value
from gen.settings.request import EXACT_IN_JSON, MODEL_SETTINGS, SETTINGS, Request
from gen.settings.vocabulary import unknown_words
from ui.service.service import models_present
from ui.service.settings import offered

LEFT = "default"  # what a field says that is left to each model
COUNTS: Mapping[str, Value] = {"candidates": DEFAULT_CANDIDATES, "top_k": DEFAULT_TOP_K}
PLAIN: Mapping[str, str] = {"top_k": "Keep the best", "negative_prompt": "Keep out"}
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

    prompt: gr.Textbox
    models: gr.CheckboxGroup
    fields: Mapping[str, Component]  # of all other settings, by name
    dice: gr.Button

    @property
    def controls(self) -> list[Component]:
        """All components, in the order of `asked`'s and `filled`'s values."""
        return [self.prompt, self.models, *self.fields.values()]

    def asked(self, values: Sequence[Any]) -> dict[str, Any]:
        """Return the settings that are filled in, but for those of models that are not chosen.

        Raises InputError for a number that is none.
        """
        prompt, models, *rest = values
        given = dict(zip(self.fields, rest, strict=True))
        chosen = specs_of(models)
        # In the table's order, not that of the clicks: the candidates go to them in turn.
        named = ",".join(name for name in shipped() if name in models)
        shown = {"prompt": prompt, "model": named} | {
            name: value for name, value in given.items() if taken(name, chosen)
        }
        return {
            name: SETTINGS[name].read(value) if isinstance(value, str) else value
            for name, value in shown.items()
            if value not in (None, "")
        }

    def filled(self, request: Request, models: Sequence[str]) -> list[Any]:
        """Return what the controls become to use a request's settings, while `models` are chosen.

        A model that is not here, and how many images are made, stay as they are.
        """
        if request.model is not None and request.model in models_present():
            models = [request.model]
        given = {k: value for k, value in request.to_json().items() if k not in COUNTS}
        fields = [
            field_of(SETTINGS[name], specs_of(models), given.get(name))
            if name in given or name not in COUNTS
            else gr.skip()
            for name in self.fields
        ]
        return [request.prompt, list(models), *fields]

    def restored(self, values: Sequence[Any]) -> list[Any]:
        """Return what the controls become to hold what a browser kept of them."""
        prompt, models, *rest = values
        present = models_present()
        models = [name for name in models if name in present] or [DEFAULT_MODEL]
        chosen = specs_of(models)
        fields: list[Any] = []
        for name, value in zip(self.fields, rest, strict=True):
            filled = field_of(SETTINGS[name], chosen)
            kept = value if value not in (None, "") else filled.value
            fields.append(type(filled)(value=kept, visible=taken(name, chosen)))
        return [prompt, models, *fields]


def build_prompt() -> gr.Textbox:
    """Build the field of the prompt in the block that is open."""
    return gr.Textbox(
        label=label_of("prompt"),
        placeholder="Describe an image, then press Enter",
        max_lines=6,
        autofocus=True,
        elem_id="prompt",
    )


def build_quick() -> tuple[dict[str, Component], gr.Button]:
    """Build what is changed most: how many images, the seed, and a new one by chance."""
    first = specs_of([])
    fields: dict[str, Component] = {name: field_of(SETTINGS[name], first) for name in COUNTS}
    fields["seed"] = field_of(SETTINGS["seed"], first)
    dice = gr.Button("New seed", size="sm", elem_id="dice", elem_classes="quiet")
    return fields, dice


def build_form(prompt: gr.Textbox, quick: Mapping[str, Component], dice: gr.Button) -> Form:
    """Build the other settings in the block that is open; the models are those that are there."""
    models = list(models_present().values())
    first = specs_of([])
    chosen = gr.CheckboxGroup(
        [(f"{spec.name} ({spec.draws})", spec.name) for spec in models],
        value=[DEFAULT_MODEL],
        label="Models",
        info="several take turns: each draws its share of the candidates",
        visible=len(models) > 1,
        elem_id="model",
    )
    fields = dict(quick)
    with gr.Row(elem_id="drawing-settings"):
        for name in offered(models):
            fields[name] = field_of(SETTINGS[name], first)
    form = Form(prompt, chosen, fields, dice)
    _connect(form)
    return form


def _connect(form: Form) -> None:
    own = [form.fields[name] for name in form.fields if name in MODEL_SETTINGS]
    names = [name for name in form.fields if name in MODEL_SETTINGS]
    before = gr.State([DEFAULT_MODEL])

    def fit(models: list[str], previous: list[str], *values: Any) -> list[Any]:
        chosen, earlier = specs_of(models), specs_of(previous)
        fields = []
        for name, value in zip(names, values, strict=True):
            touched = taken(name, earlier) and not _is_default(value, default_of(name, earlier))
            fields.append(field_of(SETTINGS[name], chosen, value if touched else None))
        return [models, *fields]

    form.models.change(
        fit,
        [form.models, before, *own],
        [before, *own],
        show_progress="hidden",
        api_visibility="private",
    )
    form.dice.click(
        lambda: str(draw_seed()),
        outputs=form.fields["seed"],
        show_progress="hidden",
        api_visibility="private",
    )


def field_of(setting: Setting, chosen: Sequence[Spec], value: Value | None = None) -> Component:
    """Build the field of a setting, which is hidden if none of the chosen models takes it.

    By default it holds what they do when they are not told.
    """
    default = default_of(setting.name, chosen) if value is None else value
    facts: dict[str, Any] = {
        "label": label_of(setting.name),
        "visible": taken(setting.name, chosen),
        "min_width": 140,
        "elem_id": setting.name,
    }
    if setting.name in MODEL_SETTINGS:
        facts["info"] = setting.help
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
    if setting.name in MODEL_SETTINGS:  # may be left to the model, but an empty Number says 0
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


def examples() -> list[str]:
    """Return prompts that a model which is there knows all words of."""
    return [
        prompt
        for prompt in EXAMPLES
        if any(not unknown_words(prompt, spec.vocabulary) for spec in models_present().values())
    ]


def specs_of(models: Sequence[str]) -> list[Spec]:
    """Return what is known of the chosen models; nothing chosen is the default."""
    return [shipped()[name] for name in models if name in shipped()] or [shipped()[DEFAULT_MODEL]]


def label_of(name: str) -> str:
    """Return the name of a setting for people."""
    return PLAIN.get(name, name.replace("_", " ").capitalize())
