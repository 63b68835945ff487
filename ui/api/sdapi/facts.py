"""What tools written for AUTOMATIC1111's API want to know, and what an image says of itself."""

import os
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Body
from fastapi import Request as HttpRequest
from pydantic import BaseModel

from gen import metadata
from gen.errors import InputError
from gen.memory import free_on_host
from gen.metadata.foreign import read_any
from gen.settings import SAMPLERS, SCHEDULES
from gen.settings.vocabulary import learned_words
from ui.api.answers import new_router
from ui.api.images import from_base64, open_image
from ui.api.sdapi.extras import UPSCALERS, networks
from ui.api.sdapi.options import Choices, client, title
from ui.api.sdapi.request import THEIR_NAMES
from ui.api.sizes import chosen_specs
from ui.service.service import Service

# Lists that are empty here: tools ask for all of them before they draw.
EMPTY_LISTS = (
    "sd-vae",
    "hypernetworks",
    "face-restorers",
    "realesrgan-models",
    "script-info",
    "extensions",
    "artists",
    "artist-categories",
)
# What to read anew: nothing, since what is there is looked up whenever it is asked for.
REFRESHED = ("refresh-checkpoints", "refresh-vae", "refresh-loras", "refresh-embeddings")
NOT_DONE = {
    "interrogate": "no network that describes images is served: rank them for a prompt instead, "
    "with POST /v1/rerank",
    "unload-checkpoint": "models stay loaded for the other clients",
    "train/embedding": "nothing is trained by this server",
    "train/hypernetwork": "nothing is trained by this server",
}


class Upload(BaseModel):
    """An image in base64, or as a data: URL."""

    image: str


class PngInfo(BaseModel):
    """What an image says about itself: as it stands there, and as `txt2img` takes it."""

    info: str
    items: dict[str, str]
    parameters: dict[str, Any]


class Checkpoint(BaseModel):
    """A model that draws."""

    title: str
    model_name: str
    hash: str | None
    sha256: str | None = None
    filename: str
    config: str | None = None


class SamplerItem(BaseModel):
    """A sampler, by the name that AUTOMATIC1111 has for it and by ours."""

    name: str
    aliases: list[str]
    options: dict[str, str] = {}


class SchedulerItem(BaseModel):
    """A schedule, by what requests call it and by what people read."""

    name: str
    label: str
    aliases: list[str]
    default_rho: float = -1
    need_inner_model: bool = False


class LoraItem(BaseModel):
    """A LoRA file that prompts may name, by its name in the server's folder."""

    name: str
    alias: str
    path: str
    metadata: dict[str, str] = {}


class Upscaler(BaseModel):
    """A way to enlarge images."""

    name: str
    model_name: str | None = None
    model_path: str | None = None
    model_url: str | None = None
    scale: float = 4


class StyleItem(BaseModel):
    """What surrounds a prompt and a negative prompt; requests name it in `styles`."""

    name: str
    prompt: str
    negative_prompt: str


class LatentMode(BaseModel):
    """A way to enlarge latents between two passes."""

    name: str


class Embedding(BaseModel):
    """A learned word: how many vectors it has, and how long they are."""

    step: int | None = None
    sd_checkpoint: str | None = None
    sd_checkpoint_name: str | None = None
    shape: int
    vectors: int


class Embeddings(BaseModel):
    """The learned words of the client's model, by how prompts have them."""

    loaded: dict[str, Embedding] = {}
    skipped: dict[str, Embedding] = {}


class Scripts(BaseModel):
    """Scripts, of which there are none."""

    txt2img: list[str] = []
    img2img: list[str] = []


class Memory(BaseModel):
    """Bytes of the host's memory."""

    ram: dict[str, float]
    cuda: dict[str, Any]


def routes(service: Service, choices: Choices) -> APIRouter:
    """Return the paths that draw nothing."""
    router = new_router()
    _add_lists(router, service)
    _add_server_facts(router, service)
    _add_networks(router, service, choices)
    for name in EMPTY_LISTS:
        router.get(f"/{name}", operation_id=f"list_{name}")(_nothing)
    for name in REFRESHED:
        router.post(f"/{name}", operation_id=name)(_done)
    for name, why in NOT_DONE.items():
        _refuse(router, name, why)

    @router.post("/png-info")
    def png_info(body: Upload) -> PngInfo:
        """Return what an image says about itself; nothing is no error."""
        image = open_image(from_base64(body.image))
        try:
            record = read_any(image)
            _, text = metadata.read_texts(image)
        except Exception:  # others' files hold anything
            return PngInfo(info="", items={}, parameters={})
        given = record.request.to_json()
        values = {THEIR_NAMES.get(name, name): value for name, value in given.items()}
        unread = {"not understood": "; ".join(record.unread)} if record.unread else {}
        info = "" if text is None else text
        return PngInfo(info=info, items={"parameters": info, **unread}, parameters=values)

    return router


def _add_networks(router: APIRouter, service: Service, choices: Choices) -> None:
    @router.get("/loras")
    def loras() -> list[LoraItem]:
        """List the LoRA files that prompts may name, as in `<lora:NAME:0.8>`."""
        return [LoraItem(name=name, alias=name, path=name) for name in service.loras]

    @router.get("/embeddings")
    def embeddings(http: HttpRequest) -> Embeddings:
        """List the learned words of the model that draws for this client."""
        specs = chosen_specs(service, choices.of(client(http)).model)
        words = {word.text: word.shape for spec in specs for word in learned_words(spec)}
        return Embeddings(
            loaded={
                text: Embedding(vectors=count, shape=length)
                for text, (count, length) in words.items()
            }
        )


def _add_lists(router: APIRouter, service: Service) -> None:
    @router.get("/sd-models")
    def checkpoints() -> list[Checkpoint]:
        """List the models that draw."""
        return [
            Checkpoint(
                title=title(service, spec),
                model_name=spec.name,
                hash=service.engine.model_hash(spec),
                filename=spec.folder.name,
            )
            for spec in service.models.values()
        ]

    @router.get("/samplers")
    async def samplers() -> list[SamplerItem]:
        """List the samplers that models which take one know."""
        return [
            SamplerItem(name=row.a1111, aliases=[name, *row.aliases])
            for name, row in SAMPLERS.items()
        ]

    @router.get("/schedulers")
    async def schedulers() -> list[SchedulerItem]:
        """List the ways to space steps."""
        return [
            SchedulerItem(name=name, label=row.a1111, aliases=list(row.aliases))
            for name, row in SCHEDULES.items()
        ]


def _add_server_facts(router: APIRouter, service: Service) -> None:
    @router.get("/upscalers")
    async def upscalers() -> list[Upscaler]:
        """List the ways to enlarge images; the first is none, as tools expect."""
        return [Upscaler(name=name) for name in (*UPSCALERS, *networks(service))]

    @router.get("/latent-upscale-modes")
    async def latent_upscale_modes() -> list[LatentMode]:
        """List the ways to enlarge latents between two passes."""
        return [LatentMode(name="Latent")]

    @router.get("/prompt-styles")
    async def prompt_styles() -> list[StyleItem]:
        """List the styles."""
        return [StyleItem(**asdict(style)) for style in service.styles]

    @router.get("/scripts")
    async def scripts() -> Scripts:
        """List the scripts."""
        return Scripts()

    @router.get("/cmd-flags")
    async def cmd_flags() -> dict[str, Any]:
        """Return how the server was started, as far as it concerns tools."""
        return {"api": True, "nowebui": False}

    @router.get("/memory")
    def memory() -> Memory:
        """Return how much memory the host has, in bytes."""
        free = free_on_host()
        total = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        ram = {"free": free, "used": max(0.0, total - free), "total": total}
        return Memory(ram=ram, cuda={"error": "not told by this server"})


async def _nothing() -> list[dict[str, Any]]:
    """Return an empty list: the server has nothing of this kind."""
    return []


async def _done() -> None:
    """Do nothing: what is there is looked up whenever it is asked for."""


def _refuse(router: APIRouter, name: str, why: str) -> None:
    @router.post(f"/{name}", operation_id=name.replace("/", "_"), response_model=None)
    async def refused(body: dict[str, Any] | None = Body(None)) -> None:  # noqa: B008
        """Say why this is not done here."""
        raise InputError(f"{name}: {why}")
