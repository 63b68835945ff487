"""What the events of a run folder come to: the one reading of them, for resuming and for showing.

`fold` takes events in the order in which they happened and returns what is so after the last.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from gen.run_folder.choices import Choices, ImageHearted, ImagePreferred
from gen.run_folder.events import (
    Axis,
    CandidateFailed,
    Comparison,
    Damaged,
    DeletedEmptied,
    Event,
    Files,
    ImageSaved,
    ImagesDeleted,
    ImagesMatched,
    ImagesPlaced,
    ImagesRanked,
    ImagesRestored,
    ImagesScored,
    PromptBegan,
    PromptEvent,
    RunBegan,
    RunEnded,
    SavedImage,
)
from gen.run_folder.searched import CandidatesThinned
from gen.search.race import Field
from gen.settings.request import Request

NONSENSE = (AttributeError, KeyError, TypeError, ValueError)  # what `FolderHistory.apply` raises


@dataclass
class PromptHistory:
    """One prompt of a run folder."""

    number: int
    request: Request
    dropped: dict[int, SavedImage] = field(default_factory=dict)  # by seed: ranked, and not kept
    ranking: ImagesRanked | None = None  # the last one
    searches: dict[str, Field] = field(default_factory=dict)  # by model, those still in
    choices: Choices = field(default_factory=Choices)  # of people
    is_placed: bool = True  # whether its images are where the ranking says
    _images: dict[int, SavedImage] = field(default_factory=dict)  # by seed, deleted ones too
    _deleted: set[int] = field(default_factory=set)  # the seeds of those that were put aside

    @property
    def images(self) -> list[SavedImage]:
        """Its images, best first, then those without a rank as they were made."""
        images = [image for seed, image in self._images.items() if seed not in self._deleted]
        return sorted(images, key=lambda i: (i.rank is None, 0 if i.rank is None else i.rank))

    @property
    def is_empty(self) -> bool:
        """Whether it has no images, or none any more."""
        return self._images.keys() <= self._deleted

    @property
    def models(self) -> set[str]:
        """Which drew its images."""
        return {image.model for image in self.images if image.model is not None}

    @property
    def best(self) -> list[SavedImage]:
        """Its top_k."""
        return [image for image in self.images if self._is_best(image)]

    @property
    def rest(self) -> list[SavedImage]:
        """Those behind them."""
        return [image for image in self.images if not self._is_best(image)]

    def find(self, seed: int) -> SavedImage | None:
        """Return the image of that seed, while there is one."""
        return None if seed in self._deleted else self._images.get(seed)

    def apply(self, event: PromptEvent) -> None:
        """Take in what happened next. Raises KeyError for an image that was never saved."""
        images = self._images
        match event:
            case ImageSaved():
                images[event.image.seed] = event.image
                self._deleted.discard(event.image.seed)
                self.dropped.pop(event.image.seed, None)
            case CandidateFailed():
                images.pop(event.seed, None)
            case ImagesScored():
                for seed, score in event.scores.items():
                    parts = event.parts.get(seed, {})
                    images[seed] = replace(images[seed], score=score, scores=parts)
            case ImagesRanked():
                self._rank(event)
            case CandidatesThinned():
                self.searches[event.model] = event.look.field
                for runner in event.look.dropped:  # one that was left unfinished
                    images.pop(runner.path.seed, None)
            case ImageHearted() | ImagePreferred():
                self.choices.apply(event)
            case ImagesPlaced():
                self.is_placed = True
            case ImagesMatched():
                for seed, match in event.matches.items():
                    images[seed] = replace(images[seed], match=match)

    def delete(self, seeds: Iterable[int]) -> dict[int, SavedImage]:
        """Put images aside; return those that were there."""
        found = {seed: image for seed in seeds if (image := self.find(seed)) is not None}
        self._deleted |= found.keys()
        return found

    def restore(self, images: Mapping[int, SavedImage]) -> None:
        """Take images back; one that was made again since then stays as it is."""
        for seed in images.keys() & self._deleted:
            self._images[seed] = images[seed]
        self._deleted -= images.keys()

    def _rank(self, event: ImagesRanked) -> None:
        """Take the images to be where the ranking says."""
        self.ranking, self.is_placed = event, False
        for place in event.placements:
            seed = place.image.seed
            before = self._images.pop(seed, None)
            image = replace(place.image, match=None if before is None else before.match)
            if place.to is None:
                self.dropped[seed] = image
            else:
                self._images[seed] = replace(image, file=place.to)

    def _is_best(self, image: SavedImage) -> bool:
        top_k = self.request.top_k
        return image.rank is not None and (top_k is None or image.rank <= top_k)


@dataclass(frozen=True)
class Deletion:
    """What was deleted at once, and can be brought back."""

    images: dict[int, dict[int, SavedImage]]  # by number of the prompt and seed

    @property
    def files(self) -> Files:
        """Where the images were, as the run folder takes it."""
        return {
            number: {seed: image.file for seed, image in images.items()}
            for number, images in self.images.items()
        }

    @property
    def count(self) -> int:
        """How many images it is about."""
        return sum(map(len, self.images.values()))


@dataclass
class FolderHistory:
    """What happened in a run folder so far."""

    prompts: dict[int, PromptHistory] = field(default_factory=dict)  # by number
    deletions: list[Deletion] = field(default_factory=list)  # the latest last
    known: Request | None = None  # one that need not be read and checked again
    _comparisons: dict[tuple[Axis, Axis, int], Comparison] = field(default_factory=dict)

    @property
    def comparisons(self) -> list[Comparison]:
        """The comparisons, each once."""
        return list(self._comparisons.values())

    def apply(self, event: Event) -> None:
        """Take in what happened next.

        Raises ValueError for a damaged line and KeyError for one about a prompt, or an image, that
        no line before it tells of.
        """
        match event:
            case PromptBegan():
                self.prompts[event.number] = PromptHistory(event.number, self._request(event))
            case Comparison():
                self._compare(event)
            case ImagesDeleted():
                self._delete(event.files)
            case ImagesRestored():
                self._restore(event.files)
            case DeletedEmptied():
                self.deletions.clear()
            case RunBegan() | RunEnded():
                pass
            case Damaged():
                raise ValueError(event.reason)
            case _:
                self.prompts[event.number].apply(event)

    def _request(self, event: PromptBegan) -> Request:
        if self.known is not None and self.known.to_json() == event.request:
            return self.known
        return Request.from_json(event.request)

    def _compare(self, event: Comparison) -> None:
        """Take in a comparison; the same again, which may have been ended earlier, is one."""
        key = event.across, event.down, event.numbers[0]
        before = self._comparisons.get(key, event)
        numbers = max(before.numbers, event.numbers, key=len)
        self._comparisons[key] = replace(event, numbers=numbers)

    def _delete(self, files: Files) -> None:
        gone = {number: self.prompts[number].delete(seeds) for number, seeds in files.items()}
        gone = {number: images for number, images in gone.items() if images}
        if gone:
            self.deletions.append(Deletion(gone))

    def _restore(self, files: Files) -> None:
        for number, seeds in files.items():
            for deletion in self.deletions:
                aside = deletion.images.get(number, {})
                back = {seed: aside.pop(seed) for seed in seeds if seed in aside}
                self.prompts[number].restore(back)
        self.deletions = [deletion for deletion in self.deletions if deletion.count]


def fold(events: Iterable[Event | None]) -> FolderHistory:
    """Return what events come to, in their order; raises what `FolderHistory.apply` raises.

    None, an event that only newer versions know, changes nothing.
    """
    history = FolderHistory()
    for event in events:
        if event is not None:
            history.apply(event)
    return history


def fold_what_fits(events: Iterable[Event | None], known: Request | None = None) -> FolderHistory:
    """Return what events come to, but for those that make no sense, which somebody edited.

    A request that is `known` already is not read again.
    """
    history = FolderHistory(known=known)
    for event in events:
        if event is not None:
            with suppress(*NONSENSE):
                history.apply(event)
    return history
