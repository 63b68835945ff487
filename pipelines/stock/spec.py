"""What is known of any other pipeline of diffusers, read without torch."""

from pathlib import Path

from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.specs import Spec, folder_licence

ANY_SETTINGS = ("negative_prompt", "width", "height", "steps", "guidance")


def read_spec(folder: Path, name: str) -> Spec:
    """The Spec of a folder for another pipeline of diffusers, which knows its own defaults."""
    class_name = read_config(folder / "model_index.json").get("_class_name")
    if not isinstance(class_name, str) or not class_name.endswith("Pipeline"):
        raise WeightsError(
            f"{folder} holds a {class_name}; what can be loaded are pipelines of diffusers, and "
            "Dalle"
        )
    return Spec(
        name=name,
        folder=folder,
        kind="diffusers",
        settings=ANY_SETTINGS,
        defaults={},
        context=0,
        size_multiple=16,
        max_size=4096,
        licence=folder_licence(folder),
        draws=f"what {name} was trained on",
    )
