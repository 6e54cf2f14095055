-- The usage is there already: it is charged when its workflow is settled.
CREATE EXTENSION token_balance;
SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows', existing_usage => 'charge');
GRANT USAGE ON SCHEMA token_balance TO app;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA token_balance TO app;
VACUUM (FREEZE, ANALYZE);
