"""Who is let in: fault rows 26 to 29, against the whole site."""

import base64
import gzip
import http.client
import json
import os
import re
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fake_site import FakeSite, serve_fakes

from gen.errors import InputError
from ui.access import middleware
from ui.access.credentials import AUTH, KEY, Credentials, read_credentials

pytestmark = pytest.mark.slow

PATHS = ("/", "/config", "/gradio_api/info", "/v1/models", "/sdapi/v1/samplers", "/openapi.json")


def ask(
    site: FakeSite, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (their names in small letters) and body of an answer."""
    connection = http.client.HTTPConnection(urlsplit(site.url).netloc, timeout=60)
    try:
        connection.request(method, path, body or None, headers or {})
        answer = connection.getresponse()
        fields = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, fields, answer.read()
    finally:
        connection.close()


def connected(site: FakeSite) -> socket.socket:
    host, port = urlsplit(site.url).netloc.split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def basic(user: str, password: str) -> dict[str, str]:
    value = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {value}"}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.fault("pages of others")
def test_other_web_pages_are_refused(path: str, quick: FakeSite) -> None:
    own = urlsplit(quick.url).netloc
    evil = ("http://evil.example", "null", "http://localhost", f"http://{own}.evil.example")
    for origin in (*evil, "http://["):
        for method in ("GET", "POST", "OPTIONS"):
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            status, headers, _ = ask(quick, method, path, asked)
            assert status == 403
            assert not [name for name in headers if name.startswith("access-control")]
    status, _, _ = ask(quick, "GET", path, {"Origin": quick.url})
    assert status == 200


def test_the_page_is_compressed_and_what_never_changes_is_kept(quick: FakeSite) -> None:
    _, headers, page = ask(quick, "GET", "/")
    assert "immutable" not in headers.get("cache-control", "")
    _, headers, small = ask(quick, "GET", "/", {"Accept-Encoding": "gzip, br"})
    assert headers["content-encoding"] == "gzip"
    assert gzip.decompress(small).count(b"window.salon = ") == page.count(b"window.salon = ") == 1
    script = re.search(rb"/assets/[\w-]+\.js", page)
    assert script is not None
    status, headers, _ = ask(quick, "GET", script[0].decode())
    assert (status, headers["cache-control"]) == (200, "private, max-age=31536000, immutable")
    status, headers, _ = ask(quick, "GET", "/assets/none.js")
    assert status == 404
    assert "immutable" not in headers.get("cache-control", "")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.fault("pages of others")
def test_names_that_are_not_ours_are_refused(path: str, quick: FakeSite) -> None:
    for host in ("evil.example", "evil.example:7860", "127.0.0.1.evil.example", "a@evil.example"):
        assert ask(quick, "GET", path, {"Host": host})[0] == 403
    for host in ("localhost:8080", "127.0.0.1", "[::1]:7860", "LOCALHOST"):
        assert ask(quick, "GET", path, {"Host": host})[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=%2Fetc%2Fpasswd",
        "/file=/etc/passwd",
        "/gradio_api/file=..%2f..%2fetc/passwd",
        "/gradio_api/file=..\\..\\etc\\passwd",
        "/gradio_api/file=/etc/passwd%00.png",
        "/static/..%2f..%2f..%2fetc/passwd",
        "/assets/..%2f..%2f..%2fetc/passwd",
        "/v1/files/..%2f..%2fqueue.json",
        "/gradio_api/file={folder}/manifest.jsonl",
        "/gradio_api/file={folder}/link.png",
        "/gradio_api/proxy=http://127.0.0.1:1/",
    ],
)
@pytest.mark.fault("files of the disk")
def test_no_file_can_be_read(path: str, quick: FakeSite) -> None:
    link = quick.folder / "link.png"
    if not link.is_symlink():
        os.symlink("/etc/passwd", link)
    status, _, body = ask(quick, "GET", path.format(folder=quick.folder))
    assert status in (400, 403, 404, 405)
    assert b"root:" not in body
    assert b'"event"' not in body


def test_the_page_may_load_nothing_from_elsewhere(quick: FakeSite) -> None:
    _, headers, _ = ask(quick, "GET", "/")
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.fault("bodies and connections")
def test_a_body_that_is_too_large(quick: FakeSite) -> None:
    path = "/v1/images/generations"
    json_type = {"Content-Type": "application/json"}
    start = time.monotonic()
    status, _, _ = ask(quick, "POST", path, {**json_type, "Content-Length": str(10**9)})
    assert status == 413
    assert time.monotonic() - start < 5  # a busy machine; nothing is read
    with connected(quick) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        chunk = b"40000\r\n" + b" " * 0x40000 + b"\r\n"
        for _ in range(8):  # of 256 kB; the limit is 1 MB
            try:
                connection.sendall(chunk)
            except OSError:
                break
        assert connection.recv(64).startswith(b"HTTP/1.1 413")


@pytest.mark.fault("bodies and connections")
@pytest.mark.parametrize("path", ["/v1/rerank", "/sdapi/v1/txt2img", "/gradio_api/queue/join"])
def test_a_body_of_many_keys(path: str, quick: FakeSite) -> None:
    kind = {"Content-Type": "application/json"}
    many = {f"k{i}": 0 for i in range(middleware.MOST_KEYS + 1)}
    for content, encoding in ((many, "utf-8"), ({"k": [many]}, "utf-8"), (many, "utf-16-le")):
        body = json.dumps(content, indent=0).encode(encoding)
        status, _, said = ask(quick, "POST", path, kind, body)
        assert status == 413
        assert b"more than 5,000 keys" in said
    body = json.dumps({"prompt": '"a" : ' * 100, **dict.fromkeys(list(many)[:4_800])}).encode()
    assert ask(quick, "POST", path, kind, body)[0] in (200, 400, 422)


@pytest.mark.fault("bodies and connections")
def test_a_body_that_does_not_come(quick: FakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.2)
    for path in ("/v1/rerank", "/gradio_api/upload"):
        with connected(quick) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
            head += "Content-Type: multipart/form-data; boundary=x\r\n\r\n-"
            connection.sendall(head.encode())
            assert connection.recv(64).startswith(b"HTTP/1.1 408")


@pytest.mark.fault("bodies and connections")
def test_many_silent_connections_leave_room_for_others(quick: FakeSite) -> None:
    silent = [connected(quick) for _ in range(400)]
    try:
        assert ask(quick, "GET", "/healthz")[0] == 200
    finally:
        for connection in silent:
            connection.close()


@pytest.mark.fault("bodies and connections")
def test_an_upload_to_the_page_that_is_too_large(quick: FakeSite) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    body += bytes(21_000_000) + b"\r\n--x--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert ask(quick, "POST", "/gradio_api/upload", kind, body)[0] == 413


def press(site: FakeSite, button: str, session: str, **given: object) -> dict:
    """What comes of pressing a button of the page with these values in its fields, whether or not
    the fields would take them."""
    config = json.loads(ask(site, "GET", "/config")[2])
    names = {c["id"]: c["props"].get("elem_id") for c in config["components"]}
    values = {c["id"]: c["props"].get("value") for c in config["components"]}
    [pressed] = [
        d
        for d in config["dependencies"]
        if d["backend_fn"] and button in [names.get(target) for target, _ in d["targets"]]
    ]
    data = [given.get(names[i], values[i]) for i in pressed["inputs"]]
    asked = {"data": data, "fn_index": pressed["id"], "session_hash": session}
    kind = {"Content-Type": "application/json"}
    body = json.dumps(asked).encode()
    assert ask(site, "POST", "/gradio_api/queue/join", kind, body)[0] == 200
    told = ask(site, "GET", f"/gradio_api/queue/data?session_hash={session}")[2].decode()
    [end] = [line for line in told.splitlines() if "process_completed" in line]
    answer: dict = json.loads(end.removeprefix("data: "))
    return answer


def test_the_limits_hold_behind_the_page(quick: FakeSite) -> None:
    steps = quick.fakes.pipeline.steps
    for name, value in {"steps": 10**6, "model": ["/etc"], "candidates": 10**4}.items():
        given = {"prompt": "a panda", "model": ["fake"], name: value}
        answer = press(quick, "draw-generate", name, **given)
        assert not answer["success"]
        shown = value[0] if isinstance(value, list) else str(value)
        assert shown in answer["output"]["error"]
    assert quick.fakes.pipeline.steps == steps


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../etc/passwd"])
@pytest.mark.fault("files of the disk")
def test_no_file_of_the_disk_is_an_upload(path: str, quick: FakeSite) -> None:
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    sent = {"draw-file": {"prompt-file": file}, "rank-run": {"rank-files": [file]}}
    for button, given in sent.items():
        answer = press(quick, button, f"{button}-upload", **{"rank-prompt": "root", **given})
        assert not answer["success"]
        assert "root:" not in json.dumps(answer)


@pytest.mark.fault("files of the disk")
def test_paths_of_images(quick: FakeSite) -> None:
    (quick.folder / "0009-r1-1.png").symlink_to("/etc/passwd")
    (quick.folder / "secret.png").write_bytes(b"secret")
    for name in (
        "0009-r1-1.png",
        "secret.png",
        "manifest.jsonl",
        "..%2fqueue.json",
        "candidates%2f..%2fsecret.png",
        "%2fetc%2fpasswd",
        "..\\secret.png",
        "%00",
    ):
        status, _, body = ask(quick, "GET", f"/pictures/{name}")
        assert status == 404
        assert b"secret" not in body
    assert ask(quick, "GET", "/sheets/999999.png")[0] == 404
    (quick.folder / "0009-r1-1.png").unlink()


@pytest.mark.parametrize("content", ["multipart/form-data", "multipart/form-data; boundary=", "x"])
@pytest.mark.fault("bodies and connections")
def test_uploads_that_are_none(content: str, quick: FakeSite) -> None:
    for path in ("/gradio_api/upload", "/v1/rerank", "/sdapi/v1/png-info"):
        status, _, body = ask(quick, "POST", path, {"Content-Type": content}, b"--y\r\nnothing")
        assert 400 <= status < 500
        assert b"Traceback" not in body


def test_a_password_is_asked_of_page_and_api(tmp_path: Path) -> None:
    with serve_fakes(tmp_path, Credentials("a long key", "me", "long password")) as site:
        for path in PATHS:
            status, headers, body = ask(site, "GET", path)
            assert status == 401
            assert headers["www-authenticate"].startswith("Basic ")
            assert b"wrong key or password" in body
            wrong = [
                basic("me", "long passwor"),
                basic("you", "long password"),
                basic("me", ""),
                {"Authorization": "Bearer long password"},
                {"Authorization": "Bearer "},
                {"Authorization": "Basic ?"},
            ]
            for sent in wrong:
                assert ask(site, "GET", path, sent)[0] == 401
            for sent in (
                basic("me", "long password"),
                basic("", "a long key"),
                {"Authorization": "Bearer a long key"},
            ):
                assert ask(site, "GET", path, sent)[0] == 200
        assert ask(site, "GET", "/healthz")[0] == 200
        assert ask(site, "GET", "/healthz/")[0] == ask(site, "GET", "/healthz/config")[0] == 401


def test_what_the_environment_says() -> None:
    assert not read_credentials("127.0.0.1", {})
    assert read_credentials("0.0.0.0", {KEY: "a long key"}) == Credentials("a long key")
    both = read_credentials("::", {KEY: "a long key", AUTH: "me:long:password"})
    assert both == Credentials("a long key", "me", "long:password")


@pytest.mark.parametrize(
    ("host", "environment"),
    [
        ("0.0.0.0", {}),
        ("0.0.0.0", {KEY: ""}),
        ("127.0.0.1", {KEY: "short"}),
        ("127.0.0.1", {AUTH: "me"}),
        ("127.0.0.1", {AUTH: "me:"}),
        ("127.0.0.1", {AUTH: ":long password"}),
        ("127.0.0.1", {AUTH: "me:short"}),
    ],
)
def test_secrets_that_are_none(host: str, environment: dict[str, str]) -> None:
    with pytest.raises(InputError):
        read_credentials(host, environment)


def test_names() -> None:
    assert "example.org" in middleware.own_names("0.0.0.0", ["Example.org."])
    assert socket.gethostname().lower() in middleware.own_names("0.0.0.0")
    assert middleware.own_names("127.0.0.1") == ["localhost", "127.0.0.1"]
