"""One mask of all that is asked for: what is named, clicked on and framed, added and taken away."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipelines.segmentation.asked import Asked
from pipelines.segmentation.clicked import Sam
from pipelines.segmentation.models import OURS, Kind, kind_of
from pipelines.segmentation.named import ClipSeg, Small

CERTAIN = 0.5  # from here on a pixel belongs to what is named


class Finder:
    """The networks that find things, loaded when first needed."""

    def __init__(self, folders: Mapping[Kind, Path], device: torch.device) -> None:
        """Keep where they are."""
        self.folders, self.device = folders, device
        self._named: ClipSeg | Small | None = None
        self._clicked: Sam | None = None

    def find(self, image: Image.Image, asked: Asked) -> Image.Image:
        """Return the mask (L) of an RGB image, white where something was asked for.

        A box without a network for it is masked as it is. Raises WeightsError for a network that
        is damaged.
        """
        found = np.zeros((image.height, image.width), bool)
        taken = np.zeros_like(found)
        if asked.words:
            namer = self._namer()
            chances = namer.chances(image, [each.text for each in asked.words])
            for chance, words in zip(chances, asked.words, strict=True):
                (found if words.adds else taken)[chance >= CERTAIN] = True
            if isinstance(namer, Small):
                found |= namer.room(image, [each.text for each in asked.words if each.adds])
        for frame in asked.frames:
            left, top, right, bottom = frame.box
            framed = np.zeros_like(found)
            framed[top:bottom, left:right] = True
            if "clicked" in self.folders:
                framed = self._clicker().mask(image, (), frame.box)
            (found if frame.adds else taken)[framed] = True
        if asked.points:
            found |= self._clicker().mask(image, asked.points)
        return Image.fromarray(((found & ~taken) * np.uint8(255)).astype(np.uint8))

    def _namer(self) -> ClipSeg | Small:
        if self._named is None:
            folder = self.folders["named"]
            load = Small if kind_of(folder) == OURS else ClipSeg
            self._named = load(folder, self.device)
        return self._named

    def _clicker(self) -> Sam:
        if self._clicked is None:
            self._clicked = Sam(self.folders["clicked"], self.device)
        return self._clicked
