"""What a prompt can be drawn with. Front ends take what a setting is from here."""

from pipelines.diffusion.samplers import SAMPLERS, SCHEDULES
from pipelines.settings import MAX_TEXT, InputError, Setting, Value

__all__ = ["MAX_TEXT", "SAMPLERS", "SCHEDULES", "InputError", "Setting", "Value"]
