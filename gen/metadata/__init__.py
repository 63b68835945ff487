"""What an image says about itself: read from image files, and written into them."""

from gen.metadata.embedded import embed, read, read_image, read_texts
from gen.metadata.record import Metadata, versions

__all__ = ["Metadata", "embed", "read", "read_image", "read_texts", "versions"]
