"""What visitors may set, and how far; it follows from the table of settings."""

from collections.abc import Iterable

from gen.editing import EDITING_SETTINGS, OF_TOKENS
from gen.image_prompts import SETTINGS as IMAGE_PROMPTS
from gen.models import Spec
from gen.settings.request import MODEL_SETTINGS, SETTINGS

# None that names files of this machine, or that is only recorded.
_ASKED = tuple(name for name, each in SETTINGS.items() if each.asked and not each.local)
# What goes with an image that a visitor has uploaded, and what is asked for without one.
EDITS = tuple(name for name in _ASKED if name in (*EDITING_SETTINGS, *OF_TOKENS, *IMAGE_PROMPTS))
SERVED = tuple(name for name in _ASKED if name not in EDITS)


def offered(models: Iterable[Spec], names: Iterable[str] = SERVED) -> list[str]:
    """Return which settings of models visitors may give, in the table's order; `names` are those
    without an image, or EDITS."""
    taken = {name for spec in models for name in spec.settings}
    return [name for name in names if name in MODEL_SETTINGS and name in taken]
