import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gen import models
from gen.engine import Engine
from gen.metadata import Metadata, parameters
from gen.models import DEFAULT_MODEL
from gen.run_folder.folder import RunFolder
from gen.run_folder.history import History
from gen.settings.request import SETTINGS, Request
from pipelines import families
from pipelines.checkpoints import specs
from ui.service.service import Service

page = pytest.importorskip("ui.page.page", reason="gradio is not installed")

from ui.page import start  # noqa: E402
from ui.page.details import described, facts  # noqa: E402
from ui.page.form import default_of, examples, field_of  # noqa: E402
from ui.page.gallery import ON_A_PAGE  # noqa: E402
from ui.page.variations import nearby  # noqa: E402
from ui.service.catalog import Catalog  # noqa: E402
from ui.service.settings import EDITS, offered  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with RunFolder(tmp_path / "out") as folder:
        yield Service(Engine(), folder)


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> specs.Spec:
    """A model that takes other settings, or the same with other defaults."""
    spec = replace(
        models.shipped()[DEFAULT_MODEL],
        name="other",
        settings=("guidance", "temperature"),
        defaults={"guidance": 9.0, "temperature": 0.5},
    )
    monkeypatch.setitem(families.shipped(), "other", spec)  # type: ignore[arg-type]
    return spec


def controls(service: Service) -> dict:
    blocks = page.build(service).blocks.values()
    known = {*SETTINGS, "model"}
    return {b.elem_id: b for b in blocks if getattr(b, "elem_id", None) in known}


def test_every_setting_of_a_model_has_a_field_with_its_default(service: Service) -> None:
    spec = models.shipped()[DEFAULT_MODEL]
    present = [each for each in models.shipped().values() if each.folder.is_dir()]
    fields = controls(service)
    # A visitor has no business with this machine's files; LoRAs have sliders.
    of_files = {name for name, each in SETTINGS.items() if each.local} - {"vae"}  # of its owner
    recorded = {name for name, each in SETTINGS.items() if not each.asked}
    with_an_image = {*EDITS, *recorded}
    taken = {name for each in present for name in each.settings} - of_files - with_an_image
    whole = {"prompt", "model", "seed", "candidates", "top_k", "search", "budget", "upscale"}
    assert fields.keys() == whole | taken
    assert {name: fields[name].value for name in spec.defaults} == {
        name: str(value) for name, value in spec.defaults.items()
    }
    assert fields["candidates"].value == 16
    assert fields["seed"].value is None
    assert all(field.label for field in fields.values())


def test_only_models_that_are_there_are_offered(
    service: Service, other: specs.Spec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone = replace(other, name="gone", folder=tmp_path / "gone")
    monkeypatch.setitem(families.shipped(), "gone", gone)  # type: ignore[arg-type]
    offered = {name for _, name in controls(service)["model"].choices}
    assert {DEFAULT_MODEL, "other"} <= offered
    assert "gone" not in offered


def test_settings_follow_from_the_chosen_models(other: specs.Spec) -> None:
    both = Catalog().specs([DEFAULT_MODEL, "other"])
    assert {"steps", "temperature", "guidance"} <= set(offered(both))
    assert offered([other]) == ["guidance", "temperature"]
    assert default_of("guidance", [other]) == 9
    assert default_of("guidance", both) is None  # each its own
    assert not field_of(SETTINGS["steps"], [other]).visible
    assert field_of(SETTINGS["temperature"], both).value == "0.5"
    assert Catalog().specs([]) == [models.shipped()[DEFAULT_MODEL]]


def test_fields_follow_when_models_are_chosen_unless_they_were_changed(
    service: Service, other: specs.Spec
) -> None:
    built = page.build(service)
    [fit] = [function for function in built.fns.values() if function.name == "fit"]
    names = [block.elem_id for block in fit.inputs[2:]]

    def chosen(models: list[str], before: list[str], **values: str) -> dict[str, object]:
        fields = dict(zip(names, fit.fn(models, before, *map(values.get, names))[1:], strict=True))
        return {name: fields[name].value for name in ("guidance", "steps") if fields[name].visible}

    first = {"guidance": "3.0", "steps": "20"}
    assert chosen([DEFAULT_MODEL, "other"], [DEFAULT_MODEL], **first) == {
        "guidance": None,  # each its own
        "steps": "20",
    }
    both = {"guidance": "", "steps": "20"}
    assert chosen(["other"], [DEFAULT_MODEL, "other"], **both) == {"guidance": "9.0"}
    assert chosen([DEFAULT_MODEL], [DEFAULT_MODEL, "other"], **both) == first
    changed = {"guidance": "7", "steps": "20"}
    assert chosen(["other"], [DEFAULT_MODEL, "other"], **changed) == {"guidance": "7"}


def test_what_a_hidden_field_holds_is_not_sent(service: Service, other: specs.Spec) -> None:
    import gradio as gr

    from ui.page.form import build_form, build_prompt, build_quick

    with gr.Blocks():
        form = build_form(service, build_prompt(), *build_quick(service))
    values = ["a panda", ["other"], *[1] * len(form.fields)]
    assert form.asked(values).keys() == {
        *("prompt", "model", "candidates", "top_k", "seed", "search", "budget", "upscale"),
        *("guidance", "temperature"),
    }
    values = ["a panda", ["other", DEFAULT_MODEL], *[None] * len(form.fields)]
    assert form.asked(values)["model"] == f"{DEFAULT_MODEL},other"  # whichever was clicked first
    values = ["a panda", [DEFAULT_MODEL], *[None] * len(form.fields)]
    assert form.asked(values) == {"prompt": "a panda", "model": DEFAULT_MODEL}


def test_the_examples_are_of_the_models_world(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = replace(models.shipped()[DEFAULT_MODEL], folder=specs.CHECKPOINTS / "stickers")
    monkeypatch.setattr(Service, "models", {DEFAULT_MODEL: shipped})
    assert len(examples(service)) >= 5
    first = start.start(service, [shipped])  # what a newcomer sees
    assert first.count('data-do="draw"') == first.count("<img src=") == 6
    assert "the best of 16 that stickers drew" in first
    monkeypatch.setattr(start, "DRAWN_BY", "another")  # which is not served: no image is its own
    assert "<img" not in start.start(service, [shipped])
    monkeypatch.setattr("ui.page.form.EXAMPLES", ("a large sunflower", "a stained-glass cathedral"))
    assert examples(service) == ["a large sunflower"]


def test_variations_differ_in_one_setting_and_keep_the_seed(service: Service) -> None:
    spec = models.shipped()[DEFAULT_MODEL]
    request = Request("a panda", model=spec.name, seed=0).with_defaults(dict(spec.defaults))
    varied = nearby(replace(request, steps=200), service)
    assert len(varied) >= 4
    for each in varied.values():
        assert each.seed == 0
        assert each.candidates == 1
        changed = {k for k, v in each.given().items() if v != request.given().get(k)}
        assert len(changed - {"candidates", "top_k", "steps"}) <= 1
    assert not any("300" in name for name in varied)  # more than may be asked for


def test_a_page_of_a_large_gallery_opens_no_more_than_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    for number in range(1, 10_001):
        request = {"prompt": f"panda {number}", "seed": number, "candidates": 1, "top_k": 1}
        rows.append({"event": "prompt", "number": number, "key": str(number), "request": request})
        file = f"{number:04d}-r1-{number}.png"
        rows.append({"event": "picture", "number": number, "seed": number, "file": file})
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    looked_at: list[Path | None] = []
    monkeypatch.setattr("ui.page.thumbnails.opened", looked_at.append)
    monkeypatch.setattr(History, "path", lambda self, image: Path(__file__))
    with RunFolder(tmp_path) as folder:
        service = Service(Engine(), folder)
        [turn] = {f.fn for f in page.build(service).fns.values() if f.name == "turn"}
        for asked, number, first in ((0, 0, 10_000), (1, 1, 9952), (999, 208, 16), (-1, 0, 10_000)):
            looked_at.clear()
            shown, _, told, tiles, *_ = turn(asked)
            assert shown == number
            assert told == "<p>10000 prompts, the latest first</p>"
            assert f"panda {first}<" in tiles
            assert f"panda {first + 1}<" not in tiles
            assert 0 < len(looked_at) <= ON_A_PAGE < 50


def test_nothing_is_counted_and_nothing_is_for_other_programs(service: Service) -> None:
    built = page.build(service)
    assert not built.analytics_enabled
    assert "public" not in {function.api_visibility for function in built.fns.values()}
    drawing = [function for function in built.fns.values() if function.name == "draw"]
    assert drawing
    # the queue behind it serves visitors one by one, in turn
    assert all(function.concurrency_limit > 1 for function in drawing)


@pytest.mark.fault("texts inside images", "markup in texts")
def test_what_an_image_says_is_shown_letter_by_letter() -> None:
    said = "<script>alert(1)</script> {{x}} ${y}\nSteps: 3, Model: <img src=x onerror=z>, Seed: 1"
    html = facts(described(parameters.from_text(said)))
    assert "<script" not in html
    assert "<img" not in html
    assert not {"{", "}", "$"} & set(html)
    assert "&lt;script&gt;" in html


def test_details_name_files_and_never_where_they_lie() -> None:
    request = Request(
        "a fox", seed=1, lora="/srv/ink.safetensors:0.5,/srv/b.safetensors", vae="/srv/vae"
    )
    shown = " ".join(map(str, described(Metadata(request)).values()))
    assert "ink.safetensors:0.5,b.safetensors" in shown
    assert "/srv" not in shown
