-- Everything that the catalogs say of the extension, its members and its triggers on the bound tables, one thing per
-- line and without OIDs, so that two databases can be compared.
-- The test that compares them updates servers and databases at work (DESIGN S12, U1, U2, U3, U4, U5, U6).
SET search_path = pg_catalog;

CREATE TEMPORARY TABLE member AS
    SELECT classid, objid FROM pg_depend
    WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
        AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'token_balance');

-- What hangs on a member: indexes, types, constraints, defaults, rules, triggers.
CREATE TEMPORARY TABLE part AS
    WITH RECURSIVE part (classid, objid) AS (
        SELECT classid, objid FROM pg_temp.member
        UNION
        SELECT 'pg_extension'::regclass, oid FROM pg_extension WHERE extname = 'token_balance'
        UNION
        SELECT d.classid, d.objid
        FROM part JOIN pg_depend AS d ON d.refclassid = part.classid AND d.refobjid = part.objid
        WHERE d.deptype IN ('a', 'i', 'n')
    )
    SELECT classid, objid FROM part;

CREATE FUNCTION pg_temp.described(class oid, object oid, part integer) RETURNS text LANGUAGE sql AS
    $$SELECT regexp_replace(pg_describe_object(class, object, part), 'pg_toast_\d+', 'pg_toast', 'g')$$;
CREATE FUNCTION pg_temp.sorted(acl aclitem[]) RETURNS text LANGUAGE sql AS
    $$SELECT string_agg(item::text, ',' ORDER BY item::text) FROM unnest(acl) AS item$$;

WITH relation AS (
    SELECT c.* FROM pg_class AS c
    JOIN pg_temp.part ON part.classid = 'pg_class'::regclass AND part.objid = c.oid
    WHERE c.relnamespace <> 'pg_toast'::regnamespace
), bound AS (
    SELECT unnest(ARRAY[users, usage, workflows])::oid AS oid FROM token_balance.binding
)
SELECT 'extension' AS kind, extname::text AS what,
    concat_ws(' ', extversion, extnamespace::regnamespace, extowner::regrole, extrelocatable,
        (SELECT string_agg(c::regclass::text, ',' ORDER BY c::regclass::text) FROM unnest(extconfig) AS c),
        extcondition) AS detail
FROM pg_extension WHERE extname = 'token_balance'
UNION ALL
SELECT 'member', pg_temp.described(classid, objid, 0), '' FROM pg_temp.member
UNION ALL
SELECT 'schema', nspname, concat_ws(' ', nspowner::regrole, pg_temp.sorted(nspacl))
FROM pg_namespace JOIN pg_temp.member ON classid = 'pg_namespace'::regclass AND objid = pg_namespace.oid
UNION ALL
SELECT 'function', p.oid::regprocedure::text,
    concat_ws(' ', p.proowner::regrole, pg_temp.sorted(p.proacl), CASE p.prokind
        -- the server writes no definition of these
        WHEN 'a' THEN concat_ws(' ', pg_get_function_arguments(p.oid), p.provolatile, p.proparallel,
            (SELECT to_jsonb(a) FROM pg_aggregate AS a WHERE a.aggfnoid = p.oid))
        ELSE pg_get_functiondef(p.oid) END)
FROM pg_proc AS p JOIN pg_temp.member ON classid = 'pg_proc'::regclass AND objid = p.oid
UNION ALL
SELECT 'relation', oid::regclass::text,
    concat_ws(' ', relkind, relowner::regrole, pg_temp.sorted(relacl), relpersistence, relreplident, reloptions,
        relrowsecurity, relforcerowsecurity, relhasindex, relhasrules, relhastriggers, relnatts, relchecks)
FROM relation
UNION ALL
SELECT 'column', concat(r.oid::regclass, ' ', a.attnum, ' ', a.attname),
    concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated, a.attstorage,
        a.attcompression, a.attcollation::regcollation, a.attislocal, a.attinhcount, a.attisdropped,
        pg_temp.sorted(a.attacl), 'default', pg_get_expr(d.adbin, d.adrelid))
FROM relation AS r JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum > 0
LEFT JOIN pg_attrdef AS d ON d.adrelid = r.oid AND d.adnum = a.attnum
UNION ALL
SELECT 'constraint', concat(c.conrelid::regclass, ' ', c.conname),
    concat_ws(' ', pg_get_constraintdef(c.oid), c.convalidated, c.condeferrable, c.conislocal, c.connoinherit)
FROM pg_constraint AS c JOIN relation AS r ON r.oid = c.conrelid
UNION ALL
SELECT 'index', i.indexrelid::regclass::text,
    concat_ws(' ', pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisready, i.indisprimary, i.indisunique,
        i.indisreplident, i.indisclustered)
FROM pg_index AS i JOIN relation AS r ON r.oid = i.indexrelid
UNION ALL
SELECT 'view', oid::regclass::text, pg_get_viewdef(oid) FROM relation WHERE relkind = 'v'
UNION ALL
SELECT 'sequence', s.seqrelid::regclass::text,
    concat_ws(' ', seqtypid::regtype, seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle)
FROM pg_sequence AS s JOIN relation AS r ON r.oid = s.seqrelid
UNION ALL
SELECT 'trigger', concat(t.tgrelid::regclass, ' ', t.tgname), concat_ws(' ', t.tgenabled, pg_get_triggerdef(t.oid))
FROM pg_trigger AS t
WHERE NOT t.tgisinternal AND t.tgrelid IN (SELECT oid FROM relation UNION SELECT oid FROM bound)
UNION ALL
SELECT 'bound column', concat(a.attrelid::regclass, ' ', a.attname),
    concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid))
FROM bound JOIN pg_attribute AS a ON a.attrelid = bound.oid AND a.attnum > 0
LEFT JOIN pg_attrdef AS d ON d.adrelid = bound.oid AND d.adnum = a.attnum
UNION ALL
SELECT 'comment', pg_temp.described(d.classoid, d.objoid, d.objsubid), d.description
FROM pg_description AS d JOIN pg_temp.part ON classid = d.classoid AND objid = d.objoid
UNION ALL
SELECT 'initial privileges', pg_temp.described(i.classoid, i.objoid, i.objsubid),
    concat_ws(' ', i.privtype, pg_temp.sorted(i.initprivs))
FROM pg_init_privs AS i JOIN pg_temp.part ON classid = i.classoid AND objid = i.objoid
UNION ALL
SELECT 'dependency', pg_temp.described(d.classid, d.objid, d.objsubid),
    concat_ws(' ', d.deptype, pg_temp.described(d.refclassid, d.refobjid, d.refobjsubid))
FROM pg_depend AS d
WHERE EXISTS (SELECT FROM pg_temp.part WHERE classid = d.classid AND objid = d.objid)
UNION ALL
SELECT 'dependency on a role', pg_temp.described(d.classid, d.objid, d.objsubid),
    concat_ws(' ', d.deptype, d.refobjid::regrole)
FROM pg_shdepend AS d
WHERE d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND d.refclassid = 'pg_authid'::regclass
    AND EXISTS (SELECT FROM pg_temp.part WHERE classid = d.classid AND objid = d.objid)
UNION ALL
SELECT 'binding', key, value
FROM token_balance.binding AS b, jsonb_each_text(to_jsonb(b) - 'attached_at')
ORDER BY 1, 2, 3;
