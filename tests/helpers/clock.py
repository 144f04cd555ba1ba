"""A clock that a test turns."""

from datetime import UTC, datetime

START = datetime(2026, 7, 1, tzinfo=UTC).timestamp()
H = 3600


class Clock:
    "A clock that the test turns"

    def __init__(self, t=START):
        self.t = float(t)

    def __call__(self):
        return self.t
