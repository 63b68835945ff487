"""How files of images are opened, for those who take them from strangers."""

from pipelines.images import BadImageError, opened

__all__ = ["BadImageError", "opened"]
