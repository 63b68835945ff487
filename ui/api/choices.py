"""What people chose among the images that were made here."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from gen.run_folder.choices import ChoiceEvent, ImageHearted, ImagePreferred
from gen.settings.request import seed_to_json
from ui.api.answers import ParameterError, new_router
from ui.api.body import Body, checked
from ui.service.service import Service

SEED = Field(description="as answers and file names say it; large ones are text")


class ChoiceRequest(Body):
    """An image that is better than another of the same prompt, or that gets a heart."""

    chosen: Annotated[int | str, SEED]
    rejected: Annotated[int | str | None, SEED] = None
    heart: Annotated[
        bool | None, Field(description="without `rejected`: false takes a heart back")
    ] = None
    number: Annotated[
        int | None, Field(ge=1, description="of the prompt; by default the latest with this image")
    ] = None


class ChoiceAnswer(BaseModel):
    """What was noted."""

    number: int
    chosen: int | str
    rejected: int | str | None
    heart: bool | None


def routes(service: Service) -> APIRouter:
    """Return the path that takes choices."""
    router = new_router()

    @router.post("/v1/choices")
    async def choices(body: ChoiceRequest) -> ChoiceAnswer:
        """Note a choice in the run folder, from which `generate --choices` exports them."""
        event = await run_in_threadpool(_note, service, body)
        preferred = isinstance(event, ImagePreferred)
        return ChoiceAnswer(
            number=event.number,
            chosen=seed_to_json(event.seed),
            rejected=seed_to_json(event.over) if isinstance(event, ImagePreferred) else None,
            heart=None if preferred else body.heart is not False,
        )

    return router


def _note(service: Service, body: ChoiceRequest) -> ChoiceEvent:
    """Note a choice. Raises ParameterError for images that are not there."""
    chosen = checked("seed", body.chosen)
    rejected = None if body.rejected is None else checked("seed", body.rejected)
    if rejected is not None and (body.heart is not None or rejected == chosen):
        raise ParameterError("rejected", "is another image, and goes without a heart")
    wanted = {chosen} if rejected is None else {chosen, rejected}
    service.history.refresh()
    number = next(
        (
            prompt.number
            for prompt in service.history.prompts()
            if body.number in (None, prompt.number) and all(map(prompt.find, wanted))
        ),
        None,
    )
    if number is None:
        raise ParameterError("chosen", f"no prompt here has images of {sorted(wanted)}")
    event: ChoiceEvent = (
        ImageHearted(number, chosen, body.heart is not False)
        if rejected is None
        else ImagePreferred(number, chosen, rejected)
    )
    service.folder.note_choice(event)
    return event
