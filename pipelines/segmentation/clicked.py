"""Things that are clicked on or framed, found by SAM.

Kirillov et al., Segment Anything (arXiv 2304.02643).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from transformers.models.sam.configuration_sam import SamConfig
from transformers.models.sam.modeling_sam import SamModel

from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.headers import in_messages, read_headers, weights_files
from pipelines.checkpoints.loading import building, load_weights, settle
from pipelines.segmentation.asked import Point
from pipelines.segmentation.named import normalized

# One tensor under two names, of which files hold one.
TIED = (
    "shared_image_embedding.positional_embedding",
    "prompt_encoder.shared_embedding.positional_embedding",
)


class Sam:
    """SAM in a folder of transformers."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Load it. Raises WeightsError for a folder that is incomplete or damaged."""
        config = SamConfig.from_dict(read_config(folder / "config.json"))
        with building(folder):
            network = SamModel(config)
        paths = weights_files(folder, "model", "pytorch_model")
        header = read_headers(paths)
        for name, other in (TIED, TIED[::-1]):
            if other in header and name in network.state_dict():
                header.setdefault(name, header[other])
        load_weights(network, in_messages(paths), header, torch.float32)
        settle(network, device)
        self.network, self.device = network, device
        self.side = int(config.vision_config.image_size)
        self.look = read_config(folder / "preprocessor_config.json")

    @torch.inference_mode()
    def mask(
        self,
        image: Image.Image,
        points: Sequence[Point],
        box: tuple[int, int, int, int] | None = None,
    ) -> np.ndarray:
        """Return what is clicked on or framed, bool (H, W): of SAM's three masks the one that it
        finds best."""
        scale = self.side / max(image.size)
        width, height = (max(1, int(side * scale + 0.5)) for side in image.size)
        seen = normalized(image.resize((width, height), Image.Resampling.BILINEAR), self.look)
        seen = functional.pad(seen, (0, self.side - width, 0, self.side - height))
        across, down = width / image.width, height / image.height
        clicks = [[point.x * across, point.y * down] for point in points]
        corners = None if box is None else [n * (across, down)[i % 2] for i, n in enumerate(box)]
        made = self.network(
            pixel_values=seen.to(self.device),
            input_points=self._tensor([[clicks]]) if clicks else None,
            input_labels=self._tensor([[[int(p.adds) for p in points]]]).int() if clicks else None,
            input_boxes=None if corners is None else self._tensor([[corners]]),
            multimask_output=True,
        )
        best = int(made.iou_scores[0, 0].argmax())
        logits = made.pred_masks[0, 0, best][None, None].float()
        large = functional.interpolate(logits, (self.side, self.side), mode="bilinear")
        own = functional.interpolate(
            large[..., :height, :width], (image.height, image.width), mode="bilinear"
        )
        return (own[0, 0] > 0).cpu().numpy()

    def _tensor(self, values: list[object]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)
