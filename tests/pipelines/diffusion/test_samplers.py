import inspect
import subprocess
import sys

import diffusers
import pytest
import torch

from pipelines.diffusion.samplers import (
    SAMPLERS,
    SCHEDULES,
    check_sampler,
    make_scheduler,
    sampler_of_scheduler,
)

CONFIG = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}


def test_import_loads_no_torch() -> None:
    code = (
        "import sys, pipelines, pipelines.diffusion.samplers, pipelines.checkpoints.specs; "
        "print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_required_samplers_are_there() -> None:
    required = "euler euler_a ddim dpmpp_2m dpmpp_2s heun unipc deis pndm lcm"
    assert set(required.split()) <= SAMPLERS.keys()


@pytest.mark.parametrize("name", SAMPLERS)
def test_table_agrees_with_the_scheduler_class(name: str) -> None:
    row = SAMPLERS[name]
    scheduler = getattr(diffusers, row.scheduler)
    settings = inspect.signature(scheduler.__init__).parameters
    assert ("karras" in row.schedules) == ("use_karras_sigmas" in settings)
    assert ("exponential" in row.schedules) == ("use_exponential_sigmas" in settings)
    assert set(row.schedules) <= SCHEDULES.keys()
    assert row.overrides.keys() <= settings.keys()
    if row.stochastic:
        assert "generator" in inspect.signature(scheduler.step).parameters


@pytest.mark.parametrize("name", [n for n, row in SAMPLERS.items() if "trailing" in row.schedules])
def test_trailing_begins_at_the_last_timestep(name: str) -> None:
    scheduler = make_scheduler(name, "trailing", CONFIG)
    scheduler.set_timesteps(8)
    assert float(scheduler.timesteps[0]) == pytest.approx(999, abs=1)
    assert float(scheduler.timesteps.min()) > 50  # default spacing ends close to 0


@pytest.mark.parametrize("name", [n for n, row in SAMPLERS.items() if "karras" in row.schedules])
def test_karras_is_the_formula(name: str) -> None:
    scheduler = make_scheduler(name, "karras", CONFIG)
    scheduler.set_timesteps(8)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bars = torch.cumprod(1 - betas, dim=0)
    sigmas = ((1 - alpha_bars) / alpha_bars) ** 0.5
    # Karras et al., arXiv 2206.00364, equation 5, with ρ = 7.
    ramp = torch.linspace(0, 1, 8, dtype=torch.float64)
    low, high = float(sigmas[0]) ** (1 / 7), float(sigmas[-1]) ** (1 / 7)
    expected = (high + ramp * (low - high)) ** 7
    for sigma in expected:
        assert float((scheduler.sigmas.double() / sigma - 1).abs().min()) < 1e-3


def test_what_the_stock_pipeline_rewrites_is_rewritten() -> None:
    config = make_scheduler("ddim", "default", CONFIG).config
    assert (config.steps_offset, config.clip_sample) == (1, False)
    assert config.prediction_type == "epsilon"


def test_default_schedule_is_the_one_of_the_folder() -> None:
    config = {**CONFIG, "use_karras_sigmas": True}
    assert make_scheduler("euler", "default", config).config.use_karras_sigmas
    exponential = make_scheduler("euler", "exponential", config).config
    assert (exponential.use_karras_sigmas, exponential.use_exponential_sigmas) == (False, True)


def test_sampler_of_scheduler() -> None:
    assert sampler_of_scheduler("PNDMScheduler") == "pndm"
    assert sampler_of_scheduler("DPMSolverMultistepScheduler") == "dpmpp_2m"
    assert sampler_of_scheduler("FlowMatchEulerDiscreteScheduler") is None


def test_errors_list_the_choices() -> None:
    with pytest.raises(ValueError, match="'dpm'; choose from euler, euler_a, ddim"):
        check_sampler("dpm", "default", 20)
    with pytest.raises(ValueError, match="'ddim' has no schedule 'karras'; it has default, trail"):
        make_scheduler("ddim", "karras", CONFIG)
    with pytest.raises(ValueError, match="steps is 0; 'euler' takes 1 to 1000"):
        check_sampler("euler", "default", 0)
    with pytest.raises(ValueError, match="steps is 51; 'lcm' takes 1 to 50"):
        check_sampler("lcm", "default", 51)


def test_names_for_other_tools_are_unique() -> None:
    assert len({row.a1111 for row in SAMPLERS.values()}) == len(SAMPLERS)
    assert SAMPLERS["dpmpp_2m"].a1111 == "DPM++ 2M"
    assert SCHEDULES["karras"].a1111 == "Karras"
