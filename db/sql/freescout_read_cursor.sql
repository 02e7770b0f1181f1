DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_read_cursor(name text) RETURNS bigint
        LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, %1$I, pg_temp
    AS $body$
    BEGIN
        RETURN coalesce((SELECT c.after FROM freescout_cursor c WHERE c.name = $1), 0);
    END $body$
$create$, current_schema()); END $do$;

REVOKE ALL ON FUNCTION freescout_read_cursor(text) FROM PUBLIC;

COMMENT ON FUNCTION freescout_read_cursor(text) IS 'How far a reader of the feed has come; 0 for a new one.';
