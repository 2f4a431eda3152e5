"""The one exception that speaks to a person."""


class EffirError(Exception):
    """A mistake that its reader can mend: one sentence that says what, where and how.

    Programs print it without a traceback and end with status 2.
    """
