"""The form of the Edit tab: what is changed of an image, as the list of settings has it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from gen import editing, finding, second_pass
from gen.models import Spec
from gen.settings.request import SETTINGS
from ui.page.form import COUNTS, Form, field_of, label_of, taken, told
from ui.page.markup import text
from ui.page.wiring import QUIET
from ui.service.service import Service
from ui.service.settings import EDITS

WITHIN = "edit-"  # before the names of fields
SIDES = ("left", "right", "top", "bottom")
QUICK = (*COUNTS, "seed")
OF_SIZE = ("width", "height", "resize_mode", "upscale")
OF_NOISE = ("base_seed", "variation")
UNSET = ("width", "height", "upscale", *OF_NOISE)  # whatever a model does of its own
MOST_PIXELS = 4096  # that a side grows by
# An image that is drawn twice begins from none, so what Draw says of that is left out.
NOT_EDITED = ("refine", *second_pass.OWN_SETTINGS)
WEAKEST = 0.05
HINT = (
    "Models, steps and all other settings are those under Draw. An edit is drawn once, so a second "
    "pass that is chosen there (hires, refine) is left out."
)


@dataclass(frozen=True)
class EditForm:
    """The fields of an edit, and the form under Draw, which says all else."""

    service: Service
    draw: Form
    prompt: gr.Textbox
    fields: Mapping[str, Component]  # by setting
    sides: Mapping[str, gr.Number]  # by how many pixels the image grows at each
    find: gr.Button

    @property
    def controls(self) -> list[Component]:
        """All components, in the order of the values of `asked` and `mask`."""
        return [*self.own, *self.draw.controls]

    @property
    def own(self) -> list[Component]:
        """The components of the tab itself."""
        return [self.prompt, *self.fields.values(), *self.sides.values()]

    def asked(self, values: Sequence[Any], is_masked: bool) -> dict[str, Any]:
        """Return the settings that are filled in. `is_masked` says that a mask goes with them, so
        that none is to be found.

        Raises InputError for a number that is none.
        """
        prompt, given, sides, others = self._parted(values)
        extend = ",".join(f"{side}={int(n)}" for side, n in sides.items() if n)
        given |= {"extend": extend or None, "invert_mask": given.get("invert_mask") or None}
        if any(given.get(name) for name in editing.OF_TOKENS):
            given["strength"] = None  # a slider always says something, and rows say it all
        if is_masked:
            given |= dict.fromkeys(finding.SETTINGS)
        elif not any(given.get(name) for name in finding.SETTINGS) and not extend:
            given |= dict.fromkeys((*editing.OF_MASK, "padding"))
        if given.get("inpaint_area") != "masked":
            given["padding"] = None
        chosen = self._chosen(others)
        own = {name: _read(name, value) for name, value in given.items() if taken(name, chosen)}
        shared = self.draw.asked([prompt, *others[1:]])
        kept = {n: v for n, v in shared.items() if n not in (*self.fields, *NOT_EDITED)}
        return {**kept, **{name: value for name, value in own.items() if value is not None}}

    def mask(self, values: Sequence[Any]) -> dict[str, Any]:
        """Return what is asked for to be found, by setting; nothing if nothing is."""
        _, given, _, _ = self._parted(values)
        return {name: given[name] for name in finding.SETTINGS if given.get(name)}

    def model(self, values: Sequence[Any]) -> str:
        """Return the models that are chosen under Draw."""
        return str(self.draw.asked(["-", *self._parted(values)[-1][1:]])["model"])

    def rerankers_of(self, values: Sequence[Any]) -> list[str]:
        """Return the rerankers that are chosen under Draw."""
        return self.draw.rerankers_of(self._parted(values)[-1])

    def _parted(
        self, values: Sequence[Any]
    ) -> tuple[str, dict[str, Any], dict[str, Any], Sequence[Any]]:
        """Return the prompt, the settings, the sides, and the values of the form under Draw."""
        prompt, *rest = values
        first, last = len(self.fields), len(self.fields) + len(self.sides)
        given = dict(zip(self.fields, rest[:first], strict=True))
        sides = dict(zip(self.sides, rest[first:last], strict=True))
        return prompt, given, sides, rest[last:]

    def _chosen(self, others: Sequence[Any]) -> list[Spec]:
        return self.service.specs(others[1])


def _read(name: str, value: Any) -> Any:
    if value in (None, ""):
        return None
    return SETTINGS[name].read(value) if isinstance(value, str) else value


def build(service: Service, draw: Form, prompt: gr.Textbox) -> EditForm:
    """Build the fields in the block that is open, below the prompt and its button."""
    models = list(service.models.values())
    of_images = (*editing.EDITING_SETTINGS, *editing.OF_TOKENS)
    allowed = [name for name in service.offered(models, EDITS) if name in of_images]
    chosen = service.specs([])
    others = [*service.offered(models), "upscale"]
    fields: dict[str, Component] = {}

    def add(*names: str) -> None:
        known = [name for name in names if name in (*allowed, *others, *QUICK)]
        fields.update((name, _field(name, chosen)) for name in known)

    if "strength" in allowed:
        fields["strength"] = gr.Slider(
            WEAKEST,
            1,
            editing.STRENGTH,
            step=WEAKEST,
            label=label_of("strength"),
            info=_brief(told(SETTINGS["strength"])),
            elem_id=f"{WITHIN}strength",
        )
    add(*editing.OF_TOKENS)
    with gr.Row(elem_id="edit-quick"):
        add(*QUICK)
    lacking = service.lacking
    with gr.Accordion("Mask", open=True, elem_id="edit-mask"):
        add(*(name for name in finding.SETTINGS if name not in lacking))
        can_find = len(lacking) < len(finding.NEEDED)  # a box is masked without being found
        find = gr.Button("Find and show", size="sm", visible=can_find, elem_id="edit-find")
        gr.HTML(_lacking(lacking), elem_id="edit-lacking")
        with gr.Row():
            add(*editing.OF_MASK, "padding")
    # Open, since gradio builds no field of what is closed, and edges that are dragged write here.
    with gr.Accordion("Extend", open=True, elem_id="edit-extend"), gr.Row():
        sides = {side: _side(side) for side in (SIDES if "extend" in allowed else ())}
    with gr.Accordion("Size and variations", open=False, elem_id="edit-size"), gr.Row():
        add(*OF_SIZE, *OF_NOISE)
    gr.HTML(f'<p class="hint">{HINT}</p>')

    def show_taken(models: list[str]) -> list[Any]:
        chosen = service.specs(models)
        return [gr.update(visible=taken(name, chosen)) for name in fields]

    draw.models.change(show_taken, draw.models, list(fields.values()), **QUIET)
    return EditForm(service, draw, prompt, fields, sides, find)


def _field(name: str, chosen: Sequence[Spec]) -> Component:
    """Return the field of a setting, which is empty where the image or the edit says the rest."""
    field = field_of(SETTINGS[name], chosen, "" if name in UNSET else None, WITHIN)
    if getattr(field, "info", None):
        field.info = _brief(field.info)
    return field


def _side(side: str) -> gr.Number:
    return gr.Number(
        None,
        label=side.capitalize(),
        minimum=0,
        maximum=MOST_PIXELS,
        step=8,
        precision=0,
        min_width=80,
        placeholder="0",
        elem_id=f"{WITHIN}{side}",
    )


def _brief(info: str) -> str:
    """Return the first clause of what a setting does."""
    return re.split("[:;]", info)[0]


def _lacking(lacking: Mapping[str, str]) -> str:
    """Return in a line which ways to mask need a model that is not here."""
    if not lacking:
        return ""
    needs = ", ".join(f"{label_of(name)} needs {model}" for name, model in lacking.items())
    return f'<p class="hint">{text(needs)}: this server has none.</p>'
