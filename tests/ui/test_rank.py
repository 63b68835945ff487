import io
import re
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed")

from ui.page import rank
from ui.service.reading import Reader
from ui.service.service import UploadScore


def ranked(folder: Path, uploads: list[UploadScore]) -> list[str]:
    """What is shown of uploads, as the captions of each image in turn."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "png")
    paths = [folder / f"{place}.png" for place in range(len(uploads))]
    for path in paths:
        path.write_bytes(out.getvalue())
    done: Future[list[UploadScore]] = Future()
    done.set_result(uploads)
    service = SimpleNamespace(rerank=lambda *_, **__: SimpleNamespace(future=done), reader=Reader())
    _, shown = rank._ranked(service, list(map(str, paths)), "a fox", "")  # type: ignore[arg-type]
    return re.findall(r'<span class="captions">(.*?)</span><', shown.replace("</span><span>", " "))


def test_the_number_that_is_shown_never_rises(tmp_path: Path) -> None:
    matches = (0.31, 0.95, 0.95, 0.07)
    scores = (0.9, 0.2, 0.4, 0.5)
    uploads = [UploadScore(s, match=m) for s, m in zip(scores, matches, strict=True)]
    assert ranked(tmp_path, [*uploads, UploadScore(failed="no image")]) == [
        "<span>1. 95% match 2.png",  # of two that fit alike, the higher score
        "<span>2. 95% match 1.png",
        "<span>3. 31% match 0.png",
        "<span>4. 7% match 3.png",
    ]


def test_without_a_match_the_score_is_shown_and_counts(tmp_path: Path) -> None:
    assert ranked(tmp_path, [UploadScore(0.1), UploadScore(0.3), UploadScore(-0.2)]) == [
        "<span>1. 0.300 1.png",
        "<span>2. 0.100 0.png",
        "<span>3. -0.200 2.png",
    ]
