"""What may be scored as a text. Imports no torch."""

MAX_TEXT = 100_000  # characters: a hundred contexts and more


def check_text(text: str) -> None:
    """Raise ValueError for what a tokenizer cannot read."""
    if not isinstance(text, str):
        raise ValueError(f"a text is str, not {type(text).__name__}")
    if len(text) > MAX_TEXT:
        raise ValueError(f"a text of {len(text)} characters: at most {MAX_TEXT} are read")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # bytes of a command line, half a pair in JSON
        where = error.start + 1
        raise ValueError(f"the text is not UTF-8 at character {where}: {text[:80]!r}") from error
