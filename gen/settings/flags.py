"""The flags of the `generate` command; those of the settings follow from `gen.settings.request`."""

import argparse
import re
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import rerank.model.specs
from gen.errors import InputError
from gen.models import NO_RERANKER
from gen.run_folder.folder import KEEP
from gen.run_folder.saving import SUFFIX_OF_FORMAT
from gen.settings.request import MODEL_SETTINGS, SETTINGS, with_schedule
from pipelines.loading import OFFLOAD
from pipelines.runtime.terminal import Parser
from pipelines.settings import Setting, Value
from rerank.scorers import Weighted, weighted

FLAGGED = [name for name, setting in SETTINGS.items() if setting.asked and name != "prompt"]
EXAMPLES = """\
examples:
  generate "a panda to the left of a red balloon" --candidates 16 --top-k 4 --seed 7
  generate -f prompts/demo.txt -o outputs/demo
  generate "an old lighthouse" -m ~/models/sd15 --steps 30 --reranker ~/models/clip-vit-l14
  generate --again outputs/0001-r1-7.png
  generate "three apples" --dry-run > rows.jsonl; generate -f rows.jsonl

With a seed, the same command finishes what is missing and draws nothing twice. Without one it
finishes its unfinished run in the folder, or draws a new seed.

exit codes: 0 done, 2 bad input, 3 weights, 4 some images failed, 5 no space on the disk or in
memory, 130 interrupted
"""


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return what the command line says; settings as text, None where they are not given."""
    return build_parser().parse_args(_with_numbers_joined(words))


def given_settings(options: argparse.Namespace) -> dict[str, Value]:
    """Return the settings on the command line but for prompts, read and checked."""
    texts = {name: getattr(options, name) for name in FLAGGED}
    texts = {k: ",".join(text) if isinstance(text, list) else text for k, text in texts.items()}
    given = {name: SETTINGS[name].read(text) for name, text in texts.items() if text is not None}
    return with_schedule(given)


def given_rerankers(options: argparse.Namespace) -> str | list[Weighted] | None:
    """Return the rerankers on the command line, with their weights; None where none is given.

    Raises InputError for a weight that is not above 0, and for "none" together with others.
    """
    if options.reranker is None:
        return None
    rerankers = [_weighted("--reranker", text) for text in options.reranker]
    if NO_RERANKER not in dict(rerankers):
        return rerankers
    if len(rerankers) > 1 or options.aesthetic is not None:
        raise InputError(f"--reranker {NO_RERANKER}: goes with no other reranker, no --aesthetic")
    return NO_RERANKER


def given_aesthetic(options: argparse.Namespace) -> tuple[Path, float] | None:
    """Return the file of the aesthetic head on the command line, and its weight."""
    if options.aesthetic is None:
        return None
    file, weight = _weighted("--aesthetic", options.aesthetic)
    return Path(file).expanduser(), weight


def given_machine(options: argparse.Namespace) -> dict[str, Any]:
    """Return the flags of `add_machine` as the keywords of `Engine`."""
    return {
        "device": options.device,
        "dtype": options.dtype,
        "attention": options.attention,
        "reranker": given_rerankers(options),
        "batch_size": options.batch_size,
        "safety": options.safety,
        "offload": options.offload,
        "vae_tiling": options.vae_tiling,
        "compiled": options.compile,
        "aesthetic": given_aesthetic(options),
        "threads": options.threads,
        "workers": options.workers,
        "ray": options.ray,
    }


def _weighted(flag: str, text: str) -> Weighted:
    try:
        return weighted(text)
    except ValueError as error:
        raise InputError(f"{flag} {error}") from error


def build_parser() -> Parser:
    """Build the parser of the command, for its help and its words."""
    parser = Parser(
        prog="generate",
        usage="generate [options] PROMPT ...",
        description="Make many candidate images of a prompt, and keep the best.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    _add_prompts(parser)
    many = parser.add_argument_group("how many, by which model")
    drawing = parser.add_argument_group("how to draw (what is not given is the model's default)")
    for name in FLAGGED:
        setting = SETTINGS[name]
        _add_setting(drawing if name in MODEL_SETTINGS else many, setting)
    _add_saving(parser)
    add_machine(parser)
    _add_telling(parser)
    return parser


def salon_version() -> str:
    """Return the installed version."""
    try:
        return version("salon")
    except PackageNotFoundError:
        return "(not installed)"


def _add_prompts(parser: Parser) -> None:
    group = parser.add_argument_group("what to draw")
    group.add_argument("prompts", nargs="*", metavar="PROMPT", help="one or more prompts")
    group.add_argument(
        *SETTINGS["prompt"].flags,
        dest="flagged_prompts",
        action="append",
        default=[],
        metavar="TEXT",
        help="a prompt; may be repeated",
    )
    group.add_argument(
        *SETTINGS["prompt"].alias_flags,
        dest="flagged_prompts",
        action="append",
        help=argparse.SUPPRESS,
    )
    group.add_argument(
        "-f",
        "--prompts-file",
        "--from-file",
        metavar="FILE",
        help="a prompt a line, with its own settings as --flag value, or a JSON object a line; "
        "a JSON array, CSV or TSV; - is standard input",
    )
    group.add_argument(
        "--combinatorial",
        action="store_true",
        help="draw every combination of the choices in a prompt, not the one of its seed",
    )
    group.add_argument(
        "--again",
        type=Path,
        metavar="IMAGE",
        help="make the image in this file again and say how far it differs",
    )
    group.add_argument(
        "--choices",
        type=Path,
        metavar="FILE",
        help="write what people chose among the images of --outdir, for `rerank learn`",
    )


def _add_setting(group: argparse._ArgumentGroup, setting: Setting) -> None:
    shown, hidden = setting.flags, setting.alias_flags
    if setting.names is not None:
        group.add_argument(*shown, metavar="NAME", help=f"{setting.help}: {setting.rule()}")
    elif setting.pair:
        group.add_argument(*shown, nargs=2, metavar="FILE", help=setting.help)
    elif setting.many:
        group.add_argument(
            *shown, action="append", metavar="FILE", help=f"{setting.help}; may be repeated"
        )
    elif setting.kind is bool:
        group.add_argument(*shown, action="store_const", const="true", help=setting.help)
    elif setting.kind is str:
        group.add_argument(*shown, metavar=setting.metavar, help=setting.help)
    else:
        metavar = "N" if setting.kind is int else "X"
        group.add_argument(*shown, metavar=metavar, help=f"{setting.help} ({setting.span})")
    if hidden:
        group.add_argument(*hidden, dest=setting.name, help=argparse.SUPPRESS)


def _add_saving(parser: Parser) -> None:
    group = parser.add_argument_group("saving")
    group.add_argument(
        "-o",
        "--outdir",
        type=Path,
        default=Path("outputs"),
        metavar="FOLDER",
        help="where images, sheet.png and manifest.jsonl go (default: outputs)",
    )
    group.add_argument(
        "--keep",
        choices=KEEP,
        default="all",
        help="all candidates, or only the top-k (default: all)",
    )
    group.add_argument(
        "--format", choices=list(SUFFIX_OF_FORMAT), default="png", help="default: png"
    )
    group.add_argument(
        "--strip-metadata",
        action="store_true",
        help="do not write into images how they were made, which --again needs",
    )


def _add_workers(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--threads",
        type=_whole_number(1, 4096),
        metavar="N",
        help="cores of the CPU to keep busy (default: all that this process may use)",
    )
    group.add_argument(
        "--workers",
        type=_whole_number(1, 4096),
        metavar="N",
        help="have so many processes draw, on all GPUs or with a share of the cores each; with "
        "--ray, so many actors",
    )
    group.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="have the actors of a Ray cluster draw; local: of one that is begun on this machine",
    )


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where and how networks run, and what ranks."""
    group = parser.add_argument_group("machine")
    group.add_argument(
        "-r",
        "--reranker",
        action="append",
        metavar="MODEL[=WEIGHT]",
        help="the CLIP model that scores the images, a name or a folder (default: "
        f"{rerank.model.specs.DEFAULT}); may be repeated: ranks by the weighted mean of their "
        f"standardized scores; {NO_RERANKER}: keep the order of making",
    )
    group.add_argument(
        "--head",
        "--aesthetic",
        dest="aesthetic",
        metavar="FILE[=WEIGHT]",
        help="score with a head on the first reranker's features too, as safetensors: what "
        "`rerank learn` has made, or an aesthetic predictor",
    )
    group.add_argument("--device", metavar="NAME", help="auto (default), cpu, cuda, cuda:1, mps")
    group.add_argument(
        "--dtype", metavar="NAME", help="float32, float16, bfloat16 (default: the device's best)"
    )
    group.add_argument("--attention", metavar="NAME", help="auto (default), xformers, sdpa")
    group.add_argument(
        "--offload",
        choices=OFFLOAD,
        help="keep what is not running off the GPU: whole networks (model), or all but a layer "
        "(sequential, many times slower); default: none",
    )
    group.add_argument(
        "--vae-tiling",
        action="store_true",
        help="decode large images in tiles: less memory, tones may change a little",
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="let torch.compile spend minutes on the first image to draw later ones faster; on a "
        "CPU it may be slower",
    )
    group.add_argument(
        "--batch-size",
        type=_whole_number(1, 4096),
        metavar="N",
        help="candidates drawn at once (default: what memory allows)",
    )
    _add_workers(group)
    group.add_argument(
        "--safety",
        action="store_true",
        help="load the model's own safety checker; an image that it flags fails, and is named",
    )


def _add_telling(parser: Parser) -> None:
    group = parser.add_argument_group("what to tell")
    flags = {
        "--json": "one JSON object per prompt on standard output",
        "--dry-run": "only print the resolved requests, a JSON object a line",
        "--plan": "only print what memory and time drawing would need; exit 5 if it does not fit",
        "--env": "versions, devices and weights, for bug reports",
        "--quiet": "nothing but errors, and JSON if asked for",
        "--verbose": "more of what happens",
        "--debug": "show where an error came from",
    }
    for flag, text in flags.items():
        short = {"--quiet": ["-q"], "--verbose": ["-v"]}.get(flag, [])
        group.add_argument(*short, flag, action="store_true", help=text)
    group.add_argument(
        "--calibrate",
        action="store_true",
        help="say of the best how likely they match the prompt, as `rerank --calibrate` does",
    )
    group.add_argument(
        "--claims", action="store_true", help="tick or cross each claim of the prompt in the best"
    )
    group.add_argument(
        "--list-models",
        nargs="?",
        const="here",
        choices=("here", "all"),
        metavar="all",
        help="the models and rerankers that are here; all: and those that are known, with licences",
    )
    group.add_argument(
        "--pull",
        metavar="ORG/NAME",
        help="fetch a model from the Hugging Face hub, or ORG/NAME@REVISION; nothing else here "
        "uses the network",
    )
    group.add_argument(
        "--variant",
        metavar="NAME",
        help="with --pull: fetch the smaller files that end in .NAME.safetensors, such as fp16, "
        "where there are some",
    )
    group.add_argument("--version", action="version", version=f"salon {salon_version()}")
    group.add_argument("-h", "--help", action="help", help="this text")


def _whole_number(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text}: must be a whole number from {low} to {high}")
        return int(text)

    return read


def _with_numbers_joined(words: Sequence[str]) -> list[str]:
    """argparse takes -1e9 or -inf behind a flag for another flag, unless `=` joins them."""
    numbers = [setting for setting in SETTINGS.values() if setting.kind in (int, float)]
    numeric = {flag for setting in numbers for flag in (*setting.flags, *setting.alias_flags)}
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] in numeric and re.match(r"-[\d.]|-inf|-nan", word):
            flag = joined.pop()
            word = f"{flag}={word}" if flag.startswith("--") else f"{flag}{word}"
        joined.append(word)
    return joined
