-- Four ways to complete a run. An application has one of them; whichever it is,
-- each run is charged once.
UPDATE demo.run SET way = CASE
    WHEN n <= (SELECT ceil(count(*) / 5.0) FROM demo.run) THEN 'race'
    ELSE (ARRAY['update', 'bulk', 'bulk', 'call'])[1 + n % 4] END;
GRANT USAGE ON SCHEMA demo TO platform;
GRANT SELECT ON demo.run TO platform;
