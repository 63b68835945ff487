"""Signs in prompts that a model does not understand: none is dropped in silence."""

import re
from collections.abc import Iterator

from gen.plan import Plan
from pipelines.checkpoints.specs import Spec
from pipelines.diffusion import prompt_editing, prompt_networks, prompt_weights
from pipelines.diffusion.embeddings import read_words

MOST_SHOWN = 3  # of a kind
_LEARNED = re.compile(r"\bembedding:([\w./-]{1,100})", re.IGNORECASE)
_WEIGHTED = re.compile(r"\([^()]{1,200}:[0-9.]{1,9}\)")

# What other tools read in a prompt and we do not, by what to say instead.
_FOREIGN = {
    instead: re.compile(pattern, re.MULTILINE)
    for instead, pattern in {
        # Midjourney's flags, and our own within the quotes
        "flags stand behind the prompt, not in it; what must not be there is --negative-prompt": (
            r"(?<!\S)--[a-z]{1,20}\b"
        ),
        # the weights of Midjourney and of InvokeAI
        "a weight is written (fox:1.5)": (
            r"\b\w{1,40}::-?[0-9.]{0,9}|\b\w{1,40}(?:\+{1,9}|-{2,9})(?![\w+-])"
            r"|\([^()]{1,40}\)(?:[0-9][0-9.]{0,8}+|\+{1,9}+|-{1,9}+)(?!\w)"
        ),
        "the bracket of a weight ends behind it: (fox:1.5)": (
            r"\([^():]{1,40}:[0-9.]{1,9}(?=\s{0,9}(?:,|$))"
        ),
        "prompts are joined by AND, and changed by [a:b:0.5]": r"\.(?:and|blend|swap)\(",
        # SwarmUI's
        "choices are written {a|b} and __name__, masks are --mask-text": (
            r"<(?!lora:|lyco:|hypernet:)[a-z]{1,20}(?:\[[^\]<>]{0,40}\])?:[^<>]{1,100}>"
        ),
        "what an image's text says are settings: give them as flags, or the file to --again": (
            r"^(?:Negative prompt: |Steps: [0-9]{1,9}, Sampler: ).{0,20}"
        ),
    }.items()
}


def unread_signs(plan: Plan) -> Iterator[str]:
    """Yield a line for each kind of sign that is not understood, with what happens to it."""
    request = plan.request
    prompts = [text for text in (request.prompt, request.negative_prompt) if text is not None]
    readers = [spec for spec, own in plan.models if _reads_signs(spec, own.prompt_syntax)]
    if readers:
        yield from _networks(request.prompt, request.negative_prompt)
        yield from _unknown_words(prompts, readers[0])
        steps = next(own.steps for spec, own in plan.models if spec is readers[0])
        for prompt in prompts:
            yield from prompt_editing.misunderstood(prompt, steps)
    if readers and prompt_editing.AND.search(request.negative_prompt or ""):
        yield "AND in the negative prompt is drawn as a word"
    for spec in dict.fromkeys(s.name for s, _ in plan.models if "prompt_syntax" not in s.settings):
        if signs := [sign for prompt in prompts for sign in _signs(prompt)]:
            yield f"{spec} reads plain words: {_listed(signs)} has no meaning to it"
    for instead, pattern in _FOREIGN.items():
        if signs := [sign.strip() for prompt in prompts for sign in pattern.findall(prompt)]:
            yield f"drawn as words: {_listed(signs)}; {instead}"


def _reads_signs(spec: Spec, syntax: str | None) -> bool:
    return "prompt_syntax" in spec.settings and syntax in (None, prompt_weights.SYNTAXES[0])


def _networks(prompt: str, negative_prompt: str | None) -> Iterator[str]:
    """Say which networks are left out."""
    named = [*prompt_networks.named(prompt)]
    loras = [sign for sign in named if not sign.startswith("<hypernet")]
    if loras:
        yield f"{_listed(loras)} is left out: name the folder of its file with --lora-dir FOLDER"
    if others := [sign for sign in named if sign not in loras]:
        yield f"{_listed(others)} is left out: hypernetworks are not read"
    if others := [*prompt_networks.named(negative_prompt or "")]:
        yield f"{_listed(others)} is left out: it has a meaning in the prompt alone"


def _unknown_words(prompts: list[str], spec: Spec) -> Iterator[str]:
    """Say which learned words there are not."""
    asked = [name for prompt in prompts for name in _LEARNED.findall(prompt)]
    if not asked:
        return
    known = {word.text.lower() for path in spec.adapters.embeddings for word in read_words(path)}
    for name in dict.fromkeys(asked):
        if name.lower() not in known:
            yield f"embedding:{name} is drawn as words: add its file with --embedding FILE"


def _signs(prompt: str) -> Iterator[str]:
    """Yield what a model of UNet kind would not draw as words."""
    yield from prompt_networks.named(prompt)
    yield from prompt_editing.changing(prompt)
    yield from _WEIGHTED.findall(prompt)


def _listed(signs: list[str]) -> str:
    shown = [*dict.fromkeys(signs)]
    more = f" and {len(shown) - MOST_SHOWN} more" if len(shown) > MOST_SHOWN else ""
    return ", ".join(shown[:MOST_SHOWN]) + more
