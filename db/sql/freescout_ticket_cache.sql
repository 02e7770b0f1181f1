CREATE VIEW freescout_ticket_cache AS
SELECT t.ticket_id, t.number, t.mailbox_id, t.status, t.state, t.updated_at, t.observed_at, t.observed_via,
       CASE
           WHEN t.state IS DISTINCT FROM 'published' OR t.status IS NULL OR t.updated_at IS NULL
               THEN timestamptz 'epoch'
           ELSE least(greatest(t.expires_at, l.lease_until), t.grace_until)
       END AS ttl_expires
FROM freescout_ticket t CROSS JOIN freescout_lease l
WHERE NOT t.gone;

COMMENT ON VIEW freescout_ticket_cache IS 'What everybody reads; a row whose ttl_expires is past reads none.';
