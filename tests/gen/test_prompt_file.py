"""Prompt files in every dialect, and every way in which they can be wrong."""

import io
import json
import os
import resource
import sys
from pathlib import Path

import pytest

from gen.errors import InputError
from gen.settings.prompt_file import LINE_CAP, PromptFile, Row
from gen.settings.request import Request


def rows_of(tmp_path: Path, text: str | bytes, name: str = "prompts.txt") -> list[Row]:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    file = PromptFile(str(path))
    rows: list[Row] = []
    file.check(rows.append)
    assert list(file) == rows
    return rows


def test_plain_lines(tmp_path: Path) -> None:
    text = """\
# stickers
a panda

it's a 50 % red balloon
  a cat --seed 4 --steps=30
"a dog" --cfg_scale 5 --negative_prompt red things, "blue" ones --sampler_name "Euler a"
--prompt three red apples --width 128 --height 64 --n_iter 2
a -- b --seed -1
"""
    assert rows_of(tmp_path, text) == [
        Row(2, Request("a panda")),
        Row(4, Request("it's a 50 % red balloon")),
        Row(5, Request("a cat", seed=4, steps=30)),
        Row(
            6,
            Request(
                "a dog", negative_prompt="red things, blue ones", guidance=5.0, sampler="euler_a"
            ),
        ),
        Row(7, Request("three red apples", width=128, height=64, candidates=2)),
        Row(8, Request("a -- b", seed=-1)),
    ]


def test_short_flags_behind_a_prompt(tmp_path: Path) -> None:
    text = """\
a red star -H 128 -W128 -s 7
"a moon -s 3" -S1234 -k 2
"a --b c" --steps 5
a cat -n red things, -x ones --steps 4
-p a fox -s 1
a robot -d2 of a T -s, R-2 -x 5
"a" cat
a cat --prompt-syntax plain -s -1
"""
    assert [row.request for row in rows_of(tmp_path, text)] == [
        Request("a red star", height=128, width=128, seed=7),
        Request("a moon -s 3", seed=1234, top_k=2),
        Request("a --b c", steps=5),
        Request("a cat", negative_prompt="red things, -x ones", steps=4),
        Request("a fox", seed=1),
        Request("a robot -d2 of a T -s, R-2 -x 5"),
        Request('"a" cat'),
        Request("a cat", prompt_syntax="plain", seed=-1),
    ]


def test_what_automatic1111_says(tmp_path: Path) -> None:
    text = """\
a red star --batch_size 2 --n_iter 3 --restore_faces false --tiling false --styles ""
a moon --n_iter 2 --seed 5 --subseed 9 --subseed_strength 0.25
a sun --do_not_save_grid --outpath_samples ../x --subseed 4 --subseed_strength 0
"""
    one, two, three = rows_of(tmp_path, text)
    assert one.request == Request("a red star", candidates=6)
    assert two.request == Request("a moon", candidates=2, seed=9, base_seed=5, variation=0.25)
    assert three.request == Request("a sun")
    assert three.notes == ("outpath_samples, do_not_save_grid: without effect here",)
    row = {"prompt": "a sun", "batch_size": 2, "n_iter": 2, "tiling": False}
    assert rows_of(tmp_path, json.dumps(row), "a.jsonl")[0].request.candidates == 4
    table = "prompt,batch_size,restore_faces\na sun,3,false"
    assert rows_of(tmp_path, table, "a.csv")[0].request == Request("a sun", candidates=3)


def test_json_lines_and_genevals_annotations(tmp_path: Path) -> None:
    scene = {"tag": "counting", "include": [{"class": "panda", "count": 3}], "exclude": []}
    lines = [
        {"prompt": "three pandas", **scene},
        {"prompt": "a cat", "id": "c", "seed": "9007199254740993", "guidance": 2, "steps": None},
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    expected = [
        Row(1, Request("three pandas")),
        Row(2, Request("a cat", seed=9007199254740993, guidance=2.0), "c"),
    ]
    assert rows_of(tmp_path, text, "rows.jsonl") == expected
    assert rows_of(tmp_path, "\n" + text, "rows.txt")[1].request == expected[1].request


def test_a_prompt_may_begin_with_a_brace(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "{red} panda")[0].request.prompt == "{red} panda"


def test_the_commands_settings_hold_where_a_row_is_silent(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\na dog --seed 0")
    rows = list(PromptFile(str(path), {"seed": 5, "steps": 3}))
    assert [(row.request.seed, row.request.steps) for row in rows] == [(5, 3), (0, 3)]


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfa panda\r\na cat\r\n",
        b"a panda\na cat",
        b"\xef\xbb\xbf# note\r\n\r\na panda\r\na cat",
    ],
)
@pytest.mark.fault("encodings of prompt files")
def test_marks_and_line_ends_of_other_systems(tmp_path: Path, data: bytes) -> None:
    assert [row.request.prompt for row in rows_of(tmp_path, data)] == ["a panda", "a cat"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("a panda\ncaf\xe9".encode("latin-1"), "line 2: byte 4 is not UTF-8"),
        ("a panda".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        ("a panda".encode("utf-16-be"), "is UTF-16: save it as UTF-8"),
        (b"a cat -s4 -W64 -C7.5 -A k_lms", "-C7.5: no flag here"),
        (b"a cat -s 4 -A k_lms", "-A: no flag here"),
        (b"a cat -C7.5", "-C: no flag here, where -H, -S"),
        (b"a cat\nNegative prompt: blue\nSteps: 20, Sampler: Euler a", "a line of what an image"),
        (b"a panda\nb\0c", "U+0000"),
        (b"a cat\n" + b"x" * (LINE_CAP + 2) + b"\na dog --seed x", "line 2: longer than 64 kB"),
        (b"a cat --seed x\nb\nc --steps 0", "2 bad rows"),
        (b"a cat --output ../../x", "unknown setting 'output'"),
        (b"a cat --seed 1 2", "takes one value"),
        (b"a cat -n4", "-n 4: is the negative prompt here; for a number of images say --candida"),
        (b"a cat -n 4", "-n 4: is the negative prompt here"),
        (b"a cat -s 1 -k", "-k: needs a value"),
        (b"a cat --restore_faces", "restore_faces: is not done here"),
        (b"a cat --batch_size two", "batch_size two: must be a whole number"),
        (b"a cat --batch_size 2 --candidates 3", "say one of them"),
        (b"a cat --subseed_strength 0.5", "subseed_strength: give the seed, too"),
        (b"a cat --seed", "needs a value"),
        (b"a cat --seed 1 --seed 2", "given twice"),
        (b"a cat --negative_prompt don't", "line 1: No closing quotation"),
        (b"--seed 4", "prompt: missing"),
        (b"a cat --prompt a dog", "given twice"),
        (b"", "no prompts"),
        (b"# nothing\n\n", "no prompts"),
    ],
)
@pytest.mark.fault("encodings of prompt files", "very few and very many rows")
def test_a_bad_plain_file(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(InputError) as caught:
        rows_of(tmp_path, data)
    assert said in str(caught.value)
    assert "prompts.txt" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"prompt": "a"', "bad JSON"),
        ("[1]", "must be a JSON object"),
        ("[" * 60_000, "bad JSON"),
        ('{"prompt": "a", "output": "../../etc/x"}', "unknown setting 'output'"),
        ('{"prompt": "a", "output": "CON"}', "unknown setting"),
        ('{"prompt": "a", "steps": "20"}', 'steps: "20" is text'),
        ('{"prompt": "a", "steps": 1e400}', "steps inf"),
        ('{"prompt": "a", "guidance": NaN}', "guidance nan"),
        ('{"prompt": ["a"]}', "prompt"),
        ('{"prompt": "a", "id": "first"}', "id 'first' was used before"),
        ('{"prompt": "a", "id": {}}', "id"),
        ('{"seed": 3}', "prompt: missing"),
        ("{}", "prompt: missing"),
    ],
)
@pytest.mark.fault("bad rows", "paths in rows")
def test_a_bad_json_row(tmp_path: Path, row: str, said: str) -> None:
    with pytest.raises(InputError, match="line 2") as caught:
        rows_of(tmp_path, '{"prompt": "a panda", "id": "first"}\n' + row, "rows.jsonl")
    assert said in str(caught.value)


@pytest.mark.fault("bad rows")
def test_all_bad_rows_are_listed_at_once(tmp_path: Path) -> None:
    text = "\n".join(["a cat"] + ["a dog --seed x"] * 100)
    with pytest.raises(InputError) as caught:
        rows_of(tmp_path, text)
    lines = str(caught.value).splitlines()
    assert "100 bad rows, nothing was drawn" in lines[0]
    assert lines[1].startswith("  line 2: seed x")
    assert len(lines) == 52
    assert "50 more" in lines[-1]


def test_a_file_of_bad_rows_alone_is_not_read_to_its_end(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        rows_of(tmp_path, "a fox --seed x\n" * 10_000)
    lines = str(caught.value).splitlines()
    assert "at least 200 bad rows, nothing was drawn" in lines[0]
    assert "at least 150 more" in lines[-1]


def test_what_the_caller_refuses_is_a_bad_row_too(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\na dog")

    def refuse_dogs(row: Row) -> None:
        if "dog" in row.request.prompt:
            raise InputError("no dogs")

    with pytest.raises(InputError, match="line 2: no dogs"):
        PromptFile(str(path)).check(refuse_dogs)


@pytest.mark.fault("prompt files that are none")
def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, said in {"none": "No such file", "": "directory", "pipe": "-f -"}.items():
        with pytest.raises(InputError, match=said) as caught:
            PromptFile(str(tmp_path / name))
        assert str(tmp_path) in str(caught.value)
    with pytest.raises(InputError, match="cannot read"):
        PromptFile("a\0b")


@pytest.mark.fault("prompt files that are none")
def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:  # root, who may run the tests, may read everything
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "prompts.txt"
    path.write_text("a cat")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"prompts.txt: .*Permission denied"):
        PromptFile(str(path))


def test_standard_input_can_be_gone_through_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(b"a cat\na dog --seed 3"))
    monkeypatch.setattr(sys, "stdin", stream)
    file = PromptFile("-")
    assert file.check(lambda row: None) == 2
    assert [row.request.prompt for row in file] == ["a cat", "a dog"]


@pytest.mark.fault("very few and very many rows")
def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    with path.open("wb") as file:
        file.writelines(b"a panda --seed %d\n" % number for number in range(20_000))
        file.write(b"x" * 100_000_000)  # one line, which is refused
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="line 20001: longer than 64 kB"):
        PromptFile(str(path)).check(lambda row: None)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'prompt,negative_prompt,seed\n"a star, on white",blue,3\n a fox ,,\n'),
        ("a.tsv", "prompt\tnegative_prompt\tseed\na star, on white\tblue\t3\n a fox \t\t\n"),
        (
            "a.json",
            '[{"prompt": "a star, on white", "negative_prompt": "blue", "seed": 3.0},\n'
            ' {"prompt": " a fox "}]',
        ),
        (
            "a.csv",  # of a spreadsheet, with labels as people write them
            '\ufeffPrompt;Negative Prompt;Noise Seed\r\n"a star, on white";blue;3\r\n a fox ;;\r\n',
        ),
        ("a.txt", 'prompt,negative,SEED\n"a star, on white",blue,3\n a fox \n\n'),
        ("a.csv", "prompt\tnegative_prompt\tseed\na star, on white\tblue\t3\n a fox \n"),
        (
            "a.txt",
            '[\n {"prompt": "a star, on white",\n  "negative_prompt": "blue", "seed": 3},\n'
            ' {"prompt": " a fox "}\n]',
        ),
    ],
)
def test_tables_and_arrays(tmp_path: Path, name: str, text: str) -> None:
    requests = [row.request for row in rows_of(tmp_path, text, name)]
    assert requests == [
        Request("a star, on white", negative_prompt="blue", seed=3),
        Request(" a fox "),
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "- prompt: a fox", "YAML is not read"),
        ("a.txt", "---\nprompt: a fox", "YAML is not read"),
        ("a.txt", "- prompt: a fox\n  seed: 3", "YAML is not read"),
        ("a.toml", 'prompt = "a fox"', "TOML is not read"),
        ("a.xml", "<prompt>a fox</prompt>", "XML is not read"),
        ("a.xlsx", "PK", "a spreadsheet is not read"),
        ("a.csv", "a fox, in snow\na cat, big\n", "line 1 names the columns, as in prompt,seed"),
        ("a.csv", "prompt,seed,Seed\na fox,3,4", "seed is there twice"),
        ("a.csv", "prompt,seed\na fox,x", "line 2: seed x"),
        ("a.csv", "prompt\na fox, in snow", "more cells"),
        ("a.csv", "words\na fox", "unknown setting 'words'"),
        ("a.json", "[1]", "must be an object"),
        ("a.json", '["a fox", null]', "line 2: must be an object"),
        ("a.json", "[" * 60_000, "bad JSON"),
        ("a.json", '{"prompt": "a fox"', "bad JSON"),
    ],
)
def test_a_bad_table_or_array(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        rows_of(tmp_path, text, name)
    assert said in str(caught.value)


def test_an_array_of_prompts_and_a_quoted_one_like_a_flag(tmp_path: Path) -> None:
    found = rows_of(tmp_path, '["a fox", {"prompt": "a cat"}]', "a.json")
    assert [row.request for row in found] == [Request("a fox"), Request("a cat")]
    assert rows_of(tmp_path, '"a can of WD -C40"')[0].request == Request("a can of WD -C40")


def test_one_object_over_several_lines(tmp_path: Path) -> None:
    text = '{\n  "prompt": "a fox",\n  "seed": 4\n}'
    assert rows_of(tmp_path, text)[0].request == Request("a fox", seed=4)
    assert rows_of(tmp_path, '{ "prompt": "a fox" }')[0].request == Request("a fox")


def test_all_combinations_of_a_row(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a {red|blue} fox --seed 4\na tree")
    found = [row.request for row in PromptFile(str(path), combinatorial=True)]
    template = "a {red|blue} fox"
    assert found == [
        Request("a red fox", seed=4, template=template),
        Request("a blue fox", seed=4, template=template),
        Request("a tree"),
    ]
