"""The `generate` command; the only part of gen that prints."""

import argparse
import errno
import io
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import tee
from types import FrameType
from typing import Any

from gen.again import make_again, read_plan
from gen.choices import export_choices
from gen.engine import Engine, Outcome, run
from gen.environment import describe
from gen.errors import InputError, RoomError
from gen.events import Cancel, Event, Finished, Loading, Note, Progress
from gen.listing import listing
from gen.memory_estimate import estimate_memory
from gen.models import WeightsError
from gen.plan import Survey
from gen.run_folder import contact_sheet as sheet
from gen.run_folder.folder import RunFolder
from gen.run_folder.saving import Export, check_room, no_room
from gen.settings import flags
from gen.settings.prompt_file import PromptFile, Row, all_choices
from gen.settings.request import Request
from pipelines.checkpoints import hub
from rerank.model.known_models import PUBLIC

DONE, BUG, BAD_INPUT, BAD_WEIGHTS, SOME_FAILED, NO_ROOM, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
PROMPT_SHOWN = 90  # characters
DRAW_WITH = 'draw with it: generate "a lighthouse"'
RERANK_WITH = 'rank with it: rerank "a lighthouse" FOLDER'


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show is no error
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _command(flags.parse(words))
    except KeyboardInterrupt:
        _complain("stopped at once; what was saved is kept")
        return INTERRUPTED
    except Exception as error:
        if "--debug" in words:
            raise
        return _explain(error)
    finally:
        _print("", end="")  # flushes what --help wrote, while a closed pipe can still be handled


def _command(options: argparse.Namespace) -> int:
    if options.variant is not None and options.pull is None:
        raise InputError("--variant is for --pull: give both")
    if options.list_models:
        return _list_models()
    if options.env:
        return _print_environment()
    if options.pull is not None:
        return _pull(options)
    if options.again is not None:
        return _again(options)
    if options.choices is not None:
        number = export_choices(options.outdir, options.choices)
        _print(f"{options.choices}: {number} choices")
        return DONE
    rows, survey = _checked_rows(options)
    if options.dry_run:
        return _dry_run(rows, survey)
    if options.plan:
        return _print_memory_estimate(options, rows, survey)
    return _draw(options, rows, survey)


def _checked_rows(options: argparse.Namespace) -> tuple[Iterable[Row], Survey]:
    """Return the requests, which can be gone through again, when all of them have been checked."""
    settings = flags.given_settings(options)
    survey = Survey()
    prompts = [*options.prompts, *options.flagged_prompts]
    if options.prompts_file is None:
        if not prompts:
            raise InputError('no prompt: say what to draw, as in generate "a panda"')
        requests = [Request(prompt).with_defaults(settings) for prompt in prompts]
        if options.combinatorial:
            requests = [each for request in requests for each in all_choices(request)]
        for request in requests:
            survey.add(request)
        return [Row(number, request) for number, request in enumerate(requests, 1)], survey
    if prompts:
        raise InputError("a prompt and a prompt file: give one of them")
    file = PromptFile(options.prompts_file, settings, options.combinatorial)
    file.check(lambda row: survey.add(row.request))
    return file, survey


def _draw(options: argparse.Namespace, rows: Iterable[Row], survey: Survey) -> int:
    engine = _engine(options)
    engine.scorer_name()  # a wrong name shows now, not after the first images
    cancel, failed = Cancel(), 0
    blocks: list[sheet.Block] = []
    rows, asked = tee(rows)
    with _folder(options) as folder, _interrupts(cancel), _Screen(options, survey) as screen:
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


def _again(options: argparse.Namespace) -> int:
    given = [name for name in flags.given_settings(options) if name != "model"]
    if given or options.prompts or options.flagged_prompts or options.prompts_file is not None:
        what = ", ".join(given) if given else "the prompts"
        raise InputError(f"--again draws what the image says: leave out {what}")
    engine = _engine(options)
    plan = read_plan(options.again, options.model)
    survey, cancel = Survey(), Cancel()
    survey.count(plan)
    with _folder(options) as folder, _interrupts(cancel), _Screen(options, survey) as screen:
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
            _print(json.dumps({"again": str(options.again), **made.result.to_json(), **difference}))
        screen.say(f"{made.result.path}: {verdict}")
    return DONE


def _dry_run(rows: Iterable[Row], survey: Survey) -> int:
    for row in rows:
        identity = {} if row.id is None else {"id": row.id}
        request = survey.resolve(row.request).request
        _print(json.dumps({**identity, **request.to_json()}, ensure_ascii=False))
    return DONE


def _print_memory_estimate(options: argparse.Namespace, rows: Iterable[Row], survey: Survey) -> int:
    estimate = estimate_memory((survey.resolve(row.request) for row in rows), _engine(options))
    for line in estimate.lines():
        _print(line)
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
        _print(f"{repository.name} at {repository.commit}: {size:.2f} GB, {licence}, in {folder}")
        use = RERANK_WITH if repository.name in PUBLIC else DRAW_WITH
        _print(f"{use} -m {options.pull}")
    return DONE


def _list_models() -> int:
    for line in listing():
        _print(line)
    return DONE


def _print_environment() -> int:
    for name, value in describe():
        _print(f"{name + ':':22} {value}")
    return DONE


def _engine(options: argparse.Namespace) -> Engine:
    return Engine(**flags.given_machine(options))


def _folder(options: argparse.Namespace) -> RunFolder:
    export = Export(options.format, options.upscale, options.strip_metadata)
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


class _Screen:
    """What the user sees: a bar and notes on standard error, results on standard output."""

    def __init__(self, options: argparse.Namespace, survey: Survey) -> None:
        self._quiet, self._verbose, self._json = options.quiet, options.verbose, options.json
        self._survey = survey
        self._prompts_told = 0
        self._candidates_told = 0
        self._bar: Any = None

    def __enter__(self) -> "_Screen":
        from tqdm import tqdm

        self._bar = tqdm(
            total=self._survey.candidates,
            disable=True if self._quiet else None,  # None: unless standard error is no terminal
            bar_format="{desc}|{bar}| {postfix}, {remaining} left",
            dynamic_ncols=True,
            leave=False,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, event: Event) -> None:
        """Follow the engine."""
        if isinstance(event, Note):
            self.warn(event.text)
            return
        if isinstance(event, Loading):
            share = f" {event.loaded / event.total:.0%}" if event.total else ""
            self._bar.set_postfix_str(f"loading {event.model}{share}", refresh=False)
            self._bar.refresh()
            return
        if isinstance(event, Finished):  # told when the prompt is done
            return
        self._move_bar(event)
        if self._verbose and event.step == event.steps:
            made = event.made + event.drawing
            self.warn(f"{event.drawing} drawn at once, {made} of {event.candidates} candidates")

    def _move_bar(self, event: Progress) -> None:
        self._bar.n = self._candidates_told + event.share * event.candidates
        if self._survey.prompts > 1:
            self._bar.set_description_str(
                f"prompt {self._prompts_told + 1}/{self._survey.prompts} ", refresh=False
            )
        made = f"{event.made}/{event.candidates} candidates, step {event.step}/{event.steps}"
        self._bar.set_postfix_str(made, refresh=False)
        self._bar.refresh()

    def tell(self, row: Row, outcome: Outcome) -> None:
        """Tell that a prompt is done: its scores and file names."""
        self._prompts_told += 1
        self._candidates_told += outcome.plan.count
        if self._json:
            _print(json.dumps(_to_json(row, outcome), ensure_ascii=False))
            return
        prompt = " ".join(outcome.plan.request.prompt.split())
        if len(prompt) > PROMPT_SHOWN:
            prompt = prompt[:PROMPT_SHOWN] + "…"
        there = outcome.made - outcome.drawn
        already = f", {there} were there already" if there else ""
        self.say(f"{outcome.number:04d} {prompt} (seed {outcome.plan.seed}{already})")
        for result in outcome.best:
            score = "" if result.score is None else f"{result.score:8.4f}"
            likelihood = result.log_likelihood
            score += "" if likelihood is None else f"  {likelihood:8.1f} nats"
            score += "".join(f"  {name} {part:+.4f}" for name, part in result.scores.items())
            state = "" if result.unfinished is None else f"  unfinished: {result.unfinished}"
            self.say(f"{result.rank:4}.{score}  {result.path}{state}")
        for result in outcome.failed:
            self.say(f"   failed: seed {result.seed}: {result.failed}")

    def say(self, line: str) -> None:
        """Write a line for people, unless scripts are reading."""
        if not self._quiet and not self._json:
            self._bar.clear()
            _print(line)

    def warn(self, line: str) -> None:
        """Write a line beside the results."""
        if not self._quiet:
            self._bar.clear()
            _complain(line, kind="note")


def _to_json(row: Row, outcome: Outcome) -> dict[str, Any]:
    identity = {} if row.id is None else {"id": row.id}
    return {
        **identity,
        "number": outcome.number,
        "request": outcome.plan.request.to_json(),
        "made": outcome.made,
        "drawn": outcome.drawn,
        "results": [result.to_json() for result in outcome.best],
        "failed": [result.to_json() for result in outcome.failed],
    }


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
        case InputError():
            code = BAD_INPUT
        case _ if isinstance(error, WeightsError):
            code = BAD_WEIGHTS
        case RoomError():
            code = NO_ROOM
        case OSError(errno=errno.ENAMETOOLONG):  # whichever flag it was given to
            _complain(f"{error.filename[:PROMPT_SHOWN]}…: this name is too long for a file")
            return BAD_INPUT
        case _:
            _complain(f"{type(error).__name__}: {error} (--debug shows where)")
            return BUG
    _complain(str(error))
    return code


def _print(line: str, end: str = "\n") -> None:
    """Write a line to standard output; nobody reading it any more is no reason to stop drawing."""
    try:
        print(line, end=end, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(line: str, kind: str = "error") -> None:
    print(f"generate: {kind}: {line}", file=sys.stderr, flush=True)
