"""The `generate-ui` command: serves the web page and the HTTP API until Ctrl-C."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gen import streams
from gen.engine import Engine
from gen.errors import FULL, InputError, RoomError, UsageError
from gen.models import WeightsError
from gen.run_folder.folder import RunFolder
from gen.settings.flags import Parser, add_machine, given_machine
from ui.access.credentials import AUTH, KEY, read_credentials
from ui.service.catalog import read_catalog
from ui.service.rules import HELP as RULES_HELP
from ui.service.rules import Rules, read_rules
from ui.service.service import Service
from ui.service.styles import OWN, read_styles

DONE, BAD_INPUT, BAD_WEIGHTS, NO_ROOM = 0, 2, 3, 5
PORT = 7860
WAKE_SECONDS = 1.0
SWITCH_SECONDS = 0.001  # after which threads that compute let the one that answers have its turn
STEP_SECONDS = 4.0  # that a step in progress has at the end: whoever waits for us may not wait long
EPILOG = f"""environment variables; an ADDRESS that others can reach needs at least one of them:
  {AUTH}=USER:PASSWORD   a user and a password, for browsers
  {KEY}=KEY          a key, for clients of the API; browsers give it as the password
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    try:
        return _serve(_parser().parse_args(argv))
    except KeyboardInterrupt:  # the ordinary end of a server
        return DONE
    except (InputError, UsageError) as error:
        return _complain(error, BAD_INPUT)
    except WeightsError as error:
        return _complain(error, BAD_WEIGHTS)
    except RoomError as error:
        return _complain(error, NO_ROOM)
    except OSError as error:
        if error.errno not in FULL:
            raise
        return _complain(InputError(f"cannot write {error.filename}: {error.strerror}"), NO_ROOM)


def _parser() -> Parser:
    parser = Parser(
        prog="generate-ui",
        description="Serve the web page and the HTTP API until Ctrl-C.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="an address of this machine (default: 127.0.0.1, which only this machine can reach)",
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=PORT,
        metavar="N",
        help=f"1 to 65535 (default: {PORT})",
    )
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="HOST",
        dest="names",
        help="a host name under which others know this machine; may be repeated",
    )
    parser.add_argument(
        "--fit-size",
        action="store_true",
        help="if no model draws a size that the API is asked for, draw the nearest and enlarge it",
    )
    parser.add_argument(
        "-o",
        "--outdir",
        type=Path,
        default=Path("outputs/ui"),
        metavar="FOLDER",
        help="where images are saved (default: outputs/ui)",
    )
    _add_what_is_served(parser)
    add_machine(parser)
    return parser


def _add_what_is_served(parser: Parser) -> None:
    group = parser.add_argument_group("what visitors can choose by name, beside what ships")
    many: dict[str, Any] = {"action": "append", "default": []}
    group.add_argument(
        *("-m", "--model"),
        **many,
        metavar="MODEL",
        dest="models",
        help="a model, as for generate; the first draws when none is chosen; may be repeated",
    )
    group.add_argument(
        "--models",
        **many,
        type=Path,
        metavar="DIR",
        dest="model_folders",
        help="a folder of models: folders of diffusers and .safetensors files; may be repeated",
    )
    group.add_argument("--lora", **many, type=Path, metavar="FILE", help="a LoRA; may be repeated")
    group.add_argument(
        "--lora-dir",
        **many,
        type=Path,
        metavar="DIR",
        help="a folder of LoRAs, which prompts may name, as in <lora:NAME:0.8>; may be repeated",
    )
    group.add_argument("--vae", **many, type=Path, metavar="PATH", help="a VAE; may be repeated")
    group.add_argument(
        "--mask-model",
        **many,
        type=Path,
        metavar="DIR",
        dest="mask_models",
        help="a folder with a network that finds masks: CLIPSeg by words, SAM by points and boxes; "
        "may be repeated",
    )
    group.add_argument(
        "--styles",
        **many,
        type=Path,
        metavar="FILE",
        help="styles in a CSV file, as AUTOMATIC1111's web UI has them; may be repeated",
    )
    group.add_argument(
        "--visitors", type=Path, metavar="FILE", help=f"what visitors may: {RULES_HELP}"
    )


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number from 1 to 65535")
    return int(text)


def _serve(options: argparse.Namespace) -> int:
    credentials = read_credentials(options.host)
    rules = Rules() if options.visitors is None else read_rules(options.visitors)
    catalog = read_catalog(
        options.models,
        options.model_folders,
        options.lora_dir,
        options.vae,
        options.lora,
        options.mask_models,
    )
    if unknown := [name for name in rules.models or () if name not in catalog.models]:
        raise InputError(f"{options.visitors}: models: there is no {', '.join(unknown)}")
    with RunFolder(options.outdir) as folder:
        service = Service(
            Engine(**given_machine(options)),
            folder,
            fit_size=options.fit_size,
            catalog=catalog,
            rules=rules,
            styles=[each for path in (*options.styles, OWN) for each in read_styles(path)],
        )
        service.check()
        if service.queue.note is not None:
            streams.complain(f"generate-ui: note: {service.queue.note}")
        try:
            from ui.server import served
        except ModuleNotFoundError as error:
            if error.name not in ("gradio", "fastapi", "uvicorn"):
                raise
            raise InputError(f"the page needs {error.name}: pip install 'salon[ui]'") from error
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        sys.setswitchinterval(SWITCH_SECONDS)
        has_ended = True
        try:
            with served(service, options.host, options.port, credentials, options.names) as url:
                try:
                    with suppress(OSError):  # on a full disk; others are served all the same
                        streams.write(
                            f"Salon is at {url} and saves to {options.outdir}; Ctrl-C ends it"
                        )
                    service.load()
                    while True:  # a signal that another thread was given is seen on waking
                        time.sleep(WAKE_SECONDS)
                finally:
                    has_ended = service.stop(STEP_SECONDS)
        finally:
            if not has_ended:
                _leave()


def _leave() -> None:
    """End the process although a step is in progress; what was saved is kept, as in a kill."""
    streams.complain(
        "generate-ui: note: the step in progress took too long to wait for it; what was saved "
        "before is kept, and the same request draws the rest"
    )
    os._exit(DONE)


def _complain(error: Exception, code: int) -> int:
    streams.complain(f"generate-ui: error: {error}")
    return code
