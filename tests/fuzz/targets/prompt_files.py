"""Prompt files, a row and a file at a time."""

from pathlib import Path

from fuzzing import Parser

from gen.errors import InputError
from gen.settings.prompt_file import PromptFile


def _read(path: Path) -> int:
    return PromptFile(str(path)).check(lambda row: None)


PARSERS = [
    Parser(
        name="a prompt file of lines",
        read=_read,
        refuses=(InputError,),
        signs=(b"--", b" --seed ", b"=", b'"', b"'", b"\\", b"#", b"\xff\xfe", b"\t", b"-s "),
        examples=(
            b"a fox --seed 4 --steps=30",
            b'"a fox" --negative_prompt red "blue" --cfg_scale 5',
        ),
        suffix=".txt",
    ),
    Parser(
        name="a prompt file of JSON lines",
        read=_read,
        refuses=(InputError,),
        signs=(b"{", b"[", b'"', b":", b",", b"}", b"]", b"1", b"\\u", b"e999", b"null"),
        examples=(b'{"prompt": "a fox", "seed": 4, "id": "c", "steps": null, "guidance": 7.5}',),
        suffix=".jsonl",
    ),
    Parser(
        name="an array of prompts",
        read=_read,
        refuses=(InputError,),
        signs=(b"{", b"[", b'"', b":", b",", b"}", b"]", b"1", b"\n", b"e999", b"null"),
        examples=(b'[{"prompt": "a fox", "seed": 4}, {"prompt": "an owl", "hires_fix": true}]',),
        suffix=".json",
    ),
    Parser(
        name="a table of prompts",
        read=_read,
        refuses=(InputError,),
        signs=(b",", b'"', b"\n", b"\r", b"\0", b"\xff", b"prompt", b"seed", b"negative_prompt"),
        examples=(b'prompt,seed,negative_prompt\n"a fox, red",4,\nan owl,,"dark ""x"""\n',),
        suffix=".csv",
    ),
]
