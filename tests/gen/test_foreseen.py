"""What `generate` says before it draws, and what it says of scores when asked."""

import json
from pathlib import Path

import pytest
from fake_models import Studio

from gen.cli import main
from gen.foreseen import NOTES_SHOWN
from gen.listing import WIDTH, summary
from gen.run_folder.history import History


def notes(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.removeprefix("generate: note: ") for line in capsys.readouterr().err.splitlines()]


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs"


def test_words_without_quotes(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["a", "red", "panda", "--dry-run"]) == 0
    assert notes(capsys) == [
        'these are 3 prompts of one word; for one prompt, quote it: "a red panda"'
    ]
    assert main(["a panda", "a cat", "--dry-run"]) == main(["panda", "--dry-run"]) == 0
    assert notes(capsys) == []


def test_a_number_as_negative_prompt(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["a panda", "-n", "4", "--dry-run"]) == 0
    assert notes(capsys)[0].startswith('the negative prompt is "4", a text: for a number of images')
    assert main(["a panda", "-n", "4 legs", "--dry-run"]) == 0
    assert notes(capsys) == []


def test_unknown_words_are_told_once_and_before_drawing(
    studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (studio.folder / "fake" / "vocabulary.json").write_text('{"words": ["a"]}')
    studio.pipeline.on_step = lambda draft: print("drawing")
    assert main(["a panda", "--candidates", "1"]) == 0
    said = capsys.readouterr()
    assert said.err.count("does not know “panda”") == 1
    assert main(["a panda", "a panda", "--dry-run"]) == 0
    assert notes(capsys)[0].endswith("(2 prompts)")
    prompts = [f"a thing{number}" for number in range(NOTES_SHOWN + 3)]
    assert main([*prompts, "--dry-run"]) == 0
    assert notes(capsys)[-1] == "3 other notes come with their prompts"


def test_a_dry_run_finds_what_would_end_the_run(
    studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["a panda", "--dry-run", "--reranker", "nothing"]) == 3
    assert "nothing" in capsys.readouterr().err
    assert main(["a panda", "--candidates", "1", "--seed", "5"]) == 0
    [image] = out.glob("0001-r1-*.png")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    capsys.readouterr()
    assert main(["--again", str(image), "--dry-run"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["prompt"], said["seed"], said["candidates"]) == ("a panda", 5, 1)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


@pytest.mark.fault("prompts")
def test_dropped_text_is_told_without_loading(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["a panda " + "and a red balloon " * 40, "-m", "stickers-dalle", "--dry-run"]) == 0
    start = "stickers-dalle reads 40 tokens; this end is dropped: 'and a red"
    assert any(note.startswith(start) for note in notes(capsys))


def test_the_file_tells_what_the_pipeline_drops() -> None:
    from pipelines import families
    from pipelines.dalle.networks import load_tokenizer
    from pipelines.dalle.prompts import dropped_text

    spec = families.shipped()["stickers-dalle"]
    tokenizer = load_tokenizer(spec.part("tokenizer"))
    for prompt in ("a panda", "a red fox " * 12, "größe 熊 🦊 " * 20, "x" * 500, " a  b " * 40):
        told = families.family_of(spec).dropped_text(spec, prompt)
        assert told == dropped_text(tokenizer, prompt, spec.context)


def test_match_and_claims(studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (studio.folder / "jury" / "calibration.json").write_text("{}")
    words = ["a panda", "--candidates", "3", "--top-k", "1", "--seed", "1", "--calibrate"]
    assert main([*words, "--claims", "--json"]) == 0
    [result] = json.loads(capsys.readouterr().out)["results"]
    assert 0 <= result["probability"] <= 1
    assert (result["percentile"], result["fits_best"]) == (99.0, "a panda")
    assert result["claims"] == [
        {"kind": "object", "claim": "a", "holds": True},
        {"kind": "object", "claim": "panda", "holds": False},
    ]
    history = History(out)
    history.refresh()
    [prompt] = history.prompts()
    assert prompt.find(result["seed"]).match == pytest.approx(result["probability"])
    assert main([*words, "--claims"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "likely, above 99 % of others" in lines[1]
    assert lines[2].strip() == "✓ a  ✗ panda"


def test_what_cannot_be_explained_is_said_before_drawing(
    studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["a panda", "--calibrate"]) == 3
    assert "has no calibration.json" in capsys.readouterr().err
    assert main(["a panda", "--claims", "-r", "none"]) == 2
    assert "need a reranker" in capsys.readouterr().err
    assert studio.loads == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a panda", "--candidtaes", "4"], "no option '--candidtaes' (did you mean --candidates?)"),
        (["a panda", "-m", "stickrs"], "no model 'stickrs' (did you mean stickers?)"),
        (["a panda", "-r", "stickers-clp"], "(did you mean stickers-clip?)"),
        (["a panda", "--sampler", "eulr"], "did you mean euler"),
    ],
)
def test_what_was_meant(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) in (2, 3)
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_a_misspelt_setting_in_a_file(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.jsonl").write_text('{"prompt": "a", "guidence": 3}\n')
    assert main(["-f", "rows.jsonl", "--dry-run"]) == 2
    assert "'guidence' (did you mean guidance?)" in capsys.readouterr().err


def test_the_list_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    lines = list(summary())
    assert len(lines) <= 24
    assert max(map(len, lines)) <= WIDTH
    assert main(["--list-models"]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    assert main(["--list-models", "all"]) == 0
    assert "FLUX" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.fault("a full disk")
def test_standard_output_on_a_full_disk(
    studio: Studio,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for words in ([], ["--json"], ["--dry-run"]):
        with open("/dev/full", "w") as full, monkeypatch.context() as patch:
            patch.setattr("sys.stdout", full)
            assert main(["a panda", "--candidates", "2", "--seed", "1", *words]) == 5
        said = capsys.readouterr().err
        assert said.startswith("generate: error: cannot write standard output: No space left")
        assert len(said.splitlines()) == 1
    assert len(list(out.rglob("*.png"))) == 2  # what was made is kept


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (["a fox <lora:x:0.8>"], "<lora:x:0.8> is left out: name the folder of its file with"),
        (["a fox <hypernet:x:0.8>"], "<hypernet:x:0.8> is left out: hypernetworks are not read"),
        (["a fox", "-n", "<lora:x>"], "<lora:x> is left out: it has a meaning in the prompt alone"),
        (["a fox", "-n", "a AND b"], "AND in the negative prompt is drawn as a word"),
        (["a [red:green:blue] fox"], "[red:green:blue] only weighs its words: a text that changes"),
        (["a [fox:1.3]"], "[fox:1.3] comes after all 20 steps, so it is not drawn: round brackets"),
        (["a embedding:fox"], "embedding:fox is drawn as words: add its file with --embedding"),
        (
            ["a [fox|cat] AND (owl:1.2)", "-m", "stickers-dalle"],
            "stickers-dalle reads plain words: AND, [fox|cat], (owl:1.2) has no meaning to it",
        ),
    ],
)
def test_signs_that_are_not_understood(
    words: list[str], note: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--dry-run"]) == 0
    assert sum(line.startswith(note) for line in notes(capsys)) == 1
    plain = [] if "stickers-dalle" in words else ["--prompt-syntax", "plain"]
    if plain:
        assert main([*words, *plain, "--dry-run"]) == 0
        assert not any(line.startswith(note) for line in notes(capsys))


def test_signs_that_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    for prompt in ("a (fox:1.2) [on] white", "a [fox|cat] AND [a:b:0.5]", r"a \[fox\] BREAK cat"):
        assert main([prompt, "--dry-run"]) == 0
        assert not [line for line in notes(capsys) if "does not know" not in line]


@pytest.mark.parametrize(
    ("prompt", "sign"),
    [
        ("a fox --ar 16:9", "--ar"),
        ("a fox --no trees", "--no"),
        ("a fox::2 and a cat", "fox::2"),
        ("a red+ fox", "red+"),
        ("a fox++", "fox++"),
        ("a (red)1.3 fox", "(red)1.3"),
        ("a (red fox)-", "(red fox)-"),
        ("a (fox:1.2, in a wood", "(fox:1.2"),
        ("('a fox', 'a cat').and()", ".and("),
        ("a fox <segment:face>", "<segment:face>"),
        ("<random[2]:a fox,a cat>", "<random[2]:a fox,a cat>"),
        ("a fox\nNegative prompt: bad", "Negative prompt: bad"),
        ("a fox\nSteps: 20, Sampler: Euler a, Seed: 3", "Steps: 20, Sampler: Euler a, Seed: 3"),
    ],
)
def test_signs_of_other_tools(
    prompt: str, sign: str, studio: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([prompt, "--dry-run"]) == 0
    assert any(line.startswith(f"drawn as words: {sign};") for line in notes(capsys))


@pytest.mark.parametrize(
    "prompt",
    [
        "a well-known fox - red, 2 + 2 = 4 -- or 5",
        "a fox (red), at 12:30, no. 5",
        "a fox: red (and tall). And more",
        "c3-po (sun)-lit <3 a fox > a cat",
        "a (red:1.2) fox, ((large)), [small]",
        "steps: 20 of a staircase, --",
    ],
)
def test_plain_texts_have_no_signs(
    prompt: str, studio: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([prompt, "--dry-run"]) == 0
    assert not [line for line in notes(capsys) if line.startswith("drawn as words")]
