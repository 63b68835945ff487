"""What visitors can choose by name, and what a server's owner lets them."""

from collections.abc import Iterator
from pathlib import Path

import fake_models
import pytest
from fake_site import FakeSite

from gen.errors import InputError
from gen.settings.request import Request
from ui.service.catalog import Catalog, UnknownModelError, described, read_catalog
from ui.service.rules import LIMITS, Rules, read_rules
from ui.service.service import Service
from ui.service.styles import Style, apply, read_styles


@pytest.fixture
def served(quick: FakeSite, tmp_path: Path) -> Iterator[Service]:
    """A service whose catalog and rules a test may change."""
    service = quick.service
    before = service.catalog, service.rules
    yield service
    service.catalog, service.rules = before


def test_models_are_found_in_folders_and_named_by_their_folders(
    tiny_diffusion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(tiny_diffusion_folder)
    (tmp_path / "notes").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model_index.json").write_text("{")
    catalog = read_catalog(folders=[tmp_path])
    assert len(catalog.found) >= 1  # both are one folder, by its own name
    assert "broken" not in catalog.models
    name, spec = next(iter(catalog.found.items()))
    assert catalog.find(name) is spec
    assert catalog.name_of(spec.address) in catalog.found
    told, draws, facts = described(spec).split("\n")
    assert (told, draws) == (spec.name, spec.draws)
    assert facts.split(" · ")[0].endswith(" MB")
    assert facts.endswith("✓ fits in memory")
    with monkeypatch.context() as patch:
        patch.setattr("ui.service.catalog.free_on_host", lambda: 0)
        assert described(spec).endswith("✗ does not fit into memory")


def test_a_model_that_is_named_draws_first(tiny_diffusion_folder: Path) -> None:
    catalog = read_catalog([str(tiny_diffusion_folder)])
    assert catalog.default == tiny_diffusion_folder.name
    assert next(iter(catalog.models)) == catalog.default
    assert catalog.specs([]) == [catalog.models[catalog.default]]


def test_a_folder_that_is_none_is_told() -> None:
    with pytest.raises(InputError, match="not a folder"):
        read_catalog(folders=[Path("/nowhere/at/all")])


def test_visitors_name_loras_and_never_paths(served: Service, tmp_path: Path) -> None:
    file = tmp_path / "ink.safetensors"
    file.touch()
    served.catalog = read_catalog(lora_folders=[tmp_path])
    made = served.catalog.with_files(Request("a", lora="ink:0.5"))
    assert made.lora == f"{file}:0.5"
    for name in (str(file), "../ink", "nothing:1", f"{file}:0.5"):
        with pytest.raises(InputError, match="not served here"):
            served.catalog.with_files(Request("a", lora=name))
    served.catalog = Catalog()
    with pytest.raises(InputError, match="not a setting for visitors"):
        served.plan(Request("a", lora=str(file)))


def test_what_the_owner_rules_holds_at_every_door(served: Service) -> None:
    served.rules = Rules(models=("fake",), settings=("steps",), most={**LIMITS, "steps": 9})
    assert list(served.models) == ["fake"]
    with pytest.raises(UnknownModelError):
        served.plan(Request("a", model="other"))
    with pytest.raises(InputError, match="guidance: not a setting for visitors"):
        served.plan(Request("a", guidance=2.0))
    with pytest.raises(InputError, match="steps 10: at most 9"):
        served.plan(Request("a", steps=10))
    assert served.plan(Request("a", steps=9)).count == 16
    assert served.offered(served.models.values()) == ["steps"]
    served.rules = Rules(models=("other",), delete=False)
    [(spec, _)] = served.plan(Request("a")).models  # not the default, which nobody may choose
    assert spec.name == "other"
    for refused in (lambda: served.delete({}), lambda: served.restore({}), served.empty_deleted):
        with pytest.raises(InputError, match="delete nothing"):
            refused()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("models = 3", "must be a list"),
        ("colour = 1", "unknown colour"),
        ('settings = ["magic"]', "there is no magic"),
        ('delete = "no"', "must be true or false"),
        ("[most]\nsteps = 0", "above 0"),
        ("[most]\nlove = 3", "there are limits for"),
        ("= 3", "not TOML"),
    ],
)
def test_rules_that_make_no_sense(text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "visitors.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_rules(path)


def test_rules_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "visitors.toml"
    path.write_text('models = ["a"]\ndelete = false\n[most]\nsteps = 50\n')
    rules = read_rules(path)
    assert rules.models == ("a",)
    assert not rules.delete
    assert rules.most == {**LIMITS, "steps": 50}


def test_styles_of_a_file_go_around_the_prompt(tmp_path: Path) -> None:
    path = tmp_path / "styles.csv"
    path.write_text(
        'name,prompt,negative_prompt\nHeading,,\nInk,"ink drawing of {prompt}, fine",colour\n'
        "Glow,glowing,\n"
    )
    ink, glow = read_styles(path)
    assert apply([ink, glow], "a fox", "dogs") == (
        "ink drawing of a fox, fine, glowing",
        "dogs, colour",
    )
    assert apply([Style("none")], "a fox", "") == ("a fox", "")
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="columns"):
        read_styles(path)


def test_a_fake_model_has_no_size_to_tell(tmp_path: Path) -> None:
    assert described(fake_models.spec("fake", tmp_path / "fake")) == "fake\nnoise"
