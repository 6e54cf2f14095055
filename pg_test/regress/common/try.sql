\set ECHO none
-- try(statement): runs it and says how it went: what it answered, or the error's SQLSTATE, message, DETAIL and HINT.
-- As a warning, since many files hide notices.
CREATE PROCEDURE pg_temp.try(statement text) LANGUAGE plpgsql AS $$
DECLARE state text; message text; detail text; hint text; answer text;
BEGIN
  EXECUTE statement INTO answer;
  RAISE WARNING 'no error: %', answer;
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
  -- a failing row that has a time is another one in each run
  detail := regexp_replace(detail, '^Failing row .*\d\d:\d\d:\d\d.*', '');
  RAISE WARNING '%', concat_ws(E'\n', state || ': ' || message, '  DETAIL: ' || nullif(detail, ''), '  HINT: ' || nullif(hint, ''));
END $$;
\set ECHO all
