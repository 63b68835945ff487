"""Every command on a disk that is really full: a small one, with so many blocks left.

Whatever fits and whatever does not: a line, exit code 5, nothing half, and with room the same
command does what is missing.
"""

import http.client
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rerank.cli
import train.cli
from gen import cli as gen_cli
from gen import metadata
from gen.run_folder.choices import ImageHearted
from gen.run_folder.folder import RunFolder
from pipelines.dalle.convert import __main__ as convert

HERE = Path(__file__).parent
sys.path += [str(HERE / part) for part in ("gen", "ui", "pipelines/dalle/convert")]
from fake_site import FakeSite, serve_fakes  # noqa: E402
from public_checkpoints import write_dvae  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("tiny_by_default"),
    pytest.mark.fault("a full disk"),
]

SIZE, BLOCK = 2 * 2**20, 4096  # bytes
LEVELS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 400)  # blocks that are left
IMAGES = 40
OLD = b"what was there before"


class Disk:
    """A file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def leave(self, blocks: int) -> None:
        """Fill it but for so many blocks."""
        self._filler.unlink(missing_ok=True)
        free = os.statvfs(self.path).f_bavail - blocks
        if free > 0:
            self._filler.write_bytes(bytes(free * BLOCK))

    def files(self) -> dict[str, bytes]:
        """What is on it, but for the filler and locks, which are empty."""
        found = (p for p in self.path.rglob("*") if p.is_file() and p != self._filler)
        return {
            path.relative_to(self.path).as_posix(): path.read_bytes()
            for path in found
            if path.name not in ("lock", "salon.lock")
        }


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting is not allowed here")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Noisy images with captions and choices, on another disk."""
    folder, rng = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    captions, choices = [], []
    for number in range(IMAGES):
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        caption = f"a {('red', 'blue')[number % 2]} apple {number}"
        captions.append({"file": f"{number}.png", "caption": caption})
        other = f"{(number + 1) % IMAGES}.png"
        choices.append({"prompt": caption, "chosen": f"{number}.png", "rejected": other})
    for name, rows in (("captions", captions), ("choices", choices)):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


@dataclass(frozen=True)
class Command:
    """A command that writes to a disk, and the files there that it replaces."""

    main: Callable[[list[str]], int]
    words: tuple[str, ...]
    replaces: tuple[str, ...] = ()

    def on(self, disk: Disk, images: Path) -> list[str]:
        """Its words, with the places filled in."""
        return [word.format(disk=disk.path, images=images) for word in self.words]


DRAW = (
    "a panda",
    "-q",
    "--batch-size",
    "1",
    "--seed",
    "1",
    "--candidates",
    "3",
    "--top-k",
    "1",
    "--steps",
    "2",
)
COMMANDS = {
    "draw": Command(gen_cli.main, (*DRAW, "-o", "{disk}/out")),
    "edit": Command(
        gen_cli.main,
        (*DRAW, "-o", "{disk}/out", "--init-image", "{images}/0.png", "--upscale", "2"),
    ),
    "search": Command(
        gen_cli.main, (*DRAW, "-o", "{disk}/out", "--search", "prune", "--budget", "5")
    ),
    "copies": Command(
        rerank.cli.main, ("a panda", "{images}", "--copy-to", "{disk}/best", "-k", "9")
    ),
    "sheet": Command(
        rerank.cli.main, ("a panda", "{images}", "-k", "4", "--sheet", "{disk}/s.png"), ("s.png",)
    ),
    "index": Command(rerank.cli.main, ("index", "{images}", "--index", "{disk}/index")),
    "calibration": Command(
        rerank.cli.main,
        ("calibrate", "{images}/captions.jsonl", "-o", "{disk}/c.json"),
        ("c.json",),
    ),
    "head": Command(
        rerank.cli.main,
        ("learn", "{images}/choices.jsonl", "-o", "{disk}/h.safetensors"),
        ("h.safetensors",),
    ),
}


def _seeds(files: dict[str, bytes]) -> set[int]:
    """The seeds of the images among files; each image is whole, and none is there twice."""
    found: set[int] = set()
    for name, data in files.items():
        if name.endswith(".png") and data != OLD:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                if not name.startswith("out/") or "sheet" in name or "originals" in name:
                    continue
                seed = metadata.read_image(image).request.seed
            assert seed is not None
            assert seed not in found, f"{name}: there twice"
            found.add(seed)
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_is_half(
    name: str, disk: Disk, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, codes, made = COMMANDS[name], [], disk.path
    words = command.on(disk, images)
    for level in LEVELS:
        for file in command.replaces:
            disk.leave(SIZE)
            (made / file).write_bytes(OLD)
        disk.leave(level)
        before = disk.files()
        codes.append(command.main(words))
        errors = [each for each in capsys.readouterr().err.splitlines() if "note:" not in each]
        after = disk.files()
        if codes[-1] == 5:
            assert len(errors) == 1, errors
            assert str(disk.path) in errors[0], errors
            assert {file: after[file] for file in command.replaces} == dict.fromkeys(
                command.replaces, OLD
            )
        assert not [file for file in after if file.endswith((".tmp", ".new"))]
        assert _seeds(before) <= _seeds(after)
    assert set(codes) == {0, 5}, codes
    disk.leave(SIZE)
    assert command.main(words) == 0
    assert len(disk.files()) >= len(before)


def test_choices_are_exported_whole_or_not(
    disk: Disk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "out"
    assert gen_cli.main([*DRAW, "-o", str(run)]) == 0
    with RunFolder(run) as folder:
        folder.note_choice(ImageHearted(1, 1, True))
    file = disk.path / "choices.jsonl"
    file.write_bytes(OLD)
    disk.leave(0)
    capsys.readouterr()
    assert gen_cli.main(["--choices", str(file), "-o", str(run)]) == 5
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert disk.files() == {"choices.jsonl": OLD}
    disk.leave(1)
    assert gen_cli.main(["--choices", str(file), "-o", str(run)]) == 0
    assert len(file.read_text().splitlines()) == 2


def test_an_image_that_was_made_with_room_is_that_of_a_calm_run(disk: Disk, tmp_path: Path) -> None:
    words = [*DRAW, "-o", str(disk.path / "out")]
    for level in LEVELS:
        disk.leave(level)
        gen_cli.main(words)
    assert gen_cli.main([*DRAW, "-o", str(tmp_path / "calm")]) == 0
    for path in (tmp_path / "calm").rglob("0001-*.png"):
        there = disk.path / "out" / path.relative_to(tmp_path / "calm")
        assert there.read_bytes() == path.read_bytes()
        assert metadata.read(there).request.prompt == "a panda"


@pytest.mark.parametrize("level", [0, 1, 8])
def test_a_conversion_leaves_nothing_half(
    level: int, disk: Disk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(write_dvae(tmp_path / "download")), str(disk.path / "model")]
    disk.leave(level)
    assert convert.main(words) == 5
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1, errors
    assert errors[0].startswith(f"convert: cannot write {disk.path}")
    assert disk.files() == {}
    assert convert.main([words[0], str(tmp_path / "model")]) == 0  # where there is room


@pytest.mark.parametrize("level", [0, 8, 400])
def test_a_training_says_so(level: int, disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    disk.leave(level)
    words = ["autoencoder", "--steps", "1", "--threads", "1", "--run", str(disk.path / "run")]
    assert train.cli.main(words) == 5
    errors = [line for line in capsys.readouterr().err.splitlines() if "salon-train" in line]
    assert len(errors) == 1, errors
    assert f"cannot write {disk.path}" in errors[0]
    assert not [file for file in disk.files() if file.endswith((".tmp", "state.safetensors"))]


def ask(site: FakeSite, path: str, kind: str, body: bytes) -> tuple[int, str]:
    """Post something; the status and the text of the answer."""
    connection = http.client.HTTPConnection(site.url.removeprefix("http://"), timeout=60)
    try:
        connection.request("POST", path, body, {"Content-Type": kind})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_the_server_refuses_and_goes_on(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(disk.path / "gradio"))
    asked = json.dumps({"prompt": "a fox", "candidates": 2, "steps": 1, "seed": 4}).encode()
    upload = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    upload += bytes(600_000) + b"\r\n--x--\r\n"
    with serve_fakes(disk.path) as site:

        def draw() -> tuple[int, str]:
            return ask(site, "/v1/images/generations", "application/json", asked)

        def send() -> tuple[int, str]:
            return ask(site, "/gradio_api/upload", "multipart/form-data; boundary=x", upload)

        for level in (0, 1, 8):
            disk.leave(level)
            status, told = send()
            assert (status, told.count("Traceback")) == (503, 0)
            assert "no room for uploads" in told
            assert not [file for file in disk.files() if file.startswith("gradio/")]
        disk.leave(0)
        status, told = draw()
        assert status == 503
        assert json.loads(told)["error"]["code"] == "no_room"
        assert not [file for file in disk.files() if file.endswith((".png", ".tmp"))]
        disk.leave(SIZE)
        assert (draw()[0], send()[0]) == (200, 200)
        assert json.loads(disk.files()["out/queue.json"]) == {}
