"""The site with models without weights, for tests of what is around them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import fake_models
import pytest

from gen.engine import Engine
from gen.run_folder.folder import RunFolder
from ui.access.credentials import Credentials
from ui.service.service import Service


@dataclass
class FakeSite:
    """A site that is being served, with models without weights."""

    url: str
    folder: Path
    service: Service
    fakes: fake_models.Studio


@contextmanager
def serve_fakes(
    folder: Path, credentials: Credentials | None = None, fit_size: bool = False
) -> Iterator[FakeSite]:
    """The site on fakes, on a port of its own, saving to `folder`/out."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    from ui.server import served

    with pytest.MonkeyPatch.context() as patch, RunFolder(folder / "out") as out:
        fakes = fake_models.Studio(folder, patch.setattr, patch.setitem)
        for module in ("ui.service.catalog",):
            patch.setattr(f"{module}.DEFAULT_MODEL", "fake")
        service = Service(Engine(), out, fit_size=fit_size)
        with served(service, "127.0.0.1", 0, credentials) as url:
            yield FakeSite(url, folder / "out", service, fakes)
            service.stop()
