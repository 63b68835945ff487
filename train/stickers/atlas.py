"""The atlas: every glyph of the vocabulary, drawn once from Noto Color Emoji and kept as one PNG.

`salon-train atlas` draws it from Debian's package fonts-noto-color-emoji. Everything else reads
the PNG, so that no font is needed to train, judge, evaluate or test.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch.nn import functional

from train.stickers.vocabulary import COLOUR_BY_NAME, NOUNS, SHAPES, THINGS

ATLAS = Path(__file__).with_name("atlas.png")
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SIZE = 109  # the one size of the font's bitmaps: 136 × 128 px
TILE = 128  # px a side in the atlas
COLUMNS = 8
OVERSAMPLING = 8  # shapes are drawn this much larger and averaged down


def draw_atlas(font: Path = FONT, out: Path = ATLAS) -> Path:
    """Draw every noun's glyph, cropped to its ink and centred in a square tile, into one PNG.

    Raises
    ------
    FileNotFoundError : the font is not there; the message names the Debian package.
    """
    if not font.is_file():
        raise FileNotFoundError(f"{font} is missing: install Debian's fonts-noto-color-emoji")
    face = ImageFont.truetype(str(font), FONT_SIZE)
    rows = -(-len(NOUNS) // COLUMNS)
    atlas = Image.new("RGBA", (COLUMNS * TILE, rows * TILE))
    for index, noun in enumerate(NOUNS):
        glyph = _square(_glyph(face, noun.codepoint)).resize((TILE, TILE), Image.Resampling.LANCZOS)
        atlas.paste(glyph, (index % COLUMNS * TILE, index // COLUMNS * TILE))
    atlas.save(out, optimize=True)
    return out


def _glyph(face: ImageFont.FreeTypeFont, codepoint: int) -> Image.Image:
    canvas = Image.new("RGBA", (2 * FONT_SIZE, 2 * FONT_SIZE))
    ImageDraw.Draw(canvas).text((20, 20), chr(codepoint), font=face, embedded_color=True)
    return canvas.crop(canvas.getbbox())


def _square(glyph: Image.Image) -> Image.Image:
    side = max(glyph.size)
    tile = Image.new("RGBA", (side, side))
    tile.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
    return tile


@functools.cache
def sprites(side: int) -> torch.Tensor:
    """Return all things of the vocabulary at `side` px: (len(THINGS), 4, side, side) float32.

    In [0, 1], red, green and blue premultiplied by alpha. From 24 px on, an empty margin keeps
    neighbours apart and things off the edge of the image.
    """
    margin = side // 24
    ink = side - 2 * margin
    atlas = Image.open(ATLAS).convert("RGBA")
    tiles = []
    for index in range(len(NOUNS)):
        x, y = index % COLUMNS * TILE, index // COLUMNS * TILE
        tiles.append(_shrink(atlas.crop((x, y, x + TILE, y + TILE)), ink))
    masks = {shape.name: _shape(shape.name, ink) for shape in SHAPES}
    for thing in THINGS[len(NOUNS) :]:
        assert thing.colour is not None
        rgb = torch.tensor(COLOUR_BY_NAME[thing.colour].rgb).view(3, 1, 1) / 255
        mask = masks[thing.name]
        tiles.append(torch.cat([rgb * mask, mask]))
    return functional.pad(torch.stack(tiles), (margin,) * 4)


def _shrink(tile: Image.Image, side: int) -> torch.Tensor:
    """(4, side, side); averaged with premultiplied alpha, so that no dark fringe appears."""
    premultiplied = np.asarray(tile.convert("RGBa").resize((side, side), Image.Resampling.BOX))
    return torch.from_numpy(premultiplied.copy()).permute(2, 0, 1).float() / 255


def _shape(name: str, side: int) -> torch.Tensor:
    """Return the antialiased mask (1, side, side) of a shape that fills its square but a margin."""
    big = side * OVERSAMPLING
    margin = big / 24
    middle, reach = big / 2, big / 2 - margin
    image = Image.new("L", (big, big))
    draw = ImageDraw.Draw(image)
    if name == "circle":
        draw.ellipse((margin, margin, big - margin, big - margin), fill=255)
    elif name == "square":
        inset = 2.5 * margin  # as large to the eye as the disc
        draw.rectangle((inset, inset, big - inset, big - inset), fill=255)
    else:
        draw.polygon([(middle + x * reach, middle + y * reach) for x, y in _POLYGONS[name]], 255)
    return torch.from_numpy(np.asarray(image.reduce(OVERSAMPLING)).copy())[None].float() / 255


def _star() -> tuple[tuple[float, float], ...]:
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    reaches = np.where(np.arange(10) % 2 == 0, 1.08, 0.5)
    return tuple(
        (float(reach * np.cos(angle)), float(reach * np.sin(angle) + 0.06))
        for angle, reach in zip(angles, reaches, strict=True)
    )


_POLYGONS: dict[str, tuple[tuple[float, float], ...]] = {
    "triangle": ((0, -0.95), (1, 0.88), (-1, 0.88)),
    "diamond": ((0, -1), (0.72, 0), (0, 1), (-0.72, 0)),
    "star": _star(),
}
