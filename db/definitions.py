"""The view and the functions: SQL files, and the order in which they are made."""

from pathlib import Path

SQL = Path(__file__).parent / "sql"
DEFINITIONS = (
    "freescout_now",
    "freescout_ticket_cache",
    "freescout_ticket_state",
    "freescout_read_tickets",
    "freescout_lock_tickets",
    "freescout_lock_feed",
    "freescout_note_history",
    "freescout_note_lease",
    "freescout_write_tickets",
    "freescout_ticket_state_at",
    "freescout_number_transitions",
    "freescout_transitions",
    "freescout_read_cursor",
    "freescout_move_cursor",
)
"""The files of `db/sql/`, each after those that it uses."""
