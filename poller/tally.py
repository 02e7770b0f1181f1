"""Counting the conversations of a walk, each once: where a walk goes on, it reads the last second's rows again."""

from poller.walk import Read


class Tally:
    """How many of how many conversations a walk has come to; attributes ``done`` and ``total``.

    A walk that begins at a cursor counts from there. It remembers the ids of one page; those of more only where
    the rest is read by number, since there any row may come again.
    """

    def __init__(self) -> None:
        self.done = 0
        self.total = 0
        self._lately: set[int] = set()

    def add(self, read: Read) -> set[int]:
        """Count an answer, and return the ids in it that were in none before."""
        new = read.ticket_ids - self._lately
        if not read.by_number:
            # What is left from the cursor on has rows in it that were counted already.
            self.total = self.done + read.page.total - len(read.ticket_ids & self._lately)
        self.done += len(new)
        self.total = max(self.total, self.done)
        self._lately = self._lately | new if read.by_number else read.ticket_ids
        return new
