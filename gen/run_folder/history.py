"""What was drawn before in a run folder, read off its manifest while it grows."""

from contextlib import suppress
from pathlib import Path
from threading import Lock

from gen.run_folder import events
from gen.run_folder.choices import Choices
from gen.run_folder.events import Comparison, SavedImage
from gen.run_folder.fold import Deletion, FolderHistory, PromptHistory
from gen.run_folder.manifest import Unreadable, records


class History:
    """The prompts of a run folder; `refresh` reads what the manifest says since the last time.

    For callers in many threads, while another one draws. What cannot be understood is passed over.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._history = FolderHistory()
        self._read = 0  # bytes of the manifest
        self._lock = Lock()

    def refresh(self) -> None:
        """Read on in the manifest."""
        with self._lock:
            for _, end, record in records(self.folder / "manifest.jsonl", self._read):
                event = None if isinstance(record, Unreadable) else events.from_json(record)
                if event is not None:
                    with suppress(KeyError, TypeError, ValueError, AttributeError):
                        self._history.apply(event)
                self._read = end

    def prompts(self) -> list[PromptHistory]:
        """Return the prompts that have images, the latest first."""
        with self._lock:
            return [p for p in reversed(self._history.prompts.values()) if not p.is_empty]

    def entries(self) -> list[PromptHistory | Comparison]:
        """Return what was asked for and has images, the latest first.

        That is the prompts, and each comparison in place of its cells.
        """
        prompts = self.prompts()
        there = {prompt.number for prompt in prompts}
        with self._lock:
            comparisons = self._history.comparisons
        shown = [each for each in comparisons if not there.isdisjoint(each.numbers)]
        cells = {number for comparison in shown for number in comparison.numbers}
        places: list[tuple[int, PromptHistory | Comparison]] = [
            *((prompt.number, prompt) for prompt in prompts if prompt.number not in cells),
            *((max(comparison.numbers), comparison) for comparison in shown),
        ]
        return [entry for _, entry in sorted(places, key=lambda place: place[0], reverse=True)]

    def find_comparison(self, number: int) -> Comparison | None:
        """Return the comparison of that number, if there is one."""
        with self._lock:
            return next((c for c in self._history.comparisons if c.number == number), None)

    def deletions(self) -> list[Deletion]:
        """Return what was deleted and can be brought back, the latest last."""
        with self._lock:
            return [
                Deletion({number: dict(images) for number, images in deletion.images.items()})
                for deletion in self._history.deletions
            ]

    def find(self, number: int) -> PromptHistory | None:
        """Return the prompt of that number, if there is one."""
        with self._lock:
            return self._history.prompts.get(number)

    def choices(self) -> list[tuple[str, Choices, dict[int, Path]]]:
        """Return the prompts about which people chose, with their images by seed."""
        found = []
        for prompt in reversed(self.prompts()):
            images = {image.seed: self.path(image) for image in prompt.images}
            there = {seed: path for seed, path in images.items() if path is not None}
            if prompt.choices.hearts or prompt.choices.pairs:
                found.append((prompt.request.prompt, prompt.choices, there))
        return found

    def path(self, image: SavedImage) -> Path | None:
        """Return where an image's file is; None if somebody removed it."""
        path = self.folder / image.file
        return path if path.is_file() and not path.is_symlink() else None
