"""Images and lines as HTML. Everything that comes from people or files passes through `text`."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

THUMBNAIL = 256  # pixels a side, at most
# Gradio fills templates in with what we give it; braces and dollars are none of its business.
FOR_TEMPLATES = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;"})
# What a click on an image tells: its name; page.js shows it large at once.
ON_CLICK = """
element.addEventListener('click', (event) => {
  const tile = event.target.closest('[data-name]');
  if (tile) trigger('select', {name: tile.dataset.name});
});
"""
# What a click on a button that does something with a named thing tells: what, and with which.
ON_DO = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-do]');
  if (button) trigger('select', {do: button.dataset.do, name: button.dataset.name ?? ''});
});
"""


@dataclass(frozen=True)
class Tile:
    """An image on the page: where it comes from, and what is said of it.

    `name` makes it a button that tells this name. `source` is a path of this site or a data: URL,
    "" for an image that is not there yet, None for one that cannot be shown. `whole` is the path
    of the image at its full size, where `source` is a thumbnail.
    """

    source: str | None
    about: str = ""  # for who does not see it
    captions: Sequence[str] = ()
    claims: Sequence[tuple[str, bool]] = ()  # and whether each holds
    name: str = ""
    size: tuple[int, int] = (1, 1)  # in pixels, so that its room is kept while it is on its way
    whole: str = ""


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
    inner = f'{shown}<span class="captions">{captions}</span>{claims_of(image.claims)}'
    if not image.name:
        return f'<div class="tile">{inner}</div>'
    whole = f' data-whole="{text(image.whole)}"' if image.whole else ""
    return (
        f'<button type="button" class="tile" data-name="{text(image.name)}"{whole}>{inner}</button>'
    )


def hero(image: Tile) -> str:
    """Return one image as large as there is room; a click opens it over the whole page."""
    if not image.source:
        return '<div class="hero"><span class="missing"></span></div>'
    width, height = image.size
    ratio = f"--ratio: {width / height:.4f}"
    shown = image_tag(image.source, image.about, image.size)
    if not image.name:
        return f'<div class="hero" style="{ratio}">{shown}</div>'
    return (
        f'<button type="button" class="hero" style="{ratio}" data-open="{text(image.name)}" '
        f'aria-label="Enlarge: {text(image.about)}">{shown}</button>'
    )


def claims_of(claims: Sequence[tuple[str, bool]]) -> str:
    """Return claims, each ticked or crossed."""
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


def encoded(image: Image.Image) -> tuple[bytes, tuple[int, int]]:
    """Return a thumbnail as a WebP file, and its size."""
    out, small = io.BytesIO(), thumbnail(image)
    small.save(out, "webp", quality=90, method=0)
    return out.getvalue(), small.size


def data_url(image: Image.Image) -> str:
    """Return an image as a URL that holds it, no larger than a thumbnail."""
    data, _ = encoded(image)
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def image_tag(source: str, about: str, size: tuple[int, int]) -> str:
    """Return an image's tag."""
    width, height = size
    return (
        f'<img src="{text(source)}" alt="{text(about)}" '
        f'width="{width}" height="{height}" loading="lazy">'
    )


def counted(number: int, noun: str) -> str:
    """Return so many of a thing, in words."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def percent(share: float) -> str:
    """Return a probability as people write it."""
    return f"{share:.0%}"
