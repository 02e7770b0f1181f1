DO $do$ BEGIN EXECUTE format($create$
    CREATE FUNCTION freescout_note_lease() RETURNS trigger
        LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, %1$I, pg_temp
    AS $body$
    DECLARE
        clock timestamptz := freescout_now();
        longest interval := greatest(NEW.cache_lease, NEW.cache_ttl) * interval '1 second';
        until timestamptz := CASE WHEN (NEW.renewed_by_pass <= clock + interval '1 second') IS NOT FALSE
                                       AND NEW.lease_until > clock THEN NEW.lease_until END;
        held freescout_lease_history;
        goes_on boolean;
    BEGIN
        SELECT * INTO held FROM freescout_lease_history ORDER BY began_at DESC LIMIT 1;
        IF held.renewed_at > clock + interval '1 second' THEN
            -- It was renewed while our clock was ahead. The stretch before vouched until it was renewed last, and if
            -- that was meanwhile, it is not known until when.
            DELETE FROM freescout_lease_history WHERE began_at > clock;
            UPDATE freescout_lease_history
            SET until_at = CASE WHEN renewed_at <= clock THEN least(until_at, renewed_at) END,
                renewed_at = least(renewed_at, clock)
            WHERE began_at = (SELECT max(began_at) FROM freescout_lease_history);
            held := NULL;
        END IF;
        goes_on := coalesce(held.until_at >= clock AND until >= held.until_at AND held.longest = longest, false);
        IF goes_on AND held.began_at > clock - interval '1 hour' THEN
            UPDATE freescout_lease_history SET until_at = until, renewed_at = clock WHERE began_at = held.began_at;
        ELSIF goes_on OR until IS NOT NULL OR held.until_at > clock OR held.longest IS DISTINCT FROM longest THEN
            INSERT INTO freescout_lease_history AS l (began_at, unbroken_since, renewed_at, until_at, longest)
            VALUES (clock, CASE WHEN goes_on THEN held.unbroken_since ELSE clock END, clock, until, longest)
            ON CONFLICT (began_at) DO UPDATE
            SET unbroken_since = excluded.unbroken_since, until_at = excluded.until_at, longest = excluded.longest;
        END IF;
        RETURN NULL;
    END $body$
$create$, current_schema()); END $do$;

REVOKE ALL ON FUNCTION freescout_note_lease() FROM PUBLIC;

COMMENT ON FUNCTION freescout_note_lease() IS 'Notes how long the lease vouched, where that has changed.';

CREATE TRIGGER freescout_note_lease AFTER UPDATE ON freescout_lease FOR EACH ROW
WHEN ((OLD.lease_until, OLD.renewed_by_pass, OLD.cache_lease, OLD.cache_ttl)
      IS DISTINCT FROM (NEW.lease_until, NEW.renewed_by_pass, NEW.cache_lease, NEW.cache_ttl))
EXECUTE FUNCTION freescout_note_lease();

CREATE TRIGGER freescout_note_new_lease AFTER INSERT ON freescout_lease FOR EACH ROW
EXECUTE FUNCTION freescout_note_lease();
