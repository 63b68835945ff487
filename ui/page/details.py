"""What is known of one image, as text for people."""

from collections.abc import Mapping
from pathlib import Path

from gen.metadata import Metadata
from gen.run_folder import originals
from ui.page.form import label_of
from ui.page.markup import text

SHORT = 24  # characters of a value
FIRST = ("prompt", "negative_prompt", "seed")  # of the settings
PATHS = (*originals.NAMES, "lora", "vae", "mask_model")  # where files lie is no visitor's business


def described(record: Metadata) -> dict[str, object]:
    """Describe what an image says about itself: names and values for people."""
    settings = record.request.given()
    named = [name for name in FIRST if name in settings]
    named += [name for name in settings if name not in (*FIRST, "model", "candidates", "top_k")]
    given = {label_of(name): _shown(name, settings[name]) for name in named}
    model = " ".join(filter(None, (record.model, record.model_hash)))
    more = {
        "Model": model or None,
        "Score": None if record.score is None else f"{record.score:.4f}",
        "Scores": ", ".join(f"{name} {score:.4f}" for name, score in record.scores.items()),
        "Rank": record.rank,
        "Unfinished": record.unfinished,
        "Attention": record.attention or None,
        "Versions": ", ".join(f"{name} {number}" for name, number in record.versions.items()),
        "Not understood": "; ".join(record.unread),
        **record.extra,
    }
    return {**given, **{key: value for key, value in more.items() if value not in (None, "")}}


def _shown(name: str, value: object) -> object:
    """Return a setting's value; of files only the names."""
    if name not in PATHS:
        return value
    return ",".join(Path(part).name for part in str(value).split(","))


def facts(known: Mapping[str, object]) -> str:
    """Return names and values as a list in HTML, two beside each other where both are short."""
    rows = []
    for key, value in known.items():
        wide = ' class="wide"' if len(str(value)) > SHORT else ""
        rows.append(f"<dt{wide}>{text(key)}</dt><dd{wide}>{text(value)}</dd>")
    return f'<dl class="facts">{"".join(rows)}</dl>'
