"""The settings that any other pipeline of diffusers takes. Loads no torch."""

from pipelines.settings import SizedSettings


class StockSettings(SizedSettings, total=False):
    """What `begin` of a stock pipeline takes."""
