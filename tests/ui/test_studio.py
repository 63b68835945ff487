import threading
from pathlib import Path

import pytest

from gen.engine import Engine
from gen.errors import InputError
from gen.events import Cancel
from gen.request import Request
from gen.run_folder import RunFolder
from ui.studio import Studio

REQUEST = Request("a panda", seed=1)


class SlowEngine(Engine):
    """Draws until it is told to stop, and notes who else was drawing then."""

    def draw(self, plan, folder=None, *, cancel: Cancel, **_):  # type: ignore[no-untyped-def]
        self.drawing = getattr(self, "drawing", 0) + 1
        self.most = max(getattr(self, "most", 0), self.drawing)
        self.began = getattr(self, "began", threading.Event())
        self.began.set()
        while not cancel.stopped:
            threading.Event().wait(0.001)
        self.drawing -= 1


@pytest.fixture
def engine() -> SlowEngine:
    engine = SlowEngine()
    engine.began = threading.Event()
    return engine


def test_stop_ends_the_job_and_refuses_the_ones_that_wait(
    engine: SlowEngine, tmp_path: Path
) -> None:
    with RunFolder(tmp_path) as folder:
        studio = Studio(engine, folder)
        errors: list[Exception] = []

        def ask() -> None:
            try:
                studio.draw(REQUEST)
            except InputError as error:
                errors.append(error)

        askers = [threading.Thread(target=ask) for _ in range(3)]
        for asker in askers:
            asker.start()
        assert engine.began.wait(10)
        studio.stop()
        assert engine.drawing == 0  # stop has waited
        for asker in askers:
            asker.join(10)

        assert engine.most == 1
        assert len(errors) == 2
        assert "shutting down" in str(errors[0])


def test_a_bad_request_is_refused_while_another_is_drawn(
    engine: SlowEngine, tmp_path: Path
) -> None:
    with RunFolder(tmp_path) as folder:
        studio = Studio(engine, folder)
        drawing = threading.Thread(target=studio.draw, args=(REQUEST,))
        drawing.start()
        assert engine.began.wait(10)
        with pytest.raises(InputError, match="width 65"):
            studio.draw(Request("a panda", width=65))
        studio.stop()
        drawing.join(10)
