-- Every member of the extension, so that nothing lands unnoticed (DESIGN F1, F2, O9, S2, S5, S6, S9, S10, S11, S12, Z1).
\set SHOW_CONTEXT never
\pset null '-'
SET client_min_messages = warning;
CREATE SCHEMA cg;
CREATE EXTENSION token_balance SCHEMA cg;
CREATE VIEW member AS SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'token_balance';

SELECT extversion = default_version AS newest, extrelocatable, extnamespace::regnamespace FROM pg_extension JOIN pg_available_extensions ON name = extname WHERE extname = 'token_balance';
-- all of them, with their comments (none may lack one)
SELECT i.type, i.identity, obj_description(m.objid, m.classid::regclass::name) AS comment
  FROM member m, pg_identify_object(m.classid, m.objid, 0) i WHERE i.type NOT LIKE '%type%' ORDER BY i.type COLLATE "C", i.identity COLLATE "C";

-- functions: what they are and who may call them beside the owner
SELECT p.oid::regprocedure AS function, p.prorettype::regtype AS returns, p.proretset AS set, l.lanname AS language, p.provolatile AS volatile, p.proparallel AS parallel,
  p.proisstrict AS strict, p.prosecdef AS secdef, p.proleakproof AS leakproof, p.proconfig AS config,
  (SELECT string_agg(CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END || ' ' || a.privilege_type, ', ') FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee <> p.proowner) AS granted
  FROM member m JOIN pg_proc p ON p.oid = m.objid AND m.classid = 'pg_proc'::regclass JOIN pg_language l ON l.oid = p.prolang
 ORDER BY p.oid::regprocedure::text COLLATE "C";
SELECT p.oid::regproc AS function, pg_get_function_arguments(p.oid) AS arguments, pg_get_function_result(p.oid) AS result
  FROM member m JOIN pg_proc p ON p.oid = m.objid AND m.classid = 'pg_proc'::regclass WHERE p.prorettype <> 'trigger'::regtype ORDER BY p.oid::regprocedure::text COLLATE "C";

-- relations: who may touch them, what a dump takes along
SELECT c.oid::regclass AS relation, c.relkind AS kind, c.relpersistence AS persistence, c.relrowsecurity AS rls,
  (SELECT string_agg(CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END || ' ' || a.privilege_type, ', ') FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner) AS granted,
  c.oid = ANY (e.extconfig) AS dumped, e.extcondition[array_position(e.extconfig, c.oid)] AS condition
  FROM member m JOIN pg_class c ON c.oid = m.objid AND m.classid = 'pg_class'::regclass, pg_extension e
 WHERE e.extname = 'token_balance' ORDER BY c.relname;
SELECT array_agg(c::regclass::text ORDER BY c::regclass::text COLLATE "C") AS dumped FROM pg_extension e, unnest(e.extconfig) c WHERE extname = 'token_balance';
SELECT c.relname AS "table", a.attnum AS n, a.attname AS "column", format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null, a.attidentity AS identity, pg_get_expr(d.adbin, d.adrelid) AS "default"
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE c.relnamespace = 'token_balance'::regnamespace AND c.relkind IN ('r', 'v', 'p') ORDER BY 1, 2;
-- a column without a comment
SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relnamespace = 'token_balance'::regnamespace AND c.relkind IN ('r', 'v', 'p') AND col_description(c.oid, a.attnum) IS NULL ORDER BY 1, 2;
SELECT conrelid::regclass AS "table", contype AS type, pg_get_constraintdef(oid) AS definition FROM pg_constraint
 WHERE connamespace = 'token_balance'::regnamespace AND contype IN ('p', 'u', 'c', 'f', 'x') ORDER BY conrelid::regclass::text COLLATE "C", pg_get_constraintdef(oid) COLLATE "C";
SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = 'token_balance'::regnamespace ORDER BY c.relname;
-- triggers on the extension's own tables; A: fires always
SELECT t.tgenabled AS enabled, pg_get_triggerdef(t.oid) AS definition FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
 WHERE c.relnamespace = 'token_balance'::regnamespace AND NOT t.tgisinternal ORDER BY t.tgname, c.relname;
-- the schema
SELECT n.nspname, (SELECT string_agg(CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END || ' ' || a.privilege_type, ', ') FROM aclexplode(n.nspacl) a WHERE a.grantee <> n.nspowner) AS granted
  FROM member m JOIN pg_namespace n ON n.oid = m.objid AND m.classid = 'pg_namespace'::regclass;
-- nothing outside: the schema of CREATE EXTENSION holds settle_workflow and no more
SELECT p.proname, count(*) FROM pg_proc p WHERE p.pronamespace = 'cg'::regnamespace GROUP BY 1;
SELECT count(*) FROM pg_class WHERE relnamespace = 'cg'::regnamespace;
-- nothing in the schema that is no member
SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'token_balance'::regnamespace AND c.relkind IN ('r', 'v', 'p', 'm', 'f', 'c')
   AND NOT EXISTS (SELECT FROM member m WHERE m.objid = c.oid);
-- event triggers, casts, operators, languages: none
SELECT count(*) FROM pg_event_trigger;

DROP VIEW member;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA cg;
