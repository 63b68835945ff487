"""`generate` is killed at random moments, again and again: it comes to the same as if it was not.

A few times in the suite; `make kills` does it a hundred times for plain runs, fifty for searches
and edits together, and ten with the networks that ship. Others are tiny.
"""

import io
import json
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tqdm import tqdm

from gen import metadata
from gen.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.fault("kill -9")]

KILLS = int(os.environ.get("KILLS", "2"))  # of each plain run; of each other kind a quarter
PROMPTS = ("a panda", "a red balloon")
PLAIN = ("--candidates", "6", "--top-k", "2", "--steps", "6", "--batch-size", "2")
SEARCH = (
    "--search",
    "prune",
    "--steps",
    "10",
    "--candidates",
    "8",
    "--top-k",
    "2",
    "--batch-size",
    "3",
)
EDIT = ("--candidates", "6", "--strength", "0.7", "--steps", "8", "--batch-size", "2")
SHIPPED = ("--candidates", "4", "--top-k", "2", "--steps", "8", "--batch-size", "2")
PATIENCE = 600  # seconds, for what hangs
ROUNDING = 2  # of 255


class Command:
    """`generate` in processes of its own, with the same words each time."""

    def __init__(self, words: tuple[str, ...], said: Path) -> None:
        self.words = [*PROMPTS, "--seed", "7", "--threads", "1", "-q", *words]
        self.said = said  # where what it says is kept

    def begun(self, out: Path) -> int:
        """Begin it, and return its number."""
        child = os.fork()
        if child == 0:
            # Not tqdm's, which forked processes share: one may have been killed while it held it.
            tqdm.set_lock(threading.RLock())
            with self.said.open("w") as said:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                os._exit(main([*self.words, "-o", str(out)]))
        return child

    def run(self, out: Path) -> float:
        """Run it to its end; the seconds that it took."""
        begun = time.monotonic()
        assert _ended(self.begun(out), PATIENCE) == 0, self.said.read_text()
        return time.monotonic() - begun

    def is_killed(self, out: Path, after: float) -> bool:
        """Kill it so many seconds after it began; False if it was through before."""
        child = self.begun(out)
        status = _ended(child, after)
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return True
        assert status == 0, self.said.read_text()
        return False


def _ended(child: int, seconds: float) -> int | None:
    """The exit code of a process, or None if it still runs after so many seconds."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


@pytest.mark.parametrize(
    ("kind", "kills"),
    [("plain", KILLS), ("search", KILLS // 4), ("edit", KILLS // 4), ("shipped", KILLS // 10)],
)
def test_what_is_killed_comes_to_the_same(
    kind: str, kills: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kills = max(1, kills)
    if kind != "shipped":
        request.getfixturevalue("tiny_by_default")
    command = Command(_words(kind, tmp_path), tmp_path / "said")
    calm, chance, killed, folders = tmp_path / "calm", random.Random(kind), 0, 0
    command.run(calm)  # what is read first is in the cache then
    shutil.rmtree(calm)
    length = command.run(calm)
    while killed < kills:
        out, folders = tmp_path / f"out-{folders}", folders + 1
        for _ in range(chance.randint(1, 3)):
            before = _images(out)
            killed += command.is_killed(out, chance.uniform(0, 1.1 * length))
            _check(out, before, is_search=kind == "search")
        command.run(out)
        _compare(out, calm)
        assert _events(out) == _events(calm)
        assert not [path for path in out.rglob("*") if path.name.startswith(".")]
        shutil.rmtree(out)
    print(
        f"{kind}: {killed} kills in {folders} folders, 0 images lost, 0 drawn twice, 0 truncated; "
        f"a calm run takes {length:.1f} s"
    )


def _words(kind: str, folder: Path) -> tuple[str, ...]:
    if kind != "edit":
        return {"plain": PLAIN, "search": SEARCH, "shipped": SHIPPED}[kind]
    image, mask = folder / "photo.png", folder / "mask.png"
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(image)
    Image.linear_gradient("L").resize((64, 64)).save(mask)
    return (*EDIT, "--init-image", str(image), "--mask", str(mask))


def _check(out: Path, before: dict[str, bytes], *, is_search: bool) -> None:
    """What there is after a kill is whole, and what there was before is there still."""
    images = _images(out)
    pixels = {seed: _pixels(data) for seed, data in _by_seed(images).items()}
    for path in out.glob("sheet*.png"):
        _pixels(path.read_bytes())
    for _ in _records(out):
        pass
    if not is_search:  # which lets go of candidates
        kept = {seed: _pixels(data) for seed, data in _by_seed(before).items()}
        assert kept.items() <= pixels.items()


def _compare(out: Path, calm: Path) -> None:
    """Both hold the same images. After a kill the rest is drawn in other micro-batches, so that
    pixels may differ by rounding."""
    made, expected = _images(out), _images(calm)
    assert made.keys() == expected.keys()
    for name, data in made.items():
        pixels, others = (np.frombuffer(_pixels(each), np.uint8) for each in (data, expected[name]))
        assert np.abs(pixels.astype(int) - others).max() <= ROUNDING, name


def _images(out: Path) -> dict[str, bytes]:
    """The images that a run folder has, by their names."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("[0-9]*-*.png")
    }


def _by_seed(images: dict[str, bytes]) -> dict[tuple[str, int], bytes]:
    """Images by prompt and seed; none may be there twice."""
    found: dict[tuple[str, int], bytes] = {}
    for name, data in images.items():
        with Image.open(io.BytesIO(data)) as image:
            request = metadata.read_image(image).request
        key = str(request.prompt), int(request.seed or 0)
        assert key not in found, f"{name}: drawn twice"
        found[key] = data
    return found


def _pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB").tobytes()


def _records(out: Path) -> Iterator[dict[str, object]]:
    """What the manifest holds, but for a last line that is cut off."""
    path = out / "manifest.jsonl"
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else ():
        yield json.loads(line)


def _events(out: Path) -> Counter[tuple[object, ...]]:
    """How often each image was drawn, and each look of a search taken."""
    return Counter(
        (each["event"], each.get("number"), each.get("seed"), each.get("step"))
        for each in _records(out)
        if each["event"] in ("picture", "searched")
    )
