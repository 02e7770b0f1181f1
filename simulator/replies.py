"""What people write: new conversations, replies, notes, drafts, forwards.

Each method says what it fires, as recorded from modules 1.0.82 and 1.0.87. ``by`` is an agent's id.
"""

from simulator.conversation import Conversation, PersonType, Status, Thread, status_code
from simulator.store import NotOnDeskError, Store

_STARTED = "{who} started a new conversation #{number}"
_REPLIED = "{who} replied to conversation #{number}"
_NOTED = "{who} added a note to conversation #{number}"


class Replies(Store):
    """Writing, by agents in the UI, through the API or by mail, and by customers."""

    # New conversations.

    def customer_writes(
        self,
        *,
        mailbox_id: int = 1,
        customer_id: int = 1,
        subject: str = "Question",
        text: str = "Hello",
        status: str = "active",
        source: str = "email",
        created: int | None = None,
        assignee: int | None = None,
    ) -> int:
        """A customer starts a conversation by mail or through the API: ``convo.created``; return its id.

        ``created`` (Unix seconds) is the past date of an imported one.
        """
        row = self._new_row(mailbox_id, subject, customer_id, status=status, source=source, created=created)
        row.assignee = assignee
        row.last_reply, row.last_reply_from = row.updated, "customer"
        self._write(row, "customer", _STARTED, text, by="customer", by_id=customer_id, source=source)
        self.fire("convo.created", row)
        self.count_threads(row, text)
        return row.id

    def agent_posts(
        self,
        *,
        mailbox_id: int = 1,
        customer_id: int = 1,
        subject: str = "Notice",
        text: str = "Hello",
        status: str = "pending",
        by: int = 1,
        created: int | None = None,
        assignee: int | None = None,
    ) -> int:
        """An agent starts a conversation through the API: ``convo.created`` about 17 s later; return its id."""
        row = self._new_row(mailbox_id, subject, customer_id, status=status, source="api", created=created, by=by)
        row.assignee = assignee
        row.last_reply, row.last_reply_from = row.updated, "user"
        self._write(row, "message", _STARTED, text, by="user", by_id=by, source="api")
        self.fire_later("convo.created", row)
        self.send_mail(row)
        self.count_threads(row, text)
        return row.id

    def start_in_ui(
        self,
        *,
        mailbox_id: int = 1,
        customer_id: int = 1,
        subject: str = "Notice",
        text: str = "Hello",
        status: str = "active",
        by: int = 1,
    ) -> int:
        """An agent starts a conversation in the UI; return its id.

        ``convo.created`` follows after 15 to 19 s with the row as it is now and ``mailboxId`` as a string.
        """
        row = self._new_row(mailbox_id, subject, customer_id, status=status, source="web", by=by)
        row.preview, row.assignee = text, by
        row.last_reply, row.last_reply_from = row.updated, "user"
        self.put_status(row, status_code(status), by=by)
        self._write(row, "message", _STARTED, text, by="user", by_id=by, thread_status=row.status)
        row.mailbox_as_text = True
        self.fire_later("convo.created", row)
        row.mailbox_as_text = False
        self.send_mail(row)
        row.threads_count = row.replies()
        return row.id

    def undo_start(self, conversation_id: int) -> None:
        """Undo ``start_in_ui`` within 15 s: a draft again, silently; ``convo.created`` will say published."""
        row = self.get(conversation_id)
        row.state = "draft"
        for thread in self.threads_of(row):
            thread.state = "draft"
        row.threads_count = row.replies()
        self.touch(row)

    def save_draft(self, *, mailbox_id: int = 1, subject: str = "Draft", text: str = "Draft", by: int = 1) -> int:
        """An agent saves a new conversation as a draft: silent; return its id."""
        row = self._new_row(mailbox_id, subject, None, status="active", source="web", by=by)
        row.state, row.preview = "draft", text
        self._write(row, "message", _STARTED, text, by="user", by_id=by).state = "draft"
        return row.id

    def send_draft(self, conversation_id: int, *, status: str = "pending", customer_id: int = 1, by: int = 1) -> None:
        """Send a draft conversation: ``convo.status`` and ``.assigned`` at once, ``.created`` 15 s later."""
        row = self._published_draft(conversation_id)
        row.customer_id = customer_id
        draft = self.threads_of(row)[-1]
        draft.state, draft.created, draft.customer_id = "published", self.stamp(), customer_id
        draft.to = self.address_of(customer_id)
        row.threads_count = row.replies()
        changed, assigned = self._take_over(row, status_code(status), by=by)
        draft.status, draft.assigned_to = row.status, row.assignee
        self._answered(row)
        self._announce(row, changed=changed, assigned=assigned)
        self.fire_later("convo.created", row)
        self.send_mail(row)

    # Replies of agents.

    def reply_in_ui(self, conversation_id: int, *, status: str, text: str = "Reply", by: int = 1) -> int:
        """An agent replies in the UI and sets a status; return the thread's id.

        ``convo.status`` and ``convo.assigned`` at once where something changed; ``convo.agent.reply.created`` 15 s
        later with the row as it is now, however old that is by then.
        """
        row = self.get(conversation_id)
        changed, assigned = self._take_over(row, status_code(status), by=by)
        self._answered(row)
        thread = self._write(row, "message", _REPLIED, text, by="user", by_id=by, thread_status=row.status)
        self._announce(row, changed=changed, assigned=assigned)
        self.fire_later("convo.agent.reply.created", row)
        self.send_mail(row)
        self.count_threads(row, text)
        return thread.id

    def undo_reply(self, conversation_id: int, thread_id: int) -> None:
        """Undo a reply within 15 s: it is a draft again, silently; the status stays as the reply set it."""
        row = self.get(conversation_id)
        self._thread(row, thread_id).state = "draft"
        row.threads_count = row.replies()
        self.touch(row)

    def reply_through_api(
        self, conversation_id: int, *, status: str | None = None, text: str = "Reply", by: int = 1
    ) -> int:
        """An agent replies through the API: ``convo.agent.reply.created`` about 17 s later; pending by default.

        Module 1.0.87 sends a ``convo.status`` before it, at once, with the new status and the OLD ``updatedAt``. That
        it does so only where a status was given and is another one is our assumption.

        Returns:
            The thread's id.
        """
        row = self.get(conversation_id)
        code = status_code(status) if status else Status.PENDING
        changed = code.value != row.status_code
        if self.module == "1.0.87":
            self.put_status(row, code, by=by)
        else:
            row.status_code = code
            row.closed_by = by if code is Status.CLOSED else None  # closedAt stays (measured)
        self._answered(row)
        thread = self._write(row, "message", _REPLIED, text, by="user", by_id=by, source="api")
        if self.module == "1.0.87" and status is not None and changed:
            self.fire("convo.status", row)
        self.touch(row)
        self.fire_later("convo.agent.reply.created", row)
        self.send_mail(row)
        self.count_threads(row, text)
        return thread.id

    def reply_by_mail(self, conversation_id: int, *, status: str = "pending", text: str = "Reply", by: int = 1) -> None:
        """An agent replies by mail: ``convo.status`` with the new status and the OLD ``updatedAt``, then the reply."""
        row = self.get(conversation_id)
        if status_code(status).value != row.status_code:
            self.put_status(row, status_code(status), by=by)
            self.fire("convo.status", row)
        self.touch(row)
        self._answered(row)
        self._write(row, "message", _REPLIED, text, by="user", by_id=by, source="email")
        self.fire("convo.agent.reply.created", row)
        self.send_mail(row)
        self.count_threads(row, text)

    # Notes, customers, forwards.

    def note_in_ui(
        self,
        conversation_id: int,
        *,
        status: str | None = None,
        assign_to: int | None = None,
        text: str = "Note",
        by: int = 1,
    ) -> None:
        """An agent adds a note in the UI: ``convo.note.created``; before it ``convo.status`` and ``.assigned``.

        Those come only where something changed; if nothing did, the note's ``updatedAt`` is from before it.
        """
        row = self.get(conversation_id)
        changed = status is not None and status_code(status).value != row.status_code
        assigned = assign_to is not None and assign_to != row.assignee
        if status is not None and changed:
            self.put_status(row, status_code(status), by=by)
        if assign_to is not None:
            row.assignee = self.agent(assign_to).id
        if changed or assigned:
            self.touch(row)
        self._write(row, "note", _NOTED, text, by="user", by_id=by, thread_status=row.status)
        self._announce(row, changed=changed, assigned=assigned)
        self.fire("convo.note.created", row)
        self.touch(row)
        self.count_threads(row, text)

    def note_through_api(
        self, conversation_id: int, *, status: str | None = None, text: str = "Note", by: int = 1
    ) -> int:
        """An agent adds a note through the API: ``convo.note.created`` alone; return the thread's id.

        Without a status the snapshot's ``updatedAt`` is from before the note.
        """
        row = self.get(conversation_id)
        if status:
            row.status_code = status_code(status)
            row.closed_by = by if row.status == "closed" else None
            row.user_updated = self.touch(row)
        thread = self._write(row, "note", _NOTED, text, by="user", by_id=by, source="api")
        self.fire("convo.note.created", row)
        self.touch(row)
        self.count_threads(row, text)
        return thread.id

    def customer_replies(self, conversation_id: int, *, text: str = "More", source: str = "email") -> int:
        """The customer replies: active and published whatever it was, only ``convo.customer.reply.created``.

        Returns:
            The thread's id.
        """
        row = self.get(conversation_id)
        customer_id = row.customer_id or 1
        self.put_status(row, Status.ACTIVE, by=None)
        row.state = "published"
        row.last_reply, row.last_reply_from = self.touch(row), "customer"
        thread = self._write(row, "customer", _REPLIED, text, by="customer", by_id=customer_id, source=source)
        self.fire("convo.customer.reply.created", row)
        self.count_threads(row, text)
        return thread.id

    def forward(self, conversation_id: int, *, status: str, to: str = "other@example.org", by: int = 1) -> int:
        """An agent forwards it in the UI: ``convo.status`` for the parent if that changed, nothing for the child.

        Returns:
            The id of the new conversation, of which no delivery ever tells.
        """
        row = self.get(conversation_id)
        changed, _ = self._take_over(row, status_code(status), by=by, keep_user_updated=True)
        note = self._write(row, "note", _NOTED, "Forward", by="user", by_id=by, thread_status=row.status)
        note.to = (to,)
        self._announce(row, changed=changed, assigned=False)
        child = self._new_row(
            row.mailbox_id, f"Fwd: {row.subject}", row.customer_id, status=row.status, source="web", by=by
        )
        child.last_reply, child.last_reply_from = child.updated, "user"
        self._write(child, "message", _STARTED, "Forward", by="user", by_id=by).to = (to,)
        self.send_mail(child)
        self.count_threads(child, "Forward")
        self.count_threads(row, "Forward")
        return child.id

    # The parts they share.

    def _new_row(
        self,
        mailbox_id: int,
        subject: str,
        customer_id: int | None,
        *,
        status: str,
        source: str,
        created: int | None = None,
        by: int | None = None,
    ) -> Conversation:
        if customer_id is not None and customer_id not in self.customers:
            raise NotOnDeskError(f"no customer {customer_id}; there are {len(self.customers)}")
        stamp = self.stamp()
        row_id, number = self.next_ids()
        author: tuple[PersonType, int] = ("customer", customer_id or 1) if by is None else ("user", by)
        row = Conversation(
            id=row_id,
            number=number,
            mailbox_id=mailbox_id,
            status_code=status_code(status),
            state="published",
            subject=subject,
            created=stamp if created is None else created,
            updated=stamp,
            customer_id=customer_id,
            by=author[0],
            by_id=author[1],
            source=source,
            user_updated=None if by is None else stamp,
        )
        return self.add(row)

    def _write(
        self,
        row: Conversation,
        kind: str,
        text: str,
        body: str,
        *,
        by: PersonType,
        by_id: int,
        source: str = "web",
        thread_status: str = "active",
    ) -> Thread:
        to = () if by == "customer" else self.address_of(row.customer_id)
        html = f"<div>{body}</div>" if source == "web" else f"<p>{body}</p>" if source == "email" else body
        if kind == "customer":
            return self.add_thread(
                row, "customer", text, status=thread_status, by=by, by_id=by_id, body=html, source=source
            )
        return self.add_thread(
            row,
            "note" if kind == "note" else "message",
            text,
            status=thread_status,
            by=by,
            by_id=by_id,
            body=html,
            source=source,
            to=to,
        )

    def _take_over(
        self, row: Conversation, code: Status, *, by: int, keep_user_updated: bool = False
    ) -> tuple[bool, bool]:
        changed, assigned = code.value != row.status_code, row.assignee is None
        if changed:
            self.put_status(row, code, by=by)
        if assigned:
            row.assignee = by
        self.touch(row)
        if not keep_user_updated:
            row.user_updated = row.updated
        return changed, assigned

    def _announce(self, row: Conversation, *, changed: bool, assigned: bool) -> None:
        if changed:
            self.fire("convo.status", row)
        if assigned:
            self.fire("convo.assigned", row)

    def _answered(self, row: Conversation) -> None:
        row.user_updated = row.last_reply = self.stamp()
        row.last_reply_from = "user"

    def _published_draft(self, conversation_id: int) -> Conversation:
        row = self.get(conversation_id)
        if row.state != "draft":
            raise NotOnDeskError(f"conversation {conversation_id} is no draft")
        row.state = "published"
        return row

    def _thread(self, row: Conversation, thread_id: int) -> Thread:
        for thread in self.threads_of(row):
            if thread.id == thread_id:
                return thread
        raise NotOnDeskError(f"no thread {thread_id} in conversation {row.id}")
