"""The run folder: where images are kept, so that nothing is lost, doubled or half-written.

    <out>/0001-r1-<seed>.png          the best of the first prompt, up to its top_k
    <out>/candidates/0001-<seed>.png  the others, and every image until its prompt is ranked
    <out>/sheet.png                   what the last command made, on one page
    <out>/manifest.jsonl              what happened, from which a killed run is finished
    <out>/originals/                  what edits began from, by SHA-256
    <out>/deleted/                    what was deleted on the page and can be brought back

Every file gets its final name only when it is complete. What is to be renamed is first written to
the manifest, so a run that is killed half-way through can be put in order by the next.
"""

import errno
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from gen.errors import InputError
from gen.metadata import Metadata
from gen.plan import Candidate, Plan
from gen.result import Result
from gen.run_folder import deleted, events, originals
from gen.run_folder.choices import ChoiceEvent
from gen.run_folder.events import Axis, Damaged, Event, Files, Placement, PromptEvent, SavedImage
from gen.run_folder.fold import fold_what_fits
from gen.run_folder.manifest import Manifest, Unreadable
from gen.run_folder.saving import Export, no_room, write
from gen.run_folder.searched import CandidatesThinned
from gen.search.race import Field, Look

SET_ASIDE = "set-aside.jsonl"  # lines of the manifest that somebody edited
KEEP = ("all", "top")


@dataclass
class Job:
    """One prompt's place in a run folder, and what is there of it."""

    number: int
    results: dict[int, Result] = field(default_factory=dict)  # by seed
    finished: bool = False  # all candidates were made, ranked and put in place
    searches: Mapping[str, Field] = field(default_factory=dict)  # by model, those still in


class RunFolder:
    """A folder of images that this process alone writes to, until `close`.

    Raises InputError if the path cannot be such a folder, before anything else is done.
    """

    def __init__(self, path: Path, export: Export | None = None, keep: str = "all") -> None:
        self.path = path
        self.export = Export() if export is None else export
        self.keep = keep
        self._manifest = _open_manifest(path)
        self._remove_temporary_files()
        # Just where to find events again: a long run has more of them than memory holds.
        self._places_of: dict[int, list[int]] = {}  # in the manifest, by number of the prompt
        self._number_of: dict[str, int] = {}  # by key of the job
        self._open_runs: dict[str, int] = {}  # their seeds, by fingerprint
        self._last_comparison = 0
        damaged = []
        for place, line in self._manifest:
            if isinstance(line, Unreadable):
                damaged.append((json.dumps(line.text), line.reason))
                continue
            event = events.from_json(line)
            self._remember(place, event)
            if isinstance(event, Damaged):
                damaged.append((json.dumps(line), event.reason))
        self.notes = self._set_aside(damaged)
        self._last_number = self._highest_number()

    def close(self) -> None:
        """Let other runs write to the folder."""
        self._manifest.close()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start_run(self, fingerprint: str, seed: int) -> tuple[int, bool]:
        """Return the seed of a run that was given none, and whether it is an earlier run's.

        It is that of the unfinished run of the same command in this folder, if there is one, or
        else `seed`; `fingerprint` tells commands apart.
        """
        if fingerprint in self._open_runs:
            return self._open_runs[fingerprint], True
        self._note(events.RunBegan(fingerprint, seed))
        return seed, False

    def end_run(self, fingerprint: str) -> None:
        """Note that nothing of the run is missing."""
        self._note(events.RunEnded(fingerprint))

    def has_begun(self, plan: Plan, hashes: Mapping[str, str]) -> bool:
        """Return whether the prompt has been begun, by this run or an earlier one."""
        return self._key(plan, hashes) in self._number_of

    def job(self, plan: Plan, hashes: Mapping[str, str], *, anew: bool = False) -> Job:
        """Return the prompt's place, with what earlier runs left there; a new one if `anew`.

        `hashes` gives the weights' hash by model: other weights are another job.
        """
        key = self._key(plan, hashes)
        if key in self._number_of and not anew:
            job = self._resume(self._number_of[key], plan)
            if job is not None:
                return job
        for file in (getattr(plan.request, name) for name in originals.NAMES):
            if file is not None:
                originals.keep(self.path, Path(file).read_bytes(), Path(file).suffix)
        self._last_number += 1
        self._note(events.PromptBegan(self._last_number, key, plan.request.to_json()))
        return Job(self._last_number)

    def save(
        self,
        job: Job,
        candidate: Candidate,
        image: Image.Image,
        record: Metadata,
        encoded: bytes | None = None,
    ) -> Result:
        """Write one candidate's image, which may be `encoded` by `export` already.

        Raises RoomError if the disk has no room for it.
        """
        path = self.path / self._name(job.number, candidate.seed)
        data = self.export.encode(image) if encoded is None else encoded
        write(path, self.export.with_record(data, record))
        before = job.results.get(candidate.seed)  # one that was left unfinished
        if before is not None and before.path not in (None, path):
            before.path.unlink(missing_ok=True)
        result = Result(
            candidate.request,
            index=candidate.index,
            image=image,
            log_likelihood=record.log_likelihood,
            path=path,
            unfinished=record.unfinished,
        )
        job.results[candidate.seed] = result
        self._note(events.ImageSaved(job.number, self._saved_image(result)))
        return result

    def fail(self, job: Job, result: Result) -> None:
        """Note why a candidate has no image."""
        job.results[result.seed] = result
        self._note(
            events.CandidateFailed(
                job.number,
                result.seed,
                reason=str(result.failed),
                model=result.request.model,
                file=None if result.path is None else self._relative(result.path),
            )
        )

    def note_scores(self, job: Job, results: Iterable[Result]) -> None:
        """Note the scores of images, so that they need not be scored again."""
        scored = {result.seed: result for result in results if result.score is not None}
        scores = {seed: result.score for seed, result in scored.items() if result.score is not None}
        parts = {seed: result.scores for seed, result in scored.items() if result.scores}
        self._note(events.ImagesScored(job.number, scores, parts))

    def note_look(self, job: Job, model: str, total: int, look: Look) -> None:
        """Note what a search has decided, and remove what was left unfinished of those dropped."""
        self._note(CandidatesThinned(job.number, model, total, look))
        for runner in look.dropped:
            unfinished = job.results.pop(runner.path.seed, None)
            if unfinished is not None and unfinished.path is not None:
                unfinished.path.unlink(missing_ok=True)

    def place(self, job: Job, ranked: list[Result], plan: Plan) -> None:
        """Give every ranked image its final name and metadata; drop the rest if only top is kept.

        The intention is noted first: after a kill, `job` does the same again.
        """
        results = [r for r in ranked if r.path is not None and r.rank is not None]
        whole = len(results) == plan.count and all(r.unfinished is None for r in results)
        drop_others = self.keep == "top" and whole  # else they would have to be made again
        placements = []
        for result in results:
            is_best = result.rank is not None and result.rank <= plan.top_k
            place = f"{result.rank:0{len(str(plan.top_k))}}" if is_best else None
            name = self._name(job.number, result.seed, place)
            to = None if drop_others and not is_best else name
            placements.append(Placement(self._saved_image(result), to))
        self._note(events.ImagesRanked(job.number, whole, tuple(placements)))
        for result, placement in zip(results, placements, strict=True):
            result.path = self._carry_out(placement)
        self._note(events.ImagesPlaced(job.number))

    def note_matches(self, number: int, matches: Mapping[int, float]) -> None:
        """Note the probability that each image, by its seed, matches its prompt."""
        self._note(events.ImagesMatched(number, matches))

    def note_choice(self, event: ChoiceEvent) -> None:
        """Note that somebody gave an image a heart, or preferred it to another."""
        self._note(event)

    def begin_comparison(self) -> int:
        """Return a number for a comparison of prompts."""
        self._last_comparison += 1
        return self._last_comparison

    def note_comparison(
        self, comparison: int, across: Axis, down: Axis, numbers: Sequence[int]
    ) -> None:
        """Note which prompts are the cells of a comparison so far, row by row, and its two axes."""
        self._note(events.Comparison(comparison, across, down, tuple(numbers)))

    def delete(self, files: Files) -> None:
        """Put images aside; `restore` brings them back, in this process or a later one.

        One that is aside already, and was drawn again since, is kept once.
        """
        self._note(events.ImagesDeleted(files))
        deleted.put_aside(self.path, files)

    def restore(self, files: Files) -> None:
        """Bring back what `delete` has put aside; what is there already stays as it is."""
        deleted.bring_back(self.path, files)
        self._note(events.ImagesRestored(files))

    def empty_deleted(self) -> None:
        """Remove for good what was put aside."""
        self._note(events.DeletedEmptied())
        deleted.empty(self.path)

    def write_contact_sheet(self, page: Image.Image) -> Path:
        """Save the contact sheet, in place of an earlier one, and return where."""
        out = io.BytesIO()
        page.save(out, "png")
        write(self.path / "sheet.png", out.getvalue())
        return self.path / "sheet.png"

    def _resume(self, number: int, plan: Plan) -> Job | None:
        """Return a job that was begun before, from what the manifest and the disk say of it.

        What a line that makes no sense was about is made again: None if that is all of it.
        """
        lines = self._manifest.read(self._places_of[number])
        history = fold_what_fits(map(events.from_json, lines), plan.request)
        prompt = history.prompts.get(number)
        if prompt is None:
            return None
        placements = () if prompt.ranking is None else prompt.ranking.placements
        if not prompt.is_placed:
            for placement in placements:
                self._carry_out(placement)
            self._note(events.ImagesPlaced(number))

        candidates = plan.found_in(prompt.searches)
        results, dropped = (
            [self._result(i, candidates[i.seed]) for i in images if i.seed in candidates]
            for images in (prompt.images, prompt.dropped.values())
        )
        for result in dropped:
            result.path = None

        whole = prompt.ranking is not None and prompt.ranking.whole
        finals = [self.path / each.to for each in placements if each.to is not None]
        is_wanted = self.keep == "top" or len(finals) == len(placements)
        finished = whole and is_wanted and all(final.is_file() for final in finals)
        there = [r for r in results if r.path is not None and r.path.is_file()]
        known = results + dropped if finished else there
        return Job(number, {result.seed: result for result in known}, finished, prompt.searches)

    def _carry_out(self, placement: Placement) -> Path | None:
        """Bring one image to where the ranking says, and return where; a second time is as well.

        None if it is not kept, or if there is no sound file of it.
        """
        image = placement.image
        old = self.path / image.file
        final = None if placement.to is None else self.path / placement.to
        if final is not None:
            source = final if final.exists() and not old.exists() else old
            try:
                data = self.export.with_rank(source, image.rank, image.score, image.scores)
            except (FileNotFoundError, InputError):  # removed or damaged by somebody: the next
                return None  # run makes it again
            write(final, data)
        if old != final:
            old.unlink(missing_ok=True)
        return final

    def _saved_image(self, result: Result) -> SavedImage:
        """Return what the manifest says of a result that has a file."""
        assert result.path is not None
        return SavedImage(
            result.seed,
            self._relative(result.path),
            result.request.model,
            result.score,
            result.scores,
            rank=result.rank,
            log_likelihood=result.log_likelihood,
            unfinished=result.unfinished,
        )

    def _result(self, image: SavedImage, candidate: Candidate) -> Result:
        """Return the result that the manifest tells of."""
        return Result(
            candidate.request,
            index=candidate.index,
            score=image.score,
            scores=image.scores,
            log_likelihood=image.log_likelihood,
            rank=image.rank,
            path=self.path / image.file,
            unfinished=image.unfinished,
        )

    def _name(self, number: int, seed: int, rank: str | None = None) -> str:
        """Return the name of an image's file: on top if it has one of the best ranks.

        Ranks stand before the seed and are as wide as the last one, so that names sort by them.
        """
        if rank is None:
            return f"candidates/{number:04d}-{seed}{self.export.suffix}"
        return f"{number:04d}-r{rank}-{seed}{self.export.suffix}"

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    def _key(self, plan: Plan, hashes: Mapping[str, str]) -> str:
        """Return what makes two prompts the same job: request, models, weights, kind of file."""
        own = [[spec.name, request.to_json()] for spec, request in plan.models]
        facts = [plan.request.to_json(), own, dict(hashes), vars(self.export)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]

    def _note(self, event: Event) -> None:
        """Append an event to the manifest. Raises RoomError if the disk is full."""
        try:
            place = self._manifest.append(events.to_json(event))
        except OSError as error:
            raise no_room(self.path / "manifest.jsonl", error) from error
        self._remember(place, event)

    def _remember(self, place: int, event: Event | None) -> None:
        """Keep what is needed to find an event again, and to number what comes next."""
        if isinstance(event, PromptEvent | Damaged) and event.number is not None:
            self._places_of.setdefault(event.number, []).append(place)
        match event:
            case events.PromptBegan(number, key):
                self._number_of[key] = number
            case events.RunBegan(fingerprint, seed):
                self._open_runs[fingerprint] = seed
            case events.RunEnded(fingerprint):
                self._open_runs.pop(fingerprint, None)
            case events.Comparison(number):
                self._last_comparison = max(self._last_comparison, number)

    def _set_aside(self, damaged: Sequence[tuple[str, str]]) -> list[str]:
        """Copy lines of the manifest that make no sense into a file, and say so of new ones."""
        path = self.path / SET_ASIDE
        try:
            known = set(path.read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError):
            known = set()
        new = {line: reason for line, reason in damaged if line not in known}
        if not new:
            return []
        write(path, "".join(f"{line}\n" for line in [*known, *new]).encode())
        reason = next(iter(new.values()))
        lines = "a line" if len(new) == 1 else f"{len(new)} lines"
        return [
            f"{self.path / 'manifest.jsonl'}: {lines} of no sense ({reason:.80}): copied to "
            f"{SET_ASIDE}; what they were about is made again, everything else goes on"
        ]

    def _remove_temporary_files(self) -> None:
        for folder in (self.path, self.path / "candidates"):
            for leftover in folder.glob(".*.tmp"):
                leftover.unlink()

    def _highest_number(self) -> int:
        """Return the highest prompt number in use, by the manifest or by files of any origin."""
        numbers = [0, *self._places_of]
        for folder in (self.path, self.path / "candidates"):
            for entry in os.scandir(folder):
                if match := re.match(r"(\d{4,9})-", entry.name):
                    numbers.append(int(match[1]))
        return max(numbers)


def _open_manifest(path: Path) -> Manifest:
    """Open the manifest of a run folder, made if need be; InputError if it cannot be."""
    candidates = path / "candidates"
    try:
        for folder in (path, candidates):
            if folder.is_symlink():
                raise InputError(
                    f"{folder} is a symbolic link: name the folder that it leads to, "
                    f"{folder.resolve()}"
                )
        candidates.mkdir(parents=True, exist_ok=True)
        return Manifest(path / "manifest.jsonl")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_room(path / "manifest.jsonl", error) from error
        raise InputError(f"cannot save to {path}: {error.strerror}") from error
