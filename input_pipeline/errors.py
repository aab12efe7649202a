"""The base classes of errors a user can act on."""


class UserError(ValueError):
    """Bad input, named in one sentence; command-line tools print it without a traceback."""


class OneLineError(UserError):
    """Its message is one line of fewer than 600 characters, whatever it quotes.

    Names, values and tokens of a damaged file may have any length and any line breaks.
    """

    def __init__(self, message: str):
        line = " ".join(message.split())
        super().__init__(line if len(line) < 600 else f"{line[:390]} ... {line[-200:]}")
