"""`python -m pipelines.convert SOURCE DEST`: a downloaded checkpoint becomes a folder of ours."""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipelines.checkpoints.errors import WeightsError
from pipelines.dalle.convert import kakao, llamagen, min_dalle, openai_dvae, rudalle
from pipelines.runtime import terminal

DESCRIPTION = """\
Turn a downloaded checkpoint of the DALL·E path into a folder that generate -m takes.

SOURCE is a folder with one of:
  ruDALL-E XL        a .bin or .safetensors file, bpe.model, and Sber's VQGAN as a .ckpt file
  min-dalle          encoder, decoder, vocab and merges of mini or mega, and detoker.pt
  minDALL-E          stage1_last.ckpt, stage2_last.ckpt and tokenizer/, unpacked
  LlamaGen           t2i_….pt and vq_ds16_t2i.pt, and in flan-t5-xl/ config.json, tokenizer.json
                     and the weights of FLAN-T5-XL
  OpenAI's dVAE      encoder.pkl and decoder.pkl; the folder holds a dVAE and draws nothing alone

DEST must not exist. Every key of the download is accounted for, and no code in it is run.
Exit codes: 0 done, 2 bad input, 3 weights that do not fit, 5 no disk space, 130 interrupted."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    terminal.prepare_streams()
    dest: Path | None = None
    try:
        options = parser().parse_args(arguments)
        dest = options.dest
        if (reason := unusable(options.source, options.dest)) is not None:
            raise terminal.UsageError(reason)
        try:
            convert(options)
        except ValueError as error:  # of configs, for numbers that no network can have
            raise WeightsError(f"{options.source} makes no network: {error}") from error
        terminal.write(f"{options.dest} is ready")
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return _explain(error, dest)
    return 0


def _explain(error: Exception, dest: Path | None) -> int:
    """Say in a line what went wrong; the exit code for it. Raises what is a bug of ours."""
    if terminal.is_full(error):
        where = getattr(error, "filename", None) or dest
        terminal.complain(f"convert: cannot write {where}: no space left: make room")
        return 5
    if not isinstance(error, WeightsError | terminal.UsageError | OSError):
        raise error
    terminal.complain(f"convert: {error}")
    return 3 if isinstance(error, WeightsError) else 2


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command's flags."""
    flags = terminal.Parser(
        prog="python -m pipelines.convert",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("source", type=Path, metavar="SOURCE", help="the folder of the download")
    flags.add_argument("dest", type=Path, metavar="DEST", help="the folder to make")
    flags.add_argument(
        "--heads", type=int, help="attention heads, for networks of other than the published sizes"
    )
    flags.add_argument(
        "--version",
        type=int,
        choices=sorted(rudalle.VERSIONS),
        help="of ruDALL-E, where the file does not tell it by the masks in it",
    )
    flags.add_argument(
        "--variant", choices=("mini", "mega"), help="of min-dalle, where SOURCE holds both"
    )
    flags.add_argument(
        "--start-token",
        type=int,
        help="what min-dalle's models begin with (default 16384, as the published configs say; "
        "min-dalle 0.4.11 itself takes 16383)",
    )
    flags.add_argument(
        "--size",
        type=int,
        help="of LlamaGen's images, which its files do not tell: 256 pixels for stage 1, 512 for "
        "stage 2",
    )
    flags.add_argument(
        "--accept-noncommercial",
        action="store_true",
        help="convert weights whose licence forbids commercial use, minDALL-E's, for a use that is "
        "not commercial",
    )
    return flags


def unusable(source: Path, dest: Path) -> str | None:
    """Return what is wrong with the two paths; None if nothing is."""
    if not source.is_dir():
        return f"SOURCE {source} is no folder"
    if dest.exists():
        return f"DEST {dest} exists: choose another name, or remove it"
    return None


def convert(options: argparse.Namespace) -> None:
    """Make the folder, all of it or nothing. Raises WeightsError for what is in the download."""
    source, dest = options.source, options.dest
    dest.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{dest.name}-", dir=dest.parent))
    try:
        if (source / rudalle.BPE).is_file():
            rudalle.convert(source, made, version=options.version, heads=options.heads)
        elif any((source / name).is_file() for name in kakao.FILES):
            kakao.convert(
                source,
                made,
                heads=options.heads,
                accept_noncommercial=options.accept_noncommercial,
            )
        elif (source / llamagen.VQGAN).is_file():
            llamagen.convert(source, made, size=options.size, heads=options.heads)
        elif any((source / name).is_file() for name in openai_dvae.FILES):
            openai_dvae.convert(source, made)
        elif not any(source.rglob("*.flax")) and not any(source.rglob("*.pt")):
            names = sorted(path.name for path in source.iterdir())[:8]
            raise WeightsError(
                f"{source} holds none of the known downloads, but {', '.join(names) or 'nothing'}; "
                "what is known: --help"
            )
        else:
            min_dalle.convert(
                source,
                made,
                variant=options.variant,
                heads=options.heads,
                start_token=options.start_token,
            )
        made.chmod(0o755)  # not for the owner alone, as temporary folders are
        made.rename(dest)
    finally:
        shutil.rmtree(made, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
