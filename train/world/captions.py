"""How facts are said: one `Told` in very many English wordings.

A caption is put together from parts (what is there, where, on what, in which style), said in one of
many forms of speech, and then roughed up as people's prompts are: fillers and unknown words that
change nothing, commas, plurals, capitals, slips of the finger.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from train.world.facts import Told
from train.world.lexicon import plural
from train.world.vocabulary import BACKGROUND_WORDS, COLOURS, NUMBERS, SIZE_WORDS, article

# Forms of speech for `{}`, which begins with an article or a number.
REQUESTS = (
    "draw {}", "draw me {}", "please draw {}", "draw {}, please", "draw {} for me", "paint {}",
    "please make {}", "make me {}", "make a picture of {}", "create {}", "create an image of {}",
    "generate {}", "generate an image with {}", "generate a picture of {}", "i want {}",
    "i want to see {}", "i would like {}", "i'd like a picture of {}", "i need {}", "give me {}",
    "show {}", "show me {}", "show us {}", "let me see {}", "we need an image of {}", "design {}",
    "can you draw {}?", "could you draw {} for me?", "can i have {}?", "could you make {}",
    "would you paint {}, please", "please show {}", "illustrate {}", "sketch {}", "render {}",
    "what does {} look like?", "how about {}?", "maybe {}", "picture {}", "imagine {}",
    "how would {} look?", "a drawing that shows {}", "an image showing {}", "something with {}",
    "a picture with {} in it", "a scene with {}", "here is {}", "this is {}", "look, {}!",
    "just {}", "only {}", "simply {}", "{} please", "{}, thanks", "{}!", "{}.", "all i want is {}",
)  # fmt: skip
OPENINGS = (
    "a picture of {}", "a photo of {}", "an image of {}", "a sticker of {}", "a drawing of {}",
    "an illustration of {}", "a cartoon of {}", "a painting of {}", "a sketch of {}",
    "an emoji of {}", "clip art of {}", "a view of {}", "artwork of {}", "picture of {}",
    "photo of {}", "image of {}", "sticker: {}", "drawing of {}", "an icon of {}", "icon of {}",
)  # fmt: skip
ALONE = (
    "alone", "on its own", "by itself", "all alone", "isolated", "and nothing else", "on its own.",
    "no other objects", "nothing else", "all by itself", "standing alone", "single object",
)  # fmt: skip
STYLE_FORMS = {
    "glossy": (
        "a glossy {k} of {s}", "{s}, glossy", "{s} in glossy style", "glossy {b}", "a glossy {b}",
        "a shiny {k} of {s}", "{s}, shiny style", "{s}, glossy shading", "{s} in a shiny look",
        "{s} as a glossy sticker", "shaded glossy {b}", "{s}, noto style",
    ),
    "flat": (
        "a flat {k} of {s}", "flat {k} of {s}", "{s}, flat design", "{s} in flat style",
        "flat {b}", "a flat {b}", "{s}, flat vector", "{s} as a flat illustration",
        "flat vector {k} of {s}", "{s}, flat colours", "{s} in flat colors", "{s}, fluent flat",
    ),
    "3d": (
        "a 3d render of {s}", "3d render of {s}", "3d {b}", "a 3d {b}", "{s} in 3d", "{s}, 3d",
        "a 3d model of {s}", "{s}, 3d style", "{s} rendered in 3d", "a three-dimensional {b}",
        "{s} as a 3d model", "{s}, rendered in blender", "3-d {b}", "a 3d {k} of {s}",
    ),
    "plain": (
        "a plain {k} of {s}", "plain {k} of {s}", "{s}, plain", "{s} in plain style", "plain {b}",
        "a plain {b}", "a simple {k} of {s}", "{s}, simple style", "{s} in a simple style",
        "a minimal {k} of {s}", "{s}, minimalist", "{s}, twemoji style",
    ),
    "blob": (
        "a blob {k} of {s}", "blob {k} of {s}", "{s}, blob style", "{s} in blob style",
        "{s} as an old android emoji", "{s}, old android style", "blobby {b}", "a blobby {b}",
        "a soft blob {k} of {s}", "{s}, soft and blobby", "{s} in the old android look",
        "{s}, retro android emoji",
    ),
}  # fmt: skip
STYLE_KINDS = ("icon", "drawing", "picture", "image", "illustration", "sticker", "emoji", "version")
BACKGROUND_FORMS = (
    "on a {} background", "on {}", "against a {} background", "in front of a {} background",
    "with a {} background", "on a {} backdrop", "over a {} background", "before a {} wall",
    "on {} paper", "on a {} canvas", "against {}", "on a {} surface",
)  # fmt: skip
BACKGROUND_ENDS = (", {} background", ", background {}", "; {} background", ", {} backdrop")
RELATION_FORMS = {
    "left of": ("to the left of", "left of", "on the left of", "on the left side of",
                "standing to the left of", "at the left of"),
    "right of": ("to the right of", "right of", "on the right of", "on the right side of",
                 "standing to the right of", "at the right of"),
    "above": ("above", "over", "on top of", "higher than", "hovering over", "right above"),
    "below": ("below", "under", "beneath", "underneath", "lower than", "right below"),
}  # fmt: skip
WITH_FORMS = {  # "B with A …": the first thing is named last
    "left of": ("to its left", "on its left", "on the left"),
    "right of": ("to its right", "on its right", "on the right"),
    "above": ("above it", "over it", "on top", "on top of it"),
    "below": ("below it", "under it", "beneath it", "underneath"),
}
TWO_PLACES = {  # "A …, B …": pairs that belong together
    "left of": (
        ("on the left", "on the right"),
        ("to the left", "to the right"),
        ("on the left side", "on the right side"),
        ("in the left half", "in the right half"),
        ("leftmost", "rightmost"),
        ("left", "right"),
    ),
    "above": (
        ("at the top", "at the bottom"),
        ("on top", "below"),
        ("above", "below"),
        ("in the upper half", "in the lower half"),
        ("higher up", "further down"),
        ("up high", "down low"),
    ),
}
OPPOSITE = {"right of": "left of", "below": "above"}
STANDING = (
    "is", "is", "sits", "placed", "stands", "lies", "hangs", "hovers", "waits", "is drawn",
    "is shown", "can be seen", "appears", "set", "put", "located", "positioned", "is seen",
)  # fmt: skip
PLACE_FORMS = {
    "centre": ("in the middle", "in the centre", "in the center", "at the centre", "centred",
               "centered", "right in the middle"),
    "left": ("on the left", "on the left side", "at the left edge", "to the left",
             "in the left half"),
    "right": ("on the right", "on the right side", "at the right edge", "to the right",
              "in the right half"),
    "top": ("at the top", "near the top", "in the upper half", "up high", "in the upper part"),
    "bottom": ("at the bottom", "near the bottom", "in the lower half", "down low",
               "in the lower part"),
    "top left": ("in the top left corner", "at the top left", "in the upper left corner",
                 "in the top left"),
    "top right": ("in the top right corner", "at the top right", "in the upper right corner",
                  "in the top right"),
    "bottom left": ("in the bottom left corner", "at the bottom left", "in the lower left corner",
                    "in the bottom left"),
    "bottom right": ("in the bottom right corner", "at the bottom right",
                     "in the lower right corner", "in the bottom right"),
}  # fmt: skip
JOINTS = (
    "and",
    "and",
    "and",
    "and",
    "with",
    "next to",
    "beside",
    "together with",
    "along with",
    "plus",
    "accompanied by",
    "&",
    "near",
    "as well as",
    "alongside",
)
PRAISE = (
    "cute", "nice", "beautiful", "lovely", "pretty", "cool", "great", "funny", "friendly", "sweet",
    "adorable", "wonderful", "amazing", "good", "perfect", "simple-looking", "happy", "new",
    "detailed", "colourful", "colorful", "bright", "classic", "fancy", "elegant", "real", "old",
    "fresh", "typical", "ordinary", "normal", "single",
)  # fmt: skip
FILLERS = (
    "high quality", "highly detailed", "4k", "8k", "hd", "trending on artstation", "best quality",
    "masterpiece", "digital art", "for my website", "for my daughter", "for a birthday card",
    "for kids", "for a poster", "for the school", "as you like", "if you can", "if possible",
    "thank you", "thanks", "please", "professional", "award winning", "sharp focus", "crisp",
    "clean lines", "in good light", "no text", "without text", "nothing fancy", "very detailed",
    "cinematic lighting", "studio light", "for our project", "something nice", "you know",
    "my favourite", "by a famous artist", "i love it", "just like that", "ultra realistic",
)  # fmt: skip
UNKNOWN_PLACES = (
    "in the {}", "at the {}", "of the {}", "for the {}", "from {}", "in {}", "for {}", "like in {}",
    "during the {}", "called {}", "named {}", "by {}", "about {}",
)  # fmt: skip


_BEFORE, _AFTER = (0, 1, 2, 2, 3, 3, 4, 5), (0, 0, 0, 1, 2, 3)  # words around a caption
# Small words of any sentence: with verbs, adverbs and unknown nouns they make sentences that say
# nothing, so that what is asked for is understood in any surroundings.
SMALL_WORDS = (
    "i", "you", "we", "he", "she", "they", "it", "this", "that", "there", "here", "is", "are",
    "was", "be", "been", "has", "have", "had", "do", "does", "did", "can", "could", "will", "would",
    "should", "may", "must", "let", "not", "no", "but", "or", "if", "so", "then", "than", "as",
    "when", "where", "why", "how", "what", "who", "which", "my", "your", "our", "her", "his", "its",
    "their", "me", "us", "him", "them", "for", "to", "of", "by", "at", "out", "about",
    "again", "once", "now", "ever", "never", "always", "just", "very", "too", "also", "some", "any",
    "all",
    "more", "most", "much", "such", "like", "from", "into", "after", "before", "while", "because",
    "ok", "hey", "hello", "oh", "well", "yes", "today", "tomorrow", "tonight", "someone", "anyone",
    "everyone", "something", "got", "get", "goes", "come", "came", "went", "made", "make", "need",
)  # fmt: skip


class Speaker:
    """Says facts; `unknown` and `adjectives` are words that mean nothing here, `verbs` those of
    sentences around what is asked for."""

    def __init__(
        self, unknown: Sequence[str], adjectives: Sequence[str], verbs: Sequence[str] = ("do",)
    ) -> None:
        said = _telling_words()
        self.unknown, self.adjectives, self.verbs = (
            [word for word in each if word not in said] for each in (unknown, adjectives, verbs)
        )

    def phrase(self, told: Told, rng: random.Random) -> str:
        """Say `told` in one of many ways."""
        bare, said = self._subject(told, rng)
        if told.place is not None:
            where = rng.choice(PLACE_FORMS[told.place])
            said, bare = f"{said} {where}", f"{bare} {where}"
        elif told.count == 1 and len(told.words) == 1 and rng.random() < 0.08:
            said = f"{said}{rng.choice((' ', ', '))}{rng.choice(ALONE)}"
        text = self._styled(told, bare, said, rng)
        if told.background is not None:
            text = _with_background(text, told.background, rng)
        if rng.random() < 0.3:
            text = self._filled(text, rng)
        chance = rng.random()
        if chance < 0.25:
            text = rng.choice(REQUESTS).format(text)
        elif chance < 0.45:
            text = self._surrounded(text, rng)
        return _rough(text, rng)

    def _styled(self, told: Told, bare: str, said: str, rng: random.Random) -> str:
        if told.style is not None:
            form = rng.choice(STYLE_FORMS[told.style])
            return form.format(s=said, b=bare, k=rng.choice(STYLE_KINDS))
        if rng.random() < 0.22:
            return rng.choice(OPENINGS).format(said)
        return said if rng.random() < 0.8 or said.startswith("the ") else bare

    def _filled(self, text: str, rng: random.Random) -> str:
        for _ in range(rng.choice((1, 1, 2))):
            filler = rng.choice(FILLERS)
            if rng.random() < 0.45:
                filler = rng.choice(UNKNOWN_PLACES).format(rng.choice(self.unknown))
            joint = rng.choice((", ", " ", ", "))
            text = f"{filler}{joint}{text}" if rng.random() < 0.15 else f"{text}{joint}{filler}"
        return text

    def _surrounded(self, text: str, rng: random.Random) -> str:
        """Return `text` in the middle of words that say nothing about it."""
        before, after = (self._babble(rng, rng.choice(lengths)) for lengths in (_BEFORE, _AFTER))
        joint = rng.choice((" ", " ", ": ", ", ", " - "))
        text = f"{before}{joint}{text}" if before else text
        return f"{text}{rng.choice((' ', ' ', ', '))}{after}" if after else text

    def _babble(self, rng: random.Random, length: int) -> str:
        kinds = (SMALL_WORDS, SMALL_WORDS, self.verbs, self.unknown)
        return " ".join(rng.choice(rng.choice(kinds)) for _ in range(length))

    def _subject(self, told: Told, rng: random.Random) -> tuple[str, str]:
        """Return the things and their relation, without and with an article."""
        if told.count > 1:
            counted = self._counted(told.words[0], told.count, rng)
            return counted, counted
        parts = [self._one(word, told.size, rng) for word in told.words]
        with_article = [f"{_determiner(part, rng)} {part}" for part in parts]
        if len(parts) == 1:
            return parts[0], with_article[0]
        joint = rng.choice(JOINTS) if rng.random() < 0.7 else self._verb_joint(rng)
        joined = _joined(with_article, told.relation, joint, rng)
        return joined.split(" ", 1)[1], joined

    def _verb_joint(self, rng: random.Random) -> str:
        """Return a joint of any verb: who does what to whom says nothing about where."""
        verb = rng.choice(self.verbs)
        forms = ("{v}s", "{v}", "who {v}s", "that {v}s", "and then {v}", "is {v} by", "to {v} with")
        return rng.choice(forms).format(v=verb)

    def _one(self, word: str, size: str | None, rng: random.Random) -> str:
        """Return `small red circle`, perhaps with an adjective that changes nothing."""
        if rng.random() < 0.08:
            word = f"{rng.choice(PRAISE if rng.random() < 0.5 else self.adjectives)} {word}"
        return word if size is None else f"{rng.choice(SIZE_WORDS[size])} {word}"

    def _counted(self, word: str, count: int, rng: random.Random) -> str:
        number = str(count) if rng.random() < 0.2 else NUMBERS[count]
        many = self._one(plural(word), None, rng)
        forms = [f"{number} {many}"] * 8
        forms += [f"a group of {number} {many}", f"{many}, {number} of them", f"{many} x {number}"]
        forms += [f"exactly {number} {many}", f"{number} identical {many}", f"{many} ({number})"]
        forms += [f"{number} {many} {where}" for where in ("together", "in a row", "all alike")]
        forms += [f"{number} of my {many}", f"all {number} {many}", f"these {number} {many}"]
        if count == 2:
            forms += [f"a pair of {many}", f"a couple of {many}", f"{number} {many} side by side"]
        return rng.choice(forms)


def _telling_words() -> set[str]:
    """Return the words that tell facts: they must not stand where nothing is told."""
    forms: list[str] = [*NUMBERS, *COLOURS, "double", "triple", "twin", "single", "pair"]
    tables = (BACKGROUND_WORDS, SIZE_WORDS, RELATION_FORMS, WITH_FORMS, PLACE_FORMS, STYLE_FORMS)
    forms += [form for table in tables for forms_of in table.values() for form in forms_of]
    forms += [place for pairs in TWO_PLACES.values() for pair in pairs for place in pair]
    words = {word.strip(",.;:{}") for form in forms for word in form.split(" ")}
    return words | {"golden", "silver", "crimson", "scarlet", "miniature", "massive", "gigantic"}


def _determiner(words: str, rng: random.Random) -> str:
    chance = rng.random()
    if chance < 0.86:
        return article(words)
    return rng.choice(("one", "the", "the", "some", "my", "a single", "this"))


def _joined(parts: list[str], relation: str | None, joint: str, rng: random.Random) -> str:
    first, second, *rest = parts
    if relation is not None:
        text = _related(first, second, relation, rng)
        behind = rng.choice((", and", " and", ", with", ", plus"))
        return f"{text}{behind} {rest[0]}" if rest else text
    if rest:
        middle, last = rng.choice((",", ",", " and")), rng.choice((" and", ", and", ","))
        return f"{first}{middle} {second}{last} {rest[0]}"
    return f"{first} {joint} {second}" if rng.random() < 0.93 else f"{first}, {second}"


def _related(first: str, second: str, relation: str, rng: random.Random) -> str:
    chance = rng.random()
    if chance < 0.2:
        where = rng.choice(WITH_FORMS[relation])
        form = rng.choice(("{b} with {a} {w}", "{b}, {a} {w}", "{b}, {w} {a}", "{b} and {w} {a}"))
        return form.format(a=first, b=second, w=where)
    if chance < 0.45:
        return _two_places(first, second, relation, rng)
    where = rng.choice(RELATION_FORMS[relation])
    if chance < 0.52:
        return f"{where} {second}, {first}"
    stands = chance > 0.8 and not where.startswith(("standing", "hovering"))
    verb = f"{rng.choice(STANDING)} " if stands else ""
    return f"{first} {verb}{where} {second}"


def _two_places(first: str, second: str, relation: str, rng: random.Random) -> str:
    """Return where either of two things is, in any order, the place before or behind it."""
    if relation in OPPOSITE:
        first, second, relation = second, first, OPPOSITE[relation]
    here, there = rng.choice(TWO_PLACES[relation])
    form = rng.choice(("{t} {p}", "{t} {p}", "{p} {t}", "{p} is {t}", "{t} is {p}", "{t} ({p})"))
    said = [form.format(t=first, p=here), form.format(t=second, p=there)]
    if rng.random() < 0.4:
        said.reverse()
    return rng.choice((", ", " and ", ", and ", "; ", " but ")).join(said)


def _with_background(text: str, background: str, rng: random.Random) -> str:
    name = rng.choice(BACKGROUND_WORDS[background])
    if rng.random() < 0.25:
        return text + rng.choice(BACKGROUND_ENDS).format(name)
    said = rng.choice(BACKGROUND_FORMS).format(name)
    return f"{text} {said.replace(' a ', f' {article(name)} ', 1)}"


def _rough(text: str, rng: random.Random) -> str:
    """Return `text` as people type it: now and then a slip, a missing article, a full stop."""
    if rng.random() < 0.06:
        text = slip(text, rng)
    if rng.random() < 0.06:
        text = " ".join(word for word in text.split(" ") if word not in ("a", "an", "the"))
    if rng.random() < 0.08:
        text += rng.choice((".", "!", " ...", " :)"))
    return text


def slip(text: str, rng: random.Random) -> str:
    """Return `text` with one letter swapped, lost or doubled in a long word."""
    words = text.split(" ")
    long = [number for number, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if not long:
        return text
    number = rng.choice(long)
    word, at = words[number], rng.randrange(1, len(words[number]) - 2)
    words[number] = rng.choice(
        (
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
        )
    )
    return " ".join(words)
