"""Each mask by a closed form and by what the papers draw: pictures of what one position sees."""

import pytest
import torch

from pipelines.dalle.masks import Mask, image_visible, paper_masks, sees, visible

CPU = torch.device("cpu")


def by_hand(mask: Mask, query: int, key: int, width: int, reach: int) -> bool:
    """A mask as one would explain it, with loops over offsets and no arithmetic of distances."""
    if key > query:
        return False
    row, column = divmod(query, width)
    if mask == Mask.FULL:
        return True
    if mask == Mask.ROW:
        own_row = [(row, c) for c in range(column + 1)]
        row_above = [(row - 1, c) for c in range(column, width)]
        return divmod(key, width) in own_row + row_above
    if mask == Mask.COLUMN:
        return divmod(key, width) in [(r, column) for r in range(row + 1)]
    window = range(-reach, reach + 1)
    if mask == Mask.CONVOLUTION:  # in raster order, so a window leaves on one side and comes in
        return key in {query - up * width - left for up in range(reach + 1) for left in window}
    if mask == Mask.CONVOLUTION_CLIPPED:
        return divmod(key, width) in [(row - up, column - left) for up in window for left in window]
    if mask == Mask.CONVOLUTION_TORUS:
        around = [((row - up) % width, (column - left) % width) for up in window for left in window]
        return divmod(key, width) in around
    corner = range(reach + 1)
    return divmod(key, width) in [(row - up, column - left) for up in corner for left in corner]


@pytest.mark.parametrize(("width", "reach"), [(5, 1), (7, 2), (6, 5), (12, 5)])
@pytest.mark.parametrize("mask", Mask)
def test_closed_form_is_what_is_meant(mask: Mask, width: int, reach: int) -> None:
    length = width**2
    expected = [[by_hand(mask, q, k, width, reach) for k in range(length)] for q in range(length)]
    assert torch.equal(image_visible(mask, width, reach), torch.tensor(expected))


@pytest.mark.parametrize(
    ("mask", "reach", "average", "largest"),
    [
        (Mask.ROW, 5, 32.5, 33),
        (Mask.COLUMN, 5, 16.5, 32),
        (Mask.CONVOLUTION, 5, 55.8, 61),
        (Mask.CONVOLUTION_CLIPPED, 5, 51.1, 61),
        (Mask.CONVOLUTION_TORUS, 5, 61.0, 121),
        (Mask.CONVOLUTION_UP_LEFT, 4, 22.0, 25),
    ],
)
def test_keys_of_the_papers_grid(mask: Mask, reach: int, average: float, largest: int) -> None:
    """How many keys a position of the 32 × 32 grid sees, as counted from the published masks."""
    keys = image_visible(mask, 32, reach).sum(dim=1).float()
    assert keys.mean().item() == pytest.approx(average, abs=0.06)
    assert keys.max() == largest


def test_the_papers_layers() -> None:
    masks = paper_masks(64)
    assert masks[:6] == (Mask.ROW, Mask.COLUMN, Mask.ROW, Mask.ROW, Mask.ROW, Mask.COLUMN)
    assert [masks.count(kind) for kind in (Mask.ROW, Mask.COLUMN, Mask.CONVOLUTION)] == [47, 16, 1]
    assert masks[-1] == Mask.CONVOLUTION


def test_a_row_is_a_row_in_raster_order() -> None:
    """The farthest key is the same column of the row above, as the paper says."""
    position = torch.tensor(37)
    seen = sees(Mask.ROW, position, torch.arange(64), 8, 5).nonzero()[:, 0]
    assert seen.tolist() == list(range(29, 38))


@pytest.mark.parametrize("mask", Mask)
def test_text_comes_first_and_is_causal(mask: Mask) -> None:
    whole = visible(mask, 3, 4, 2, 19, CPU)
    assert torch.equal(whole[:3, :3], torch.ones(3, 3, dtype=torch.bool).tril())
    assert whole[3:, :3].all()
    assert not whole[:3, 3:].any()
    assert torch.equal(whole[3:, 3:], image_visible(mask, 4, 2))
    assert torch.equal(visible(mask, 3, 4, 2, 10, CPU), whole[:10, :10])
    assert whole.diagonal().all()
