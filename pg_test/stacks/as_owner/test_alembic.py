"""Alembic: a comparison of the models with the database wants to drop and to change nothing, once the models declare what
attach has made; and a migration of bound columns while it is attached."""

import warnings

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Column, Index, String, Text, create_engine, text
from sqlalchemy.orm import Session as Orm

from agents import Base, TokenUsage, User, end_run
from checks import end, is_
from recipe_alembic_env import include_name
from recipe_alembic_models import User as Declared


# Of a type in the extension's own tables.
warnings.filterwarnings("ignore", "Did not recognize type 'regtype'")


def wanted(engine, **options):
    """What autogenerate would write: the kinds of its steps."""
    options = {"compare_type": True, "compare_server_default": True} | options
    with engine.connect() as connection:
        steps = compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata)
    # A change of a column is a list of steps.
    return sorted(step[0] if isinstance(step, tuple) else step[0][0] for step in steps)


def main():
    engine = create_engine("postgresql+psycopg://")
    Base.metadata.create_all(engine)
    is_("before attach: nothing", wanted(engine), [])
    with engine.begin() as connection:
        connection.execute(text("""SELECT token_balance.attach('users', 'token_usage', usage_workflow => 'session_id',
            create_index => true)"""))
    is_("models that do not know it: the column and the index would go", wanted(engine), ["remove_column", "remove_index"])
    User.__table__.append_column(Declared.__table__.c.token_balance._copy())
    included = ["user_id", "total_tokens"]
    usage = TokenUsage.__table__
    Index("token_usage_session_id_user_id_total_tokens_idx", usage.c.session_id, postgresql_include=included)
    is_("models that declare it: nothing", wanted(engine), [])
    everything = wanted(engine, include_schemas=True)
    is_("all schemas: the extension's tables would go", "remove_table" in everything, True)
    is_("all schemas but the extension's: nothing", wanted(engine, include_schemas=True, include_name=include_name), [])

    # A migration: bound columns get another type and another name.
    with Orm(engine) as orm:
        orm.add(User(username="kim"))
        orm.execute(text("INSERT INTO token_usage (user_id, session_id, total_tokens) VALUES (1, 'folder-1', 100)"))
        orm.scalar(end_run("folder-1"))
        orm.commit()
    with engine.begin() as connection:
        migration = Operations(MigrationContext.configure(connection))
        migration.alter_column("token_usage", "session_id", type_=Text(), existing_type=String(100))
        migration.alter_column("token_usage", "session_id", new_column_name="folder", existing_type=Text())
        migration.add_column("users", Column("email", Text()))
    with Orm(engine) as orm:
        orm.execute(text("INSERT INTO token_usage (user_id, folder, total_tokens) VALUES (1, 'folder-1', 11)"))
        is_("after a migration of bound columns: what is new", orm.scalar(end_run("folder-1"))["tokens_used"], 11)
        answer = orm.scalar(text("SELECT token_balance.summary(1)"))
        is_("and the summary has the column's new name", {record["folder"] for record in answer["recent_records"]}, {"folder-1"})
        orm.commit()
    engine.dispose()
    end()


main()
