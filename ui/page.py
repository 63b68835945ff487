"""The page: a prompt, its settings, and the best pictures first."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.processing_utils import save_file_to_cache

from gen.engine import Outcome
from gen.errors import InputError, RoomError
from gen.events import Event, Loading, Note, Watch
from gen.models import DEFAULT_MODEL, SPECS, WEIGHTS_ERRORS, Spec
from gen.plan import DEFAULT_CANDIDATES, DEFAULT_TOP_K
from gen.request import EXACT_IN_JSON, SETTINGS, Request
from gen.result import Result
from gen.settings import Setting
from ui.studio import Studio

EXAMPLES = (
    "a panda to the left of a red balloon",
    "three strawberries on a light blue background",
    "a blue star and a yellow circle",
    "a large sunflower",
    "a rocket above a house",
    "a small frog in the top right corner",
)
STYLE = Path(__file__).parent / "page.css"
THEME = gr.themes.Default(
    primary_hue="neutral", neutral_hue="neutral", font=["system-ui", "sans-serif"]
).set(
    button_primary_background_fill="*neutral_800",
    button_primary_background_fill_hover="*neutral_700",
    button_primary_background_fill_dark="*neutral_200",
    button_primary_background_fill_hover_dark="*neutral_300",
    button_primary_text_color_dark="*neutral_900",
)
TRACKED = gr.Progress()  # gradio puts each job's own in its place
COUNTS = {"candidates": DEFAULT_CANDIDATES, "top_k": DEFAULT_TOP_K}
FEW_PIXELS = 128  # a side: up to here pictures are enlarged with their pixels kept sharp
# What gradio serves are copies of the pictures: how often it clears them, and how old they get.
CACHE_SECONDS = (3600, 24 * 3600)
# Nothing is counted or sent, and nothing but those copies is served, whatever the shell says.
ENVIRONMENT = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_ALLOWED_PATHS": ""}


@contextmanager
def served(studio: Studio, host: str, port: int) -> Iterator[str]:
    """Serve the page for as long as the context lasts; its address.

    Raises InputError if the port is in use.
    """
    os.environ |= ENVIRONMENT
    page = build(studio)
    try:
        _, url, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            inbrowser=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            run_history=False,
            footer_links=[],
            theme=THEME,
            css_paths=[STYLE],
        )
    except OSError as error:
        raise InputError(f"port {port} is in use: choose another with --port") from error
    try:
        yield url
    finally:
        page.close(verbose=False)


def build(studio: Studio) -> gr.Blocks:
    """The page, to be launched. Its controls follow from the table of settings."""
    model = SPECS[DEFAULT_MODEL]
    with gr.Blocks(title="Salon", analytics_enabled=False, delete_cache=CACHE_SECONDS) as page:
        gr.Markdown("# Salon\nMany candidates are painted; a jury hangs the best.")
        prompt = gr.Textbox(
            label=_label("prompt"),
            placeholder=SETTINGS["prompt"].help,
            max_lines=4,
            autofocus=True,
            elem_id="prompt",
        )
        gr.Examples(
            [[text] for text in EXAMPLES], [prompt], cache_examples=False, elem_id="examples"
        )
        with gr.Row():
            chosen = gr.Dropdown(
                list(SPECS),
                value=model.name,
                label=_label("model"),
                info=model.draws,
                elem_id="model",
            )
            counts = {name: _control(SETTINGS[name], model) for name in (*COUNTS, "seed")}
        with gr.Accordion("How to draw", open=False), gr.Row():
            manner = {name: _control(SETTINGS[name], model) for name in _settings_of_models()}
        button = gr.Button("Generate", variant="primary", elem_id="generate")
        status = gr.HTML(elem_id="status", padding=False)
        best = _gallery("best", visible=False)
        with gr.Accordion("The other candidates", open=False, visible=False) as others:
            rest = _gallery("rest")

        controls: dict[str, Component] = {"prompt": prompt, "model": chosen, **counts, **manner}

        def draw(values: dict[Component, Any], progress: gr.Progress = TRACKED) -> tuple[Any, ...]:
            notes: list[str] = []
            hidden = set(manner) - set(SPECS[values[chosen]].settings)
            asked = {name: values[c] for name, c in controls.items() if name not in hidden}
            outcome = _drawn(studio, asked, _watch(progress, notes))
            return (
                _paragraphs([_summary(outcome, studio.folder.path), *_failures(outcome), *notes]),
                _hung(outcome.best, best),
                gr.Accordion(visible=bool(outcome.rest)),
                _hung(outcome.rest, rest),
            )

        gr.on(
            [button.click, prompt.submit],
            draw,
            inputs=set(controls.values()),
            outputs=[status, best, others, rest],
            concurrency_limit=1,
            show_progress_on=status,
            api_visibility="private",
        )
        chosen.change(
            lambda name: _fitted(list(manner), SPECS[name]),
            inputs=chosen,
            outputs=[chosen, *manner.values()],
            api_visibility="private",
        )
    return page


def _drawn(studio: Studio, values: Mapping[str, Any], watch: Watch) -> Outcome:
    """What comes of a click; whatever the user can mend is shown as one line."""
    try:
        # An emptied field is as good as one never filled in.
        given = {name: value for name, value in values.items() if value not in (None, "")}
        return studio.draw(Request.from_json(given), watch)
    except (InputError, RoomError, *WEIGHTS_ERRORS) as error:
        raise gr.Error(escape(str(error)), duration=None, print_exception=False) from error


def _watch(progress: gr.Progress, notes: list[str]) -> Watch:
    """Move the bar with the engine's progress, and collect its notes."""
    progress(0, desc="getting ready")

    def watch(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)
            return
        if isinstance(event, Loading):
            progress(event.loaded / max(1, event.total), desc=f"loading {event.model}")
            return
        part = event.drawing * event.step / event.steps if event.steps else 0
        made = f"{event.made} of {event.candidates} candidates"
        drawing = f"step {event.step} of {event.steps} for {event.drawing} more"
        progress((event.made + part) / event.candidates, desc=f"{made}, {drawing}")

    return watch


def _settings_of_models() -> list[str]:
    """The settings that at least one known model takes, in the table's order; none that name files,
    since a visitor has no business with this machine's."""
    taken = {name for spec in SPECS.values() for name in spec.settings}
    return [name for name, setting in SETTINGS.items() if name in taken and not setting.local]


def _control(setting: Setting, spec: Spec) -> Component:
    """The field of a setting with the model's default in it, hidden if the model takes no such."""
    default = COUNTS.get(setting.name, spec.defaults.get(setting.name))
    facts: dict[str, Any] = {
        "label": _label(setting.name),
        "info": setting.help,
        "visible": not setting.by_model or setting.name in spec.settings,
        "min_width": 180,
        "elem_id": setting.name,
    }
    if setting.names is not None:
        names = list(dict.fromkeys(setting.names().values()))
        return gr.Dropdown(names, value=default, **facts)
    # A browser's numbers are doubles, which lose the last digits of a large seed.
    if setting.kind is str or (setting.high is not None and setting.high > EXACT_IN_JSON):
        return gr.Textbox(max_lines=4, **facts)
    return gr.Number(value=default, step=1 if setting.kind is int else 0.5, **facts)


def _fitted(manner: Sequence[str], spec: Spec) -> list[Component]:
    """The model's field and those of its settings, when another model is chosen."""
    return [gr.Dropdown(info=spec.draws), *(_control(SETTINGS[name], spec) for name in manner)]


def _label(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _gallery(elem_id: str, visible: bool = True) -> gr.Gallery:
    return gr.Gallery(
        show_label=False,
        columns=4,
        height="auto",
        object_fit="contain",
        interactive=False,
        buttons=["download", "fullscreen"],
        visible=visible,
        elem_id=elem_id,
    )


def _hung(results: Sequence[Result], gallery: gr.Gallery) -> gr.Gallery:
    """The gallery with these pictures in it, in the order given."""
    pictures: list[tuple[str, str]] = []  # file and caption
    sizes: list[int] = []
    for result in results:
        if result.path is None or (image := result.open()) is None:
            continue  # somebody removed the file
        # Gradio serves no file from elsewhere; a copy of the file keeps what is written inside.
        copy = save_file_to_cache(result.path, gallery.GRADIO_CACHE)
        pictures.append((copy, _caption(result)))
        sizes += image.size
    few = bool(sizes) and max(sizes) <= FEW_PIXELS
    return gr.Gallery(
        pictures, visible=bool(pictures), selected_index=None, elem_classes=["few-pixels"] * few
    )


def _caption(result: Result) -> str:
    rank = "" if result.rank is None else f"{result.rank}."
    score = "" if result.score is None else f"{result.score:.3f}"
    return "  ".join(filter(None, (rank, score, f"seed {result.seed}", result.unfinished)))


def _summary(outcome: Outcome, folder: Path) -> str:
    """One line under the button, when the job is done."""
    already = ", which were there already" if outcome.made and not outcome.drawn else ""
    return (
        f"The best {len(outcome.best)} of {outcome.made} candidates{already}. "
        f"Seed {outcome.plan.seed}. Saved in {folder}, prompt {outcome.number:04d}."
    )


def _failures(outcome: Outcome) -> list[str]:
    return [f"The candidate of seed {r.seed} failed: {r.failed}" for r in outcome.failed]


def _paragraphs(lines: Sequence[str]) -> str:
    """The lines as HTML that shows them letter by letter."""
    return "".join(f"<p>{escape(line)}</p>" for line in lines)
