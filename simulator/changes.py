"""What agents do to a conversation other than writing: status, assignment, mailbox, deletion, merging.

Each method says what it fires, as recorded from modules 1.0.82 and 1.0.87. ``by`` is an agent's id.
"""

from collections.abc import Iterable

from simulator.conversation import Conversation, Status, status_code
from simulator.payload import status_line
from simulator.store import NotOnDeskError, Store


class Changes(Store):
    """Changes that FreeScout announces, mostly."""

    def set_status(self, conversation_id: int, status: str, *, by: int = 1) -> bool:
        """Set the status through the API or the UI: ``convo.status``.

        An unknown word means active. The status it has already is silent and moves nothing.

        Returns:
            Whether anything changed.
        """
        row = self.get(conversation_id)
        if status_code(status).value == row.status_code:
            return False
        self._mark(row, status_code(status), by=by)
        return True

    def bulk_set_status(self, conversation_ids: Iterable[int], status: str, *, by: int = 1) -> None:
        """Set the status of several in the UI: ``convo.status`` for each, even for those that have it already."""
        for row in [self.get(conversation_id) for conversation_id in conversation_ids]:
            self._mark(row, status_code(status), by=by)

    def not_spam(self, conversation_id: int, *, by: int = 1) -> None:
        """Say in the UI that it is no spam: it gets back the status it had before, ``convo.status``."""
        row = self.get(conversation_id)
        earlier = (t.status for t in reversed(self.threads_of(row)) if t.status not in ("spam", "nochange"))
        self._mark(row, status_code(next(earlier, "active")), by=by)

    def assign(self, conversation_id: int, to: int, *, by: int = 1) -> None:
        """Assign to an agent: ``convo.assigned``."""
        row = self.get(conversation_id)
        self._put_assignee(row, self.agent(to).id, by=by)
        self.fire("convo.assigned", row)

    def unassign(self, conversation_id: int, *, by: int = 1) -> None:
        """Take the assignment away: silent, but ``updated_at`` moves."""
        self._put_assignee(self.get(conversation_id), None, by=by)

    def move(self, conversation_id: int, mailbox_id: int, *, by: int = 1) -> None:
        """Move to another mailbox: ``convo.moved``, offered to the webhooks of the new mailbox only."""
        row = self.get(conversation_id)
        self.put_into(row, mailbox_id)
        self.touch(row)
        text = "{who} moved conversation from another mailbox"
        self.add_line(row, text, action="moved-from-mailbox", status=row.status, by=by, body="")
        self.fire("convo.moved", row)
        row.user_updated = row.updated

    def delete_to_folder(self, conversation_id: int, *, by: int = 1) -> None:
        """Put into the Deleted folder: ``convo.deleted``; the status stays."""
        row = self.get(conversation_id)
        self._put_in_deleted(row, by=by)
        self.fire("convo.deleted", row)

    def restore(self, conversation_id: int, *, by: int = 1) -> None:
        """Take back out of the Deleted folder: ``convo.restored``."""
        row = self.get(conversation_id)
        row.state = "published"
        row.user_updated = self.touch(row)
        self.add_line(row, "{who} restored", action="restore-ticket", status="nochange", by=by)
        self.fire("convo.restored", row)

    def merge(self, survivor_id: int, merged_id: int, *, by: int = 1) -> None:
        """Merge one into another: ``convo.deleted`` for the one merged away, nothing for the survivor."""
        survivor, merged = self.get(survivor_id), self.get(merged_id)
        if survivor is merged:
            raise NotOnDeskError(f"conversation {merged_id} cannot be merged into itself")
        self.threads_of(survivor).extend(self.threads_of(merged))
        merged.threads = []
        theirs = "{who} merged with another conversation"
        self.add_line(survivor, theirs, action="merged", status=survivor.status, by=by, body="")
        text = f"{{who}} merged into conversation #{survivor.number}"
        self.add_line(merged, text, action="merged", status=merged.status, by=by, body="")
        self._put_in_deleted(merged, by=by)
        self.fire("convo.deleted", merged)
        survivor.user_updated = self.touch(survivor)
        survivor.threads_count = survivor.replies()

    def delete_forever(self, conversation_id: int) -> None:
        """Delete for ever (API, UI, discarding a draft): ``convo.deleted_forever`` with the last living state."""
        row = self.get(conversation_id)
        self.fire("convo.deleted_forever", row)
        self.remove(row)

    def empty_folder(self, mailbox_id: int) -> list[int]:
        """Empty a mailbox's Deleted folder: ``convo.deleted_forever`` for each; return their ids."""
        rows = [row for row in self.truth() if row.mailbox_id == mailbox_id and row.state == "deleted"]
        for row in rows:
            self.delete_forever(row.id)
        return [row.id for row in rows]

    def delete_mailbox(self, mailbox_id: int) -> list[int]:
        """Delete a mailbox: all its conversations vanish, **nothing** is sent; return their ids."""
        rows = [row for row in self.truth() if row.mailbox_id == mailbox_id]
        for row in rows:
            self.remove(row)
        del self.mailboxes[mailbox_id], self.by_updated_in[mailbox_id], self.by_created_in[mailbox_id]
        return [row.id for row in rows]

    def delete_agent(self, agent_id: int) -> None:
        """Delete an agent: what was assigned to them is unassigned, silently; ``updated_at`` moves."""
        del self.agents[agent_id]
        for row in self.truth():
            if row.assignee == agent_id:
                row.assignee = None
                self.touch(row)

    def run_workflow(self, conversation_id: int, event: str) -> None:
        """Let a Workflow send an event under a name of its own; the conversation does not change."""
        self.fire(event, self.get(conversation_id))

    def _mark(self, row: Conversation, status: Status, *, by: int) -> None:
        self.put_status(row, status, by=by)
        row.user_updated = self.touch(row)
        self.add_line(row, status_line(row.status), action="changed-ticket-status", status=row.status, by=by)
        self.fire("convo.status", row)

    def _put_assignee(self, row: Conversation, to: int | None, *, by: int) -> None:
        row.assignee = to
        row.user_updated = self.touch(row)
        name = "anyone" if to is None else self.agent(to).name
        text = f"{{who}} assigned {name} conversation #{{number}}"
        self.add_line(row, text, action="changed-ticket-assignee", status="nochange", by=by)

    def _put_in_deleted(self, row: Conversation, *, by: int) -> None:
        row.state = "deleted"
        row.user_updated = self.touch(row)
        self.add_line(row, "{who} deleted", action="deleted-ticket", status="nochange", by=by)
