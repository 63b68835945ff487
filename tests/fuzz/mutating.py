"""Inputs made of known ones: cut, joined, repeated, nested, with odd numbers, signs and values.

A pool begins with what is known of a parser. A new input is one of the pool, changed a few times by
chance; where it is answered in a way that was not seen before, it joins the pool, so that
what follows is made of it, too.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from fuzzing import Parser, as_bytes, as_input, find_cases, is_json, odd_inputs
from odd_values import BYTES, NUMBERS, TEXTS, VALUES

NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
MOST = 4000  # inputs of a pool
DEEPEST = 300
LONGEST_JSON = 4000  # what is parsed to be changed
MARK = "\ue000"  # stands for a value that is no JSON


class Mutator:
    """Yields inputs of a parser without end, those of a number."""

    def __init__(self, parser: Parser, number: int) -> None:
        self.chance = random.Random(number)
        self.parser = parser
        self.pool = [*parser.examples, *parser.signs, *odd_inputs(parser), *find_cases(parser)]
        self.ways: set[str] = set()
        self.pieces = [*parser.signs, *parser.signs, *parser.examples]
        texts = [as_input(parser, text) for text in TEXTS]
        self.pieces += texts if parser.takes_text else [*texts, *BYTES]
        self.changes: list[Callable[[Any], Any]] = [
            *(self._with_piece, self._with_piece, self._with_piece, self._joined, self._without),
            *(self._repeated, self._moved, self._nested, self._with_number, self._with_value),
            *(self._cut, self._of_other_case if parser.takes_text else self._flipped),
        ]

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        given = self.chance.choice(self.pool)
        for _ in range(self.chance.choice((1, 1, 2, 3, 5, 8))):
            given = self.chance.choice(self.changes)(given)
        if self.chance.random() < 0.02 and given:
            given *= 1 + self.parser.size // len(given)
        return self._short_enough(given)

    def learn(self, given: Any, way: str) -> None:
        """Keep an input that was answered in a new way."""
        if way not in self.ways:
            self.ways.add(way)
            if len(self.pool) < MOST:
                self.pool.append(given)
            else:
                self.pool[self.chance.randrange(MOST)] = given

    def _short_enough(self, given: Any) -> Any:
        """Cut an input to the largest size, which is in bytes."""
        given = given[: self.parser.size]
        while len(as_bytes(given)) > self.parser.size:
            given = given[: len(given) * 3 // 4]
        return given

    def _place(self, given: Any) -> int:
        return self.chance.randint(0, len(given))

    def _span(self, given: Any) -> tuple[int, int]:
        """Return begin and end of a part, most often a short one."""
        begin = self._place(given)
        return begin, begin + self.chance.choice((1, 1, 2, 4, 16, 64, 1000))

    def _with_piece(self, given: Any) -> Any:
        piece, place = self.chance.choice(self.pieces), self._place(given)
        if self.chance.random() < 0.3:
            piece = piece[: self._place(piece)]
        piece *= self.chance.choice((1, 1, 1, 1, 2, 3, 30))
        return given[:place] + piece + given[place + self.chance.choice((0, 0, 0, 1, 4, 40)) :]

    def _joined(self, given: Any) -> Any:
        other = self.chance.choice(self.pool)
        return given[: self._place(given)] + other[self._place(other) :]

    def _without(self, given: Any) -> Any:
        begin, end = self._span(given)
        return given[:begin] + given[end:]

    def _repeated(self, given: Any) -> Any:
        begin, end = self._span(given)
        return given[:end] + given[begin:end] * self.chance.choice((1, 2, 5, 50)) + given[end:]

    def _moved(self, given: Any) -> Any:
        begin, end = self._span(given)
        place = self._place(given)
        return given[:place] + given[begin:end] + given[place:]

    def _nested(self, given: Any) -> Any:
        """Put a part between many of one sign and as many of another."""
        depth = self.chance.choice((1, 2, 5, 20, DEEPEST))
        before, after = (self.chance.choice(self.pieces)[:4] for _ in range(2))
        begin, end = self._span(given)
        return given[:begin] + before * depth + given[begin:end] + after * depth + given[end:]

    def _with_number(self, given: Any) -> Any:
        """Exchange a number for one at an edge."""
        text = given if isinstance(given, str) else given.decode("latin-1")
        found = [*NUMBER.finditer(text[: self.parser.size])]
        if not found:
            return self._with_piece(given)
        chosen, new = self.chance.choice(found), self.chance.choice(NUMBERS)
        data: Any = new if isinstance(given, str) else new.encode()
        return given[: chosen.start()] + data + given[chosen.end() :]

    def _with_value(self, given: Any) -> Any:
        """Exchange a value of JSON, where a line holds some, for an odd one or for another."""
        text = given if isinstance(given, str) else given.decode("utf-8", "replace")
        lines = [text] if is_json(text) else text.split("\n")
        places = [i for i, line in enumerate(lines) if len(line) < LONGEST_JSON and is_json(line)]
        if not places:
            return self._with_piece(given)
        place = self.chance.choice(places)
        with suppress(RecursionError):  # of what is deep
            lines[place] = self._exchanged(json.loads(lines[place]))
        return as_input(self.parser, "\n".join(lines))

    def _exchanged(self, whole: Any) -> str:
        """Return JSON with one of its values left out, renamed or exchanged."""
        nodes: list[tuple[Any, Any]] = []  # holder and key of each value
        values, waiting = [whole], [whole]
        while waiting:
            holder = waiting.pop()
            keys = range(len(holder)) if isinstance(holder, list) else list(holder)
            for key in keys:
                nodes.append((holder, key))
                values.append(holder[key])
                if isinstance(holder[key], dict | list):
                    waiting.append(holder[key])
        if not nodes:
            return self.chance.choice(VALUES)
        holder, key = self.chance.choice(nodes)
        what = self.chance.random()
        if what < 0.1:
            del holder[key]
        elif what < 0.2 and isinstance(holder, dict):
            holder[self.chance.choice(TEXTS)] = holder[key]
        elif what < 0.4:
            holder[key] = json.loads(json.dumps(self.chance.choice(values)))
        else:
            holder[key] = MARK
            return json.dumps(whole).replace(json.dumps(MARK), self.chance.choice(VALUES), 1)
        return json.dumps(whole)

    def _cut(self, given: Any) -> Any:
        begin = self._place(given) if self.chance.random() < 0.3 else 0
        return given[begin : begin + self._place(given)]

    def _of_other_case(self, given: Any) -> Any:
        begin, end = self._span(given)
        turn = self.chance.choice((str.upper, str.lower, str.title, str.swapcase))
        return given[:begin] + turn(given[begin:end]) + given[end:]

    def _flipped(self, given: Any) -> Any:
        """Change a bit, or some bytes."""
        if not given:
            return given
        data = bytearray(given)
        for _ in range(self.chance.choice((1, 1, 2, 8))):
            place = self.chance.randrange(len(data))
            other = self.chance.choice((1 << self.chance.randrange(8), self.chance.randrange(256)))
            data[place] ^= other
        return bytes(data)
