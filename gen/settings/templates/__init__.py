"""Prompts with choices in them, in the grammar of sd-dynamic-prompts.

    {red|blue}               one of them         {3::red|blue}          red three times as often
    {2$$a|b|c}               two, not the same   {1-2$$ and $$a|b|c}    one or two, " and " between
    __animals__              a line of animals.txt in the folder of wildcards, or a list of that
                             name in a YAML or JSON file there; # begins a comment
    __sea/*__  __sea/**__    a line of any file in its folder sea, and in the folders in that
    ${c=!{red|blue}} ${c}    chosen once, used again; without ! anew at each use
    ${c?=red} ${c:green}     set if it was not; green if it was not set
    __cats(c=red)__          with c set inside
    {@a|b}  __@animals__     the next one in turn: the seed says which
    %{a ... in snow$${fox|cow}}   the second put where the first has its dots
    \\{ \\} \\#                  these signs themselves

Choices nest in each other both ways, and follow from the seed. The grammar, the drawing and the
listing of all combinations are those of dynamicprompts; `grammar` says why the reading is not.
"""

import re
from pathlib import Path

_SIGNS = re.compile(r"[{]|__|\\[{}#]")


def expand(template: str, seed: int, folder: Path | None = None) -> str:
    """Return a prompt with all choices made, always the same for a seed.

    Without a `folder` of wildcards their signs stay as they are, and a text without signs is no
    template. Raises InputError for choices that cannot be made, and for those that have no end.
    """
    if not _SIGNS.search(template):
        return template.strip()
    from gen.settings.templates import choices  # what only templates need

    return choices.expand(template, seed, folder)


def combinations(template: str, folder: Path | None = None) -> list[str]:
    """Return the prompts of all combinations of a template's choices, in order, each once.

    Raises InputError, which says how many there would be, for more than a thousand.
    """
    if not _SIGNS.search(template):
        return [template.strip()]
    from gen.settings.templates import choices

    return choices.combinations(template, folder)
