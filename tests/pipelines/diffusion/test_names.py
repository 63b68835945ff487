"""One table of names: however a tool writes a sampler or a schedule, it is found, or refused."""

from pathlib import Path

import pytest

from gen.errors import InputError
from gen.settings import flags
from gen.settings.prompt_file import PromptFile
from gen.settings.request import SETTINGS, Request, find_setting
from pipelines.diffusion.names import find_sampler, find_schedule
from pipelines.diffusion.samplers import SAMPLERS, SCHEDULES


@pytest.mark.parametrize(
    ("written", "sampler", "schedule"),
    [
        ("DPM++ 2M", "dpmpp_2m", None),
        ("DPM++ 2M Karras", "dpmpp_2m", "karras"),
        ("dpm++ 2m karras", "dpmpp_2m", "karras"),
        ("dpmpp_2m_karras", "dpmpp_2m", "karras"),
        ("k_dpmpp_2m", "dpmpp_2m", None),
        ("k_dpmpp_2m_ka", "dpmpp_2m", "karras"),  # an alias of AUTOMATIC1111
        ("dpmpp_2m_k", "dpmpp_2m", "karras"),  # InvokeAI
        ("sample_dpmpp_2m", "dpmpp_2m", None),  # Fooocus, sd-webui's functions
        ("DPM++ 2M SDE Exponential", "dpmpp_2m_sde", "exponential"),
        ("dpmpp_2m_sde_gpu", "dpmpp_2m_sde", None),  # ComfyUI
        ("Euler a", "euler_a", None),
        ("k_euler_a", "euler_a", None),
        ("k_euler_ancestral", "euler_a", None),  # NovelAI
        ("euler_ancestral", "euler_a", None),
        ("Euler SGM Uniform", "euler", "trailing"),
        ("dpm_2", "kdpm2", None),
        ("k_dpm_2_a", "kdpm2_a", None),
        ("kdpm_2_a", "kdpm2_a", None),
        ("DPM2 a Karras", "kdpm2_a", "karras"),
        ("uni_pc_bh2", "unipc", None),
        ("PLMS", "pndm", None),
        ("ddim", "ddim", None),
    ],
)
def test_a_sampler_in_every_spelling(written: str, sampler: str, schedule: str | None) -> None:
    assert find_sampler(written) == (sampler, schedule)
    request = Request("a panda", sampler=written)
    assert (request.sampler, request.schedule) == (sampler, schedule)


@pytest.mark.parametrize(
    "written", ["DPM++ SDE Karras", "LMS", "Restart", "", "k_", "_k", "a" * 99]
)
def test_what_there_is_not_is_not_taken_for_another(written: str) -> None:
    assert find_sampler(written) is None
    with pytest.raises(InputError, match="must be one of euler"):
        Request("a panda", sampler=written)


@pytest.mark.parametrize(
    ("written", "schedule"),
    [
        ("Automatic", "default"),
        ("Normal", "default"),
        ("simple", "default"),
        ("Uniform", "default"),
        ("DDIM", "default"),  # AUTOMATIC1111's, of evenly spaced steps
        ("ddim_uniform", "default"),  # ComfyUI's
        ("Karras", "karras"),
        ("exponential", "exponential"),
        ("SGM Uniform", "trailing"),
        ("sgm_uniform", "trailing"),
        ("Beta", None),
        ("KL Optimal", None),
    ],
)
def test_a_schedule_in_every_spelling(written: str, schedule: str | None) -> None:
    assert find_schedule(written) == schedule


def test_no_two_rows_share_a_spelling() -> None:
    for name, row in SAMPLERS.items():
        for written in (name, row.a1111, *row.aliases):
            assert find_sampler(written) == (name, None)
    for name, schedule in SCHEDULES.items():
        for written in (name, schedule.a1111, *schedule.aliases):
            assert find_schedule(written) == name


def test_each_sampler_with_each_of_its_schedules_in_one_word() -> None:
    for name, row in SAMPLERS.items():
        for schedule in row.schedules:
            assert find_sampler(f"{row.a1111} {SCHEDULES[schedule].a1111}") == (name, schedule)


def test_a_combination_that_there_is_not_is_an_error_where_it_is_read(tmp_path: Path) -> None:
    message = "sampler 'euler_a' has no schedule 'karras'; it has default, trailing"
    doors = (
        lambda: Request("a panda", sampler="Euler a Karras"),
        lambda: Request("a panda", sampler="euler_a", schedule="karras"),
        lambda: Request.from_json({"prompt": "a panda", "sampler_name": "k_euler_a_karras"}),
        lambda: Request("a panda", schedule="Karras").with_defaults({"sampler": "euler_a"}),
    )
    for door in doors:
        with pytest.raises(InputError) as caught:
            door()
        assert str(caught.value) == message
    file = tmp_path / "rows.txt"
    file.write_text("a panda --sampler Euler\\ a --scheduler Karras\n")
    with pytest.raises(InputError, match="line 1: sampler 'euler_a' has no schedule 'karras'"):
        PromptFile(str(file)).check(lambda row: None)


def test_two_schedules_are_an_error_and_the_same_twice_is_none() -> None:
    with pytest.raises(InputError, match="say one schedule"):
        Request("a panda", sampler="DPM++ 2M Karras", schedule="Exponential")
    request = Request("a panda", sampler="DPM++ 2M Karras", schedule="Karras")
    assert (request.sampler, request.schedule) == ("dpmpp_2m", "karras")


def test_a_row_has_its_own_schedule_and_the_command_the_sampler(tmp_path: Path) -> None:
    options = flags.parse(["--sampler", "DPM++ 2M Karras", "-f", "rows.txt"])
    settings = flags.given_settings(options)
    assert settings == {"sampler": "dpmpp_2m", "schedule": "karras"}
    file = tmp_path / "rows.txt"
    file.write_text("a panda --schedule Exponential\n")
    [row] = PromptFile(str(file), settings)
    assert (row.request.sampler, row.request.schedule) == ("dpmpp_2m", "exponential")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("CLIP_stop_at_last_layers", "clip_skip"),
        ("noise_seed", "seed"),
        ("num_inference_steps", "steps"),
        ("sampler_index", "sampler"),
        ("schedule_type", "schedule"),
        ("positive_prompt", "prompt"),
        ("sd_model_checkpoint", "model"),
        ("W", "width"),
    ],
)
def test_other_tools_names_of_settings(key: str, name: str) -> None:
    assert find_setting(key).name == name


def test_no_two_settings_share_a_name() -> None:
    names = [key for name, setting in SETTINGS.items() for key in (name, *setting.aliases)]
    assert len(names) == len(set(names))


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean euler_a"):
        SETTINGS["sampler"].read("euler_b")
