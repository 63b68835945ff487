"""Samplers by name, as a table over diffusers' schedulers. Importing this loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# A sampler takes the noise schedule that its model was trained with ("default"), or respaces it.
_RESPACED = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}


@dataclass(frozen=True)
class Schedule:
    """How the noise levels of the steps are spaced."""

    a1111: str  # "Schedule type" in the metadata that other tools read
    overrides: Mapping[str, Any]
    aliases: tuple[str, ...] = ()  # what else other tools call it


SCHEDULES: Mapping[str, Schedule] = {
    # Theirs start from evenly spaced steps, as every model's own does.
    "default": Schedule("Automatic", {}, ("normal", "simple", "uniform", "ddim", "ddim_uniform")),
    "karras": Schedule("Karras", {**_RESPACED, "use_karras_sigmas": True}),
    "exponential": Schedule("Exponential", {**_RESPACED, "use_exponential_sigmas": True}),
    "trailing": Schedule("SGM Uniform", {**_RESPACED, "timestep_spacing": "trailing"}),
}

_ALL = ("default", "karras", "exponential", "trailing")
_SIGMAS_ONLY = ("default", "karras", "exponential")
_SPACING_ONLY = ("default", "trailing")


@dataclass(frozen=True)
class Sampler:
    """One way from noise to image.

    `stochastic` samplers draw fresh noise on the way. `schedules` are the ones that the scheduler
    class knows. `steps` counts what the user asks for; some samplers evaluate the network more
    often than that.
    """

    scheduler: str  # class name in diffusers
    a1111: str  # "Sampler" in the metadata that other tools read
    schedules: tuple[str, ...]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    stochastic: bool = False
    max_steps: int = 1000
    aliases: tuple[str, ...] = ()  # what else other tools call it, written in any way: see names.py
    twice: bool = False  # evaluates the network twice for each step but the last
    more: int = 0  # evaluations beside those

    def evaluations(self, steps: int) -> int:
        """Return how often the network is evaluated for a candidate."""
        return steps * (1 + self.twice) - self.twice + self.more


_DPMPP_2 = {"solver_order": 2, "solver_type": "midpoint", "lower_order_final": True}

# LMSDiscreteScheduler needs scipy and DPMSolverSDEScheduler torchsde, which are no dependencies.
SAMPLERS: Mapping[str, Sampler] = {
    "euler": Sampler("EulerDiscreteScheduler", "Euler", _ALL),
    "euler_a": Sampler(
        "EulerAncestralDiscreteScheduler",
        "Euler a",
        _SPACING_ONLY,
        stochastic=True,
        aliases=("euler_ancestral",),
    ),
    "ddim": Sampler("DDIMScheduler", "DDIM", _SPACING_ONLY),
    "ddpm": Sampler("DDPMScheduler", "DDPM", _SPACING_ONLY, stochastic=True),
    "dpmpp_2m": Sampler(
        "DPMSolverMultistepScheduler",
        "DPM++ 2M",
        _ALL,
        {**_DPMPP_2, "algorithm_type": "dpmsolver++"},
    ),
    "dpmpp_2m_sde": Sampler(
        "DPMSolverMultistepScheduler",
        "DPM++ 2M SDE",
        _ALL,
        {**_DPMPP_2, "algorithm_type": "sde-dpmsolver++"},
        stochastic=True,
        aliases=("dpmpp_2m_sde_gpu",),
    ),
    "dpmpp_2s": Sampler(
        "DPMSolverSinglestepScheduler",
        "DPM++ 2S",
        _SIGMAS_ONLY,
        {**_DPMPP_2, "algorithm_type": "dpmsolver++"},
    ),
    "heun": Sampler("HeunDiscreteScheduler", "Heun", _ALL, twice=True),
    "kdpm2": Sampler("KDPM2DiscreteScheduler", "DPM2", _ALL, twice=True),
    "kdpm2_a": Sampler(
        "KDPM2AncestralDiscreteScheduler",
        "DPM2 a",
        _ALL,
        stochastic=True,
        twice=True,
        aliases=("dpm_2_ancestral",),
    ),
    "unipc": Sampler(
        "UniPCMultistepScheduler", "UniPC", _ALL, {"solver_type": "bh2"}, aliases=("uni_pc_bh2",)
    ),
    "deis": Sampler(
        "DEISMultistepScheduler",
        "DEIS",
        _ALL,
        {"algorithm_type": "deis", "solver_type": "logrho", "solver_order": 2},
    ),
    # With the Runge-Kutta start skipped, as Stable Diffusion does, PNDM is PLMS.
    "pndm": Sampler("PNDMScheduler", "PLMS", _SPACING_ONLY, {"skip_prk_steps": True}, more=1),
    # A distilled model knows the 50 noise levels that it was distilled on.
    "lcm": Sampler(
        "LCMScheduler",
        "LCM",
        ("default",),
        {"original_inference_steps": 50},
        stochastic=True,
        max_steps=50,
    ),
}

# The stock pipeline writes these into every scheduler that it is given; so that the same folder
# draws the same image here, and no sampler clips latents as if they were pixels, so do we.
_STOCK_REWRITES = {"steps_offset": 1, "clip_sample": False}


def sampler_of_scheduler(class_name: str) -> str | None:
    """Return the sampler that runs a diffusers scheduler class, or None if there is none."""
    return next((name for name, row in SAMPLERS.items() if row.scheduler == class_name), None)


def check_sampler(sampler: str, schedule: str, steps: int) -> None:
    """Raise ValueError with the choices unless `sampler` is one and takes these values."""
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}; choose from {', '.join(SAMPLERS)}")
    row = SAMPLERS[sampler]
    if schedule not in row.schedules:
        raise ValueError(
            f"sampler {sampler!r} has no schedule {schedule!r}; it has {', '.join(row.schedules)}"
        )
    if not 1 <= steps <= row.max_steps:
        raise ValueError(f"steps is {steps}; {sampler!r} takes 1 to {row.max_steps}")


def make_scheduler(sampler: str, schedule: str, config: Mapping[str, Any]) -> Any:
    """Make a diffusers scheduler for `sampler` from a model's scheduler_config.json.

    Raises ValueError with the choices for an unknown sampler, or a schedule that it lacks.
    """
    check_sampler(sampler, schedule, steps=1)
    import diffusers

    row = SAMPLERS[sampler]
    scheduler_class = getattr(diffusers, row.scheduler)
    settings = {**config, **_STOCK_REWRITES, **row.overrides, **SCHEDULES[schedule].overrides}
    return scheduler_class.from_config(settings)
