"""A receiver without sockets, for tests that drive a ``Worker`` step by step."""

import json

from simulator.worker import Attempt

Answer = int | Exception


class Recorder:
    """A ``Transport`` that keeps what it gets and answers as told.

    Args:
        answers: A status code, or an exception to raise, for each delivery in turn; 200 when they have run out.

    Attributes:
        deliveries: What arrived, in order.
    """

    def __init__(self, *answers: Answer) -> None:
        self.deliveries: list[Attempt] = []
        self._answers = iter(answers)

    async def __call__(self, delivery: Attempt, /) -> int:
        """Take a delivery."""
        self.deliveries.append(delivery)
        answer = next(self._answers, 200)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def events(self) -> list[str]:
        """The names of the events, in order of arrival."""
        return [delivery.event for delivery in self.deliveries]

    @property
    def claims(self) -> list[tuple[str, str, str, str]]:
        """What the deliveries about conversations say: event, status, state and ``updatedAt``, in order."""
        bodies = [(delivery.event, json.loads(delivery.body)) for delivery in self.deliveries]
        return [(event, body["status"], body["state"], body["updatedAt"]) for event, body in bodies if "status" in body]
