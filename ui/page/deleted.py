"""What was deleted by anybody: kept in the folder, brought back, or removed for good."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from gen.errors import InputError, RoomError
from gen.run_folder.events import Files
from ui.page.markup import counted, paragraphs
from ui.page.wiring import QUIET, complaint
from ui.service.service import Service


@dataclass(frozen=True)
class Deleted:
    """The components that tell of it, and offer the two ways out."""

    service: Service
    box: gr.Column
    told: gr.HTML
    ways: gr.Row
    back: gr.Button
    remove: gr.Button
    question: gr.Row
    sure: gr.Button
    keep: gr.Button
    last: gr.State  # what `back` brings back: Files

    @property
    def outputs(self) -> list[Component]:
        """The components that `show` gives values for."""
        return [self.box, self.told, self.ways, self.back, self.question, self.sure, self.last]

    def show(self) -> list[Any]:
        """Show what is deleted by now, or hide it all if nothing is."""
        self.service.history.refresh()
        deletions = self.service.history.deletions()
        if not deletions or not self.service.rules.delete:
            return [gr.Column(visible=False), *[gr.skip()] * (len(self.outputs) - 1)]
        count = counted(sum(deletion.count for deletion in deletions), "deleted image")
        latest = counted(deletions[-1].count, "image")
        line = f"{count} can be brought back until removed for good."
        return [
            gr.Column(visible=True),
            paragraphs([line]),
            gr.Row(visible=True),
            gr.Button(f"Undo the last deletion: {latest}"),
            gr.Row(visible=False),
            gr.Button(f"Remove {count} for good"),
            deletions[-1].files,
        ]

    def connect(
        self, refresh: Callable[..., list[Any]], wanted: Sequence[Component], outputs: Any
    ) -> None:
        """Have the buttons work; `refresh` shows what there is then of what is wanted."""

        def bring_back(last: Files, *now: Any) -> list[Any]:
            carried(self.service.restore, last)
            return refresh(*now)

        def empty(*now: Any) -> list[Any]:
            carried(self.service.empty_deleted)
            return refresh(*now)

        asked = [gr.Row(visible=False), gr.Row(visible=True)]
        unasked = [gr.Row(visible=True), gr.Row(visible=False)]
        self.back.click(bring_back, [self.last, *wanted], outputs, **QUIET)
        self.remove.click(lambda: asked, outputs=[self.ways, self.question], **QUIET)
        self.keep.click(lambda: unasked, outputs=[self.ways, self.question], **QUIET)
        self.sure.click(empty, wanted, outputs, **QUIET)


def build(service: Service) -> Deleted:
    """Build the components, in the block that is open."""
    with gr.Column(visible=False, elem_id="deleted", elem_classes="note") as box:
        told = gr.HTML(elem_id="deleted-told", elem_classes="status")
        with gr.Row(elem_classes="actions") as ways:
            back = gr.Button("Undo the last deletion", size="sm", elem_id="deleted-back")
            remove = gr.Button("Remove for good …", size="sm", elem_id="deleted-remove")
        with gr.Row(visible=False, elem_classes="actions") as question:
            sure = gr.Button("Remove", variant="stop", size="sm", elem_id="deleted-sure")
            keep = gr.Button("Keep", size="sm", elem_id="deleted-keep")
    return Deleted(service, box, told, ways, back, remove, question, sure, keep, last=gr.State({}))


def carried(carry: Callable[..., None], *files: Files) -> None:
    """Have images moved; what stands in the way is shown as one line."""
    try:
        carry(*files)
    except (InputError, RoomError) as error:
        raise complaint(error) from error
