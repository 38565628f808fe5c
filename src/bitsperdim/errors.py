"""The one exception that a user is meant to see.

A stage prints an :class:`InputError` as one sentence and exits with status 1; any other exception
is a bug and keeps its traceback.
"""


class InputError(ValueError):
    """What the user gave cannot be used: one sentence with the key, the value and what is allowed."""
