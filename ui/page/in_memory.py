"""Which models are in memory: loaded when they are chosen, and let go when somebody says so."""

from collections.abc import Callable, Iterator
from concurrent.futures import wait

import gradio as gr

from gen.errors import InputError, RoomError
from gen.models import WeightsError, weights_size
from ui.page.batch import LOOK_SECONDS, client_of
from ui.page.drawing_panel import VISITORS, loading_line
from ui.page.markup import ON_DO, paragraphs, text
from ui.page.wiring import QUIET, complaint
from ui.service.catalog import in_bytes
from ui.service.queue import Job
from ui.service.service import Service


def build(service: Service, models: gr.CheckboxGroup) -> gr.HTML:
    """Build the list in the block that is open, and have choosing a model load it."""
    told = gr.HTML(listed(service), js_on_load=ON_DO, elem_id="in-memory")

    def load(names: list[str], visitor: gr.Request) -> Iterator[str]:
        yield from _watched(service, lambda: service.load_models(names, client_of(visitor)))

    def release(event: gr.EventData, visitor: gr.Request) -> Iterator[str]:
        yield from _watched(service, lambda: service.release(str(event.name), client_of(visitor)))

    watched = {**QUIET, "concurrency_limit": VISITORS, "trigger_mode": "multiple"}
    models.input(load, models, told, **watched)
    told.select(release, None, told, **watched)
    return told


def _watched(service: Service, submit: Callable[[], Job]) -> Iterator[str]:
    """Yield what the list shows until a job is done."""
    try:
        job = submit()
        while not job.future.done():
            yield listed(service) + paragraphs([_line(service, job)])
            wait([job.future], LOOK_SECONDS)
        job.future.result()
    except (InputError, RoomError, WeightsError) as error:
        raise complaint(error) from error
    yield listed(service)


def _line(service: Service, job: Job) -> str:
    if service.queue.ahead_of(job):
        return "Waiting for what is being drawn …"
    loading = next((running.loading for running in service.queue.running), None)
    return loading_line(loading) or "Getting ready …"


def listed(service: Service) -> str:
    """Return the models in memory, each with its size and a way to let it go."""
    rows = []
    for name, spec in service.in_memory.items():
        size = weights_size(spec)
        told = name if size is None else f"{name}, {in_bytes(size)}"
        rows.append(
            f'<li><span>{text(told)}</span><button type="button" class="link-button" '
            f'data-do="release" data-name="{text(name)}">Let go</button></li>'
        )
    return f'<p class="label">In memory</p><ul class="loaded">{"".join(rows)}</ul>' if rows else ""
