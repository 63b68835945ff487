"""The contact sheet: ranked images on one page, with what is known of each below it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin, features

from rerank.images import CONTACT_SHEET

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}  # by suffix
PAGE_ROWS = 20  # of a block: WebP can hold no more, and people look at no more at once
DESCRIPTION = 0x010E  # EXIF tag
IMAGE = 256  # the longer side on the page; smaller images are enlarged to it
COLUMNS = 8
GAP = 20  # between images
MARGIN = 40  # around the page, and between blocks
CAPTION_GAP, CAPTION_LINE = 8, 22  # below each image
TITLE_LINE, SUBTITLE, UNDER_HEAD = 30, 26, 10
TITLE_LINES = 3

PAPER = (250, 249, 246)
RULE = (226, 223, 216)
INK = (38, 38, 42)
GREY = (132, 130, 126)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Caption = Sequence[tuple[str, str]]  # lines, each with what stands left and right


@dataclass(frozen=True)
class Block:
    """One prompt's part of the contact sheet."""

    title: str
    subtitle: str
    images: Sequence[Image.Image]  # at any size
    captions: Sequence[Caption]  # one for each image

    @property
    def columns(self) -> int:
        """How many images stand beside each other."""
        return min(COLUMNS, max(1, len(self.images)))


def draw(blocks: Sequence[Block]) -> Image.Image:
    """Draw the page. Its width follows the widest block, its height what is on it."""
    columns = max((block.columns for block in blocks), default=1)
    inner = max(2, columns) * (IMAGE + GAP) - GAP  # room for a title above a single image
    layouts = [_Layout(block, inner) for block in blocks]
    height = sum(layout.height for layout in layouts) + MARGIN * (len(layouts) + 1)
    page = Image.new("RGB", (inner + 2 * MARGIN, height), PAPER)
    pen = ImageDraw.Draw(page)
    top = MARGIN
    for number, layout in enumerate(layouts):
        if number > 0:
            middle = top - MARGIN // 2
            pen.line([(MARGIN, middle), (MARGIN + inner, middle)], fill=RULE)
        layout.paint(page, pen, top)
        top += layout.height + MARGIN
    return page


def encode(page: Image.Image, format: str) -> bytes:
    """Return a page as a file that says what it is, so that it is never ranked itself."""
    out, said = io.BytesIO(), CONTACT_SHEET.decode()
    match format:
        case "PNG":
            text = PngImagePlugin.PngInfo()
            text.add_text("Software", said)
            page.save(out, format, pnginfo=text)
        case "JPEG":
            page.save(out, format, quality=92, comment=said)
        case _:
            exif = Image.Exif()
            exif[DESCRIPTION] = said
            try:
                page.save(out, format, quality=92, method=1, exif=exif)  # 4 takes minutes
            except ValueError:  # more detail than its first part can hold
                out = io.BytesIO()
                page.save(out, format, lossless=True, method=0, exif=exif)
    return out.getvalue()


def fitted(image: Image.Image) -> Image.Image:
    """Resize an image to its size on the page; whole factors stay whole."""
    scale = IMAGE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


class _Layout:
    """Where a block's parts lie, for a page of some inner width."""

    def __init__(self, block: Block, inner: int) -> None:
        self.block = block
        self.title_font, self.text_font = _font(22), _font(14)
        self.title = _wrapped(block.title, self.title_font, inner)
        self.head = TITLE_LINE * len(self.title) + (SUBTITLE if block.subtitle else 0) + UNDER_HEAD
        lines = max((len(caption) for caption in block.captions), default=0)
        cells = list(zip(map(fitted, block.images), block.captions, strict=True))
        self.rows = [cells[i : i + block.columns] for i in range(0, len(cells), block.columns)]
        below = CAPTION_GAP + CAPTION_LINE * lines
        self.row_heights = [max(image.height for image, _ in row) + below for row in self.rows]
        self.height = self.head + sum(self.row_heights) + GAP * max(0, len(self.rows) - 1)

    def paint(self, page: Image.Image, pen: ImageDraw.ImageDraw, top: int) -> None:
        """Draw the block with its upper edge at `top`."""
        for number, line in enumerate(self.title):
            pen.text((MARGIN, top + number * TITLE_LINE), line, INK, self.title_font)
        under = top + len(self.title) * TITLE_LINE
        pen.text((MARGIN, under), self.block.subtitle, GREY, self.text_font)
        y = top + self.head
        for row, height in zip(self.rows, self.row_heights, strict=True):
            for column, (image, caption) in enumerate(row):
                x = MARGIN + column * (IMAGE + GAP)
                page.paste(image, (x, y))
                pen.rectangle((x - 1, y - 1, x + image.width, y + image.height), outline=RULE)
                self._write(pen, (x, y + image.height + CAPTION_GAP), image.width, caption)
            y += height + GAP

    def _write(
        self, pen: ImageDraw.ImageDraw, corner: tuple[int, int], width: int, caption: Caption
    ) -> None:
        """Write the lines below an image that is so wide, what stands left in the first darker."""
        x, y = corner
        for number, (left, right) in enumerate(caption):
            line, colour = y + number * CAPTION_LINE, GREY if number > 0 else INK
            pen.text((x, line), _cut(left, self.text_font, IMAGE), colour, self.text_font)
            if right:
                pen.text((x + width, line), right, GREY, self.text_font, anchor=_right_anchor())


def _font(size: int) -> Font:
    """Load Pillow's own font, so that no machine needs one installed."""
    return ImageFont.load_default(size) if features.check("freetype2") else ImageFont.load_default()


def _right_anchor() -> str | None:
    return "ra" if features.check("freetype2") else None


def _wrapped(text: str, font: Font, width: int) -> list[str]:
    """Break a text into as many lines as fit; the end of a longer one becomes an ellipsis."""
    lines: list[str] = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        elif len(lines) == TITLE_LINES:
            lines[-1] += " …"
            break
        else:
            lines.append(word)
    return [_cut(line, font, width) for line in lines if line]


def _cut(line: str, font: Font, width: int) -> str:
    """Cut the end off a line that is too long."""
    while font.getlength(line) > width:
        line = line[: -max(2, len(line) // 20)] + "…"
    return line
