CREATE FUNCTION freescout_now() RETURNS timestamptz
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN clock_timestamp();

COMMENT ON FUNCTION freescout_now() IS 'Our one clock; a simulation replaces it.';
