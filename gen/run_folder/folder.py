"""The run folder: where pictures are kept, so that nothing is lost, doubled or half-written.

    <out>/0001-<seed>-r1.png          the best of the first prompt, up to its top_k
    <out>/candidates/0001-<seed>.png  the others, and every picture until its prompt is ranked
    <out>/sheet.png                   what the last command made, on one page
    <out>/manifest.jsonl              what happened, from which a killed run is finished
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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from gen.errors import InputError
from gen.metadata import metadata
from gen.metadata.metadata import Metadata
from gen.plan import Candidate, Plan, draw_seed
from gen.result import Result
from gen.run_folder.manifest import Manifest
from gen.run_folder.saving import SUFFIX_OF_FORMAT, Export, no_room, write_atomically
from gen.settings.request import seed_to_json

Files = Mapping[int, Mapping[int, str]]  # by number of the prompt and seed, relative to the folder

KEEP = ("all", "top")
DELETED = "deleted"  # the folder of what was deleted and can still be brought back
PICTURE_NAME = re.compile(r"(candidates/)?\d{4,}-\d+(-r\d+)?\.(png|jpg|webp)")


@dataclass
class Job:
    """One prompt's place in a run folder, and what is there of it."""

    number: int
    results: dict[int, Result] = field(default_factory=dict)  # by seed
    finished: bool = False  # all candidates were made, ranked and put in place


class RunFolder:
    """A folder of pictures that this process alone writes to, until `close`.

    Raises InputError if the path cannot be such a folder, before anything else is done.
    """

    def __init__(self, path: Path, export: Export | None = None, keep: str = "all") -> None:
        self.path = path
        self.export = Export() if export is None else export
        self.keep = keep
        self._manifest = _opened(path)
        self._remove_temporary_files()
        self._places_of: dict[int, list[int]] = {}  # of a prompt's records, by its number
        self._number_of: dict[str, int] = {}  # by job key
        self._seed_of_open_run: dict[str, Any] = {}  # by fingerprint; None: it has ended
        self._last_comparison = 0
        for place, record in self._manifest:
            self._remember(place, record)
        self._last_number = self._highest_number()

    def close(self) -> None:
        """Let other runs write to the folder."""
        self._manifest.close()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Runs: one command each.

    def start_run(self, fingerprint: str) -> tuple[int, bool]:
        """A seed for a run without one, and whether it is an earlier run's.

        It is that of the unfinished run of the same command in this folder, if there is one;
        `fingerprint` tells commands apart.
        """
        open_seed = self._seed_of_open_run.get(fingerprint)
        if open_seed is not None:
            return int(open_seed), True
        seed = draw_seed()
        self._note("run", fingerprint=fingerprint, seed=seed_to_json(seed))
        return seed, False

    def end_run(self, fingerprint: str) -> None:
        """Nothing of the run is missing."""
        self._note("end", fingerprint=fingerprint)

    # Prompts: one job each.

    def job(self, plan: Plan, hashes: Mapping[str, str], *, anew: bool = False) -> Job:
        """The prompt's place, with the pictures that earlier runs left; a new one if `anew`.

        `hashes` gives the weights' hash by model: other weights are another job.
        """
        key = self._key(plan, hashes)
        if key in self._number_of and not anew:
            try:
                return self._read_job(self._number_of[key], plan)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise InputError(
                    f"{self.path / 'manifest.jsonl'} is damaged: choose another folder"
                ) from error
        self._last_number += 1
        request = plan.request.to_json()
        self._note("prompt", number=self._last_number, key=key, request=request)
        return Job(self._last_number)

    def save(self, job: Job, candidate: Candidate, image: Image.Image, record: Metadata) -> Result:
        """Write one candidate's picture. Raises RoomError if the disk has no room for it."""
        name = f"{job.number:04d}-{candidate.seed}{SUFFIX_OF_FORMAT[self.export.format]}"
        path = self.path / "candidates" / name
        self._write(path, self.export.encode(image, record))
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
        self._note("picture", number=job.number, **self._entry(result))
        return result

    def fail(self, job: Job, result: Result) -> None:
        """Note why a candidate has no picture."""
        job.results[result.seed] = result
        self._note("failed", number=job.number, **self._entry(result))

    def note_scores(self, job: Job, results: Iterable[Result]) -> None:
        """Note what the jury said, so that it need not be asked again."""
        scores = {str(result.seed): result.score for result in results}
        self._note("judged", number=job.number, scores=scores)

    def place(self, job: Job, ranked: list[Result], plan: Plan) -> None:
        """Give every ranked picture its final name and record; drop the rest if only top is kept.

        The intention is noted first: after a kill, `job` does the same again.
        """
        pictures = [r for r in ranked if r.path is not None and r.rank is not None]
        whole = len(pictures) == plan.count and all(r.unfinished is None for r in pictures)
        drop_others = self.keep == "top" and whole  # else they would have to be made again
        moves = [(r, self._final_path(job, r, plan.top_k, drop_others)) for r in pictures]
        self._note(
            "ranked",
            number=job.number,
            whole=whole,
            pictures=[
                {**self._entry(result), "to": None if final is None else self._relative(final)}
                for result, final in moves
            ],
        )
        for result, final in moves:
            self._move(result, final)
        self._note("placed", number=job.number)

    def note_matches(self, number: int, matches: Mapping[int, float]) -> None:
        """Note the probability that each picture, by its seed, matches its prompt."""
        self._note("matched", number=number, matches={str(s): p for s, p in matches.items()})

    def begin_comparison(self) -> int:
        """A number for a comparison of prompts."""
        self._last_comparison += 1
        return self._last_comparison

    def note_comparison(
        self,
        comparison: int,
        across: Mapping[str, Any],
        down: Mapping[str, Any],
        numbers: Sequence[int],
    ) -> None:
        """Note which prompts are the cells of a comparison so far, row by row, and its two axes."""
        self._note("compared", comparison=comparison, across=across, down=down, numbers=numbers)

    def delete(self, files: Files) -> None:
        """Put pictures aside; `restore` brings them back, in this process or a later one.

        One that is aside already, and was drawn again since, is kept once.
        """
        self._note("deleted", files=_to_json(files))
        for name in _names(files):
            self._carry(self._path(name), self._aside(name))

    def restore(self, files: Files) -> None:
        """Bring back what `delete` has put aside; what is there already stays as it is."""
        for number, names in files.items():
            for seed, name in names.items():
                if not any(self._pictures_of(number, seed, "", "candidates")):
                    self._carry(self._aside(name), self._path(name))
                for older in self._pictures_of(number, seed, DELETED):  # of no use to anybody now
                    older.unlink()
        self._note("restored", files=_to_json(files))

    def empty_deleted(self) -> None:
        """Remove for good what was put aside."""
        self._note("emptied")
        for path in (self.path / DELETED).glob("*"):
            if PICTURE_NAME.fullmatch(path.name):
                path.unlink()

    def write_sheet(self, sheet: Image.Image) -> Path:
        """Save the contact sheet, in place of an earlier one."""
        out = io.BytesIO()
        sheet.save(out, "png")
        self._write(self.path / "sheet.png", out.getvalue())
        return self.path / "sheet.png"

    def _final_path(self, job: Job, result: Result, top_k: int, drop_others: bool) -> Path | None:
        suffix = SUFFIX_OF_FORMAT[self.export.format]
        assert result.rank is not None
        if result.rank <= top_k:
            return self.path / f"{job.number:04d}-{result.seed}-r{result.rank}{suffix}"
        if drop_others:
            return None
        return self.path / "candidates" / f"{job.number:04d}-{result.seed}{suffix}"

    def _move(self, result: Result, final: Path | None) -> None:
        """Bring one picture to where the ranking says; a second time changes nothing."""
        old = result.path
        assert old is not None
        if final is not None:
            source = final if final.exists() and not old.exists() else old
            try:
                data = self._with_rank(source, result)
            except (FileNotFoundError, InputError):  # removed or damaged by somebody: the next
                result.path = None  # run makes it again
                return
            self._write(final, data)
        if old != final:
            old.unlink(missing_ok=True)
        result.path = final

    def _with_rank(self, path: Path, result: Result) -> bytes:
        """A picture's file with its score and rank in its record, if it has one."""
        data = path.read_bytes()
        if self.export.strip_metadata:
            return data
        record = replace(metadata.read(path), score=result.score, rank=result.rank)
        return metadata.embed(data, record)

    def _read_job(self, number: int, plan: Plan) -> Job:
        """What the manifest and the disk say of a job that was begun before."""
        candidates = {candidate.seed: candidate for candidate in plan.candidates()}
        results: dict[int, Result] = {}
        moves: list[tuple[Result, Path | None]] = []  # announced, not known to be done
        whole, dropped, finals = False, False, []
        for record in self._manifest.read(self._places_of[number]):
            match record["event"]:
                case "picture":
                    result = self._result(record, candidates)
                    results[result.seed] = result
                case "failed":
                    results.pop(int(record["seed"]), None)
                case "judged":
                    for seed, score in record["scores"].items():
                        results[int(seed)].score = score
                case "ranked":
                    whole, moves = record["whole"], []
                    for entry in record["pictures"]:
                        result = results[int(entry["seed"])]
                        result.rank, result.score = entry["rank"], entry.get("score")
                        moves.append((result, self._path(entry["to"]) if entry["to"] else None))
                    finals = [final for _, final in moves if final is not None]
                    dropped = len(finals) < len(moves)
                case "placed":
                    for result, final in moves:
                        result.path = final
                    moves = []
        if moves:
            for result, final in moves:
                self._move(result, final)
            self._note("placed", number=number)

        wanted = not dropped or self.keep == "top"
        job = Job(number, finished=whole and wanted and all(final.is_file() for final in finals))
        for seed, result in results.items():
            if job.finished or (result.path is not None and result.path.is_file()):
                job.results[seed] = result
        return job

    def _result(self, entry: Mapping[str, Any], candidates: Mapping[int, Candidate]) -> Result:
        candidate = candidates[int(entry["seed"])]
        return Result(
            candidate.request,
            index=candidate.index,
            log_likelihood=entry.get("log_likelihood"),
            path=self._path(entry["file"]),
            unfinished=entry.get("unfinished"),
        )

    def _entry(self, result: Result) -> dict[str, Any]:
        """A result as the manifest holds it: as for scripts, its file relative to the folder."""
        values = result.to_json()
        if result.path is not None:
            values["file"] = self._relative(result.path)
        return values

    def _path(self, name: str) -> Path:
        """Where a file of the manifest is; ValueError unless it has one of our own names."""
        if not PICTURE_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a picture")
        return self.path / name

    def _aside(self, name: str) -> Path:
        """Where a file of the manifest is when it was deleted; seeds make its bare name its own."""
        return self.path / DELETED / self._path(name).name

    def _pictures_of(self, number: int, seed: int, *folders: str) -> list[Path]:
        """A candidate's files in these folders, whatever its rank was."""
        names = (f"{number:04d}-{seed}.*", f"{number:04d}-{seed}-r*.*")
        return [p for folder in folders for name in names for p in (self.path / folder).glob(name)]

    def _carry(self, old: Path, new: Path) -> None:
        try:
            new.parent.mkdir(exist_ok=True)
            if old.is_file():
                os.replace(old, new)
        except OSError as error:
            raise no_room(new, error) from error

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    def _key(self, plan: Plan, hashes: Mapping[str, str]) -> str:
        """What makes two prompts the same job: request, models, weights, and kind of file."""
        own = [[spec.name, request.to_json()] for spec, request in plan.models]
        facts = [plan.request.to_json(), own, dict(hashes), asdict(self.export)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]

    def _note(self, event: str, **facts: Any) -> None:
        record = {"event": event, **facts}
        try:
            place = self._manifest.append(record)
        except OSError as error:
            raise no_room(self.path / "manifest.jsonl", error) from error
        self._remember(place, record)

    def _remember(self, place: int, record: dict[str, Any]) -> None:
        """Keep what is needed to find a record again; a long run has more than memory holds."""
        if "number" in record:
            self._places_of.setdefault(record["number"], []).append(place)
        if "key" in record:
            self._number_of[record["key"]] = record["number"]
        if isinstance(record.get("comparison"), int):
            self._last_comparison = max(self._last_comparison, record["comparison"])
        if "fingerprint" in record:
            self._seed_of_open_run[record["fingerprint"]] = record.get("seed")

    def _write(self, path: Path, data: bytes) -> None:
        try:
            write_atomically(path, data)
        except OSError as error:
            raise no_room(path, error) from error

    def _remove_temporary_files(self) -> None:
        for folder in (self.path, self.path / "candidates"):
            for leftover in folder.glob(".*.tmp"):
                leftover.unlink()

    def _highest_number(self) -> int:
        """The highest prompt number in use, by the manifest or by files of unknown origin."""
        numbers = [0, *self._places_of]
        for folder in (self.path, self.path / "candidates"):
            for entry in os.scandir(folder):
                if match := re.match(r"(\d{4,9})-", entry.name):
                    numbers.append(int(match[1]))
        return max(numbers)


def _to_json(files: Files) -> dict[str, dict[str, str]]:
    """Files as the manifest holds them: the keys of JSON are text."""
    return {
        str(number): {str(seed): name for seed, name in names.items()}
        for number, names in files.items()
    }


def _names(files: Files) -> list[str]:
    return [name for names in files.values() for name in names.values()]


def _opened(path: Path) -> Manifest:
    """The manifest of a run folder, which is made if need be; InputError if it cannot be."""
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
