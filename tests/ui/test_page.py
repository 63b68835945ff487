from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gen.engine import Engine
from gen.request import SETTINGS
from gen.run_folder import RunFolder
from pipelines import specs
from ui.studio import Studio

page = pytest.importorskip("ui.page", reason="gradio is not installed")


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    with RunFolder(tmp_path / "out") as folder:
        yield Studio(Engine(), folder)


def controls(studio: Studio) -> dict:
    blocks = page.build(studio).blocks.values()
    return {b.elem_id: b for b in blocks if getattr(b, "elem_id", None) in SETTINGS}


def test_every_setting_of_a_known_model_has_a_field_with_its_default(studio: Studio) -> None:
    spec = specs.SPECS[specs.DEFAULT_MODEL]
    fields = controls(studio)
    taken = {name for spec in specs.SPECS.values() for name in spec.settings}
    of_files = {
        "init_image",
        "keep_rows",
        "lora",
        "vae",
        "embedding",
    }  # a visitor has no business with this machine's
    assert taken >= of_files
    everywhere = {"prompt", "model", "seed", "candidates", "top_k"}
    assert fields.keys() == everywhere | taken - of_files
    assert {name: fields[name].value for name in spec.defaults} == dict(spec.defaults)
    assert fields["candidates"].value == 16
    assert fields["seed"].value is None
    assert all(field.label for field in fields.values())


def test_a_model_hides_the_settings_that_it_does_not_take(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = specs.SPECS[specs.DEFAULT_MODEL]
    other = replace(
        spec, name="other", settings=("steps", "temperature"), defaults={"temperature": 0.5}
    )
    monkeypatch.setitem(specs.SPECS, "other", other)
    fields = controls(studio)
    assert fields["steps"].visible
    assert not fields["temperature"].visible

    _, steps, sampler, temperature = page._fitted(["steps", "sampler", "temperature"], other)
    assert (steps.visible, sampler.visible, temperature.visible) == (True, False, True)
    assert temperature.value == 0.5


def test_what_a_hidden_field_holds_is_not_sent(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model is asked only for what it takes, whatever was filled in for another before."""
    asked: list[dict] = []

    def stop(studio: Studio, values: dict, watch: object) -> None:
        asked.append(values)
        raise InterruptedError

    monkeypatch.setattr(page, "_drawn", stop)
    fields = controls(studio)
    built = page.build(studio)
    [draw] = [function.fn for function in built.fns.values() if function.name == "draw"]
    by_name = {b.elem_id: b for b in built.blocks.values() if getattr(b, "elem_id", "") in fields}
    for model, sent in (("stickers", "steps"), ("stickers-dalle", "temperature")):
        values = dict.fromkeys(by_name.values(), 1) | {by_name["model"]: model}
        with pytest.raises(InterruptedError):
            draw(values)
        assert {"steps", "temperature"} & asked[-1].keys() == {sent}
        assert {"prompt", "seed", "guidance", "model"} <= asked[-1].keys()


def test_nothing_is_counted_and_nothing_is_for_other_programs(studio: Studio) -> None:
    built = page.build(studio)
    assert not built.analytics_enabled
    assert "public" not in {function.api_visibility for function in built.fns.values()}
    [draw] = [function for function in built.fns.values() if function.name == "draw"]
    assert draw.concurrency_limit == 1
