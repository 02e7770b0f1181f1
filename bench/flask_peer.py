"""What most teams would write: Flask under gunicorn, psycopg2, one upsert and one commit for each delivery.

It verifies the signature as it should, and believes whatever is newer; no journal, no rule, no disputes.
``gunicorn -w 4 -b 127.0.0.1:PORT bench.flask_peer:app`` with ``DATABASE_URL`` in the environment.
"""

import base64
import hashlib
import hmac
import os
import threading

import psycopg2
from flask import Flask, Response, jsonify, request

from bench.load import KEY

TABLE = """
CREATE TABLE IF NOT EXISTS bench_peer (
    ticket_id bigint PRIMARY KEY, status text NOT NULL, state text NOT NULL, updated_at timestamptz NOT NULL)
"""
_UPSERT = """
INSERT INTO bench_peer (ticket_id, status, state, updated_at) VALUES (%s, %s, %s, %s)
ON CONFLICT (ticket_id) DO UPDATE
SET status = excluded.status, state = excluded.state, updated_at = excluded.updated_at
WHERE bench_peer.updated_at < excluded.updated_at
"""

app = Flask(__name__)
_local = threading.local()


@app.post("/api/internal/freescout-webhook/audit")
def take() -> tuple[Response, int]:
    """Verify a delivery, save it and answer."""
    body = request.get_data()
    expected = base64.b64encode(hmac.new(KEY.encode(), body, hashlib.sha1).digest()).decode()
    if not hmac.compare_digest(expected, request.headers.get("X-FreeScout-Signature", "")):
        return jsonify(error="unauthorized"), 401
    said = request.get_json()
    connection = getattr(_local, "connection", None)
    if connection is None:
        connection = _local.connection = psycopg2.connect(os.environ["DATABASE_URL"])
    with connection, connection.cursor() as cursor:
        cursor.execute(_UPSERT, (said["id"], said["status"], said["state"], said["updatedAt"]))
    return jsonify(outcome="applied"), 200
