"""Images in the place of a prompt: variations, mixes, changes by words, for models that can."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gen import metadata
from gen.errors import InputError
from gen.settings.request import Request
from pipelines.checkpoints.specs import Spec, split_names
from pipelines.families import DEFAULT_MODEL
from pipelines.images import BadImageError, open_image
from pipelines.settings import Value, settings_of
from pipelines.unclip.image_prompt import ImagePrompt
from pipelines.unclip.settings import ImagePromptSettings

SETTINGS = tuple(settings_of(ImagePromptSettings))
OF_IMAGE = ("mix_with", "mix_at", "toward", "away_from")


def prompted(request: Request, find: Callable[[str], Spec]) -> Request:
    """Return the request with the images that take the place of its prompt.

    `variations_of` is one, for models that draw from embeddings of images, and `mix` names two.
    Raises InputError for settings that say nothing, or two things at once.
    """
    if request.mix is not None:
        files = split_names(str(request.mix))
        if len(files) != 2 or request.variations_of is not None or request.image_prompt is not None:
            raise InputError(f"mix {request.mix}: names two images, and is all that names some")
        request = request.replace(mix=None, image_prompt=files[0], mix_with=files[1])
    elif request.variations_of is not None and request.image_prompt is None:
        model = _model(request)
        if all("image_prompt" in find(name).settings for name in split_names(model)):
            file = str(request.variations_of)
            request = request.replace(variations_of=None, image_prompt=file, model=model)
    _check_together(request)
    return request


def defaults(own: Request, spec: Spec) -> dict[str, Value]:
    """Return what one model takes with images in the place of the prompt, which is not drawn by."""
    if own.image_prompt is None:
        return {}
    guidance = spec.defaults["guidance"] if own.guidance is None else own.guidance
    values = {"decoder_text": False, "image_guidance": guidance}
    return {name: value for name, value in values.items() if name in spec.settings}


def own_prompts(settings: Mapping[str, Any]) -> list[str]:
    """Return the prompt of what is drawn from the images of some settings; none without images.

    It is what they are changed to, or what they say of themselves, or what the files are called.
    """
    files = split_names(str(settings.get("mix", "")))
    files += [str(settings[n]) for n in ("variations_of", "image_prompt") if n in settings]
    if files and "toward" in settings:
        return [str(settings["toward"])]
    said = [Path(file).stem if (made := _made(file)) is None else made.prompt for file in files]
    return [" and ".join(dict.fromkeys(said))] if said else []


def images(request: Request) -> ImagePrompt | None:
    """Return the images that take the place of a resolved request's prompt. Raises InputError."""
    if request.image_prompt is None:
        return None
    files = [("image_prompt", request.image_prompt), ("mix_with", request.mix_with)]
    opened = tuple(_opened(name, file) for name, file in files if file is not None)
    away_from = "" if request.away_from is None else request.away_from
    return ImagePrompt(opened, request.mix_at, request.toward, away_from)


def go_by_images(request: Request) -> bool:
    """Tell whether candidates are to show what images show: there are some in the place of the
    prompt, and no words that change them."""
    return request.image_prompt is not None and request.toward is None


def judged_by(scorer: Any, request: Request) -> Any:
    """Return what scores the candidates of a request: how near they come to the images that they go
    by, or the words."""
    if scorer is None or not go_by_images(request):
        return scorer
    drawn_from = images(request)
    assert drawn_from is not None
    from rerank.likeness import like

    return like(scorer, drawn_from.images, drawn_from.turned)


def check(own: Request, spec: Spec) -> None:
    """Raise InputError unless one model can draw from what there is; loads no weights."""
    if own.image_prompt is None and spec.lacks_prior and spec.adapters.prior is None:
        raise InputError(
            f"{spec.name} has no prior: name the folder of one with --prior, or an image with "
            "--variations-of"
        )
    images(own)


def _model(request: Request) -> str:
    if request.model is not None:
        return str(request.model)
    made = _made(str(request.variations_of))
    return DEFAULT_MODEL if made is None or made.model is None else str(made.model)


def _made(file: str) -> Request | None:
    """Return what an image says of its making; None where it says nothing."""
    try:
        return metadata.read(Path(file).expanduser()).request
    except (InputError, OSError):
        return None


def _opened(name: str, file: str) -> Any:
    try:
        return open_image(file)
    except (BadImageError, OSError) as error:
        raise InputError(f"{name} {error}") from error


def _check_together(request: Request) -> None:
    for name in OF_IMAGE:
        if request.image_prompt is None and getattr(request, name) is not None:
            raise InputError(f"{name}: goes with image_prompt: say which image is changed")
    if request.toward is not None and request.mix_with is not None:
        raise InputError("mix and toward each say what an image is changed to: give one of them")
    if request.toward is None and request.away_from is not None:
        raise InputError("away_from: goes with toward: say what the image is changed to")
    if request.mix_at is not None and request.mix_with is None and request.toward is None:
        raise InputError("mix_at: goes with mix, or with toward")
    if request.image_prompt is not None and request.init_image is not None:
        raise InputError("image_prompt and init_image each say what is begun from: give one")
    if request.image_prompt is not None and request.prior_candidates is not None:
        raise InputError("prior_candidates: an image has one embedding: leave it out")
    beside_text = request.image_prompt is None or request.decoder_text is not None
    if request.image_guidance is not None and not beside_text:
        raise InputError(
            "image_guidance: goes with decoder_text: a decoder that reads no prompt follows the "
            "image by guidance"
        )
