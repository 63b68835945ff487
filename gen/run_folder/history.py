"""What was drawn before: the prompts of a run folder and their pictures, read off its manifest."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

from gen.errors import InputError
from gen.run_folder.folder import PICTURE_NAME, Files
from gen.run_folder.manifest import records
from gen.settings.request import Request, find_setting
from pipelines.settings import Value


@dataclass
class Picture:
    """One picture of a prompt, as the manifest tells of it."""

    seed: int
    file: str  # relative to the run folder
    model: str | None = None
    score: float | None = None  # cosine between prompt and picture, in [-1, 1]
    match: float | None = None  # the probability that it matches the prompt, in [0, 1]
    rank: int | None = None  # 1 is the best
    unfinished: str | None = None  # "step 14 of 30"


@dataclass
class Past:
    """One prompt of a run folder."""

    number: int
    request: Request
    _pictures: dict[int, Picture] = field(default_factory=dict)  # by seed

    @property
    def is_empty(self) -> bool:
        """Whether it has no pictures, or none any more."""
        return not self._pictures

    @property
    def pictures(self) -> list[Picture]:
        """Its pictures, best first, then those without a rank as they were made."""
        pictures = list(self._pictures.values())
        return sorted(pictures, key=lambda p: (p.rank is None, 0 if p.rank is None else p.rank))

    @property
    def models(self) -> set[str]:
        """Which drew its pictures."""
        return {p.model for p in self._pictures.values() if p.model is not None}

    def find(self, seed: int) -> Picture | None:
        """The picture of that seed, while there is one."""
        return self._pictures.get(seed)

    @property
    def best(self) -> list[Picture]:
        """Its top_k."""
        return [p for p in self.pictures if self._is_best(p)]

    @property
    def rest(self) -> list[Picture]:
        """Those behind them."""
        return [p for p in self.pictures if not self._is_best(p)]

    def take(self, record: Mapping[str, Any]) -> None:
        """Learn what a line of the manifest tells; raises what a line that is none causes."""
        pictures = self._pictures
        match record["event"]:
            case "picture":
                pictures[int(record["seed"])] = _picture(record, record["file"])
            case "failed":
                pictures.pop(int(record["seed"]), None)
            case "judged":
                for seed, score in record["scores"].items():
                    pictures[int(seed)].score = score
            case "ranked":
                for entry in record["pictures"]:
                    seed = int(entry["seed"])
                    before = pictures.pop(seed, None)
                    if entry["to"] is not None:
                        pictures[seed] = _picture(entry, entry["to"])
                        pictures[seed].match = None if before is None else before.match
            case "matched":
                for seed, match in record["matches"].items():
                    pictures[int(seed)].match = float(match)

    def remove(self, seeds: Iterable[int]) -> dict[int, Picture]:
        """Take pictures away; those that were there."""
        there = [seed for seed in seeds if seed in self._pictures]
        return {seed: self._pictures.pop(seed) for seed in there}

    def bring_back(self, pictures: Mapping[int, Picture]) -> None:
        """Take pictures back; one that was made again since then stays as it is."""
        self._pictures = {**pictures, **self._pictures}

    def _is_best(self, picture: Picture) -> bool:
        top_k = self.request.top_k
        return picture.rank is not None and (top_k is None or picture.rank <= top_k)


@dataclass(frozen=True)
class Axis:
    """A setting and the values that it takes in a comparison."""

    name: str
    values: tuple[Value, ...]

    def to_json(self) -> dict[str, Any]:
        """As the manifest holds it."""
        return {"name": self.name, "values": list(self.values)}


@dataclass(frozen=True)
class Comparison:
    """One prompt over a grid of two settings; its cells are prompts of their own.

    `numbers` are theirs, row by row, as far as they were drawn; `number` is the comparison's.
    """

    number: int
    across: Axis
    down: Axis
    numbers: tuple[int, ...]


@dataclass
class Deletion:
    """What was deleted at once, and can be brought back."""

    pictures: dict[int, dict[int, Picture]]  # by number of the prompt and seed

    @property
    def files(self) -> Files:
        """Where the pictures were, as the run folder takes it."""
        return {
            number: {seed: picture.file for seed, picture in pictures.items()}
            for number, pictures in self.pictures.items()
        }

    @property
    def count(self) -> int:
        """How many pictures it is about."""
        return sum(map(len, self.pictures.values()))


class History:
    """The prompts of a run folder; `refresh` reads what the manifest says since the last time.

    For callers in many threads, while another one draws. What cannot be understood is passed over.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pasts: dict[int, Past] = {}
        self._comparisons: dict[tuple[Axis, Axis, int], Comparison] = {}  # by what they show
        self._deletions: list[Deletion] = []
        self._read = 0  # bytes of the manifest
        self._lock = Lock()

    def refresh(self) -> None:
        """Read on in the manifest."""
        with self._lock:
            for _, end, record in records(self.folder / "manifest.jsonl", self._read):
                with suppress(InputError, AttributeError, KeyError, TypeError, ValueError):
                    self._take(record)
                self._read = end

    def pasts(self) -> list[Past]:
        """The prompts that have pictures, the latest first."""
        with self._lock:
            return [past for past in reversed(self._pasts.values()) if not past.is_empty]

    def entries(self) -> list[Past | Comparison]:
        """What was asked for and has pictures, the latest first: prompts, and each comparison in
        place of its cells."""
        pasts = self.pasts()
        there = {past.number for past in pasts}
        with self._lock:
            whole = [c for c in self._comparisons.values() if not there.isdisjoint(c.numbers)]
        cells = {number for comparison in whole for number in comparison.numbers}
        places: list[tuple[int, Past | Comparison]] = [
            *((past.number, past) for past in pasts if past.number not in cells),
            *((max(comparison.numbers), comparison) for comparison in whole),
        ]
        return [entry for _, entry in sorted(places, key=lambda place: place[0], reverse=True)]

    def find_comparison(self, number: int) -> Comparison | None:
        """The comparison of that number."""
        with self._lock:
            return next((c for c in self._comparisons.values() if c.number == number), None)

    def deletions(self) -> list[Deletion]:
        """What was deleted and can be brought back, the latest last."""
        with self._lock:
            return [Deletion({n: dict(p) for n, p in d.pictures.items()}) for d in self._deletions]

    def find(self, number: int) -> Past | None:
        """The prompt of that number."""
        with self._lock:
            return self._pasts.get(number)

    def path(self, picture: Picture) -> Path | None:
        """Where its file is; None if somebody removed it."""
        path = self.folder / picture.file
        return path if path.is_file() and not path.is_symlink() else None

    def _take(self, record: Mapping[str, Any]) -> None:
        match record["event"]:
            case "prompt":
                number = int(record["number"])
                self._pasts[number] = Past(number, Request.from_json(record["request"]))
            case "compared":
                self._compare(_comparison(record))
            case "deleted":
                self._delete(_seeds(record))
            case "restored":
                self._restore(_seeds(record))
            case "emptied":
                self._deletions.clear()
            case _:
                self._pasts[int(record["number"])].take(record)

    def _compare(self, comparison: Comparison) -> None:
        """The same again, which may have been ended earlier, is one comparison."""
        key = comparison.across, comparison.down, comparison.numbers[0]
        before = self._comparisons.get(key, comparison)
        numbers = max(before.numbers, comparison.numbers, key=len)
        self._comparisons[key] = replace(comparison, numbers=numbers)

    def _delete(self, seeds: Mapping[int, Sequence[int]]) -> None:
        gone = {number: self._pasts[number].remove(those) for number, those in seeds.items()}
        gone = {number: pictures for number, pictures in gone.items() if pictures}
        if gone:
            self._deletions.append(Deletion(gone))

    def _restore(self, seeds: Mapping[int, Sequence[int]]) -> None:
        for number, those in seeds.items():
            for deletion in self._deletions:
                aside = deletion.pictures.get(number, {})
                back = {seed: aside.pop(seed) for seed in those if seed in aside}
                self._pasts[number].bring_back(back)
        self._deletions = [deletion for deletion in self._deletions if deletion.count]


def _comparison(record: Mapping[str, Any]) -> Comparison:
    """A comparison as far as it was drawn by then. Raises ValueError for one without cells."""
    across, down = (_axis(record[which]) for which in ("across", "down"))
    numbers = tuple(map(int, record["numbers"]))
    if not numbers:
        raise ValueError("a comparison of nothing")
    return Comparison(int(record["comparison"]), across, down, numbers)


def _axis(entry: Mapping[str, Any]) -> Axis:
    values = entry["values"]
    return Axis(str(entry["name"]), tuple(find_setting(entry["name"]).check(v) for v in values))


def _seeds(record: Mapping[str, Any]) -> dict[int, list[int]]:
    """The seeds that a deletion, or its undoing, is about, by number of their prompt."""
    return {int(number): [int(seed) for seed in files] for number, files in record["files"].items()}


def _picture(record: Mapping[str, Any], file: str) -> Picture:
    """A picture from an entry of the manifest. Raises ValueError for a name that is not ours."""
    if not PICTURE_NAME.fullmatch(file):
        raise ValueError(f"{file!r} is no name of a picture")
    return Picture(
        seed=int(record["seed"]),
        file=file,
        model=record.get("model"),
        score=record.get("score"),
        rank=record.get("rank"),
        unfinished=record.get("unfinished"),
    )
