"""Networks that enlarge images: what a small base has drawn, at four times its size."""
