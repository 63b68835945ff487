"""Actors of a Ray cluster read what one process reads; `make ray` runs this."""

import tarfile
from pathlib import Path

import pytest
from PIL import Image

from rerank import Collection, Reranker

pytestmark = pytest.mark.slow


def test_a_cluster_reads_what_one_process_reads(tmp_path: Path, reranker: Reranker) -> None:
    colours = ("red", "green", "blue", "yellow")
    tars = [tmp_path / f"{number}.tar" for number in range(4)]
    for colour, tar in zip(colours, tars, strict=True):
        Image.new("RGB", (40, 40), colour).save(tmp_path / "a.png")
        with tarfile.open(tar, "w") as opened:
            opened.add(tmp_path / "a.png", "a.png")
    tars[3].write_bytes(b"damaged")
    alone, _ = Collection.build(tars, tmp_path / "alone", reranker)
    together, update = Collection.build(tars, tmp_path / "ray", reranker, ray="local", workers=2)
    assert (update.added, list(update.failed)) == (3, [tars[3]])
    for colour in colours:
        found, expected = (each.search(f"a {colour} square", 3) for each in (together, alone))
        assert [one.path for one in found] == [one.path for one in expected]
        assert [one.score for one in found] == pytest.approx([one.score for one in expected])
