"""Follow the feed through psycopg, from a place that the caller keeps."""

import psycopg


def follow(url: str, after: int) -> int:
    """Print each ticket that is not open any more, and return the place to go on from."""
    with psycopg.connect(url, autocommit=True) as connection:
        for row in connection.execute(
            "SELECT transition_id, ticket_id, after FROM freescout_transitions(%s)", (after,)
        ):
            if row[2] not in {"active", "pending"}:
                print("not open any more:", row[1])
            after = row[0]
    return after
