"""The Spec of any other diffusers pipeline, read from its files without torch."""

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.places import Place, class_of, with_facts
from pipelines.checkpoints.specs import Spec, folder_licence
from pipelines.settings import settings_of
from pipelines.stock.settings import StockSettings

STOCK_SETTINGS = tuple(settings_of(StockSettings))


def read_spec(place: Place) -> Spec:
    """Return the Spec of a folder for another pipeline of diffusers, which knows its own defaults.

    Raises WeightsError for a class that is no pipeline.
    """
    folder = place.path
    class_name = class_of(folder)
    if not class_name.endswith("Pipeline"):
        raise WeightsError(
            f"{folder} holds a {class_name}; what can be loaded are pipelines of diffusers, and "
            "Dalle"
        )
    spec = Spec(
        name=place.name,
        folder=folder,
        kind="diffusers",
        settings=STOCK_SETTINGS,
        defaults={},
        context=0,
        size_multiple=16,
        max_size=4096,
        licence=folder_licence(folder),
        draws=f"what {place.name} was trained on",
    )
    return with_facts(spec, place)
