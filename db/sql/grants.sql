-- What another application may ask. `audit_writer` stands for its role and `<password>` for a password; run the parts
-- that fit as the database's owner, in any client.

-- On PostgreSQL 14, once: close the schema, as 15 has it (run by a superuser, in our database).
ALTER SCHEMA public OWNER TO pg_database_owner;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

-- A role that may log in (run by who may make roles; on Heroku `heroku pg:credentials:create` makes it).
CREATE ROLE audit_writer LOGIN PASSWORD '<password>' CONNECTION LIMIT 5;

-- One ticket's answer, and nothing else.
GRANT USAGE ON SCHEMA public TO audit_writer;
GRANT EXECUTE ON FUNCTION freescout_ticket_state(bigint) TO audit_writer;

-- Beside it, the view of all tickets: number, mailbox, status and dates.
GRANT SELECT ON freescout_ticket_cache TO audit_writer;

-- Beside it, what was answered at a moment.
GRANT EXECUTE ON FUNCTION freescout_ticket_state_at(bigint, timestamptz) TO audit_writer;

-- The feed of what has changed, and nothing else.
GRANT USAGE ON SCHEMA public TO audit_writer;
GRANT EXECUTE ON FUNCTION freescout_transitions(bigint, int) TO audit_writer;
GRANT EXECUTE ON FUNCTION freescout_read_cursor(text), freescout_move_cursor(text, bigint) TO audit_writer;

-- Nothing any more.
REVOKE ALL ON FUNCTION freescout_ticket_state(bigint) FROM audit_writer;
REVOKE ALL ON FUNCTION freescout_ticket_state_at(bigint, timestamptz) FROM audit_writer;
REVOKE ALL ON FUNCTION freescout_transitions(bigint, int) FROM audit_writer;
REVOKE ALL ON FUNCTION freescout_read_cursor(text), freescout_move_cursor(text, bigint) FROM audit_writer;
REVOKE ALL ON freescout_ticket_cache FROM audit_writer;
REVOKE ALL ON SCHEMA public FROM audit_writer;

-- After a restore without privileges: take from everybody what the migrations had taken.
DO $$ DECLARE ours regprocedure; BEGIN
    FOR ours IN SELECT oid FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND starts_with(proname, 'freescout_') AND proname <> 'freescout_now'
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', ours);
    END LOOP;
END $$;
