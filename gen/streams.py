"""What commands say, on streams that may be closed or full; for front ends outside gen."""

from pipelines.runtime.terminal import complain, write

__all__ = ["complain", "write"]
