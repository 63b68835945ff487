"""A served page on tiny models, and a real browser to look at it with."""

import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from gen.engine import Engine
from gen.run_folder.folder import RunFolder
from pipelines import families
from pipelines.checkpoints.specs import read_context
from ui.service.service import Service

sys.path.insert(0, str(Path(__file__).parents[1] / "gen"))
sys.path.insert(0, str(Path(__file__).parent))
import fake_models
from fake_site import FakeSite, serve_fakes

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 120_000  # milliseconds; a busy machine is no failure


@dataclass
class Site:
    """A page that is being served."""

    url: str
    folder: Path


@contextmanager
def serve(path: Path, reranker: Path, **facts: Any) -> Iterator[Site]:
    """The page with a reranker, saving to `path`; `facts` are more of its service."""
    with RunFolder(path) as folder, serve_folder(folder, reranker=str(reranker), **facts) as url:
        yield Site(url, path)


@contextmanager
def serve_folder(folder: RunFolder, reranker: str | None = None, **facts: Any) -> Iterator[str]:
    """The page over a run folder; where it is."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    from ui.server import served

    service = Service(Engine(device="cpu", reranker=reranker), folder, **facts)
    with served(service, "127.0.0.1", 0) as url:
        yield url
        service.stop()


@dataclass
class Browser:
    """Opens pages and remembers what they asked for and complained of."""

    chromium: object
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def _note(self, error: str) -> None:
        self.errors.append(error)

    def reload(self, page) -> None:  # type: ignore[no-untyped-def]
        """Load a page again; what it complains of while it is left is no error."""
        page.reload()
        page.wait_for_selector("#prompt textarea")
        left = ("AbortError: signal is aborted", "Connection errored out")
        self.errors[:] = [e for e in self.errors if not any(each in e for each in left)]

    def open(  # type: ignore[no-untyped-def]
        self,
        url: str,
        width: int = 1280,
        height: int = 900,
        color_scheme: str = "light",
        script: str = "",
    ):
        """A page in a window of that many pixels, with a script of ours from the beginning; with
        one it is not waited for."""
        context = self.chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=color_scheme
        )
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.set_default_navigation_timeout(PATIENCE)
        page.on("pageerror", lambda error: self._note(str(error)))
        page.on("console", lambda line: line.type == "error" and self._note(line.text))
        page.on("request", lambda request: self.requests.append(request.url))
        if script:
            page.add_init_script(script)
            page.goto(url, wait_until="commit")
            return page
        page.goto(url)
        page.wait_for_selector("#prompt textarea")
        return page


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fake_models.Studio:
    return fake_models.Studio(tmp_path, monkeypatch.setattr, monkeypatch.setitem)


@pytest.fixture
def service(fakes: fake_models.Studio, tmp_path: Path) -> Iterator[Service]:
    """A service on models without weights, of which nobody is told yet."""
    with RunFolder(tmp_path / "out") as folder:
        service = Service(Engine(), folder)
        yield service
        service.stop()


@pytest.fixture(scope="session")
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def tiny_models(tiny_diffusion_folder: Path) -> Iterator[None]:
    """The tiny model in place of the shipped one."""
    with pytest.MonkeyPatch.context() as patch:
        spec = replace(
            families.shipped()[families.DEFAULT_MODEL],
            folder=tiny_diffusion_folder,
            context=read_context(tiny_diffusion_folder),
        )
        patch.setitem(families.shipped(), families.DEFAULT_MODEL, spec)  # type: ignore[arg-type]
        yield


@pytest.fixture(scope="module")
def site(
    tiny_models: None,
    tiny_clip_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """The page on tiny models, served as `generate-ui` serves it."""
    with serve(tmp_path_factory.mktemp("ui"), tiny_clip_folder) as site:
        yield site


@pytest.fixture(scope="module")
def fake_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeSite]:
    """One site for the tests of a file."""
    with serve_fakes(tmp_path_factory.mktemp("fake_site")) as site:
        yield site


@pytest.fixture
def quick(fake_site: FakeSite) -> Iterator[FakeSite]:
    """The same, as it was at first however the test left it."""
    yield fake_site
    for job in fake_site.service.queue.running:  # of a test that failed
        job.cancel.stop()
    for name in ("fake", "other"):
        fake_site.fakes.pipelines[name] = fake_models.FakePipeline()
    fake_site.fakes.jury.nan_for = lambda value: False
    fake_site.service.engine._pipelines.clear()
    fake_site.service.engine.batch_size = None


@pytest.fixture
def fixed(quick: FakeSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a model that `quick` serves, which draws images of one size."""
    spec = replace(
        fake_models.spec("fixed", tmp_path, ("guidance",)),
        defaults={"width": 64, "height": 64, "guidance": 3.0},
    )
    monkeypatch.setitem(families.shipped(), spec.name, spec)
    monkeypatch.setitem(quick.fakes.pipelines, spec.name, fake_models.FakePipeline())
    return spec.name


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(FLAGS), timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture
def browser(chromium: object) -> Iterator[Browser]:
    """A browser that may complain of nothing and talk to nobody but us."""
    watched = Browser(chromium)
    yield watched
    for context in list(chromium.contexts):  # type: ignore[attr-defined]
        context.close()
    assert watched.errors == []


@pytest.fixture(scope="session")
def axe() -> str:
    return (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
