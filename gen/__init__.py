"""From a prompt to the best of many images.

    from gen import generate

    for result in generate("a panda", candidates=16, top_k=4, seed=7):
        print(result.rank, result.score, result.seed)
        result.image.save(f"panda-{result.rank}.png")

Importing this package loads no torch; drawing does.
"""

from gen.api import generate
from gen.engine import Engine
from gen.errors import InputError, RoomError
from gen.result import Result
from gen.settings.request import Request

__all__ = ["Engine", "InputError", "Request", "Result", "RoomError", "generate"]
