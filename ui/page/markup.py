"""Images and lines as HTML. Everything that comes from people or files passes through `text`."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

THUMBNAIL = 256  # pixels a side, at most
FEW_PIXELS = 128  # a side: up to here images are enlarged with their pixels kept sharp
# Gradio fills templates in with what we give it; braces and dollars are none of its business.
FOR_TEMPLATES = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;"})
# What a click on an image tells: its name.
ON_CLICK = """
element.addEventListener('click', (event) => {
  const tile = event.target.closest('[data-name]');
  if (tile) trigger('select', {name: tile.dataset.name});
});
"""


# Escape presses a button while it can be seen.
ON_ESCAPE = """
document.addEventListener('keydown', (event) => {{
  const button = document.getElementById('{}');
  if (event.key === 'Escape' && button?.checkVisibility()) button.click();
}});
"""


@dataclass(frozen=True)
class Tile:
    """An image on the page: where it comes from, and what is said of it.

    `name` makes it a button that tells this name. `source` is a path of this site or a data: URL,
    "" for an image that is not there yet, None for one that cannot be shown.
    """

    source: str | None
    about: str = ""  # for who does not see it
    captions: Sequence[str] = ()
    claims: Sequence[tuple[str, bool]] = ()  # and whether each holds
    name: str = ""
    size: tuple[int, int] = (1, 1)  # in pixels, so that its room is kept while it is on its way


def text(value: object) -> str:
    """Escape any text, so that it is shown letter by letter."""
    return escape(str(value)).translate(FOR_TEMPLATES)


def paragraphs(lines: Iterable[str]) -> str:
    """Return a paragraph for each line."""
    return "".join(f"<p>{text(line)}</p>" for line in lines)


def tiles(images: Sequence[Tile], label: str) -> str:
    """Return a grid of images, under a name for who does not see it."""
    items = "".join(f"<li>{tile(each)}</li>" for each in images)
    return f'<ul class="tiles" aria-label="{text(label)}">{items}</ul>'


def tile(image: Tile) -> str:
    """Return one image with its captions below."""
    match image.source:
        case None:
            shown = '<span class="missing">unreadable</span>'
        case "":
            shown = '<span class="missing"></span>'
        case source:
            shown = image_tag(source, image.about, image.size)
    captions = "".join(f"<span>{text(caption)}</span>" for caption in image.captions)
    inner = f'{shown}<span class="captions">{captions}</span>{_claims(image.claims)}'
    if not image.name:
        return f'<div class="tile">{inner}</div>'
    return f'<button type="button" class="tile" data-name="{text(image.name)}">{inner}</button>'


def _claims(claims: Sequence[tuple[str, bool]]) -> str:
    return "".join(
        f'<span class="claim {"holds" if holds else "fails"}">'
        f"{'✓' if holds else '✗'} {text(claim)}</span>"
        for claim, holds in claims
    )


def thumbnail(image: Image.Image) -> Image.Image:
    """Return a copy that is no larger than the page needs."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return small


def data_url(image: Image.Image) -> str:
    """Return an image as a URL that holds it, no larger than a thumbnail."""
    out = io.BytesIO()
    thumbnail(image).save(out, "webp", quality=90, method=0)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"


def image_tag(source: str, about: str, size: tuple[int, int]) -> str:
    """Return an image's tag; one of few pixels is enlarged with each of them sharp."""
    kind = "few-pixels" if max(size) <= FEW_PIXELS else ""
    width, height = size
    return (
        f'<img class="{kind}" src="{text(source)}" alt="{text(about)}" '
        f'width="{width}" height="{height}" loading="lazy">'
    )


def counted(number: int, noun: str) -> str:
    """Return so many of a thing, in words."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def percent(share: float) -> str:
    """Return a probability as people write it."""
    return f"{share:.0%}"
