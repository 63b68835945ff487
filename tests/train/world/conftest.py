"""The small atlas in place of the rendered packages, so that no test needs them."""

from collections.abc import Iterator

import pytest

from train.world import atlas, judge, looks, renderer
from train.world.vocabulary import NUMBER, STYLES


def _forget() -> None:
    renderer.kept_pixels.cache_clear()
    judge._drawings.cache_clear()
    looks.looks.cache_clear()


@pytest.fixture(autouse=True)
def small_atlas(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    atlases = {style: atlas.load_small(name) for style, name in STYLES.items()}
    monkeypatch.setattr(renderer, "atlas_of", lambda style, side=None: atlases[style])
    _forget()
    yield
    _forget()


@pytest.fixture(scope="session")
def few() -> list[int]:
    """Numbers of the things that the small atlas has in every style."""
    rows = [atlas.load_small(name).row for name in STYLES.values()]
    return [NUMBER[key] for key in rows[0] if all(key in row for row in rows)]
