"""The one base class of errors a user can act on."""


class UserError(ValueError):
    """Bad input, named in one sentence; command-line tools print it without a traceback."""
