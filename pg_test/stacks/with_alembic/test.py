"""Alembic: autogenerate wants to change nothing once the models are as docs/recipes.md declares them, or once its
options leave out what attach has made; without either it wants to drop that. And migrations attach, alter what is bound,
detach."""
import sys

import recipe_alembic_env as recipe
import recipe_alembic_models as models
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Index, MetaData, create_engine

from check import all_adds_up, check, exit_code, sql


def config():
    made = Config()
    made.set_main_option("script_location", ".")
    made.set_main_option("path_separator", "os")
    return made


def wanted(metadata, **options):
    """What autogenerate would have a migration change: operation and name."""
    options = {"compare_type": True, "compare_server_default": True, **options}
    with engine.connect() as connection:
        changes = list(flat(compare_metadata(MigrationContext.configure(connection, opts=options), metadata)))
    return sorted(f"{change[0]} {name_of(change)}" for change in changes)


def name_of(change):
    """A change of a column has its name, what adds or removes something has the thing."""
    if change[0].startswith("modify_"):
        return change[3]
    return change[3 if "column" in change[0] else 1].name


def without(change):
    """The models as they are declared, but for one thing."""
    metadata = MetaData()
    for table in models.Base.metadata.sorted_tables:
        table.to_metadata(metadata)
    change(metadata)
    return metadata


def no_comment(metadata):
    metadata.tables["users"].c.token_balance.comment = None


def no_default(metadata):
    metadata.tables["users"].c.token_balance.server_default = None


def no_include(metadata):
    usage = metadata.tables["token_usage"]
    usage.indexes.clear()
    Index("token_usage_of_run", usage.c.workflow_id)


def flat(changes):
    for change in changes:
        if isinstance(change, list):
            yield from flat(change)
        else:
            yield change


def undeclared():
    """The models as they were before the extension came."""
    metadata = MetaData()
    for table in models.Base.metadata.sorted_tables:
        copy = table.to_metadata(metadata)
        if table.name == "users":
            copy._columns.remove(copy.c.token_balance)
    return metadata


def upgrade(revision):
    command.upgrade(config(), revision)


engine = create_engine("postgresql+psycopg://")
COLUMN = "remove_column token_balance"
upgrade("tables")
check("before: the models without the column want nothing", wanted(undeclared()), [])
upgrade("attached")
declared = models.Base.metadata
check("as declared: nothing", wanted(declared), [])
check("without the comment", wanted(without(no_comment)), ["modify_comment token_balance"])
check("without the default", wanted(without(no_default)), ["modify_default token_balance"])
check("without INCLUDE: Alembic does not compare it", wanted(without(no_include)), [])
check("undeclared: the column goes", wanted(undeclared()), [COLUMN])
check("undeclared, with include_object: nothing", wanted(undeclared(), include_object=recipe.include_object), [])
check(
    "all schemas: the extension's tables go",
    {"remove_table ledger", "remove_table settlement", "remove_table binding"}
    <= set(wanted(declared, include_schemas=True)),
    True,
)
check(
    "all schemas, with include_name: nothing",
    wanted(declared, include_schemas=True, include_name=recipe.include_name),
    [],
)

# An index that create_index has made, in a schema that has none yet.
sql("DROP INDEX token_usage_of_run")
sql("SELECT token_balance.attach('users', 'token_usage', 'workflows', create_index => true)")
without_index = undeclared()
usage = without_index.tables["token_usage"]
usage.indexes.clear()
MADE = "token_usage_workflow_id_user_id_total_tokens_idx"
check("an index that attach made goes, too", wanted(without_index), [COLUMN, f"remove_index {MADE}"])
check("with include_object: nothing", wanted(without_index, include_object=recipe.include_object), [])
Index(MADE, usage.c.workflow_id, postgresql_include=["user_id", "total_tokens"])
check("or declared: the column alone", wanted(without_index), [COLUMN])
sql(f"ALTER INDEX {MADE} RENAME TO token_usage_of_run")
check("as declared once more: nothing", wanted(declared), [])

# A run that is charged, one that is open, and one whose usage came late, while bound columns are altered.
sql("INSERT INTO users VALUES (1, 'ann@example.com')")
sql("INSERT INTO workflows VALUES (1, 1, 'running'), (2, 1, 'running')")
sql("INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES (1, 1, 100), (2, 1, 20)")
sql("UPDATE workflows SET status = 'completed' WHERE id = 1")
sql("INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES (1, 1, 3)")
check("charged before", sql("SELECT token_balance FROM users"), 999900)
upgrade("altered")
check("altered: nothing is charged by it", sql("SELECT token_balance FROM users"), 999900)
check(
    "altered: the types",
    sql(
        """SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attname)
           FROM pg_attribute WHERE attname IN ('account_id', 'total_tokens', 'token_balance', 'status')
           AND attrelid IN ('users'::regclass, 'token_usage'::regclass, 'workflows'::regclass)"""
    ),
    "account_id bigint, status text, token_balance bigint, total_tokens bigint",
)
sql("UPDATE workflows SET status = 'completed' WHERE id = 2")
check("the open run is charged when it completes", sql("SELECT token_balance FROM users"), 999880)
check("the late usage by the sweep", sql("SELECT token_balance.settle_pending() ->> 'tokens_used'"), "3")
check("and all of it once", sql("SELECT token_balance FROM users"), 999877)
all_adds_up()

command.stamp(config(), "attached")
command.downgrade(config(), "tables")
check(
    "downgraded: the column is gone",
    sql("SELECT count(*) FROM information_schema.columns WHERE column_name = 'token_balance' AND table_name = 'users'"),
    0,
)
engine.dispose()
sys.exit(exit_code())
