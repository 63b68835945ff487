"""Pictures of the history as markup: as tiles, and as the table of a comparison."""

from gen.run_folder.events import Comparison, SavedImage
from gen.run_folder.fold import PromptHistory
from ui.page.files import address, opened
from ui.page.markup import Tile, percent, text, tile
from ui.page.sheets import label
from ui.service.service import Studio


def picture_tile(
    studio: Studio, past: PromptHistory, picture: SavedImage, called: str = ""
) -> Tile:
    """A picture of the history, which tells its key when it is clicked."""
    image = opened(studio.history.path(picture))
    return Tile(
        None if image is None else address(picture),
        about=f"{past.request.prompt}, seed {picture.seed}",
        captions=[*([called] if called else []), *_captions(past, picture)],
        name=f"{past.number}/{picture.seed}",
        size=(1, 1) if image is None else image.size,
    )


def table(studio: Studio, comparison: Comparison) -> str:
    """The X/Y sheet of a comparison, with what of it is drawn and not deleted."""
    across, down = comparison.across, comparison.down
    numbers = iter(comparison.numbers)
    head = "".join(f'<th scope="col">{text(label(across, x))}</th>' for x in across.values)
    rows = []
    for y in down.values:
        cells = "".join(f"<td>{_cell(studio, next(numbers, None))}</td>" for _ in across.values)
        rows.append(f'<tr><th scope="row">{text(label(down, y))}</th>{cells}</tr>')
    return f'<div class="grid"><table><tr><td></td>{head}</tr>{"".join(rows)}</table></div>'


def _cell(studio: Studio, number: int | None) -> str:
    if number is None:  # not drawn yet
        return ""
    past = studio.history.find(number)
    if past is None or not past.best:
        return tile(Tile("", captions=["no picture"]))
    return tile(picture_tile(studio, past, past.best[0]))


def _captions(past: PromptHistory, picture: SavedImage) -> list[str]:
    alone = picture.rank is None or past.request.candidates == 1
    rank = "" if alone else f"{picture.rank}."
    match = "" if picture.match is None else f"{percent(picture.match)} match"
    score = "" if picture.score is None else f"{picture.score:.3f}"
    unfinished = "" if picture.unfinished is None else f"unfinished: {picture.unfinished}"
    model = picture.model if len(past.models) > 1 else None
    return [part for part in (rank, match, score, model, unfinished) if part]
