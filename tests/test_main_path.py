"""How much a reader meets from the `generate` command to the saved image."""

import pytest

from benchmarks.main_path import measure

FILES, LINES = 8, 1000  # of gen and pipelines


@pytest.mark.slow
def test_the_way_from_the_command_to_the_image_is_short() -> None:
    found = measure()
    files, lines = found.to_image.of("gen", "pipelines")
    assert files <= FILES, found.to_image.lines
    assert lines <= LINES, found.to_image.functions
    assert found.on_path.of("gen", "pipelines")[1] <= LINES, found.on_path.functions
    expected = ("request resolved", "CLIPTextModel runs", "UNet2DConditionModel runs")
    expected += ("VAE decodes", "image written", "manifest written", "printed")
    assert set(expected) <= set(found.milestones)
    assert found.on_path.of("rerank")[0] > 0
