"""The `generate-ui` command: serves the page to this machine until Ctrl-C."""

import argparse
import ipaddress
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from gen.engine import Engine
from gen.errors import InputError, RoomError
from gen.flags import Parser
from gen.models import WEIGHTS_ERRORS
from gen.run_folder import RunFolder
from ui.studio import Studio

DONE, BAD_INPUT, BAD_WEIGHTS, NO_ROOM = 0, 2, 3, 5
PORT = 7860


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    try:
        return _serve(_parser().parse_args(argv))
    except KeyboardInterrupt:  # the ordinary end of a server
        return DONE
    except InputError as error:
        return _complain(error, BAD_INPUT)
    except WEIGHTS_ERRORS as error:
        return _complain(error, BAD_WEIGHTS)
    except RoomError as error:
        return _complain(error, NO_ROOM)


def _parser() -> Parser:
    parser = Parser(
        prog="generate-ui",
        description="Serve the web page, to this machine only, until Ctrl-C.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--host",
        type=_loopback_address,
        default="127.0.0.1",
        metavar="ADDRESS",
        help="an address that only this machine can reach (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=PORT,
        metavar="N",
        help=f"1 to 65535 (default: {PORT})",
    )
    parser.add_argument(
        "-o",
        "--outdir",
        type=Path,
        default=Path("outputs/ui"),
        metavar="FOLDER",
        help="where pictures are saved (default: outputs/ui)",
    )
    return parser


def _loopback_address(text: str) -> str:
    try:
        if text == "localhost" or ipaddress.ip_address(text).is_loopback:
            return text
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(
        f"{text}: the page has no password yet, so only this machine may reach it: use "
        f"127.0.0.1, and from another machine ssh -L {PORT}:127.0.0.1:{PORT}"
    )


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number from 1 to 65535")
    return int(text)


def _serve(options: argparse.Namespace) -> int:
    with RunFolder(options.outdir) as folder:
        studio = Studio(Engine(), folder)
        studio.check()
        try:
            from ui.page import served
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            raise InputError("the page needs gradio: pip install 'salon[ui]'") from error
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with served(studio, options.host, options.port) as url:
            try:
                print(f"Salon is at {url} and saves to {options.outdir}; Ctrl-C ends it")
                sys.stdout.flush()
                studio.load()
                threading.Event().wait()
            finally:
                studio.stop()
    return DONE


def _complain(error: Exception, code: int) -> int:
    print(f"generate-ui: error: {error}", file=sys.stderr, flush=True)
    return code
