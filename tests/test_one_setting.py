"""A new setting is one entry in the settings of its family, and is found at every door."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("gen", "pipelines", "rerank", "ui")
ENTRY = """    sparkle: Annotated[
        float | None,
        Setting("how much it sparkles", "Sparkle", aliases=("glitter",), low=0, high=9),
    ]
    clip_skip: Annotated["""
FIND = """
import json
import sys
from pathlib import Path
from typing import get_type_hints

import gen
import pipelines
from gen import Request, generate, metadata
from gen.cli import main
from gen.settings.prompt_file import PromptFile
from pipelines import LatentDiffusion
from pipelines.settings import settings_of

assert Path(gen.__file__).is_relative_to(Path.cwd()), gen.__file__


def keywords(function):
    record = get_type_hints(function)["settings"].__args__[0]
    return settings_of(record)


# a key of prompt files, checked, and with its other name
Path("rows.txt").write_text("a fox --sparkle 3\\na fox --glitter 4\\n")
Path("rows.jsonl").write_text('{"prompt": "a fox", "sparkle": 5}')
rows = [row.request for name in ("rows.txt", "rows.jsonl") for row in PromptFile(name)]
assert [row.sparkle for row in rows] == [3.0, 4.0, 5.0]
assert Request.from_json(rows[0].to_json()) == rows[0]
try:
    Request("a fox", sparkle=10)
except gen.InputError as error:
    assert "sparkle 10" in str(error), error
else:
    raise AssertionError("10 is out of range")

# a keyword of generate and of begin
assert "sparkle" in keywords(generate)
assert "sparkle" in keywords(LatentDiffusion.begin)
assert keywords(generate)["sparkle"].kind is float

# a setting of each model of the family, and of no other
from pipelines import families
takes = {spec.kind: "sparkle" in spec.settings for spec in families.shipped().values()}
assert takes == {"latent_diffusion": True, "dalle": False, "unclip": False}, takes

# the schema of the HTTP API
from ui.api.body import setting_fields
from ui.service.settings import SERVED
from pydantic import create_model
assert "sparkle" in SERVED
schema = create_model("Body", **setting_fields(set())).model_json_schema()
assert schema["properties"]["sparkle"]["description"].startswith("how much it sparkles"), schema

# a field of the page
from gen.engine import Engine
from gen.run_folder.folder import RunFolder
from ui.page.form import build_form, build_prompt, build_quick
from ui.service.service import Service
import gradio
with RunFolder(Path("out")) as folder, gradio.Blocks():
    service = Service(Engine(), folder)
    field = build_form(service, build_prompt(), *build_quick(service)).fields["sparkle"]
    service.stop()
assert "sparkles" in f"{field.label} {field.info}", (field.label, field.info)

# the metadata of an image, read back from our own record and from the text of A1111
from PIL import Image
record = metadata.Metadata(Request("a fox", sparkle=2.5, seed=7))
Image.new("RGB", (8, 8)).save("a.png")
Path("a.png").write_bytes(metadata.embed(Path("a.png").read_bytes(), record))
assert metadata.read(Path("a.png")).request.sparkle == 2.5
from gen.metadata import parameters
text = parameters.to_text(record)
assert "Sparkle: 2.5" in text, text

# a flag
assert main(["a fox", "--sparkle", "3", "--candidates", "1", "--seed", "1", "--dry-run"]) == 0
sys.stdout.flush()
try:
    main(["--help"])
except SystemExit:
    pass
"""


@pytest.mark.slow
def test_a_setting_in_one_place_is_found_everywhere(tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package,
            tmp_path / package,
            copy_function=lambda source, target: (
                shutil.copy(source, target)
                if source.endswith((".py", ".css", ".json", ".txt"))
                else os.symlink(source, target)
            ),
        )
    settings = tmp_path / "pipelines" / "diffusion" / "settings.py"
    text = settings.read_text()
    assert text.count("    clip_skip: Annotated[") == 1
    settings.write_text(text.replace("    clip_skip: Annotated[", ENTRY))
    done = subprocess.run(
        [sys.executable, "-c", FIND],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert '"sparkle": 3.0' in done.stdout
    assert "--sparkle X" in done.stdout
    assert "how much it sparkles (0 to 9)" in " ".join(done.stdout.split())
