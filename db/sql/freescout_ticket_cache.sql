CREATE VIEW freescout_ticket_cache AS
SELECT t.ticket_id, t.number, t.mailbox_id, t.status, t.state, t.updated_at, t.observed_at, t.observed_via,
       CASE
           WHEN t.state IS DISTINCT FROM 'published' OR t.status IS NULL OR t.updated_at IS NULL
                OR greatest(t.observed_at, t.truth_at, t.disputed_at) > clock.soon
               THEN timestamptz 'epoch'
           ELSE least(
               greatest(
                   CASE WHEN t.expires_at <= clock.soon + greatest(l.cache_lease, l.cache_ttl) * interval '1 second'
                        THEN t.expires_at ELSE timestamptz 'epoch' END,
                   CASE WHEN (l.renewed_by_pass <= clock.soon) IS NOT FALSE THEN l.lease_until END),
               t.grace_until)
       END AS ttl_expires
FROM freescout_ticket t CROSS JOIN freescout_lease l
CROSS JOIN (SELECT freescout_now() + interval '1 second' AS soon) clock
WHERE NOT t.gone;

COMMENT ON VIEW freescout_ticket_cache IS 'What everybody reads; a row whose ttl_expires is past reads none.';
