-- Takes a role until the transaction ends, and tells whether the login could give without one.
--   $1 role
SELECT set_config('role', $1::text, true),
    EXISTS (SELECT FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = 'token_balance' AND p.proname IN ('credit', 'adjust', 'refund_workflow', 'correct_workflow')
        AND has_function_privilege(session_user, p.oid, 'EXECUTE')) AS may_by_itself
