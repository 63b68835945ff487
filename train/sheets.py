"""Images of tensors, for people: tiles, enlargement, captions beneath."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont

CAPTION_HEIGHT = 30
FONT_SIZE = 11


def tile(
    images: torch.Tensor, columns: int, scale: int = 2, captions: Sequence[str] | None = None
) -> Image.Image:
    """Return a contact sheet of (N, 3, H, W) uint8 images, enlarged `scale` times, unsmoothed."""
    number, _, height, width = images.shape
    below = 0 if captions is None else CAPTION_HEIGHT
    step_x, step_y = width * scale + 4, height * scale + below + 4
    rows = -(-number // columns)
    contact_sheet = Image.new("RGB", (columns * step_x + 4, rows * step_y + 4), "white")
    draw, font = ImageDraw.Draw(contact_sheet), ImageFont.load_default(FONT_SIZE)
    for index, pixels in enumerate(images.permute(0, 2, 3, 1).cpu().numpy()):
        x, y = 4 + index % columns * step_x, 4 + index // columns * step_y
        image = Image.fromarray(pixels).resize((width * scale, height * scale), 0)
        contact_sheet.paste(image, (x, y))
        if captions is not None:
            text = _wrap(captions[index], font, width * scale)
            draw.multiline_text(
                (x, y + height * scale + 1), text, fill="black", font=font, spacing=1
            )
    return contact_sheet


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """`text` in two lines at most, cut with an ellipsis."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines[:2]) + ("…" if len(lines) > 2 else "")
