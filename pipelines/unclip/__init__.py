"""From a text to the embedding of an image, and from there to images: DALL·E 2 and its kin."""
