"""The contact sheet shows every image once, best first, at a size that people can see."""

from PIL import Image

from gen.result import Result
from gen.run_folder import contact_sheet
from gen.settings.request import Request
from rerank.contact_sheet import MARGIN, PAPER

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30), (30, 200, 200)]


def results(count: int, size: tuple[int, int] = (64, 64)) -> list[Result]:
    return [
        Result(
            Request("a panda", seed=index),
            index,
            Image.new("RGB", size, COLOURS[index % 5]),
            score=0.3,
            rank=index + 1,
        )
        for index in range(count)
    ]


def test_images_stand_in_order_and_enlarged() -> None:
    page = contact_sheet.draw([contact_sheet.block("a panda", "seed 7", results(3))])
    counts = {colour: count for count, colour in page.getcolors(1 << 20)}
    assert [counts[colour] for colour in COLOURS[:3]] == [256 * 256] * 3
    row = [page.getpixel((x, page.height - 150)) for x in range(page.width)]
    places = [row.index(colour) for colour in COLOURS[:3]]
    assert places == sorted(places)


def test_many_images_go_on_in_the_next_row() -> None:
    one = contact_sheet.draw([contact_sheet.block("a panda", "", results(8))])
    two = contact_sheet.draw([contact_sheet.block("a panda", "", results(9))])
    assert two.width == one.width
    assert two.height > one.height + 256


def test_each_prompt_has_its_own_block() -> None:
    block = contact_sheet.block("a panda", "", results(2))
    one, three = contact_sheet.draw([block]), contact_sheet.draw([block] * 3)
    assert three.width == one.width
    assert three.height == 3 * (one.height - 2 * MARGIN) + 4 * MARGIN


def test_a_large_or_narrow_image_fits() -> None:
    assert contact_sheet.fitted(Image.new("RGB", (1024, 512))).size == (256, 128)
    assert contact_sheet.fitted(Image.new("RGB", (4096, 2))).size == (256, 1)


def test_a_prompt_that_is_too_long_ends_in_an_ellipsis() -> None:
    long = contact_sheet.block("panda " * 200, "", results(1))
    endless = contact_sheet.block("p" * 2000 + " 熊貓 🐼", "", results(1))
    for block in (long, endless):
        page = contact_sheet.draw([block])
        assert page.height < 256 + 300
        margin = page.crop((page.width - MARGIN + 4, 0, page.width, 120))
        assert margin.getcolors() == [(margin.width * margin.height, PAPER)]


def test_candidates_without_a_image_are_left_out() -> None:
    block = contact_sheet.block(
        "a panda", "", [*results(1), Result(Request("a panda", seed=9), failed="no")]
    )
    assert len(block.images) == len(block.captions) == 1
