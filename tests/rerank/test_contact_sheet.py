import numpy as np
from PIL import Image

from rerank.contact_sheet import COLUMNS, IMAGE, PAPER, Block, draw


def test_every_image_is_on_the_page() -> None:
    colours = [(200, 10, 10 * number) for number in range(COLUMNS + 1)]
    images = [Image.new("RGB", (64, 32 + number), colour) for number, colour in enumerate(colours)]
    caption = [("1.  0.3", "seed 1"), ("a.png", "")]
    page = draw([Block("a title", "", images, [caption] * len(images))])
    pixels = np.array(page).reshape(-1, 3)
    for colour in colours:
        assert (pixels == colour).all(1).sum() > IMAGE * IMAGE * 0.4
    assert (pixels == PAPER).all(1).any()


def test_long_words_and_no_images() -> None:
    assert draw([Block("x" * 999, "", [], [])]).width > 2 * IMAGE
    draw([Block("a", "", [Image.new("RGB", (1, 100))], [[("y" * 999, ""), ("", ""), ("z", "")]])])
