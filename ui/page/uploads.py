"""Uploads to the page that cannot be kept: a full disk, or a visitor who leaves half-way.

gradio removes what it has of an upload only when it is no form. What else ends one would leave half
a file in its cache, and on a full disk a traceback for an answer.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import gradio.route_utils
import gradio.routes
from starlette.exceptions import HTTPException

from gen.errors import FULL

NO_ROOM = 503


class _UploadParser(gradio.route_utils.GradioMultiPartParser):
    """Gradio's, which leaves nothing behind."""

    async def parse(self) -> Any:
        """Return the form; whatever ends it early, no file of it stays."""
        try:
            return await super().parse()
        except BaseException:
            for file in self._files_to_close_on_error:
                with suppress(OSError):  # it writes what is left in its buffer
                    file.close()
                Path(file.name).unlink(missing_ok=True)
            raise


def keep_nothing_half() -> None:
    """Have gradio's uploads leave nothing behind, and say it in a line when the disk is full."""
    gradio.route_utils.GradioMultiPartParser = _UploadParser
    gradio.routes.upload_fn = _upload


_upload_fn = gradio.route_utils.upload_fn


async def _upload(request: Any, folder: str, *others: Any, **options: Any) -> Any:
    with _room():
        return await _upload_fn(request, folder, *others, **options)


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        told = f"no room for uploads on the server's disk: {error.strerror}"
        raise HTTPException(NO_ROOM, told) from error
