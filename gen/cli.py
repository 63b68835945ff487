"""The `generate` command; with its screen the only part of gen that prints."""

import argparse
import errno
import json
import os
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import tee
from types import FrameType

from gen import editing, image_prompts
from gen.again import make_again, read_plan
from gen.choices import export_choices
from gen.engine import Engine, Outcome, run
from gen.environment import describe
from gen.errors import InputError, RoomError
from gen.events import Cancel
from gen.explaining import check_explanations, explain
from gen.foreseen import Notes
from gen.listing import listing, summary
from gen.memory_estimate import estimate_memory
from gen.models import WeightsError
from gen.plan import Survey
from gen.run_folder import contact_sheet as sheet
from gen.run_folder.folder import RunFolder
from gen.run_folder.saving import Export, check_room, no_room
from gen.screen import PROMPT_SHOWN, Screen, complain
from gen.settings import flags
from gen.settings.prompt_file import PromptFile, Row, all_choices
from gen.settings.request import Request
from pipelines.checkpoints import hub
from pipelines.runtime import terminal
from pipelines.runtime.limits import wait_politely
from rerank.model.known_models import PUBLIC

DONE, BUG, BAD_INPUT, BAD_WEIGHTS, SOME_FAILED, NO_ROOM, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
DRAW_WITH = 'draw with it: generate "a lighthouse"'
RERANK_WITH = 'rank with it: rerank "a lighthouse" FOLDER'


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    terminal.prepare_streams()
    wait_politely()
    warnings.filterwarnings("ignore", module="PIL")  # of what is odd in files that can be read
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _command(flags.parse(words))
    except KeyboardInterrupt:
        complain("stopped at once; what was saved is kept")
        return INTERRUPTED
    except Exception as error:
        if "--debug" in words:
            raise
        return _explain(error)
    finally:
        with suppress(OSError):  # flushes what --help wrote, while that can still be handled
            terminal.write("", end="")


def _command(options: argparse.Namespace) -> int:
    if options.variant is not None and options.pull is None:
        raise InputError("--variant is for --pull: give both")
    if options.list_models is not None:
        return _list_models(everything=options.list_models == "all")
    if options.env:
        return _print_environment()
    if options.pull is not None:
        return _pull(options)
    if options.again is not None:
        return _again(options)
    if options.choices is not None:
        number = export_choices(options.outdir, options.choices)
        terminal.write(f"{options.choices}: {number} choices")
        return DONE
    notes = Notes(_engine(options).reranker_spec)
    rows, survey = _checked_rows(options, notes)
    notes.about_words(options.prompts)
    if not options.quiet:
        for line in notes.lines():
            complain(line, kind="note")
    if options.dry_run:
        _check_scoring(options, _engine(options))
        return _dry_run(rows, survey)
    if options.plan:
        return _print_memory_estimate(options, rows, survey)
    return _draw(options, rows, survey, notes.shown)


def _checked_rows(options: argparse.Namespace, notes: Notes) -> tuple[Iterable[Row], Survey]:
    """Return the requests, which can be gone through again, when all of them have been checked."""
    settings = flags.given_settings(options)
    survey = Survey()
    prompts = [*options.prompts, *options.flagged_prompts]
    if options.prompts_file is None:
        prompts = prompts or image_prompts.own_prompts(settings)
        if not prompts:
            raise InputError('no prompt: say what to draw, as in generate "a panda"')
        requests = [Request(prompt).with_defaults(settings) for prompt in prompts]
        if options.combinatorial:
            requests = [each for request in requests for each in all_choices(request)]
        for request in requests:
            notes.about(survey.add(request))
        return [Row(number, request) for number, request in enumerate(requests, 1)], survey
    if prompts:
        raise InputError("a prompt and a prompt file: give one of them")
    file = PromptFile(options.prompts_file, settings, options.combinatorial)

    def look_at(row: Row) -> None:
        notes.about(survey.add(row.request))
        notes.counts.update(row.notes)

    file.check(look_at)
    return file, survey


def _draw(
    options: argparse.Namespace, rows: Iterable[Row], survey: Survey, told: frozenset[str]
) -> int:
    engine = _engine(options)
    _check_scoring(options, engine)
    cancel, failed = Cancel(), 0
    blocks: list[sheet.Block] = []
    rows, asked = tee(rows)
    shown = Screen(options, survey, told)
    with engine, _folder(options) as folder, _interrupts(cancel), shown as screen:
        for note in folder.notes:
            screen.warn(note)
        outcomes = run(
            (row.request for row in asked),
            engine,
            survey,
            folder,
            watch=screen.show,
            cancel=cancel,
        )
        for outcome, row in zip(outcomes, rows, strict=False):  # in this order to its end
            failed += len(outcome.failed)
            explain(outcome, engine, folder, calibrate=options.calibrate, claims=options.claims)
            screen.tell(row, outcome)
            if len(blocks) < sheet.BLOCKS and outcome.best:
                blocks.append(_block(outcome))
        if blocks:
            path = folder.write_contact_sheet(sheet.draw(blocks))
            screen.say(f"sheet: {path}")
        if cancel.asked:
            screen.warn("stopped; the same command finishes what is missing")
            return INTERRUPTED
    return SOME_FAILED if failed else DONE


def _check_scoring(options: argparse.Namespace, engine: Engine) -> None:
    """Raise what is wrong with the rerankers that are named, before anything is drawn."""
    check_explanations(engine, calibrate=options.calibrate, claims=options.claims)
    engine.scorer_name()


def _again(options: argparse.Namespace) -> int:
    settings = flags.given_settings(options)
    may_change = (*editing.FILES, "lora_dir", "upscale")
    changes = {name: settings.pop(name) for name in may_change if name in settings}
    given = [name for name in settings if name != "model"]
    if given or options.prompts or options.flagged_prompts or options.prompts_file is not None:
        what = ", ".join(given) if given else "the prompts"
        raise InputError(f"--again draws what the image says: leave out {what}")
    engine = _engine(options)
    plan = read_plan(options.again, options.model, changes)
    survey, cancel = Survey(), Cancel()
    survey.count(plan)
    if options.dry_run:
        terminal.write(json.dumps(plan.request.to_json(), ensure_ascii=False))
        return DONE
    with _folder(options) as folder, _interrupts(cancel), Screen(options, survey) as screen:
        made = make_again(options.again, plan, engine, folder, screen.show, cancel)
        if made.result is None:
            return INTERRUPTED if cancel.asked else SOME_FAILED
        if made.was_unfinished:
            verdict = f"{options.again} was unfinished; it is whole now"
        elif made.difference is None:
            verdict = f"{options.again} has another size or is damaged, so they cannot be compared"
        else:
            verdict = f"differs from {options.again} by at most {made.difference} of 255"
        if options.json:
            difference = {"difference": made.difference, "unfinished": made.was_unfinished}
            terminal.write(
                json.dumps({"again": str(options.again), **made.result.to_json(), **difference})
            )
        screen.say(f"{made.result.path}: {verdict}")
    return DONE


def _dry_run(rows: Iterable[Row], survey: Survey) -> int:
    for row in rows:
        identity = {} if row.id is None else {"id": row.id}
        request = survey.resolve(row.request).request
        terminal.write(json.dumps({**identity, **request.to_json()}, ensure_ascii=False))
    return DONE


def _print_memory_estimate(options: argparse.Namespace, rows: Iterable[Row], survey: Survey) -> int:
    estimate = estimate_memory((survey.resolve(row.request) for row in rows), _engine(options))
    for line in estimate.lines():
        terminal.write(line)
    return DONE if estimate.fits else NO_ROOM


def _pull(options: argparse.Namespace) -> int:
    """Fetch a model; what is here already is not fetched again."""
    from tqdm import tqdm

    repository = hub.look_up(options.pull, options.variant)
    check_room(repository.folder, repository.missing())
    with tqdm(
        total=repository.size,
        disable=True if options.quiet else None,
        unit="B",
        unit_scale=True,
        leave=False,
    ) as bar:

        def show(done: int, total: int) -> None:
            bar.update(done - bar.n)

        try:
            folder = hub.pull(repository, show)
        except OSError as error:
            raise no_room(repository.folder, error) from error
    if not options.quiet:
        licence = "no licence is named" if repository.licence is None else repository.licence
        size = repository.size / 1e9
        terminal.write(
            f"{repository.name} at {repository.commit}: {size:.2f} GB, {licence}, in {folder}"
        )
        use = RERANK_WITH if repository.name in PUBLIC else DRAW_WITH
        terminal.write(f"{use} -m {options.pull}")
    return DONE


def _list_models(everything: bool) -> int:
    for line in listing() if everything else summary():
        terminal.write(line)
    return DONE


def _print_environment() -> int:
    for name, value in describe():
        terminal.write(f"{name + ':':22} {value}")
    return DONE


def _engine(options: argparse.Namespace) -> Engine:
    return Engine(**flags.given_machine(options))


def _folder(options: argparse.Namespace) -> RunFolder:
    export = Export(options.format, options.strip_metadata)
    return RunFolder(options.outdir, export, options.keep)


def _block(outcome: Outcome) -> sheet.Block:
    request = outcome.plan.request
    models = ", ".join(spec.name for spec, _ in outcome.plan.models)
    facts = [models, f"best {len(outcome.best)} of {outcome.made}", f"seed {request.seed}"]
    if request.steps is not None:
        facts.append(f"{request.steps} steps")
    if request.guidance is not None:
        facts.append(f"guidance {request.guidance:g}")
    return sheet.block(request.prompt, "  ·  ".join(facts), outcome.best)


@contextmanager
def _interrupts(cancel: Cancel) -> Iterator[None]:
    """Ctrl-C once stops after the step in the making, a second time at once."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        if cancel.stopped:
            signal.default_int_handler(number, frame)
        cancel.stop()
        # Written past Python's buffers, which this may have interrupted in the middle of a line.
        os.write(2, b"\ngenerate: note: stopping; once more: stop at once\n")

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _explain(error: Exception) -> int:
    """Say in a line what went wrong; the exit code for it."""
    match error:
        case InputError() | terminal.UsageError():
            code = BAD_INPUT
        case _ if isinstance(error, WeightsError):
            code = BAD_WEIGHTS
        case RoomError():
            code = NO_ROOM
        case OSError() if error.errno in terminal.FULL:
            complain(f"cannot write {error.filename or 'to the disk'}: {error.strerror}: make room")
            return NO_ROOM
        case OSError(errno=errno.ENAMETOOLONG):  # whichever flag it was given to
            complain(f"{error.filename[:PROMPT_SHOWN]}…: this name is too long for a file")
            return BAD_INPUT
        case _:
            complain(f"{type(error).__name__}: {error} (--debug shows where)")
            return BUG
    complain(str(error))
    return code
