DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_lock_feed(at_once boolean) RETURNS bigint
        LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, %1$I, pg_temp
    AS $body$
    #variable_conflict use_column
    DECLARE
        feed freescout_feed;
        here text := current_setting('freescout_audit.database', true);
    BEGIN
        IF coalesce(here, '') = '' THEN
            BEGIN
                SELECT concat_ws('/', s.system_identifier, d.oid) INTO here
                FROM pg_control_system() s, pg_database d WHERE d.datname = current_database();
                PERFORM pg_walfile_name(pg_current_wal_insert_lsn());
            EXCEPTION WHEN insufficient_privilege OR undefined_function OR feature_not_supported THEN
                -- A host may keep that to itself: then only reconcile --full --restored tells.
                here := 'not known';
            END;
            PERFORM set_config('freescout_audit.database', here, false);
        END IF;
        IF here <> 'not known' THEN
            here := here || '/' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8);
        END IF;
        IF at_once THEN
            SELECT * INTO feed FROM freescout_feed FOR UPDATE SKIP LOCKED;
        ELSE
            SELECT * INTO feed FROM freescout_feed FOR UPDATE;
        END IF;
        IF feed.last_id IS NULL THEN
            RETURN NULL;
        END IF;
        IF here IS DISTINCT FROM feed.origin THEN
            IF feed.origin IS NOT NULL THEN
                -- What was numbered after the backup is lost, and a reader may have had it: no number is given twice.
                feed.last_id := feed.last_id + 1000000000;
            END IF;
            UPDATE freescout_feed SET last_id = feed.last_id, origin = here;
        END IF;
        RETURN feed.last_id;
    END $body$
$create$, current_schema()); END $do$;

REVOKE ALL ON FUNCTION freescout_lock_feed(boolean) FROM PUBLIC;

COMMENT ON FUNCTION freescout_lock_feed(boolean)
IS 'Locks the feed and returns its last number; at once or not at all (NULL), if so told; only our processes.';
