DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_move_cursor(name text, after bigint) RETURNS void
        LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, %1$I, pg_temp
    AS $body$
    BEGIN
        INSERT INTO freescout_cursor AS c (name, after, moved_at) VALUES ($1, $2, freescout_now())
        ON CONFLICT ON CONSTRAINT freescout_cursor_pkey DO UPDATE
        SET after = excluded.after, moved_at = excluded.moved_at;
    END $body$
$create$, current_schema()); END $do$;

REVOKE ALL ON FUNCTION freescout_move_cursor(text, bigint) FROM PUBLIC;

COMMENT ON FUNCTION freescout_move_cursor(text, bigint) IS 'Notes how far a reader of the feed has come.';
