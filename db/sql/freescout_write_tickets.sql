DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_write_tickets(rows json, versions jsonb, lease_version text, journal json,
                                            patience interval) RETURNS void
        LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, %1$I, pg_temp SET enable_seqscan = off
        SET plan_cache_mode = force_generic_plan
    AS $body$
    #variable_conflict use_column
    DECLARE written bigint[];
    BEGIN
        IF patience IS NOT NULL THEN
            PERFORM set_config('lock_timeout', ceil(1000 * extract(epoch FROM patience))::bigint::text, true);
        END IF;
        WITH upserted AS (
            INSERT INTO freescout_ticket AS t (
                ticket_id, status, state, updated_at, number, mailbox_id, created_at, gone, observed_at, observed_via,
                expires_at, touched_at, truth_at, disputed_at, grace_until, truth_until, doubted_through,
                disputed_through)
            SELECT ticket_id, status, state, updated_at, number, mailbox_id, created_at, coalesce(gone, true),
                   observed_at, observed_via, expires_at, touched_at, truth_at, disputed_at, grace_until, truth_until,
                   doubted_through, disputed_through
            FROM json_populate_recordset(NULL::freescout_ticket, rows)
            ON CONFLICT (ticket_id) DO UPDATE
            SET (status, state, updated_at, number, mailbox_id, created_at, gone, observed_at, observed_via, expires_at,
                 touched_at, truth_at, disputed_at, grace_until, truth_until, doubted_through, disputed_through)
              = (excluded.status, excluded.state, excluded.updated_at, excluded.number, excluded.mailbox_id,
                 excluded.created_at, excluded.gone, excluded.observed_at, excluded.observed_via, excluded.expires_at,
                 excluded.touched_at, excluded.truth_at, excluded.disputed_at, excluded.grace_until,
                 excluded.truth_until, excluded.doubted_through, excluded.disputed_through)
            WHERE t.xmin::text = versions ->> t.ticket_id::text
            RETURNING ticket_id
        )
        SELECT coalesce(array_agg(ticket_id), '{}') INTO written FROM upserted;
        IF cardinality(written) <> json_array_length(rows) THEN
            RAISE EXCEPTION USING ERRCODE = 'serialization_failure', MESSAGE = 'a ticket was written meanwhile';
        END IF;
        IF lease_version <> (SELECT l.xmin::text FROM freescout_lease l) THEN
            RAISE EXCEPTION USING ERRCODE = 'serialization_failure', MESSAGE = 'the lease was written meanwhile';
        END IF;
        IF written <> '{}' THEN
            -- Deliveries are committed at once, and hold the feed up no longer than that takes.
            PERFORM freescout_note_history(written, json_array_length(journal) > 0);
        END IF;
        INSERT INTO freescout_delivery AS d (
            received_at, endpoint, event, ticket_id, outcome, reason, status, state, updated_at, body_bytes, body_ms,
            signed_with, request_id, key_fingerprint, digest, replays, replayed_at, replayed_request_id)
        SELECT received_at, endpoint, event, ticket_id, outcome, reason, status, state, updated_at, body_bytes, body_ms,
               signed_with, request_id, key_fingerprint, digest, coalesce(replays, 0), replayed_at, replayed_request_id
        FROM json_populate_recordset(NULL::freescout_delivery, journal)
        ON CONFLICT (digest) DO UPDATE
        SET replays = d.replays + 1 + excluded.replays,
            replayed_at = coalesce(excluded.replayed_at, excluded.received_at),
            replayed_request_id = coalesce(excluded.replayed_request_id, excluded.request_id);
    END $body$
$create$, current_schema()); END $do$;

REVOKE ALL ON FUNCTION freescout_write_tickets(json, jsonb, text, json, interval) FROM PUBLIC;

COMMENT ON FUNCTION freescout_write_tickets(json, jsonb, text, json, interval)
IS 'Writes tickets and journal if they are as they were read; only our processes.';
