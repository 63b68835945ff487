import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pipelines.unclip.pipeline import Unclip

sys.path.insert(0, str(Path(__file__).parent))  # for unclip_models


def saved(stock: Any, folder: Path) -> Any:
    """Save one of diffusers' pipelines and return it ready to draw."""
    stock.save_pretrained(folder)
    for part in stock.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    stock.set_progress_bar_config(disable=True)
    return stock


@pytest.fixture(scope="session")
def layouts(
    tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Callable[..., Any]
) -> Callable[[str], tuple[Any, Path]]:
    """Return diffusers' own pipeline and its folder by a name in `unclip_models`, made once."""
    import unclip_models

    root = tmp_path_factory.mktemp("unclip")
    made: dict[str, tuple[Any, Path]] = {}

    def find(name: str) -> tuple[Any, Path]:
        if name not in made:
            alone = name in ("kandinsky_21", "kandinsky_22")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                stock = getattr(unclip_models, name)(*(() if alone else (make_tokenizer, root)))
            made[name] = saved(stock, root / name), root / name
        return made[name]

    return find


@pytest.fixture(scope="session")
def own(tiny_unclip_folder: Path) -> Unclip:
    return Unclip.from_pretrained(tiny_unclip_folder, device="cpu")


@pytest.fixture(scope="session")
def karlo(layouts: Callable[[str], tuple[Any, Path]]) -> Unclip:
    return Unclip.from_pretrained(layouts("karlo")[1], device="cpu")


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    image = Image.linear_gradient("L").resize((80, 60)).convert("RGB")
    image.paste((200, 30, 30), (10, 10, 40, 50))
    return image
