"""The desk's memory: rows, people, mailboxes, webhooks, the queue; and how an event gets from one to the other.

Every operation in ``changes``, ``replies`` and ``silent`` is made of the few verbs of ``Store``.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo

from freescout_audit import signature
from simulator.clock import Clock, stored_seconds
from simulator.conversation import Conversation, Mailbox, Person, PersonType, Status, Thread, ThreadType
from simulator.faults import Faults
from simulator.index import SortedKeys, key_of
from simulator.jobs import EVENTS, UNDO_SECONDS, DelayedEvent, Job, JobQueue, Mail, Module, Webhook, WebhookCall, Work
from simulator.payload import Renderer

_UNKNOWN_TO_OLD_MODULE = frozenset({"convo.deleted_forever", "convo.restored"})


class NotOnDeskError(LookupError):
    """There is no such conversation, agent, customer or mailbox on this desk."""


class Store:
    """A desk without the people who work at it.

    Args:
        clock: Tells the true time.
        seed: All chance (order among equals, faults, what people do) follows from it.
        module: The version of its API & Webhooks module.
        app_key: The text of ``APP_KEY`` in ``.env``, with its ``base64:`` prefix.
        timezone: ``APP_TIMEZONE``; anything but UTC has the repeated hour.
        agents: How many people work there.
        customers: How many people write to it.
        mailboxes: The names of its mailboxes, ids from 1.
        random_ties: The order among equal sort keys is different in every list answer, as PostgreSQL may do;
            False keeps the order of the ids.
        reuse_numbers: A new conversation's number follows the greatest one there is, so that a deleted one comes
            back; otherwise it equals the id.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        seed: int = 0,
        module: Module = "1.0.87",
        app_key: str = "base64:c2ltdWxhdG9yLWFwcC1rZXktMzItYnl0ZXMtbG9uZyE=",
        timezone: tzinfo = UTC,
        agents: int = 3,
        customers: int = 20,
        mailboxes: Sequence[str] = ("Support", "Sales"),
        random_ties: bool = True,
        reuse_numbers: bool = False,
    ) -> None:
        self.clock = clock
        self.rng = random.Random(seed)  # noqa: S311 - chance that can be repeated is the point
        self.module: Module = module
        self.app_key = app_key
        self.api_key_salt = ""
        self.timezone = timezone
        self.random_ties = random_ties
        self.reuse_numbers = reuse_numbers
        self.faults = Faults()
        stamp = self.stamp()
        self.agents = {n: _made_up("user", n, stamp) for n in range(1, agents + 1)}
        self.customers = {n: _made_up("customer", n, stamp) for n in range(1, customers + 1)}
        self.mailboxes = {
            n: Mailbox(n, name, f"{name.lower()}@example.org", stamp) for n, name in enumerate(mailboxes, start=1)
        }
        self.webhooks: dict[int, Webhook] = {}
        self.queue = JobQueue()
        self.retries = JobQueue()
        self.conversations: dict[int, Conversation] = {}
        self.by_updated = SortedKeys()
        self.by_created = SortedKeys()
        self.by_number = SortedKeys()
        self.by_updated_in: dict[int, SortedKeys] = {n: SortedKeys() for n in self.mailboxes}
        self.by_created_in: dict[int, SortedKeys] = {n: SortedKeys() for n in self.mailboxes}
        self._last_conversation = self._last_thread = self._last_webhook = 0

    # Keys: both change when APP_KEY does, and the API key alone when it is made anew.

    @property
    def webhook_key(self) -> str:
        """The key that signs deliveries: 32 hex characters (measured)."""
        return signature.webhook_key(self.app_key)

    @property
    def api_key(self) -> str:
        """The key that the API wants (measured)."""
        return signature.api_key(self.app_key, self.api_key_salt)

    def change_app_key(self, app_key: str) -> None:
        """Start over with another APP_KEY, as a container without a stored one does: both keys change at once."""
        self.app_key = app_key

    def regenerate_api_key(self, salt: str) -> None:
        """Make the API key anew, as "Regenerate" does: the webhook key stays."""
        self.api_key_salt = salt

    # Time.

    def now(self) -> datetime:
        """Return the desk's own clock, which may be wrong."""
        return self.clock.now() + timedelta(seconds=self.faults.clock_offset)

    def stamp(self) -> int:
        """Return now as the database would report it: whole Unix seconds, maybe an hour off in the repeated hour."""
        return stored_seconds(self.now(), self.timezone)

    def reported(self, second: int) -> int:
        """Return a Unix second as the database would report it; see ``clock.stored_seconds``."""
        return second if self.timezone is UTC else stored_seconds(datetime.fromtimestamp(second, UTC), self.timezone)

    # Rows.

    def get(self, conversation_id: int) -> Conversation:
        """Return a living conversation.

        Raises:
            NotOnDeskError: It never was, or is gone for ever.
        """
        try:
            return self.conversations[conversation_id]
        except KeyError:
            raise NotOnDeskError(f"no conversation {conversation_id}; it may have been deleted for ever") from None

    def truth(self) -> Iterator[Conversation]:
        """Yield every row as it is, by id: what a perfect cache would hold."""
        yield from self.conversations.values()

    def threads_of(self, row: Conversation) -> list[Thread]:
        """Return the threads of a row as they are now; none when it is gone (a snapshot may outlive its row)."""
        living = self.conversations.get(row.id)
        if living is None:
            return []
        if living.threads is None:
            living.threads = [self._first_thread(living)]
        return living.threads

    def person(self, kind: PersonType, person_id: int) -> Person | None:
        """Return an agent or a customer as they are called now."""
        return (self.agents if kind == "user" else self.customers).get(person_id)

    def renderer(self) -> Renderer:
        """Return what writes rows as JSON at this moment."""
        return Renderer(self.person, self.status_text, self.stamp())

    def status_text(self, row: Conversation) -> str:
        """Return a row's status as it is sent."""
        return self.faults.strange_statuses.get(row.id) or row.status

    # Webhooks and events.

    def register_webhook(self, url: str, events: Iterable[str] = EVENTS, *, mailboxes: Iterable[int] = ()) -> Webhook:
        """Register a webhook, for all mailboxes unless some are named.

        A worker that is running already keeps the delayed events from it until it restarts.
        """
        self._last_webhook += 1
        hook = Webhook(self._last_webhook, url, tuple(events), frozenset(mailboxes))
        self.webhooks[hook.id] = hook
        return hook

    def fire(
        self,
        event: str,
        subject: Conversation | Person,
        hooks: Iterable[Webhook] | None = None,
        *,
        doomed: bool = False,
    ) -> None:
        """Queue a delivery of ``subject`` for every webhook that wants the event (of ``hooks``, if given)."""
        known = self.webhooks.values() if hooks is None else hooks
        if not self.faults.module_active or (self.module == "1.0.67" and event in _UNKNOWN_TO_OLD_MODULE):
            return
        mailbox_id = subject.mailbox_id if isinstance(subject, Conversation) else None
        snapshot = subject.copy() if isinstance(subject, Conversation) else subject
        for hook in known:
            if hook.wants(event, mailbox_id):
                job = self.enqueue(WebhookCall(hook, event, snapshot), after=self.faults.delay)
                job.doomed = doomed

    def fire_later(self, event: str, row: Conversation) -> None:
        """Fire an event when the time for "Undo" is over, with the row as it is now."""
        if self.faults.module_active:
            self.enqueue(DelayedEvent(event, row.copy()), after=UNDO_SECONDS)

    def send_mail(self, row: Conversation) -> None:
        """Queue the email that a reply of an agent becomes."""
        self.enqueue(Mail(row.id), after=UNDO_SECONDS)

    def enqueue(self, work: Work, *, after: float = 0.0) -> Job:
        """Put work at the end of the queue, to be touched ``after`` seconds from now at the earliest."""
        return self.queue.put(work, self.clock.now() + timedelta(seconds=after))

    # The verbs that operations are made of.

    def add(self, row: Conversation) -> Conversation:
        """Put a new row into the table and its indexes."""
        if row.mailbox_id not in self.mailboxes:
            raise NotOnDeskError(f"no mailbox {row.mailbox_id}; there are {sorted(self.mailboxes)}")
        self.conversations[row.id] = row
        created, updated = key_of(row.created, row.id), key_of(row.updated, row.id)
        self.by_created.add(created)
        self.by_updated.add(updated)
        self.by_number.add(key_of(row.number, row.id))
        self.by_created_in[row.mailbox_id].add(created)
        self.by_updated_in[row.mailbox_id].add(updated)
        return row

    def remove(self, row: Conversation) -> None:
        """Take a row out for ever, without a trace in any list."""
        created, updated = key_of(row.created, row.id), key_of(row.updated, row.id)
        self.by_created.remove(created)
        self.by_updated.remove(updated)
        self.by_number.remove(key_of(row.number, row.id))
        self.by_created_in[row.mailbox_id].remove(created)
        self.by_updated_in[row.mailbox_id].remove(updated)
        del self.conversations[row.id]

    def touch(self, row: Conversation, at: int | None = None) -> int:
        """Move ``updated_at`` to now (or to ``at``) and return it."""
        stamp = self.stamp() if at is None else at
        if stamp != row.updated:
            for keys in (self.by_updated, self.by_updated_in[row.mailbox_id]):
                keys.remove(key_of(row.updated, row.id))
                keys.add(key_of(stamp, row.id))
            row.updated = stamp
        return stamp

    def put_into(self, row: Conversation, mailbox_id: int) -> None:
        """Put a row into another mailbox."""
        if mailbox_id not in self.mailboxes:
            raise NotOnDeskError(f"no mailbox {mailbox_id}; there are {sorted(self.mailboxes)}")
        for keys_in, key in (
            (self.by_created_in, key_of(row.created, row.id)),
            (self.by_updated_in, key_of(row.updated, row.id)),
        ):
            keys_in[row.mailbox_id].remove(key)
            keys_in[mailbox_id].add(key)
        row.mailbox_id = mailbox_id

    def put_status(self, row: Conversation, status: Status, *, by: int | None) -> None:
        """Set the status and what hangs on it; ``by`` is the agent who did it, None for a customer."""
        row.status_code = status
        row.closed_by = by if status is Status.CLOSED else None
        if status is Status.CLOSED:
            row.closed = self.stamp()

    def next_ids(self) -> tuple[int, int]:
        """Return the id and the number of the next new conversation."""
        self._last_conversation += 1
        if not self.reuse_numbers:
            return self._last_conversation, self._last_conversation
        last = self.by_number.slice(len(self.by_number) - 1, len(self.by_number))
        return self._last_conversation, (last[0] >> 32) + 1 if last else 1

    def add_thread(
        self,
        row: Conversation,
        kind: ThreadType,
        text: str,
        *,
        status: str,
        by: PersonType,
        by_id: int,
        body: str | None = None,
        action: str = "",
        source: str = "web",
        to: tuple[str, ...] = (),
    ) -> Thread:
        """Add a thread to a row, written now. Counters and preview do not move (see ``count_threads``)."""
        threads = self.threads_of(row)
        self._last_thread += 1
        thread = Thread(
            id=self._last_thread,
            type=kind,
            status=status,
            text=text,
            by=by,
            by_id=by_id,
            customer_id=row.customer_id,
            created=self.stamp(),
            body=body,
            action=action,
            source=source,
            assigned_to=row.assignee,
            to=to,
        )
        threads.append(thread)
        return thread

    def add_line(
        self, row: Conversation, text: str, *, action: str, status: str, by: int, body: str | None = None
    ) -> None:
        """Add the line that says what an agent did. FreeScout calls its source ``web``, even through the API."""
        self.add_thread(row, "lineitem", text, status=status, by="user", by_id=by, body=body, action=action)

    def count_threads(self, row: Conversation, preview: str) -> None:
        """Bring counter and preview up to date: FreeScout does it after the event, so snapshots lag behind."""
        row.threads_count = row.replies()
        row.preview = preview

    def address_of(self, customer_id: int | None) -> tuple[str, ...]:
        """Return a customer's address as a list of recipients."""
        customer = None if customer_id is None else self.customers.get(customer_id)
        return () if customer is None else (customer.email,)

    def agent(self, agent_id: int) -> Person:
        """Return an agent.

        Raises:
            NotOnDeskError: Nobody of that id works here.
        """
        try:
            return self.agents[agent_id]
        except KeyError:
            raise NotOnDeskError(f"no agent {agent_id}; there are {sorted(self.agents)}") from None

    def add_customer(self, email: str, first_name: str = "", last_name: str = "") -> Person:
        """Add a customer and fire ``customer.created``."""
        person = Person(max(self.customers, default=0) + 1, "customer", first_name, last_name, email, self.stamp())
        self.customers[person.id] = person
        self.fire("customer.created", person)
        return person

    def rename_customer(self, customer_id: int, first_name: str, last_name: str) -> None:
        """Rename a customer: ``customer.updated``; no conversation moves."""
        person = replace(self.customers[customer_id], first_name=first_name, last_name=last_name)
        self.customers[customer_id] = person
        self.fire("customer.updated", person)

    def _first_thread(self, row: Conversation) -> Thread:
        self._last_thread += 1
        return Thread(
            id=self._last_thread,
            type="customer",
            status="active",
            text="{who} started a new conversation #{number}",
            by="customer",
            by_id=row.by_id,
            customer_id=row.customer_id,
            created=row.created,
            body=f"<p>{row.preview}</p>",
            source=row.source,
        )


def _made_up(kind: PersonType, number: int, stamp: int) -> Person:
    word = "agent" if kind == "user" else "customer"
    return Person(number, kind, word.title(), str(number), f"{word}{number}@example.org", stamp)
