//! The shapes: what users tables have that may change how one of their rows is to be written.

/// One of them. `<key>` is the type of the accounts' ids, `<1>` an account's.
pub struct Shape {
    pub name: &'static str,
    /// The first version that has it.
    pub since: u32,
    pub key: &'static str,
    pub balance: &'static str,
    /// The table; empty for the usual one.
    pub users: &'static str,
    /// Before the tables are attached, with the accounts in it.
    pub before: &'static str,
    /// More arguments of attach.
    pub attach: &'static str,
    /// When they have been used.
    pub ddl: &'static str,
    /// What the session sets then.
    pub session: &'static str,
}

const USUAL: Shape = Shape {
    name: "",
    since: 14,
    key: "text",
    balance: "integer",
    users: "",
    before: "",
    attach: "",
    ddl: "",
    session: "",
};

pub const THE_USUAL: &str = "the usual";

/// The usual table, and DDL between two charges.
const fn ddl(name: &'static str, ddl: &'static str) -> Shape {
    Shape { name, ddl, ..USUAL }
}

/// A trigger, which has a function of this body.
macro_rules! trigger {
    ($name:literal, $body:literal, $trigger:literal) => {
        ddl(
            $name,
            concat!(
                "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ",
                $body,
                " END $$; ",
                $trigger
            ),
        )
    };
}

const ROLE: &str = "SET ROLE tb_shapes_app";
const REPLICA: &str = "SET session_replication_role = replica";
#[rustfmt::skip]
pub const SHAPES: &[Shape] = &[
    ddl(THE_USUAL, ""),

    // indexes
    ddl("index on the balance", "CREATE INDEX ON users (token_balance)"),
    ddl("index on the balance, descending, and the name", "CREATE INDEX ON users (token_balance DESC NULLS LAST, name)"),
    ddl("index on the balance, dropped", "CREATE INDEX gone ON users (token_balance); DROP INDEX gone"),
    ddl("index of an expression of the balance", "CREATE INDEX ON users ((token_balance % 10))"),
    ddl("index of an expression that fails", "CREATE FUNCTION positive(integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS
        $$ BEGIN IF $1 < 980 THEN RAISE 'no less than 980'; END IF; RETURN $1; END $$; CREATE INDEX ON users (positive(token_balance)) WHERE name <> 'twin'"),
    ddl("index of an expression of the name", "CREATE INDEX ON users (upper(name))"),
    ddl("index of some balances", "CREATE INDEX ON users (name) WHERE token_balance < 990"),
    ddl("index of some names", "CREATE INDEX ON users (token_balance) WHERE name <> 'two'"),
    ddl("hash index on the balance", "CREATE INDEX ON users USING hash (token_balance)"),
    ddl("hash index on the name", "CREATE INDEX ON users USING hash (name)"),
    ddl("BRIN index on the balance", "CREATE INDEX ON users USING brin (token_balance)"),
    ddl("BRIN index on another column", "CREATE INDEX ON users USING brin (kept)"),
    ddl("GIN index", "ALTER TABLE users ADD tags integer[] DEFAULT '{1,2}'; CREATE INDEX ON users USING gin (tags)"),
    ddl("GiST index", "ALTER TABLE users ADD place point DEFAULT '(1,2)'; CREATE INDEX ON users USING gist (place)"),
    ddl("unique index with the balance", "CREATE UNIQUE INDEX ON users (name, token_balance)"),
    ddl("unique index on another column", "ALTER TABLE users ADD mail text UNIQUE"),
    ddl("index that includes the balance", "CREATE INDEX ON users (name) INCLUDE (token_balance)"),
    ddl("unique index that includes the balance", "CREATE UNIQUE INDEX ON users (id, name) INCLUDE (token_balance)"),
    ddl("key that includes the balance", "ALTER TABLE users DROP CONSTRAINT users_pkey CASCADE, ADD PRIMARY KEY (id) INCLUDE (token_balance)"),
    ddl("key that is deferrable", "ALTER TABLE users DROP CONSTRAINT users_pkey CASCADE, ADD PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED"),
    ddl("key in another collation", "ALTER TABLE users DROP CONSTRAINT users_pkey CASCADE; CREATE UNIQUE INDEX ON users (id COLLATE \"POSIX\")"),
    ddl("key of another operator class", "ALTER TABLE users DROP CONSTRAINT users_pkey CASCADE; CREATE UNIQUE INDEX ON users (id text_pattern_ops)"),
    ddl("key by a hash index", "ALTER TABLE users DROP CONSTRAINT users_pkey CASCADE; CREATE INDEX ON users USING hash (id)"),
    ddl("key that is not unique", "ALTER TABLE users DROP CONSTRAINT users_pkey CASCADE; CREATE INDEX ON users (id)"),
    ddl("key twice in the table", "ALTER TABLE users DROP CONSTRAINT users_pkey CASCADE; CREATE INDEX ON users (id); INSERT INTO users VALUES (<3>, 'again', 500)"),
    ddl("key that some rows have", "ALTER TABLE users DROP CONSTRAINT users_pkey CASCADE; CREATE UNIQUE INDEX ON users (id) WHERE name <> 'two'"),
    ddl("key without an index", "ALTER TABLE users DROP CONSTRAINT users_pkey CASCADE"),
    ddl("key of two columns", "ALTER TABLE users DROP CONSTRAINT users_pkey CASCADE, ADD PRIMARY KEY (id, name)"),
    ddl("key with a null", "ALTER TABLE users DROP CONSTRAINT users_pkey CASCADE, ALTER id DROP NOT NULL, ADD UNIQUE (id); INSERT INTO users VALUES (NULL, 'none', 7)"),
    ddl("two keys", "CREATE UNIQUE INDEX ON users (id)"),
    ddl("index that is invalid", "CREATE INDEX half ON users (token_balance); UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'half'::regclass"),
    ddl("key that is invalid", "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'users_pkey'::regclass"),

    // constraints
    ddl("check of the balance", "ALTER TABLE users ADD CHECK (token_balance > -1000000)"),
    ddl("check of the balance that forbids", "ALTER TABLE users ADD CHECK (token_balance > 960 OR name = 'twin')"),
    ddl("check that cannot be answered", "ALTER TABLE users ADD CHECK (token_balance = 1000 OR 1 / (token_balance - token_balance) > 0) NOT VALID"),
    ddl("check of another column", "ALTER TABLE users ADD CHECK (kept >= 0)"),
    ddl("check of another column that rows do not pass", "ALTER TABLE users ADD CHECK (name NOT IN ('one', 'once')) NOT VALID"),
    ddl("NOT NULL on another column", "ALTER TABLE users ALTER name SET NOT NULL"),
    Shape { since: 18, ..ddl("NOT NULL that rows do not pass", "UPDATE users SET name = NULL WHERE id = <1>; ALTER TABLE users ADD CONSTRAINT named NOT NULL name NOT VALID") },
    ddl("foreign key of its own", "ALTER TABLE users ADD team integer DEFAULT 1 REFERENCES teams"),
    ddl("foreign key of its own, deferred", "ALTER TABLE users ADD team integer DEFAULT 1 REFERENCES teams DEFERRABLE INITIALLY DEFERRED"),
    ddl("foreign key of its own to nothing", "ALTER TABLE users ADD team integer DEFAULT 3; ALTER TABLE users ADD FOREIGN KEY (team) REFERENCES teams NOT VALID"),
    ddl("foreign key of its own to nothing, deferred", "ALTER TABLE users ADD team integer DEFAULT 3;
        ALTER TABLE users ADD FOREIGN KEY (team) REFERENCES teams DEFERRABLE INITIALLY DEFERRED NOT VALID"),
    ddl("foreign key of its own to itself", "ALTER TABLE users ADD parent text REFERENCES users; UPDATE users SET parent = id"),
    ddl("foreign key on the balance", "INSERT INTO teams SELECT g FROM generate_series(960, 1002) AS g; ALTER TABLE users ADD FOREIGN KEY (token_balance) REFERENCES teams NOT VALID"),
    ddl("foreign key from the usage", "ALTER TABLE token_usage ADD FOREIGN KEY (user_id) REFERENCES users"),
    ddl("foreign key from the usage, that cascades", "ALTER TABLE token_usage ADD FOREIGN KEY (user_id) REFERENCES users ON UPDATE CASCADE ON DELETE CASCADE DEFERRABLE"),
    ddl("foreign key of its own, of two columns", "ALTER TABLE users ADD team integer DEFAULT 1; CREATE TABLE known (id integer, name text, UNIQUE (id, name));
        INSERT INTO known SELECT DISTINCT 1, name FROM users; INSERT INTO known VALUES (1, 'once'), (1, 'six'); ALTER TABLE users ADD FOREIGN KEY (team, name) REFERENCES known (id, name)"),
    ddl("foreign key to the balance", "ALTER TABLE users ADD UNIQUE (id, token_balance); CREATE TABLE seen (id text, balance integer,
        FOREIGN KEY (id, balance) REFERENCES users (id, token_balance)); INSERT INTO seen SELECT id, token_balance FROM users WHERE name = 'two'"),
    ddl("foreign key to the balance, that cascades", "ALTER TABLE users ADD UNIQUE (id, token_balance); CREATE TABLE seen (id text, balance integer,
        FOREIGN KEY (id, balance) REFERENCES users (id, token_balance) ON UPDATE CASCADE); INSERT INTO seen SELECT id, token_balance FROM users;
        CREATE TRIGGER seen AFTER UPDATE ON seen FOR EACH STATEMENT EXECUTE FUNCTION audited()"),
    ddl("exclusion of the balance", "ALTER TABLE users ADD EXCLUDE USING btree (name WITH =, token_balance WITH =)"),
    ddl("exclusion of the balance, deferred", "ALTER TABLE users ADD EXCLUDE USING btree (name WITH =, token_balance WITH =) DEFERRABLE INITIALLY DEFERRED"),
    ddl("exclusion of another column", "ALTER TABLE users ADD mark int4range; ALTER TABLE users ADD EXCLUDE USING gist (mark WITH &&)"),
    ddl("unique balance, deferred", "ALTER TABLE users ADD UNIQUE (name, token_balance) DEFERRABLE INITIALLY DEFERRED"),

    // triggers
    trigger!("BEFORE trigger that changes the amount", "NEW.token_balance := NEW.token_balance - 1; RETURN NEW;",
        "CREATE TRIGGER meddle BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION meddle()"),
    trigger!("BEFORE trigger that forgets the change", "RETURN OLD;",
        "CREATE TRIGGER meddle BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION meddle()"),
    trigger!("BEFORE trigger that skips the row", "RETURN NULL;",
        "CREATE TRIGGER meddle BEFORE UPDATE ON users FOR EACH ROW WHEN (NEW.name = 'two') EXECUTE FUNCTION meddle()"),
    trigger!("BEFORE trigger that writes another column", "NEW.kept := NEW.kept + 1; RETURN NEW;",
        "CREATE TRIGGER meddle BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION meddle()"),
    trigger!("BEFORE trigger that changes the key", "NEW.id := NEW.id || 'x'; RETURN NEW;",
        "CREATE TRIGGER meddle BEFORE UPDATE ON users FOR EACH ROW WHEN (NEW.name = 'three') EXECUTE FUNCTION meddle()"),
    trigger!("BEFORE trigger that raises", "RAISE 'not this one' USING DETAIL = NEW.id, HINT = 'another', ERRCODE = 'TB001';",
        "CREATE TRIGGER meddle BEFORE UPDATE ON users FOR EACH ROW WHEN (NEW.token_balance < 975) EXECUTE FUNCTION meddle()"),
    trigger!("BEFORE trigger that updates the row", "UPDATE users SET kept = kept + 1 WHERE id = NEW.id AND kept < 3; RETURN NEW;",
        "CREATE TRIGGER meddle BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION meddle()"),
    trigger!("BEFORE trigger that deletes the row", "DELETE FROM users WHERE id = NEW.id; RETURN NEW;",
        "CREATE TRIGGER meddle BEFORE UPDATE ON users FOR EACH ROW WHEN (NEW.name = 'three') EXECUTE FUNCTION meddle()"),
    ddl("AFTER trigger", "CREATE TRIGGER seen AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION audited()"),
    ddl("AFTER trigger, first by its name", "CREATE TRIGGER \"A\" AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION audited()"),
    ddl("AFTER trigger with a condition", "CREATE TRIGGER seen AFTER UPDATE ON users FOR EACH ROW WHEN (NEW.token_balance < 975) EXECUTE FUNCTION audited()"),
    ddl("AFTER trigger of the balance's column", "CREATE TRIGGER seen AFTER UPDATE OF token_balance ON users FOR EACH ROW EXECUTE FUNCTION audited()"),
    ddl("triggers of another column", "CREATE TRIGGER before BEFORE UPDATE OF name ON users FOR EACH ROW EXECUTE FUNCTION audited();
        CREATE TRIGGER seen AFTER UPDATE OF name, kept ON users FOR EACH ROW EXECUTE FUNCTION audited()"),
    ddl("triggers of INSERT and DELETE", "CREATE TRIGGER seen AFTER INSERT OR DELETE ON users FOR EACH ROW EXECUTE FUNCTION audited()"),
    ddl("BEFORE trigger of the statement", "CREATE TRIGGER seen BEFORE UPDATE ON users EXECUTE FUNCTION audited()"),
    ddl("AFTER trigger of the statement", "CREATE TRIGGER seen AFTER UPDATE ON users EXECUTE FUNCTION audited()"),
    trigger!("trigger with transition tables", "INSERT INTO app.audit (what, id, was, became) SELECT 'rows', o.id, o.token_balance, n.token_balance FROM o JOIN n USING (id); RETURN NULL;",
        "CREATE TRIGGER seen AFTER UPDATE ON users REFERENCING OLD TABLE AS o NEW TABLE AS n EXECUTE FUNCTION meddle()"),
    ddl("constraint trigger, deferred", "CREATE CONSTRAINT TRIGGER seen AFTER UPDATE ON users DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION audited()"),
    trigger!("constraint trigger that raises, deferred", "RAISE 'not this one'; RETURN NULL;",
        "CREATE CONSTRAINT TRIGGER meddle AFTER UPDATE ON users DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.token_balance < 975) EXECUTE FUNCTION meddle()"),
    trigger!("trigger that charges another account", "UPDATE users SET token_balance = token_balance + 1 WHERE id = <5>; RETURN NULL;",
        "CREATE TRIGGER meddle AFTER UPDATE ON users FOR EACH ROW WHEN (NEW.name <> 'twin') EXECUTE FUNCTION meddle()"),
    trigger!("trigger that settles", "PERFORM settle_workflow('nested' || NEW.token_balance); RETURN NULL;",
        "CREATE TRIGGER meddle AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION meddle()"),
    ddl("trigger, disabled", "CREATE TRIGGER seen AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION audited(); ALTER TABLE users DISABLE TRIGGER seen"),
    ddl("trigger for replicas", "CREATE TRIGGER seen AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION audited(); ALTER TABLE users ENABLE REPLICA TRIGGER seen"),
    Shape { session: REPLICA, ..ddl("trigger always, as a replica", "CREATE TRIGGER seen BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION audited();
        ALTER TABLE users ENABLE ALWAYS TRIGGER seen") },
    ddl("all triggers disabled", "ALTER TABLE users DISABLE TRIGGER ALL"),
    ddl("the ledger's trigger, disabled", "ALTER TABLE users DISABLE TRIGGER \"00_token_balance_ledger\""),
    ddl("the ledger's trigger, for replicas", "ALTER TABLE users ENABLE REPLICA TRIGGER \"00_token_balance_ledger\""),
    ddl("the ledger's trigger, always", "ALTER TABLE users ENABLE ALWAYS TRIGGER \"00_token_balance_ledger\""),
    Shape { session: REPLICA, ..ddl("as a replica", "") },
    Shape { session: REPLICA, ..ddl("the ledger's trigger, always, as a replica", "ALTER TABLE users ENABLE ALWAYS TRIGGER \"00_token_balance_ledger\"") },
    Shape { session: REPLICA, ..ddl("the ledger's trigger, for replicas, as one", "ALTER TABLE users ENABLE REPLICA TRIGGER \"00_token_balance_ledger\"") },
    ddl("the ledger's trigger, dropped", "DROP TRIGGER \"00_token_balance_ledger\" ON users"),
    ddl("the ledger's trigger, with a condition", "DROP TRIGGER \"00_token_balance_ledger\" ON users; CREATE TRIGGER \"00_token_balance_ledger\"
        AFTER INSERT OR UPDATE ON users FOR EACH ROW WHEN (NEW.name <> 'two') EXECUTE FUNCTION token_balance.record_balance_change()"),
    ddl("the ledger's trigger, of a column", "DROP TRIGGER \"00_token_balance_ledger\" ON users; CREATE TRIGGER \"00_token_balance_ledger\"
        AFTER UPDATE OF token_balance ON users FOR EACH ROW EXECUTE FUNCTION token_balance.record_balance_change()"),
    ddl("the ledger's trigger, of another function", "DROP TRIGGER \"00_token_balance_ledger\" ON users; CREATE TRIGGER \"00_token_balance_ledger\"
        AFTER INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION audited()"),
    ddl("the ledger's trigger, twice", "CREATE TRIGGER again AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION token_balance.record_balance_change()"),

    // types
    Shape { name: "balance smallint", balance: "smallint", ..USUAL },
    Shape { name: "balance bigint", balance: "bigint", ..USUAL },
    Shape { name: "balance numeric", balance: "numeric", ..USUAL },
    Shape { name: "balance numeric(6)", balance: "numeric(6)", ..USUAL },
    Shape { name: "balance of a domain", balance: "amount", users: "CREATE DOMAIN amount AS bigint; CREATE TABLE users (id text PRIMARY KEY, name text, token_balance amount NOT NULL DEFAULT 1000)", ..USUAL },
    Shape { name: "balance of a domain that forbids", users: "CREATE DOMAIN amount AS integer CHECK (VALUE > 960 OR VALUE = 900);
        CREATE TABLE users (id text PRIMARY KEY, name text, token_balance amount NOT NULL DEFAULT 1000)", ..USUAL },
    ddl("balance that becomes bigint", "ALTER TABLE users ALTER token_balance TYPE bigint"),
    ddl("balance that becomes numeric", "ALTER TABLE users ALTER token_balance TYPE numeric"),
    ddl("balance that may be null", "ALTER TABLE users ALTER token_balance DROP NOT NULL; UPDATE users SET token_balance = NULL WHERE id = <3>"),
    ddl("balance without a default", "ALTER TABLE users ALTER token_balance DROP DEFAULT"),
    Shape { name: "key varchar", key: "varchar(20)", ..USUAL },
    Shape { name: "key uuid", key: "uuid", ..USUAL },
    Shape { name: "key smallint", key: "smallint", ..USUAL },
    Shape { name: "key integer", key: "integer", ..USUAL },
    Shape { name: "key bigint", key: "bigint", ..USUAL },
    Shape { name: "key in the C collation", key: "text COLLATE \"C\"", ..USUAL },
    ddl("key that comes to compare without case", "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        ALTER TABLE users ALTER id TYPE text COLLATE loose"),
    ddl("key that becomes varchar", "ALTER TABLE users ALTER id TYPE varchar(20)"),

    // columns
    ddl("generated column of the balance", "ALTER TABLE users ADD owes boolean GENERATED ALWAYS AS (token_balance < 0) STORED"),
    ddl("generated column that fails", "ALTER TABLE users ADD parts integer GENERATED ALWAYS AS (1000 / (token_balance - 980)) STORED"),
    ddl("generated column of another", "ALTER TABLE users ADD shown text GENERATED ALWAYS AS (upper(name)) STORED"),
    Shape { since: 18, ..ddl("virtual column of the balance", "ALTER TABLE users ADD owes boolean GENERATED ALWAYS AS (token_balance < 0) VIRTUAL") },
    Shape { since: 18, ..ddl("virtual column that may not be null", "ALTER TABLE users ADD part integer GENERATED ALWAYS AS (nullif(token_balance, 978)) VIRTUAL NOT NULL") },
    ddl("identity column", "ALTER TABLE users ADD number integer GENERATED ALWAYS AS IDENTITY"),
    ddl("columns added with a default", "ALTER TABLE users ADD added integer NOT NULL DEFAULT 7; ALTER TABLE users ADD more text DEFAULT 'there'"),
    ddl("column added without", "ALTER TABLE users ADD added text"),
    ddl("columns dropped", "ALTER TABLE users ADD gone text DEFAULT 'was'; UPDATE users SET kept = 1; ALTER TABLE users DROP gone, DROP kept"),
    Shape { name: "columns dropped before the balance", users: "CREATE TABLE users (first text DEFAULT 'x', id text PRIMARY KEY, second integer DEFAULT 2, name text,
        third numeric, token_balance integer NOT NULL DEFAULT 1000)", before: "ALTER TABLE users DROP first, DROP second", ddl: "ALTER TABLE users DROP third", ..USUAL },
    Shape { name: "a balance that attach adds to rows", users: "CREATE TABLE users (id text PRIMARY KEY, name text, token_balance integer)",
        before: "ALTER TABLE users DROP token_balance", ..USUAL },
    ddl("thirty columns", "DO $$ BEGIN FOR n IN 1..30 LOOP EXECUTE format('ALTER TABLE users ADD c%s text DEFAULT %L', n, n); END LOOP; END $$; UPDATE users SET c3 = NULL, c7 = 'x'"),
    ddl("wide columns", "ALTER TABLE users ADD wide text, ADD packed text; ALTER TABLE users ALTER wide SET STORAGE EXTERNAL;
        UPDATE users SET wide = repeat(id, 20000), packed = (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 500) AS g)"),
    ddl("renamed columns", "ALTER TABLE users RENAME name TO called; ALTER TABLE users RENAME called TO name; ALTER TABLE users RENAME kept TO token"),

    // tables
    Shape { name: "partitioned by the key", users: "CREATE TABLE users (id text PRIMARY KEY, name text, token_balance integer NOT NULL DEFAULT 1000) PARTITION BY HASH (id);
        CREATE TABLE users_0 PARTITION OF users FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE users_1 PARTITION OF users FOR VALUES WITH (MODULUS 2, REMAINDER 1)", ..USUAL },
    ddl("partition of another", "CREATE TABLE everybody (LIKE users INCLUDING ALL) PARTITION BY HASH (id); ALTER TABLE everybody ATTACH PARTITION users FOR VALUES WITH (MODULUS 1, REMAINDER 0)"),
    ddl("partition that forbids", "ALTER TABLE users ADD CHECK (token_balance > 0); CREATE TABLE everybody (LIKE users) PARTITION BY RANGE (token_balance);
        UPDATE users SET token_balance = token_balance + 60; ALTER TABLE everybody ATTACH PARTITION users FOR VALUES FROM (960) TO (100000)"),
    ddl("parent of another", "CREATE TABLE children () INHERITS (users)"),
    ddl("parent of accounts", "CREATE TABLE children () INHERITS (users); WITH moved AS (DELETE FROM users WHERE id = <2> RETURNING *) INSERT INTO children SELECT * FROM moved"),
    ddl("parent once", "CREATE TABLE children () INHERITS (users); DROP TABLE children"),
    ddl("child of another", "CREATE TABLE parents (name text); ALTER TABLE users INHERIT parents"),
    Shape { session: ROLE, ..ddl("policies, forced", "ALTER TABLE users OWNER TO tb_shapes_owner; ALTER TABLE users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        CREATE POLICY seen ON users USING (name <> 'two')") },
    Shape { session: ROLE, ..ddl("policies, of the owner not", "ALTER TABLE users OWNER TO tb_shapes_owner; ALTER TABLE users ENABLE ROW LEVEL SECURITY") },
    ddl("policies, of a superuser not", "ALTER TABLE users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"),
    ddl("rule that does more", "CREATE RULE more AS ON UPDATE TO users DO ALSO INSERT INTO app.audit (what, id) VALUES ('rule', NEW.id)"),
    ddl("rule that does nothing", "CREATE RULE nothing AS ON UPDATE TO users WHERE NEW.name = 'two' DO INSTEAD NOTHING"),
    ddl("published", "CREATE PUBLICATION p FOR TABLE users"),
    ddl("published, without an identity", "CREATE PUBLICATION p FOR TABLE users; ALTER TABLE users REPLICA IDENTITY NOTHING"),
    ddl("published, with all", "CREATE PUBLICATION p FOR TABLE users; ALTER TABLE users REPLICA IDENTITY FULL"),
    ddl("published without a key", "ALTER TABLE users DROP CONSTRAINT users_pkey CASCADE; CREATE UNIQUE INDEX ON users (id); CREATE PUBLICATION p FOR ALL TABLES"),
    ddl("published inserts", "CREATE PUBLICATION p FOR TABLE users WITH (publish = 'insert'); ALTER TABLE users REPLICA IDENTITY NOTHING"),
    Shape { since: 15, ..ddl("published by the balance", "CREATE PUBLICATION p FOR TABLE users WHERE (token_balance > 0)") },
    Shape { since: 15, ..ddl("published by a column beside the identity", "CREATE PUBLICATION p FOR TABLE users (id, name, token_balance); ALTER TABLE users REPLICA IDENTITY FULL") },
    ddl("published by the balance as identity", "CREATE UNIQUE INDEX known ON users (id, token_balance); ALTER TABLE users REPLICA IDENTITY USING INDEX known; CREATE PUBLICATION p FOR TABLE users"),
    ddl("full pages", "ALTER TABLE users SET (fillfactor = 100); INSERT INTO users (id, name) SELECT 'filler' || g, repeat('x', 100) FROM generate_series(1, 400) AS g"),
    ddl("half full pages", "ALTER TABLE users SET (fillfactor = 10); CLUSTER users USING users_pkey"),
    Shape { name: "unlogged", users: "CREATE UNLOGGED TABLE users (id text PRIMARY KEY, name text, token_balance integer NOT NULL DEFAULT 1000)", ..USUAL },
    ddl("rewritten", "ALTER TABLE users ALTER kept TYPE bigint"),
    ddl("in another order", "CLUSTER users USING users_pkey"),
    ddl("vacuumed", "VACUUM (FREEZE) users"),
    ddl("made anew", "CREATE TABLE copy (LIKE users INCLUDING ALL); INSERT INTO copy SELECT * FROM users; DROP TABLE users CASCADE; ALTER TABLE copy RENAME TO users"),
    ddl("renamed and back", "ALTER TABLE users RENAME TO people; ALTER TABLE people RENAME TO users"),

    // who, and how
    Shape { session: ROLE, ..ddl("another owner, asked by somebody", "ALTER TABLE users OWNER TO tb_shapes_owner") },
    Shape { session: ROLE, ..ddl("an owner that may not update", "ALTER TABLE users OWNER TO tb_shapes_owner; REVOKE UPDATE ON users FROM tb_shapes_owner, PUBLIC") },
    Shape { session: ROLE, ..ddl("an owner that may update one column", "ALTER TABLE users OWNER TO tb_shapes_owner; REVOKE ALL ON users FROM tb_shapes_owner, PUBLIC;
        GRANT SELECT, UPDATE (name, token_balance) ON users TO tb_shapes_owner") },
    Shape { session: ROLE, ..ddl("an owner that may not read", "ALTER TABLE users OWNER TO tb_shapes_owner; REVOKE SELECT ON users FROM tb_shapes_owner, PUBLIC") },
    Shape { session: ROLE, ..ddl("three owners", "ALTER TABLE users OWNER TO tb_shapes_owner; ALTER TABLE token_usage OWNER TO tb_shapes_app") },
    Shape { session: "SET default_transaction_read_only = on", ..ddl("transactions that only read", "") },
    Shape { session: "SET enable_indexscan = off; SET enable_bitmapscan = off", ..ddl("no index is to be used", "") },
    Shape { name: "charges that wait", attach: ", busy_account => 'queue'", ..USUAL },
    Shape { name: "late usage at once", attach: ", late_usage => 'settle'", ..USUAL },
    Shape { name: "both", attach: ", busy_account => 'queue', late_usage => 'settle'", ddl: "CREATE INDEX ON users (token_balance)", ..USUAL },
    Shape { name: "changes from outside are refused", attach: ", outside_changes => 'refuse'", ..USUAL },
];

impl Shape {
    pub fn users(&self) -> String {
        match self.users {
            "" => format!(
                "CREATE TABLE users (id <key> PRIMARY KEY, name text, token_balance {} NOT NULL DEFAULT 1000,
                 kept integer NOT NULL DEFAULT 0)",
                self.balance
            ),
            users => users.into(),
        }
    }

    /// The SQL with this shape's keys, and workflows of this prefix.
    pub fn fill(&self, sql: &str, workflows: &str) -> String {
        let mut filled = sql.replace("<key>", self.key).replace("<w>", workflows);
        for number in 1..=9 {
            let key = match self.key {
                "uuid" => format!("uuid '00000000-0000-4000-8000-00000000000{number}'"),
                "smallint" | "integer" | "bigint" => number.to_string(),
                _ => format!("'a{number}'"),
            };
            filled = filled.replace(&format!("<{number}>"), &key);
        }
        filled
    }
}
