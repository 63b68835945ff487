"""Images from anywhere, ranked for a prompt."""

from collections.abc import Sequence
from pathlib import Path

import gradio as gr
from gradio.components import Component
from PIL import Image

from gen.errors import InputError, RoomError
from gen.models import WeightsError
from ui.api.images import decode
from ui.page.batch import client_of
from ui.page.drawing_panel import SHOW_RESULTS, VISITORS
from ui.page.markup import Tile, counted, data_url, paragraphs, percent, tiles
from ui.page.wiring import complaint
from ui.service.service import Service, UploadScore

MAX_UPLOADS = 64
HINT = (
    '<p class="hint">Give images from anywhere and a prompt: they come back best first, each with '
    "how well it fits, and which parts of the prompt it shows.</p>"
)
MOST_BYTES = 64_000_000  # of all of them


def build(service: Service) -> list[Component]:
    """Build files and a prompt, and the images in their order; return what is typed in."""
    with gr.Row(elem_classes="form-beside"):
        with gr.Column(scale=0, min_width=320, elem_id="rank-form"):
            files = gr.File(
                label="Images",
                file_count="multiple",
                file_types=[".png", ".jpg", ".jpeg", ".webp"],
                height=200,
                elem_id="rank-files",
            )
            prompt = gr.Textbox(
                label="Prompt", placeholder="what they should show", elem_id="rank-prompt"
            )
            button = gr.Button("Rank", variant="primary", elem_id="rank-run")
        with gr.Column(min_width=320, elem_id="rank-side"):
            status = gr.HTML(HINT, elem_id="rank-status", elem_classes="status")
            ranked = gr.HTML(elem_id="rank-results")

    def rank(paths: list[str] | None, asked: str, visitor: gr.Request) -> tuple[str, str]:
        try:
            return _ranked(service, paths or [], asked, client_of(visitor))
        except (InputError, RoomError, WeightsError) as error:
            raise complaint(error) from error

    asking = [button.click, prompt.submit]
    gr.on(asking, None, js=SHOW_RESULTS.format("rank-side"), api_visibility="private")
    gr.on(
        asking,
        rank,
        [files, prompt],
        [status, ranked],
        concurrency_limit=VISITORS,
        show_progress_on=[status],
        api_visibility="private",
    )
    return [prompt]


def _ranked(service: Service, paths: Sequence[str], prompt: str, client: str) -> tuple[str, str]:
    """Return what to say, and the images best first. Raises InputError and what scoring raises."""
    if not prompt.strip():
        raise InputError("prompt: empty: say what they should show")
    if not 0 < len(paths) <= MAX_UPLOADS:
        raise InputError(f"files: {len(paths)} images: 1 to {MAX_UPLOADS} are ranked at once")
    if sum(Path(path).stat().st_size for path in paths) > MOST_BYTES:
        raise InputError(f"files: larger than {MOST_BYTES:,} bytes: rank fewer at once")
    files = [Path(path).read_bytes() for path in paths]
    names = [Path(path).name for path in paths]
    scores: list[UploadScore] = service.rerank(prompt, files, client, closely=True).future.result()
    scored = [place for place, each in enumerate(scores) if each.score is not None]
    scored.sort(key=lambda place: _fit(scores[place]), reverse=True)
    lines = [
        f"{names[place]}: {each.failed}"
        for place, each in enumerate(scores)
        if each.failed is not None
    ]
    shown = [
        _tile(rank, names[place], decode(files[place], service.reader), scores[place])
        for rank, place in enumerate(scored, start=1)
    ]
    return paragraphs([f"{counted(len(scored), 'image')} for: {prompt}", *lines]), tiles(
        shown, "ranking"
    )


def _fit(upload: UploadScore) -> tuple[float, float]:
    """Return what images are sorted by: the number that is shown, then the score."""
    return (-1.0 if upload.match is None else upload.match, upload.score or 0.0)


def _tile(rank: int, name: str, image: Image.Image, upload: UploadScore) -> Tile:
    fits = f"{upload.score:.3f}" if upload.match is None else f"{percent(upload.match)} match"
    return Tile(
        data_url(image),
        about=name,
        captions=[f"{rank}.", fits, name],
        claims=upload.claims,
        size=image.size,
    )
