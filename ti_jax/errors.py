"""The one exception that users are meant to read."""


class UserError(ValueError):
    """Something the user can put right; the message is one line that says how."""
