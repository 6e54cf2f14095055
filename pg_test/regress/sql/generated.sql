-- Generated columns as keys, status, payer and tokens: stored ones, and from 18 on virtual ones, which are null in the row where it is
-- stored. A run whose key was such a column completed and charged nothing. The right values are the same (DESIGN T14, K3).
SET client_min_messages = warning;
\set kind STORED
\i common/generated.sql
\set ECHO none
SELECT CASE WHEN current_setting('server_version_num')::integer >= 180000 THEN 'VIRTUAL' ELSE 'STORED' END AS kind \gset
\set ECHO all
\i common/generated.sql
