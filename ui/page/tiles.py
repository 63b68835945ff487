"""Images of the history as markup: as tiles, large, and as the table of a comparison."""

from gen.run_folder.events import Comparison, SavedImage
from gen.run_folder.fold import PromptHistory
from ui.page.files import address
from ui.page.markup import Tile, percent, text, tile
from ui.page.sheets import label
from ui.page.thumbnails import thumbnail_of
from ui.service.service import Service


def image_tile(
    service: Service,
    history: PromptHistory,
    saved: SavedImage,
    called: str = "",
    with_claims: bool = True,
) -> Tile:
    """Return an image of the history, which tells its key when it is clicked, with the claims of
    its prompt below it, or without."""
    small = thumbnail_of(service, saved)
    return Tile(
        None if small is None else small.source,
        about=f"{history.request.prompt}, seed {saved.seed}",
        captions=[*([called] if called else []), *_captions(history, saved)],
        claims=service.claims_of(history.number, saved.seed) if with_claims else (),
        name=f"{history.number}/{saved.seed}",
        size=(1, 1) if small is None else small.size,
        whole="" if small is None else address(saved),
    )


def table(service: Service, comparison: Comparison) -> str:
    """Return the X/Y table of a comparison, with what of it is drawn and not deleted."""
    across, down = comparison.across, comparison.down
    numbers = iter(comparison.numbers)
    head = "".join(f'<th scope="col">{text(label(across, x))}</th>' for x in across.values)
    rows = []
    for y in down.values:
        cells = "".join(f"<td>{_cell(service, next(numbers, None))}</td>" for _ in across.values)
        rows.append(f'<tr><th scope="row">{text(label(down, y))}</th>{cells}</tr>')
    size = f"--across: {len(across.values)}; --down: {len(down.values)}"
    return (
        f'<div class="grid" style="{size}" tabindex="0" role="region" aria-label="comparison">'
        f"<table><tr><td></td>{head}</tr>{''.join(rows)}</table></div>"
    )


def _cell(service: Service, number: int | None) -> str:
    if number is None:  # not drawn yet
        return ""
    history = service.history.find(number)
    if history is None or not history.best:
        return tile(Tile("", captions=["no image"]))
    return tile(image_tile(service, history, history.best[0]))


def _captions(history: PromptHistory, saved: SavedImage) -> list[str]:
    alone = saved.rank is None or history.request.candidates == 1
    rank = "" if alone else f"{saved.rank}."
    match = "" if saved.match is None else f"{percent(saved.match)} match"
    # One number says how well it fits: a probability where there is one.
    score = "" if saved.score is None or match else f"{saved.score:.3f}"
    unfinished = "" if saved.unfinished is None else f"unfinished: {saved.unfinished}"
    model = saved.model if len(history.models) > 1 else None
    return [part for part in (rank, match, score, model, unfinished) if part]
