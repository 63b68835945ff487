"""The example of docs/reranking.md: not that it runs, but that its answers are right."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from rerank import Reranker

pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parents[2] / "docs" / "reranking.md"


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, str]:
    """Draw the images of the document; return the caption of each."""
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```$", DOCUMENT.read_text("utf-8"))
    folder = tmp_path_factory.mktemp("example")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(blocks[0], {})
    lines = (folder / "pictures" / "captions.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return {folder / "pictures" / row["file"]: row["caption"] for row in rows}


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    return Reranker.load()


def test_each_image_comes_first_for_its_caption(
    reranker: Reranker, captions: dict[Path, str]
) -> None:
    files = list(captions)
    images = reranker.encode(files)
    first = {}
    for file, caption in captions.items():
        scores = reranker.score(caption, images)
        first[file] = files[scores.index(max(scores))]
    wrong = {captions[file]: found.name for file, found in first.items() if found != file}
    assert len(captions) == 40
    assert wrong == {}


def test_what_is_not_there_is_not_likely(reranker: Reranker) -> None:
    """Two yellow circles are no blue star and yellow circle."""
    image = Image.new("RGB", (64, 64), "white")
    for left in (2, 34):
        ImageDraw.Draw(image).ellipse((left, 18, left + 27, 45), fill="#fcd41a")
    [wrong] = reranker.calibrated("a blue star and a yellow circle", [image])
    [right] = reranker.calibrated("two yellow circles", [image])
    assert wrong.probability < 0.05
    assert 0.5 < right.probability < 0.95
