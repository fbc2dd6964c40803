"""What a framework has to say, in one line."""


def one_line(error: BaseException, limit: int = 240) -> str:
    """The message of an error without line breaks, cut after ``limit`` characters; its kind where it has none."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= limit else f"{text[: limit - 3].rstrip()}..."
