"""Masks without a brush: things that are named, clicked on or framed, found in an image.

`asked` reads what people write, without torch; `named` and `clicked` are the networks, public ones
and our own small one; `finding` puts their masks together.
"""
