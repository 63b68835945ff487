"""The words of the `rerank` command. Imports no torch."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from pipelines.runtime.terminal import Parser
from rerank.model.specs import DEFAULT, SPECS
from rerank.scorers import weighted

COMMANDS = {
    "rank": "rank images by how well they match a text (what `rerank PROMPT …` does)",
    "classify": "tell which of several labels fits each image best",
    "index": "read the images of a folder once, for searches",
    "search": "find the images of an indexed folder that are like a text or an image",
    "calibrate": "learn what scores mean, from images with captions",
    "learn": "learn what somebody prefers, from choices between two images",
}
MODELS = (
    f"{', '.join(SPECS)}, the folder of a CLIP or SigLIP model, or the name of one that "
    "`generate --pull` has fetched"
)
EXAMPLES = """\
examples:
  rerank "a red fox" images/*.png --top-k 4 --copy-to best --sheet best.png
  rerank "a panda to the left of a red balloon" images --claims --calibrate
  rerank classify images --label "a dog" --label "a cat" --template "a photo of {}."
  rerank index images; rerank search "a red fox" images
  rerank calibrate captions.jsonl -m MODEL_FOLDER
  rerank learn choices.jsonl -o mine.safetensors; rerank "a fox" images --head mine.safetensors=0.5

exit codes: 0 done, 2 bad input, 3 weights, 4 some images could not be read, 5 no room,
130 interrupted
"""
MAX_TEXT = 10_000  # characters


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return what the command line says; `command` is one of COMMANDS."""
    command = "rank"
    if words and words[0] in COMMANDS:
        command, *words = words
    options = build_parser(command).parse_args(words)
    options.command = command
    return options


def build_parser(command: str = "rank") -> Parser:
    """Return the parser of one of COMMANDS."""
    parser = Parser(
        prog="rerank" if command == "rank" else f"rerank {command}",
        description=f"{COMMANDS[command][0].upper()}{COMMANDS[command][1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = {
        "rank": _add_rank,
        "classify": _add_classify,
        "index": _add_index,
        "search": _add_search,
        "calibrate": _add_calibrate,
        "learn": _add_learn,
    }
    add[command](parser)
    _add_machine(parser)
    return parser


def _add_rank(parser: argparse.ArgumentParser) -> None:
    others = "\n".join(
        f"  rerank {name:10} {text}" for name, text in COMMANDS.items() if name != "rank"
    )
    parser.description = "Rank images by how well they match a text, best first."
    parser.epilog = f"other commands, each with its own --help:\n{others}\n\n{EXAMPLES}"
    parser.add_argument("prompt", type=_prompt, help="what the images should show")
    _add_images(parser)
    parser.add_argument("-k", "--top-k", type=_count, metavar="K", help="show the best K only")
    parser.add_argument(
        "--diversity", type=_share, default=0.0, metavar="X",
        help="from 0 (default: by score alone) to 1 (as different from each other as can be)",
    )  # fmt: skip
    parser.add_argument(
        "--calibrate", action="store_true", help="say what the scores mean: percentile, probability"
    )
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE",
        help="do so by this file instead of the model's own calibration.json",
    )  # fmt: skip
    parser.add_argument(
        "--claims", action="store_true", help="tick or cross each claim of the prompt"
    )
    _add_templates(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object")
    form.add_argument("--csv", action="store_true", help="print comma-separated values")
    parser.add_argument(
        "--copy-to", type=Path, metavar="FOLDER", help="copy the ranked files, their rank in front"
    )
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE", help="draw the ranked images on one page"
    )
    parser.add_argument(
        "-m", "--model", type=read_weighted, action="append", metavar="MODEL[=WEIGHT]",
        help=f"{MODELS} (default: {DEFAULT}); may be repeated, which averages",
    )  # fmt: skip
    parser.add_argument(
        "--head", "--aesthetic", dest="aesthetic", type=read_weighted, metavar="FILE[=WEIGHT]",
        help="average with a head on the first model's features, as safetensors: what `learn` has "
        "made, or an aesthetic predictor",
    )  # fmt: skip


def _add_classify(parser: argparse.ArgumentParser) -> None:
    _add_images(parser)
    parser.add_argument(
        "--label", type=_prompt, action="append", required=True, metavar="TEXT",
        help="what an image may show; at least two of these",
    )  # fmt: skip
    _add_templates(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _add_model(parser)


def _add_index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources", type=Path, nargs="+", metavar="FOLDER|TAR|PARQUET",
        help="a folder, with the folders inside; or images by the million, which need --index: tar "
        "files, as WebDataset has them, Parquet files, and folders of these",
    )  # fmt: skip
    _add_where(parser)
    parser.add_argument(
        "--column", metavar="NAME",
        help="of Parquet files: where images are, or their paths (default: told by its type)",
    )  # fmt: skip
    parser.add_argument(
        "--ray", metavar="ADDRESS|local",
        help="have a Ray cluster read, or actors on this machine; needs --index",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=_count, metavar="N",
        help="with --ray: so many actors (default: one for each GPU, else for each core)",
    )  # fmt: skip
    _add_model(parser)


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", nargs="?", type=_prompt, help="what to look for")
    parser.add_argument(
        "folder", type=Path, help="a folder that has been indexed, or what --index was for many"
    )
    parser.add_argument("--like", type=Path, metavar="IMAGE", help="look for images like this")
    parser.add_argument(
        "-k", "--top-k", type=_count, default=10, metavar="K", help="show so many (default: 10)"
    )
    parser.add_argument(
        "--exhaustive", action="store_true",
        help="look at all of a large collection, not only where the likeliest are",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _add_where(parser)
    _add_model(parser)


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "captions", type=Path,
        help='a JSON object a line: {"file": "a.png", "caption": "a fox"}, with "matches": false '
        "where the caption is wrong; files are relative to this one",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, help="default: calibration.json in the model's folder"
    )
    _add_model(parser)


def _add_learn(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "choices", type=Path,
        help='a JSON object a line: {"prompt": "a fox", "chosen": "a.png", "rejected": "b.png"}; '
        "files are relative to this one; `generate --choices FILE` writes it",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE",
        help="the head, as safetensors, for --head here and with generate",
    )  # fmt: skip
    _add_model(parser)


def _add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE|FOLDER",
        help="image files, and folders whose images are taken",
    )  # fmt: skip


def _add_templates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--template", type=_prompt, action="append", default=[], metavar="TEXT",
        help='put the text in place of {}, as in "a photo of {}."; the mean of several',
    )  # fmt: skip


def _add_where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--index",
        type=Path,
        metavar="FOLDER",
        help="where it lies (default: .rerank in the folder)",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-m", "--model", default=DEFAULT,
        help=f"{MODELS} (default: %(default)s)",
    )  # fmt: skip


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--processor", metavar="MODEL", help="take tokenizer and preprocessing from this one"
    )
    parser.add_argument(
        "--exact", action="store_true", help="resize bit for bit as PIL does; slower"
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: cuda where there is one)")
    parser.add_argument(
        "--threads", type=_count, metavar="N",
        help="cores of the CPU to keep busy (default: all that this process may use)",
    )  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on a terminal")
    parser.add_argument("--debug", action="store_true", help="show a traceback on errors")


def _prompt(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the text is empty")
    if len(text) > MAX_TEXT:
        raise argparse.ArgumentTypeError(f"the text has more than {MAX_TEXT} characters")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(f"the text {text!r:.80} is not UTF-8") from error
    return text


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def read_weighted(text: str) -> tuple[str, float]:
    try:
        return weighted(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
