"""The contact sheet: ranked pictures on one page, with what is known of each below it."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, features

PICTURE = 224  # the longer side on the sheet; smaller pictures are enlarged to it
COLUMNS = 6
GAP, MARGIN, HEAD, LINE = 18, 36, 56, 19
PAPER, FRAME, INK, GREY = (250, 249, 246), (226, 223, 216), (38, 38, 42), (112, 110, 106)


def draw(
    title: str, pictures: Sequence[Image.Image], captions: Sequence[Sequence[str]]
) -> Image.Image:
    """The page, with up to COLUMNS pictures in a row and the lines of its caption under each."""
    columns = max(2, min(COLUMNS, len(pictures)))
    lines = max((len(caption) for caption in captions), default=0)
    cell = PICTURE + 8 + lines * LINE + GAP
    rows = -(-len(pictures) // columns)
    width = 2 * MARGIN + columns * (PICTURE + GAP) - GAP
    page = Image.new("RGB", (width, MARGIN + HEAD + rows * cell + MARGIN - GAP), PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((MARGIN, MARGIN), _fitted(title, _font(22), width - 2 * MARGIN), INK, _font(22))
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left = MARGIN + index % columns * (PICTURE + GAP)
        top = MARGIN + HEAD + index // columns * cell
        small = _scaled(picture)
        page.paste(small, (left, top + PICTURE - small.height))
        frame = (left - 1, top + PICTURE - small.height - 1, left + small.width, top + PICTURE)
        pen.rectangle(frame, outline=FRAME)
        for number, line in enumerate(caption):
            font, colour = _font(14), GREY if number > 0 else INK
            below = (left, top + PICTURE + 8 + number * LINE)
            pen.text(below, _fitted(line, font, PICTURE), colour, font)
    return page


def _scaled(picture: Image.Image) -> Image.Image:
    scale = PICTURE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, so that no machine needs one installed."""
    return ImageFont.load_default(size) if features.check("freetype2") else ImageFont.load_default()


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, its end cut off where it is too long."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[: -max(1, len(text) // 20)]
    return f"{text}…"
