"""Server-sent events: previews of an image in the making, then the images."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from PIL import Image
from starlette.concurrency import run_in_threadpool

from gen.events import Event, Progress
from ui.api.answers import ErrorAnswer, explain, result_of
from ui.api.generated import facts_of, images_of
from ui.api.images import Form, to_base64
from ui.service.queue import Job
from ui.service.service import Service

# Nothing here is counted in tokens, but clients want to read of them.
USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


class Partials:
    """Watches a job from the queue's thread, and passes previews on to the loop of its making."""

    def __init__(self, wanted: int) -> None:
        self.queue: asyncio.Queue[Image.Image | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._wanted, self._sent = wanted, 0

    def __call__(self, event: Event) -> None:
        """Pass on the first candidate's preview when as much is done as the next one is to show."""
        if not isinstance(event, Progress) or not event.previews or self._sent == self._wanted:
            return
        if event.share >= self._sent / self._wanted and event.previews[0] is not None:
            self._sent += 1
            self.put(event.previews[0])

    def put(self, preview: Image.Image | None) -> None:
        """Pass on a preview, from any thread; None is the end."""
        self._loop.call_soon_threadsafe(self.queue.put_nowait, preview)


async def events(
    service: Service, job: Job, form: Form, partials: Partials, kind: str
) -> AsyncIterator[str]:
    """Yield previews, then the images, as events of a kind. Closed early, it drops the job."""
    job.future.add_done_callback(lambda _: partials.put(None))
    common = {
        "background": "opaque",
        "output_format": form.format,
        "quality": "auto",
        "size": "auto",
    }
    index = 0
    try:
        while (preview := await partials.queue.get()) is not None:
            file = await run_in_threadpool(form.encode, preview)
            yield _event(
                f"{kind}.partial_image",
                b64_json=to_base64(file),
                partial_image_index=index,
                created_at=int(time.time()),
                **common,
            )
            index += 1
        for result in images_of(result_of(service, job)):
            file = await run_in_threadpool(form.encode_result, result)
            yield _event(
                f"{kind}.completed",
                b64_json=to_base64(file),
                created_at=int(time.time()),
                usage=USAGE,
                **{**common, **facts_of(result, form)},
            )
    except Exception as error:
        status, info, _ = explain(error)
        yield f"data: {ErrorAnswer(error=info).model_dump_json()}\n\n"
        if status == 500:
            raise  # for the server's own output
    finally:
        service.queue.drop(job)
    yield "data: [DONE]\n\n"


def _event(kind: str, **facts: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **facts})}\n\n"
