"""The contact sheet: what a command made, on one page, best first."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, features

from gen.result import Result

IMAGE = 256  # the longer side on the page; smaller images are enlarged to it
COLUMNS = 8
GAP = 20  # between images
MARGIN = 40  # around the page, and between prompts
CAPTION = 30  # below each image
TITLE_LINES = 3
BLOCKS = 60  # prompts on one page; a longer page is no help

PAPER = (250, 249, 246)
RULE = (226, 223, 216)
INK = (38, 38, 42)
GREY = (132, 130, 126)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Block:
    """One prompt's part of the contact sheet."""

    title: str
    subtitle: str
    images: Sequence[Image.Image]  # at their size on the page
    captions: Sequence[tuple[str, str]]  # left and right below each image

    @property
    def columns(self) -> int:
        """How many images stand beside each other."""
        return min(COLUMNS, max(1, len(self.images)))


def block(title: str, subtitle: str, results: Sequence[Result]) -> Block:
    """Make a prompt's block from its results; those without an image are left out."""
    images, captions = [], []
    for result in results:
        image = result.open()
        if image is None:
            continue
        score = "" if result.score is None else f"{result.score:.3f}"
        rank = "" if result.rank is None else f"{result.rank}."
        state = "" if result.unfinished is None else "  unfinished"
        images.append(fitted(image))
        captions.append((f"{rank}  {score}{state}".strip(), f"seed {result.seed}"))
    return Block(" ".join(title.split()), subtitle, images, captions)


def fitted(image: Image.Image) -> Image.Image:
    """Resize an image to its size on the page; whole factors stay whole."""
    scale = IMAGE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def draw(blocks: Sequence[Block]) -> Image.Image:
    """Draw the page. Its width follows the widest block, its height what is on it."""
    columns = max((item.columns for item in blocks), default=1)
    inner = max(2, columns) * (IMAGE + GAP) - GAP  # room for a title above a single image
    layouts = [_Layout(item, inner) for item in blocks]
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


class _Layout:
    """Where a block's parts lie, for a page of some inner width."""

    def __init__(self, item: Block, inner: int) -> None:
        self.block = item
        self.inner = inner
        self.title_font, self.text_font = _font(22), _font(14)
        self.title = _wrapped(item.title, self.title_font, inner)
        self.line = 30
        self.head = self.line * len(self.title) + (26 if item.subtitle else 0) + 10
        images, columns = list(item.images), item.columns
        self.rows = [images[i : i + columns] for i in range(0, len(images), columns)]
        self.row_heights = [max(image.height for image in row) + CAPTION for row in self.rows]
        self.height = self.head + sum(self.row_heights) + GAP * max(0, len(self.rows) - 1)

    def paint(self, page: Image.Image, pen: ImageDraw.ImageDraw, top: int) -> None:
        """Draw the block with its upper edge at `top`."""
        for number, line in enumerate(self.title):
            pen.text((MARGIN, top + number * self.line), line, INK, self.title_font)
        under = top + len(self.title) * self.line
        pen.text((MARGIN, under), self.block.subtitle, GREY, self.text_font)
        y, captions = top + self.head, iter(self.block.captions)
        for row, height in zip(self.rows, self.row_heights, strict=True):
            for column, (image, caption) in enumerate(zip(row, captions, strict=False)):
                x = MARGIN + column * (IMAGE + GAP)
                self._paint_image(page, pen, (x, y), image, caption)
            y += height + GAP

    def _paint_image(
        self,
        page: Image.Image,
        pen: ImageDraw.ImageDraw,
        corner: tuple[int, int],
        image: Image.Image,
        caption: tuple[str, str],
    ) -> None:
        x, y = corner
        page.paste(image, corner)
        pen.rectangle((x - 1, y - 1, x + image.width, y + image.height), outline=RULE)
        below = y + image.height + 8
        left, right = caption
        pen.text((x, below), left, INK, self.text_font)
        pen.text((x + image.width, below), right, GREY, self.text_font, anchor=_right_anchor())


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
    """Cut the end off a line whose one word is too long for the page."""
    while font.getlength(line) > width:
        line = line[: -max(2, len(line) // 20)] + "…"
    return line
