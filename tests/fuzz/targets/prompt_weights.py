"""Weights in prompts, what changes them, and the networks that they name."""

from typing import Any

from fuzzing import Parser

from pipelines.diffusion import prompt_editing, prompt_networks
from pipelines.diffusion.prompt_weights import parse
from pipelines.settings import InputError


def read_changes(prompt: str) -> Any:
    """Read all that is read of a prompt which changes."""
    told = [*prompt_editing.misunderstood(prompt, 30), *prompt_editing.changing(prompt)]
    final = prompt_editing.finals(prompt, 30)
    return told, final, prompt_editing.moments(prompt, prompt, 30)


PARSERS = [
    Parser(
        name="a prompt that changes",
        read=read_changes,
        refuses=(InputError,),
        signs=(
            "[",
            "]",
            "(",
            ")",
            ":",
            "|",
            ":0.5]",
            ":3]",
            "[a|b]",
            " AND ",
            ":.7",
            "\\",
            "9",
            " ",
        ),
        examples=(
            "a [red|[blue:green:3]] fox[ in snow::0.5] :1.2 AND [an owl:0.3] (at night:1.1)",
        ),
    ),
    Parser(
        name="networks in a prompt",
        read=prompt_networks.taken_out,
        refuses=(InputError,),
        signs=(
            "<lora:",
            "<lyco:",
            "<hypernet:",
            ":0.8",
            ":te=1",
            ":unet=.5",
            ">",
            "<",
            ":",
            "nan",
            "9",
        ),
        examples=("a fox <lora:style:0.8><lora:sub/other><lyco:b:te=1:unet=1>",),
    ),
    Parser(
        name="the weights of a prompt",
        read=parse,
        refuses=(),
        signs=(
            "(",
            ")",
            "[",
            "]",
            ":",
            "1.3",
            ":1)",
            "\\",
            "BREAK",
            " BREAK ",
            "<lora:",
            ">",
            "9",
            ",",
        ),
        examples=("a (red:1.3) [fox] ((in)) the (snow BREAK <lora:x:0.8> \\(winter\\):0.5)",),
    ),
]
