-- One account.
--   $1 account
SELECT (jsonb_build_object('id', $1::text) || token_balance.balance($1::text))::text
