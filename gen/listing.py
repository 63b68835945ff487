"""The models and rerankers that are known, and which of them are here, as text for people."""

import textwrap
from collections.abc import Iterator

import pipelines.checkpoints.known_models
import rerank.model.known_models
import rerank.model.specs
from pipelines import families
from pipelines.checkpoints import places
from pipelines.checkpoints.known_models import Public

WIDTH = 80  # columns
INDENT = "    "
OTHERS = (
    "Others by -m PATH: a folder of Stable Diffusion 1.x, 2.x, XL or another pipeline of "
    "diffusers, a single .safetensors file, or a folder that salon-train or python -m "
    "pipelines.dalle.convert made. weights.md says more of each known model."
)


def summary() -> Iterator[str]:
    """Lines that fit a screen: a line for each model that is here, and how to see the others."""
    own = families.shipped().values()
    public = pipelines.checkpoints.known_models.PUBLIC.values()
    yield "To draw with, by -m NAME or -m FOLDER:"
    draw = [(s.name, s.draws or "") for s in own if s.folder.is_dir()]
    draw += [(m.name, m.draws) for m in public if places.in_hub_cache(m.name)]
    yield from map(_line, draw)
    yield ""
    yield "To rank with, by --reranker NAME or --reranker FOLDER:"
    judges = rerank.model.specs.SPECS.values()
    rank = [(s.name, s.judges or "") for s in judges if s.folder.is_dir()]
    known = rerank.model.known_models.PUBLIC.values()
    rank += [(m.name, m.judges) for m in known if places.in_hub_cache(m.name)]
    yield from map(_line, rank)
    yield ""
    missing = len([*own, *public, *judges, *known]) - len(draw) - len(rank)
    yield from textwrap.wrap(
        f"{missing} more are known and can be fetched with --pull NAME; --list-models all tells of "
        "each what it draws, its licence and its size",
        WIDTH,
    )


def _line(entry: tuple[str, str]) -> str:
    name, what = entry
    room = max(20, WIDTH - 3 - max(24, len(name)))
    return f"  {name:24} {textwrap.shorten(what, room, placeholder=' …')}"


def listing() -> Iterator[str]:
    """Lines of at most 80 columns: each model's name and whether it is here, then what is known."""
    yield "To draw with, by -m NAME:"
    for spec in families.shipped().values():
        yield from _entry(spec.name, _on_disk(spec.folder.is_dir()), spec.draws, spec.licence)
    public = pipelines.checkpoints.known_models.PUBLIC.values()
    for model in public:
        if model.source is None:
            yield from _public(model, _in_cache(model.name))
    yield ""
    yield "To draw with, by -m FOLDER, which python -m pipelines.convert makes of these:"
    for model in public:
        if model.source is not None:
            yield from _public(model, "download it by hand")
    yield ""
    yield "To rank with, by --reranker NAME:"
    for own in rerank.model.specs.SPECS.values():
        yield from _entry(
            own.name,
            _on_disk(own.folder.is_dir()),
            str(own.judges),
            _named(own.licence),
        )
    for known in rerank.model.known_models.PUBLIC.values():
        state = _in_cache(known.name)
        if known.source is not None:
            state = "download it by hand, for rerank --aesthetic"
        terms = f"{_named(known.licence)}; {known.permits}"
        size = f"{known.weights:.3g} GB in float32"
        yield from _entry(known.name, state, known.judges, terms, size)
    yield ""
    yield from textwrap.wrap(OTHERS, WIDTH)


def _public(model: Public, state: str) -> Iterator[str]:
    terms = f"{_named(model.licence)}; {model.permits}"
    size = () if model.weights is None else (f"{model.weights:.3g} GB in half precision",)
    return _entry(model.name, state, model.draws, terms, *size)


def _entry(name: str, state: str, *facts: str) -> Iterator[str]:
    yield ""
    yield from textwrap.wrap(f"{name} ({state})", WIDTH, subsequent_indent=INDENT)
    for fact in facts:
        yield from textwrap.wrap(
            fact, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT + INDENT
        )


def _on_disk(is_there: bool) -> str:
    return "here, it ships" if is_there else "its weights are not here: install Salon again"


def _in_cache(name: str) -> str:
    return "here, in the hub's cache" if places.in_hub_cache(name) else "not here: --pull it"


def _named(licence: str | None) -> str:
    return "its licence is not known here" if licence is None else licence
