"""Images that can be had under a URL for a while."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock

from ui.api.images import Form

STORED_SECONDS = 3600
STORED_BYTES = 256_000_000
MEDIA_TYPES: Mapping[str, str] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
}


@dataclass(frozen=True)
class StoredImage:
    """An image's file that can be had under its URL."""

    data: bytes
    media_type: str
    until: float  # on the monotonic clock


class UrlStore:
    """Images by names that nobody can guess; the oldest leave first."""

    def __init__(self) -> None:
        self._stored: dict[str, StoredImage] = {}
        self._lock = Lock()

    def put(self, data: bytes, form: Form) -> str:
        """Store an image's file and return its name."""
        name = f"{secrets.token_hex(16)}.{form.format}"
        with self._lock:
            until = time.monotonic() + STORED_SECONDS
            self._stored[name] = StoredImage(data, MEDIA_TYPES[form.format], until)
            self._tidy()
        return name

    def get(self, name: str) -> StoredImage | None:
        """Return the image of that name, while it is there."""
        with self._lock:
            self._tidy()
            return self._stored.get(name)

    def _tidy(self) -> None:
        total = sum(len(stored.data) for stored in self._stored.values())
        for name, stored in list(self._stored.items()):
            if total <= STORED_BYTES and stored.until > time.monotonic():
                return
            total -= len(stored.data)
            del self._stored[name]
