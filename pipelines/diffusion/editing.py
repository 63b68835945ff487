"""What an edit holds fixed in latent space, and where on the way from noise it begins.

Meng et al., SDEdit (arXiv 2108.01073); blending at each step, and steps that are taken again, after
Lugmayr et al., RePaint (arXiv 2201.09865, section 4.2); what is drawn led to fit what is given by
the gradient of where it does not (reconstruction guidance; Ho et al., Video Diffusion Models, arXiv
2204.03458, section 3.1); UNets that read mask and image beside the latents as in Rombach et al.
(arXiv 2112.10752, section 4.5).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from pipelines import decoding
from pipelines.denoising import predict_clean, predict_output, slerp
from pipelines.drafts import to_image, to_pixels
from pipelines.editing import SecondPass, Start

if TYPE_CHECKING:
    from pipelines.diffusion.pipeline import LatentDiffusion


# Between which ᾱ steps are taken again, and led: in more noise nothing is seen of what is given,
# in less everything has its place.
UNDECIDED = (0.001, 0.25)
VARIATION = 0.2  # how far variations are from their base, if that is not said


@dataclass(frozen=True)
class Given:
    """What an edit holds fixed, with a row for each of N candidates."""

    clean: torch.Tensor  # (N, C, h, w) float32, the latents of the images
    noise: torch.Tensor  # (N, C, h, w) float32, which each candidate began with
    mask: torch.Tensor | None  # (1, 1, h, w) float32, 1 where it is drawn, 0 where it is given
    beside: torch.Tensor | None  # (N, 1 + C, h, w), what a UNet that inpaints reads too
    guidance: float = 0.0  # how strongly what is drawn is led to fit what is given

    def rows(self, index: torch.Tensor) -> "Given":
        """Return what is given to some of the candidates."""
        beside = None if self.beside is None else self.beside[index]
        return replace(self, clean=self.clean[index], noise=self.noise[index], beside=beside)

    def joined(self, other: "Given") -> "Given":
        """Return what is given to the candidates of both."""
        beside = None
        if self.beside is not None and other.beside is not None:
            beside = torch.cat([self.beside, other.beside])
        clean, noise = torch.cat([self.clean, other.clean]), torch.cat([self.noise, other.noise])
        return replace(self, clean=clean, noise=noise, beside=beside)

    def keep(self, latents: torch.Tensor, scheduler: Any, timestep: torch.Tensor) -> torch.Tensor:
        """Return latents with what is given in place, as noisy as it is at the timestep, (1,), that
        comes next; clean where none does, (0,)."""
        if self.mask is None or self.beside is not None:
            return latents
        given = self.clean
        if len(timestep):
            given = scheduler.add_noise(given, self.noise, timestep)
        return (1 - self.mask) * given + self.mask * latents

    def predict(
        self,
        network: Callable[[torch.Tensor], torch.Tensor],
        alpha_bar: float,
        prediction_type: str,
        x_t: torch.Tensor,
    ) -> torch.Tensor:
        """Return a network's output (N, C, h, w) for latents x_t, which reads what is beside them.

        With `guidance` it is moved so that the clean latents that follow of it fit better what is
        given: what would reach across the edge of the mask moves. By the gradient of the squared
        error there, which goes through the network: it costs about three evaluations, and memory
        for what all layers compute.
        """
        if self.beside is not None:  # and sees what is given
            return network(torch.cat([x_t, self.beside], dim=1))
        if self.mask is None or self.guidance == 0 or not undecided(alpha_bar):
            return network(x_t)
        with torch.inference_mode(False), torch.enable_grad():
            x = x_t.clone().requires_grad_()  # what inference made cannot be differentiated
            clean = predict_clean(x, network(x), alpha_bar, prediction_type)
            error = (1 - self.mask.clone()) * (clean - self.clean)
            [gradient] = torch.autograd.grad(error.square().sum(), x)
        led = clean.detach() - self.guidance * math.sqrt(alpha_bar) / 2 * gradient
        return predict_output(x_t, led, alpha_bar, prediction_type)

    def renew(
        self,
        clean: torch.Tensor,
        scheduler: Any,
        timestep: torch.Tensor,
        generators: list[torch.Generator],
    ) -> torch.Tensor:
        """Return latents for another go at a timestep, (1,), of what was predicted there and what
        is given, with new noise: what is drawn thus comes to know what is around it."""
        assert self.mask is not None, "nothing is given"
        whole = (1 - self.mask) * self.clean + self.mask * clean
        noise = torch.cat([torch.randn(1, *clean.shape[1:], generator=g) for g in generators])
        latents: torch.Tensor = scheduler.add_noise(
            whole, noise.to(whole.device), timestep.repeat(len(whole))
        )
        return latents


def undecided(alpha_bar: float) -> bool:
    """Return whether at this ᾱ things find their places among what is given."""
    return UNDECIDED[0] <= alpha_bar < UNDECIDED[1]


def draw_noise(
    generators: list[torch.Generator], shape: Sequence[int], base_seed: int | None, variation: float
) -> torch.Tensor:
    """Draw the noise (N, C, h, w) that candidates begin with, each by its own generator.

    With a `base_seed` it is moved by 1 − `variation` towards the noise of that seed.
    """
    noise = torch.cat([torch.randn(1, *shape, generator=g) for g in generators])
    if base_seed is None:
        return noise
    base = torch.randn(1, *shape, generator=torch.Generator().manual_seed(base_seed))
    return torch.cat([slerp(base, row[None], variation) for row in noise])


def first_step(steps: int, strength: float) -> int:
    """Return the step that an edit begins with, of `steps`. Raises ValueError if none is left."""
    drawn = min(int(steps * strength), steps)
    if drawn < 1:
        raise ValueError(
            f"strength {strength:g} of {steps} steps is none; it must be at least {1 / steps:.2g}"
        )
    return steps - drawn


@torch.inference_mode()
def encode_start(
    pipeline: "LatentDiffusion",
    start: Start,
    noise: torch.Tensor,
    generators: list[torch.Generator],
) -> Given:
    """Encode what an edit begins from; `noise` (N, C, h, w) is what the candidates begin with."""
    vae, device, N = pipeline.vae, pipeline.device, len(noise)
    pixels = start.pixels().to(device) / 127.5 - 1
    clean = decoding.encode(vae, pixels).expand(N, -1, -1, -1)
    cells = start.drawn_cells(pixels.shape[2] // noise.shape[2])
    mask = None if cells is None else cells[None, None].float().to(device)
    beside = None
    if pipeline.spec.inpaints:
        ones = mask if mask is not None else torch.ones_like(clean[:1, :1])
        around = decoding.encode(vae, _without_masked(start, pixels))
        beside = torch.cat([ones.expand(len(around), -1, -1, -1), around], dim=1)
        beside = beside.expand(N, -1, -1, -1)
    if start.noise and mask is not None:
        shape = clean[:1].shape
        other = torch.cat([torch.randn(shape, generator=g) for g in generators]).to(device)
        clean = (1 - mask) * clean + mask * other
    return Given(clean, noise, mask, beside, start.guidance)


@torch.inference_mode()
def all_drawn(pipeline: "LatentDiffusion", noise: torch.Tensor, factor: int) -> Given | None:
    """Return what a UNet that inpaints reads where nothing is given: an empty image, masked
    everywhere. None for other UNets. `noise` is (N, C, h, w)."""
    if not pipeline.spec.inpaints:
        return None
    N, _, h, w = noise.shape
    blank = torch.zeros((1, 3, h * factor, w * factor), device=pipeline.device)
    around = decoding.encode(pipeline.vae, blank)  # (1, C, h, w)
    beside = torch.cat([torch.ones_like(around[:, :1]), around], dim=1).expand(N, -1, -1, -1)
    return Given(torch.zeros_like(noise), noise, None, beside)


@torch.inference_mode()
def enlarge_latents(
    pipeline: "LatentDiffusion", latents: torch.Tensor, second: SecondPass, factor: int
) -> torch.Tensor:
    """Return finished latents (N, C, h, w) at the size of a second pass.

    One that cannot be decoded is not finite there either.
    """
    width, height = second.size
    size = height // factor, width // factor
    if second.enlarge is None:
        return torch.nn.functional.interpolate(latents, size, mode="bilinear")
    rows = []
    for pixels in decoding.decode(pipeline.vae, latents):
        if pixels is None:
            rows.append(latents.new_full((1, latents.shape[1], *size), math.nan))
            continue
        image = to_image(second.enlarge(pixels[None])[0])
        if image.size != second.size:
            image = image.resize(second.size, Image.Resampling.LANCZOS)
        rgb = to_pixels(image)[None].to(pipeline.device) / 127.5 - 1
        rows.append(decoding.encode(pipeline.vae, rgb))
    return torch.cat(rows)


def _without_masked(start: Start, pixels: torch.Tensor) -> torch.Tensor:
    """Return images (M, 3, H, W) in [-1, 1] with 0 in place of what is drawn anew."""
    cells = start.drawn_cells(1)
    if cells is None:
        return torch.zeros_like(pixels)
    return pixels.masked_fill(cells.to(pixels.device), 0)


def begin_latents(given: Given, strength: float, scheduler: Any, first: int) -> torch.Tensor:
    """Return the latents (N, C, h, w) that an edit begins with, at the scheduler's scale.

    At strength 1 under a mask that is noise alone, as if there were nothing yet.
    """
    if strength == 1 and given.mask is not None:
        return given.noise * scheduler.init_noise_sigma
    timestep = scheduler.timesteps[first : first + 1].repeat(len(given.clean))
    latents: torch.Tensor = scheduler.add_noise(given.clean, given.noise, timestep)
    return latents
