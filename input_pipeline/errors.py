"""The base classes of errors a user can act on, and what is shown of others."""


class UserError(ValueError):
    """Bad input, named in one sentence; command-line tools print it without a traceback."""


class OneLineError(UserError):
    """Its message is one line of fewer than 600 characters, whatever it quotes.

    Names, values and tokens of a damaged file may have any length and any line breaks.
    """

    def __init__(self, message: str):
        line = " ".join(message.split())
        super().__init__(line if len(line) < 600 else f"{line[:390]} ... {line[-200:]}")


def reason(error: BaseException) -> str:
    """What the system says of an error, else its message, or its type if it has none."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
