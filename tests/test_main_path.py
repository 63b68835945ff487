"""How much a reader meets from the `generate` command to the saved image."""

from benchmarks.main_path import measure

LINES = 1000
FILES_OF_GEN = 8
FILES = 15  # of gen and pipelines: more than the 8 that were asked for


def test_the_way_from_the_command_to_the_image_is_short() -> None:
    found = measure()
    files, lines = found.on_path.of("gen", "pipelines")
    assert lines <= LINES, found.on_path.functions
    assert files <= FILES, found.on_path.lines
    assert found.on_path.of("gen")[0] <= FILES_OF_GEN, found.on_path.lines
    expected = ("request resolved", "CLIPTextModel runs", "UNet2DConditionModel runs")
    expected += ("VAE decodes", "image written", "manifest written", "printed")
    assert set(expected) <= set(found.milestones)
    assert found.on_path.of("rerank")[0] > 0
