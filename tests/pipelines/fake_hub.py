"""A server on this machine that speaks as much of the hub's protocol as fetching needs."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """One repository, `org/model`, at one commit; `requests` are those for contents."""

    folder: Path
    commit: str = COMMIT
    licence: str | None = "cc-by-nc-4.0"
    licence_name: str | None = None  # of one that the hub has no word for
    status: int = 200
    break_after: int | None = None  # bytes of a large file, once
    lie: bool = False  # about the contents of large files
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    url: str = ""

    def paths(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def answer(self) -> dict[str, object]:
        siblings = []
        for path in self.paths():
            content, name = path.read_bytes(), path.relative_to(self.folder).as_posix()
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": blob}
            if name.endswith(".safetensors"):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        return {
            "id": "org/model",
            "sha": self.commit,
            "siblings": siblings,
            "cardData": {"license": self.licence, "license_name": self.licence_name},
        }


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve it on a free port of this machine."""

    class Requests(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if hub.status != 200:
                self.send_error(hub.status)
            elif path in (
                "/api/models/org/model/revision/main",
                "/api/models/org/model/revision/v2",
            ):
                self.reply(json.dumps(hub.answer()).encode())
            elif path.startswith(f"/org/model/resolve/{hub.commit}/"):
                name = path.split(f"{hub.commit}/")[1]
                if name.endswith(".safetensors"):  # large files are somewhere else
                    self.send_response(302)
                    self.send_header(
                        "Location", f"{hub.url.replace('127.0.0.1', 'localhost')}/cdn/{name}"
                    )
                    self.end_headers()
                else:
                    self.reply((hub.folder / name).read_bytes())
            elif path.startswith("/cdn/"):
                self.send_large(path.removeprefix("/cdn/"))
            else:
                self.send_error(404)

        def send_large(self, name: str) -> None:
            asked = self.headers.get("Range")
            hub.requests.append((name, asked, self.headers.get("Authorization")))
            content = (hub.folder / name).read_bytes()
            if hub.lie:
                content = content[:-1] + bytes([content[-1] ^ 1])
            start = 0 if asked is None else int(asked.removeprefix("bytes=").removesuffix("-"))
            stop = len(content)
            if hub.break_after is not None:
                stop, hub.break_after = start + hub.break_after, None
            self.send_response(200 if asked is None else 206)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:stop])

        def reply(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
