"""Weights in prompts."""

from fuzzing import Parser

from pipelines.diffusion.prompt_weights import parse

PARSERS = [
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
