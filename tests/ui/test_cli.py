import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from served_command import post, served

import rerank.model.specs
from gen import metadata
from ui.cli import main


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(words)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("generate-ui: error: ")
    assert err.count("\n") == 1
    return code, err


def test_help_loads_no_gradio_and_no_torch() -> None:
    script = (
        "import sys, ui.cli\n"
        "try: ui.cli.main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'gradio', 'torch', 'diffusers', 'transformers'} & sys.modules.keys()\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--port" in done.stdout


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org", "localhost.", ""])
@pytest.mark.fault("an open address without a secret")
def test_only_this_machine_is_served_without_a_password(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SALON_AUTH", raising=False)
    monkeypatch.delenv("SALON_API_KEY", raising=False)
    code, line = refused(["--host", host], capsys)
    assert code == 2
    assert "needs a password" in line
    assert "ssh -L" in line


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1", "²"])
def test_bad_port(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = refused([f"--port={port}"], capsys)
    assert code == 2
    assert "must be a whole number from 1 to 65535" in line


def test_an_unknown_flag_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = refused(["--prot", "7"], capsys)
    assert code == 2
    assert "no option '--prot' (did you mean --port?)" in line


def test_a_file_in_place_of_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    code, line = refused(["-o", str(tmp_path / "file")], capsys)
    assert code == 2
    assert str(tmp_path / "file") in line
    assert (tmp_path / "file").read_text() == "mine"


def test_missing_weights_are_told_before_anything_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = replace(
        rerank.model.specs.SPECS[rerank.model.specs.DEFAULT], folder=tmp_path / "nowhere"
    )
    monkeypatch.setitem(rerank.model.specs.SPECS, rerank.model.specs.DEFAULT, spec)
    code, line = refused(["-o", str(tmp_path / "out")], capsys)
    assert code == 3
    assert str(tmp_path / "nowhere") in line


@pytest.mark.usefixtures("tiny_by_default")
def test_a_port_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, line = refused(["--port", str(port), "-o", str(tmp_path)], capsys)
    assert code == 2
    assert f"port {port} " in line
    assert "in use" in line


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_by_default")
def test_the_command_serves_until_it_is_ended(tmp_path: Path, free_port: int) -> None:
    child, told = served(["--port", str(free_port), "-o", str(tmp_path / "out")])
    with told:
        assert f"http://127.0.0.1:{free_port}" in told.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/", timeout=120) as answer:
            assert "Salon" in answer.read().decode()
        asked = {"prompt": "a panda", "candidates": 2, "steps": 2, "seed": 5, "n": 2}
        with post(free_port, "/v1/images/generations", asked) as answer:  # real networks
            pictures = json.load(answer)["data"]
        assert sorted(picture["seed"] for picture in pictures) == [5, 6]
        with post(
            free_port,
            "/v1/rerank",
            {"prompt": "a panda", "images": [picture["b64_json"] for picture in pictures]},
        ) as answer:
            ranked = json.load(answer)["results"]
        assert [place["index"] for place in ranked] == [0, 1]
        assert ranked[0]["score"] == pytest.approx(pictures[0]["score"], abs=1e-5)
        os.kill(child, signal.SIGTERM)
        assert told.read() == ""
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (tmp_path / "out" / "manifest.jsonl").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_by_default")
@pytest.mark.fault("signals")
def test_sigterm_in_the_middle_of_a_job_saves_it_and_ends(tmp_path: Path, free_port: int) -> None:
    child, told = served(["--port", str(free_port), "-o", str(tmp_path / "out")])
    answers: list[int] = []

    def ask() -> None:
        asked = {"prompt": "a panda", "candidates": 2, "steps": 250, "seed": 5}
        try:
            with post(free_port, "/v1/images/generations", asked) as answer:
                answers.append(answer.status)
        except urllib.error.HTTPError as error:
            answers.append(error.code)

    with told:
        told.readline()
        asking = threading.Thread(target=ask)
        asking.start()
        deadline = time.monotonic() + 120
        while not _is_drawing(free_port):
            assert time.monotonic() < deadline
        os.kill(child, signal.SIGTERM)
        assert told.read() == ""
    asking.join(120)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert answers == [503]
    [best] = (tmp_path / "out").glob("0001-r1-*.png")
    assert metadata.read(best).unfinished is not None


def _is_drawing(port: int) -> bool:
    url = f"http://127.0.0.1:{port}/sdapi/v1/progress"
    with urllib.request.urlopen(url, timeout=120) as answer:
        return json.load(answer)["state"]["sampling_step"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_by_default")
@pytest.mark.fault("a full disk")
@pytest.mark.parametrize("output", ["/dev/full", "a closed pipe"])
def test_it_serves_although_nobody_can_read_its_address(
    output: str, tmp_path: Path, free_port: int
) -> None:
    if output == "/dev/full" and not Path(output).exists():
        pytest.skip("this system has no /dev/full")
    child = os.fork()
    if child == 0:
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(writing if output == "a closed pipe" else os.open(output, os.O_WRONLY), 1)
        os.dup2(os.open(tmp_path / "stderr", os.O_CREAT | os.O_WRONLY), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os._exit(main(["--port", str(free_port), "-o", str(tmp_path / "out")]))
    url, deadline, status = f"http://127.0.0.1:{free_port}/healthz", time.monotonic() + 120, 0
    while status != 200:
        assert time.monotonic() < deadline
        with suppress(OSError), urllib.request.urlopen(url) as answer:
            status = answer.status
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (tmp_path / "stderr").read_text() == ""
