"""What the page shows before anything is drawn: what the model can draw, examples, and the last
images of the folder."""

import base64
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from pydantic_core import from_json

from gen.models import DEFAULT_MODEL, Spec
from gen.run_folder.events import Comparison
from gen.settings.vocabulary import unknown_words
from ui.page.form import examples
from ui.page.markup import text, tiles
from ui.page.tiles import image_tile
from ui.service.service import Service

WORDS = 24  # to click
LATELY = 12  # images
FOLDER = Path(__file__).parent / "examples"  # one image of each example, as a model drew it
DRAWN_BY, OF = DEFAULT_MODEL, 16  # the model, and of how many candidates an image is the best
SIDE = 64  # pixels of the page


def start(service: Service, chosen: Sequence[Spec]) -> str:
    """Return what the chosen models draw with words to click, examples, and the last images.

    No model chosen is the default.
    """
    chosen = chosen or service.specs([])
    parts = ['<section class="start">', lately(service), '<div class="about">']
    parts += map(_draws, chosen)
    if words := [word for spec in chosen for word in _words(spec.vocabulary)][:WORDS]:
        buttons = "".join(
            f'<li><button type="button" class="chip" data-word="{text(word)}">{text(word)}'
            "</button></li>"
            for word in dict.fromkeys(words)
        )
        parts.append(f'<ul class="chips" aria-label="words that it knows">{buttons}</ul>')
    parts.append("</div>")
    if prompts := examples(service):
        drawn = DRAWN_BY in service.models
        cards = "".join(_card(prompt, _picture(prompt) if drawn else "") for prompt in prompts)
        told = f" Each shows the best of {OF} that {DRAWN_BY} drew." if drawn else ""
        parts.append(f'<div><p class="label">Draw six of one of these.{text(told)}</p>')
        parts.append(f'<ul class="examples" aria-label="examples">{cards}</ul></div>')
    return "".join([*parts, "</section>"])


def _card(prompt: str, picture: str) -> str:
    """Return an example as a button, with what a model made of it if that is here."""
    name = text(prompt)
    return (
        f'<li><button type="button" class="example" data-do="draw" data-name="{name}">'
        f"{picture}<span>{name}</span></button></li>"
    )


@cache
def _picture(prompt: str) -> str:
    """Return the image that ships with an example; nothing if there is none."""
    path = example_file(prompt)
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img src="data:image/webp;base64,{data}" alt="" width="{SIDE}" height="{SIDE}">'


def example_file(prompt: str) -> Path:
    """Return where the image of an example is kept, as `make screenshots` draws it."""
    return FOLDER / f"{prompt.replace(' ', '-')}.webp"


def checked(prompt: str, chosen: Sequence[Spec], service: Service) -> str:
    """Return how many tokens a prompt has, and the words that a model was never shown."""
    if not prompt.strip():
        return ""
    lines = []
    for spec in chosen:
        count = service.token_count(prompt, spec)
        if count is not None:
            over = count > spec.context and not spec.long_prompts
            more = ", the end is not read" if over else ""
            name = f"{spec.name}: " if len(chosen) > 1 else ""
            kind = "warns" if over else "counts"
            lines.append(
                f'<span class="{kind}">{text(name)}{count} of {spec.context} tokens{more}</span>'
            )
        if words := unknown_words(prompt, spec.vocabulary):
            marked = ", ".join(f"<mark>{text(word)}</mark>" for word in words)
            lines.append(
                f'<span class="warns">{text(spec.name)} was never shown {marked}: it draws '
                f"{text(spec.draws)}</span>"
            )
    return "".join(lines)


def _draws(spec: Spec) -> str:
    return f'<p class="draws"><strong>{text(spec.name)}</strong> draws {text(spec.draws)}.</p>'


def lately(service: Service) -> str:
    """Return the last images of the folder, under a heading; nothing if there are none."""
    service.history.refresh()
    entries = service.history.entries()[:LATELY]
    found = [
        service.history.find(entry.numbers[0]) if isinstance(entry, Comparison) else entry
        for entry in entries  # a comparison is one thing
    ]
    histories = [each for each in found if each is not None and each.images]
    if not histories:
        return ""
    shown = [image_tile(service, each, each.images[0], with_claims=False) for each in histories]
    return f'<p class="label">Drawn lately</p>{tiles(shown, "drawn lately")}'


@cache
def _words(path: Path | None) -> tuple[str, ...]:
    """Return names of things from a vocabulary.json; none if it does not list them."""
    if path is None:
        return ()
    try:
        nouns = from_json(path.read_bytes()).get("nouns", [])
        return tuple(str(noun["name"]) for noun in nouns)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()
