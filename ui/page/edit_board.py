"""The place of the image that is edited, as markup: its tools, and what tells edit.js of images."""

from gen import editing
from ui.page.edit_form import SIDES
from ui.page.markup import text
from ui.page.originals import ORIGINALS, Original
from ui.service.service import Service

MODES = """
<div class="modes" role="group" aria-label="What is shown">
  <button type="button" class="quiet-button" data-mode="picture" aria-pressed="true">Image</button>
  <button type="button" class="quiet-button" data-mode="result" aria-pressed="false">Result</button>
  <button type="button" class="quiet-button" data-before>Before and after</button>
</div>
"""
TOOLS = (  # its name, what it is called, and the setting that it needs a network for
    ("brush", "Brush", ""),
    ("eraser", "Eraser", ""),
    ("box", "Box", ""),
    ("on", "Click on", "mask_point"),
    ("beside", "Click beside", "mask_point"),
)


def told(original: Original | None) -> str:
    """Return an image for edit.js, which shows it; nothing for none."""
    if original is None:
        return ""
    width, height = original.size
    return (
        f'<span data-picture="{text(original.name)}" data-source="{text(original.address)}" '
        f'data-width="{width}" data-height="{height}"></span>'
    )


def told_mask(name: str, image: str) -> str:
    """Return the mask that was found in an image, for edit.js, by the names of their files."""
    return f'<span data-mask="{text(ORIGINALS + name)}" data-for="{text(image)}"></span>'


def board(service: Service) -> str:
    """Return the place of the image, and the tools above it; edit.js does the rest."""
    lacking = service.lacking
    tools = "".join(
        f'<button type="button" class="quiet-button" data-tool="{name}" '
        f'aria-pressed="{str(name == "brush").lower()}">{label}</button>'
        for name, label, needs in TOOLS
        if needs not in lacking
    )
    edges = "".join(
        f'<button type="button" class="edge {side}" data-edge="{side}" '
        f'aria-label="Extend at the {side}: drag, or press an arrow key"></button>'
        for side in SIDES
    )
    clicked = str("mask_point" not in lacking).lower()
    return f"""
<div class="board" data-strength="{editing.STRENGTH}" data-masked="{editing.STRENGTH_OF_MASKED}"
  data-clicks="{clicked}">
  <div class="tools" role="toolbar" aria-label="Mask">{tools}
    <label class="brush-size">Size
      <input type="range" min="1" max="60" value="14" data-size aria-label="Size of the brush">
    </label>
    <button type="button" class="quiet-button" data-board="undo">Undo stroke</button>
    <button type="button" class="quiet-button" data-board="clear">Clear</button>
    <button type="button" class="quiet-button other-image" data-board="file">Other image</button>
  </div>
  <div class="stage">
    <div class="photo"><img alt="the image that is changed">
      <canvas class="mask" role="img" aria-label="the mask: what is tinted is drawn anew"></canvas>
      <svg class="marks" aria-hidden="true"></svg></div>
    <div class="brush-tip" aria-hidden="true" hidden></div>{edges}
  </div>
  <p class="board-told" aria-live="polite"></p>
</div>"""
