-- What the role of the transaction may do.
SELECT json_build_object(
    'may_credit', has_function_privilege('token_balance.credit(text, numeric, text, text, name)', 'EXECUTE'),
    'may_refund', has_function_privilege(
        'token_balance.refund_workflow(text, numeric, text, text, name, regclass)', 'EXECUTE'))::text
