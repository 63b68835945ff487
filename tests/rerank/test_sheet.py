import numpy as np
from PIL import Image

from rerank.sheet import COLUMNS, PAPER, PICTURE, draw


def test_every_picture_is_on_the_page() -> None:
    colours = [(200, 10, 10 * number) for number in range(COLUMNS + 1)]
    pictures = [
        Image.new("RGB", (64, 32 + number), colour) for number, colour in enumerate(colours)
    ]
    page = draw("a title", pictures, [["1.  0.3", "a.png"]] * len(pictures))
    pixels = np.array(page).reshape(-1, 3)
    for colour in colours:
        assert (pixels == colour).all(1).sum() > PICTURE * PICTURE * 0.4
    assert (pixels == PAPER).all(1).any()


def test_long_words_and_no_pictures() -> None:
    assert draw("x" * 999, [], []).width > 2 * PICTURE
    draw("a", [Image.new("RGB", (1, 100))], [["y" * 999, "", "z"]])
