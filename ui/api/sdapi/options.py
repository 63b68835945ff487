"""The options of AUTOMATIC1111's API: what a client chose holds for that client alone."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from gen.models import Spec
from ui.api.answers import ParameterError, client_of, new_router
from ui.api.body import checked
from ui.api.sizes import chosen_specs
from ui.service.catalog import UnknownModelError
from ui.service.service import Service

CLIENT = "sdapi"  # who is asking, beside the address
MOST_CLIENTS = 1000  # whose choices are remembered
# What clients read, and send back as they got it: they can't be changed here.
FIXED: Mapping[str, Any] = {
    "sd_vae": "Automatic",
    "samples_format": "png",
    "samples_save": True,
    "grid_save": False,
    "live_previews_enable": True,
    "enable_pnginfo": True,
    "face_restoration_model": None,
    "sd_hypernetwork": "None",
}


@dataclass(frozen=True)
class Choice:
    """What a client chose for its requests; None is the default."""

    model: str | None = None
    clip_skip: int | None = None


class Choices:
    """The choices of clients; of very many, those who asked last are remembered."""

    def __init__(self) -> None:
        self._chosen: OrderedDict[str, Choice] = OrderedDict()
        self._lock = Lock()

    def of(self, client: str) -> Choice:
        """Return what a client chose."""
        with self._lock:
            return self._chosen.get(client, Choice())

    def keep(self, client: str, choice: Choice) -> None:
        """Remember what a client chose."""
        with self._lock:
            self._chosen[client] = choice
            self._chosen.move_to_end(client)
            while len(self._chosen) > MOST_CLIENTS:
                self._chosen.popitem(last=False)


def client(http: HttpRequest) -> str:
    """Return who is asking."""
    return client_of(http, CLIENT)


def title(service: Service, spec: Spec) -> str:
    """Return what a model is called in lists and options: its name and the hash of its weights."""
    return f"{spec.name} [{service.engine.model_hash(spec)}]"


def find_checkpoint(service: Service, written: Any) -> str:
    """Return the model of a title, name, file name or hash. Raises UnknownModelError."""
    text = str(written).strip()
    name = text.partition(" [")[0].removesuffix(".safetensors").removesuffix(".ckpt")
    if name in service.models:
        return name
    for present, spec in service.models.items():
        if text and text == service.engine.model_hash(spec):
            return present
    found = {present.lower(): present for present in service.models}.get(name.lower())
    if found is None:
        raise UnknownModelError(
            f"no model {text[:80]!r} is served here: choose from {', '.join(service.models)}"
        )
    return found


def routes(service: Service, choices: Choices) -> APIRouter:
    """Return the paths that tell and set a client's options."""
    router = new_router()

    @router.get("/options")
    def options(http: HttpRequest) -> dict[str, Any]:
        """Return the options of this client."""
        return _told(service, choices.of(client(http)))

    @router.post("/options")
    def set_options(body: dict[str, Any], http: HttpRequest) -> None:
        """Choose the model and the layer of the text encoder for this client's requests."""
        choice = choices.of(client(http))
        model, clip_skip, known = choice.model, choice.clip_skip, _told(service, choice)
        for name, value in body.items():
            if name == "sd_model_checkpoint":
                model = find_checkpoint(service, value)
            elif name == "CLIP_stop_at_last_layers":
                clip_skip = checked("clip_skip", value)
            elif name not in known or value not in (known[name], None):
                raise ParameterError(
                    name[:40], f"{name[:40]}: not an option that can be set here: leave it out"
                )
        choices.keep(client(http), Choice(model, clip_skip))

    return router


def _told(service: Service, choice: Choice) -> dict[str, Any]:
    [spec] = chosen_specs(service, choice.model)
    return {
        **FIXED,
        "sd_model_checkpoint": title(service, spec),
        "sd_checkpoint_hash": service.engine.model_hash(spec),
        "CLIP_stop_at_last_layers": 1 if choice.clip_skip is None else choice.clip_skip,
    }
