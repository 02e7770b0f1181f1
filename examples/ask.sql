-- In a transaction of REPEATABLE READ or SERIALIZABLE it would see what stood when that began: ask outside.
SET statement_timeout = '200ms';
SELECT freescout_ticket_state(4711);

-- Several at once.
SELECT ticket_id, freescout_ticket_state(ticket_id) AS state FROM unnest(ARRAY[4711, 4712]::bigint[]) AS ticket_id;
