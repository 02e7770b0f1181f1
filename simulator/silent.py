"""What FreeScout never tells anybody, and what happens behind its back.

Unless said otherwise ``updated_at`` moves and the status does not.
"""

from dataclasses import dataclass, replace

from simulator.conversation import Conversation, Thread
from simulator.index import SortedKeys, key_of
from simulator.store import NotOnDeskError, Store


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy of all rows, to be restored later."""

    rows: tuple[tuple[Conversation, tuple[Thread, ...] | None], ...]
    last_conversation: int


class Silent(Store):
    """Changes that cause no delivery."""

    def change_subject(self, conversation_id: int, subject: str) -> None:
        """Change the subject."""
        row = self.get(conversation_id)
        row.subject = subject
        self.touch(row)

    def change_customer(self, conversation_id: int, customer_id: int) -> None:
        """Give the conversation to another customer."""
        if customer_id not in self.customers:
            raise NotOnDeskError(f"no customer {customer_id}; there are {len(self.customers)}")
        row = self.get(conversation_id)
        row.customer_id = customer_id
        self.touch(row)

    def save_draft_reply(self, conversation_id: int, *, text: str = "Draft", by: int = 1) -> int:
        """Save a reply as a draft, which no delivery and no list shows; return the thread's id."""
        row = self.get(conversation_id)
        text_line = "{who} replied to conversation #{number}"
        thread = self.add_thread(
            row, "message", text_line, status=row.status, by="user", by_id=by, body=f"<div>{text}</div>"
        )
        thread.state = "draft"
        row.user_updated = self.touch(row)
        return thread.id

    def edit_thread(self, conversation_id: int, thread_id: int, text: str) -> None:
        """Edit a message or a note."""
        row = self.get(conversation_id)
        for thread in self.threads_of(row):
            if thread.id == thread_id:
                thread.body = f"<div>{text}</div>"
                self.touch(row)
                return
        raise NotOnDeskError(f"no thread {thread_id} in conversation {conversation_id}")

    def delete_thread(self, conversation_id: int, thread_id: int) -> None:
        """Delete a message or a note."""
        row = self.get(conversation_id)
        kept = [thread for thread in self.threads_of(row) if thread.id != thread_id]
        if len(kept) == len(self.threads_of(row)):
            raise NotOnDeskError(f"no thread {thread_id} in conversation {conversation_id}")
        row.threads = kept
        row.threads_count = row.replies()
        self.touch(row)

    # Behind FreeScout's back: nothing moves but what is named.

    def write_status_number(self, conversation_id: int, number: int) -> None:
        """Write a status into the database by hand; an unknown number is sent as ``active``."""
        self.get(conversation_id).status_code = number

    def write_updated(self, conversation_id: int, updated: int) -> None:
        """Write ``updated_at`` (Unix seconds) into the database by hand."""
        self.touch(self.get(conversation_id), at=updated)

    def backup(self) -> Backup:
        """Take a backup of all conversations."""
        return Backup(
            tuple((row.copy(), _copies(row.threads)) for row in self.conversations.values()),
            self._last_conversation,
        )

    def restore_backup(self, backup: Backup) -> None:
        """Go back to a backup: what happened since never was, new ids included; nothing is sent."""
        self.conversations = {}
        self.by_updated, self.by_created, self.by_number = SortedKeys(), SortedKeys(), SortedKeys()
        self.by_updated_in = {n: SortedKeys() for n in self.mailboxes}
        self.by_created_in = {n: SortedKeys() for n in self.mailboxes}
        for saved, threads in backup.rows:
            row = saved.copy()
            row.threads = None if threads is None else list(_copies(list(threads)) or ())
            self.add(row)
        self._last_conversation = backup.last_conversation

    # Bulk seeding.

    def populate(self, count: int, *, days: float = 365.0, mailbox_ids: tuple[int, ...] | None = None) -> range:
        """Seed ``count`` conversations spread over the past ``days`` and return their ids. Silent.

        The newest is created now; each was last updated between its creation and now, most of them long ago. A
        million takes about 7 s and 600 MB.
        """
        rng, now = self.rng, int(self.now().timestamp())
        boxes = mailbox_ids or tuple(self.mailboxes)
        customer_ids, first = tuple(self.customers) or (1,), self._last_conversation + 1
        span = int(days * 86400)
        updated_keys: dict[int, list[int]] = {n: [] for n in boxes}
        created_keys: dict[int, list[int]] = {n: [] for n in boxes}
        number_keys: list[int] = []
        random = rng.random
        for row_id in range(first, first + count):
            created = now - span + span * (row_id - first + 1) // count
            updated = created + int((now - created) * random() ** 8)
            created, updated = self.reported(created), self.reported(updated)
            box = boxes[int(random() * len(boxes))]
            customer = customer_ids[int(random() * len(customer_ids))]
            code = _STATUS_MIX[int(random() * len(_STATUS_MIX))]
            self.conversations[row_id] = Conversation(
                id=row_id,
                number=row_id,
                mailbox_id=box,
                status_code=code,
                state="published",
                subject="Question",
                created=created,
                updated=updated,
                customer_id=customer,
                by_id=customer,
                preview="Hello",
                threads_count=1,
                last_reply=created,
                last_reply_from="customer",
                threads=None,
            )
            updated_keys[box].append(key_of(updated, row_id))
            created_keys[box].append(key_of(created, row_id))
            number_keys.append(key_of(row_id, row_id))
        self._last_conversation = first + count - 1
        self.by_number = SortedKeys([*self.by_number, *number_keys])
        for box in boxes:
            self.by_updated_in[box] = SortedKeys([*self.by_updated_in[box], *updated_keys[box]])
            self.by_created_in[box] = SortedKeys([*self.by_created_in[box], *created_keys[box]])
        self.by_updated = SortedKeys(key for keys in self.by_updated_in.values() for key in keys)
        self.by_created = SortedKeys(key for keys in self.by_created_in.values() for key in keys)
        return range(first, first + count)


_STATUS_MIX = (1, 1, 2, 3, 3, 3, 3, 3, 3, 4)


def _copies(threads: list[Thread] | None) -> tuple[Thread, ...] | None:
    return None if threads is None else tuple(replace(thread) for thread in threads)
