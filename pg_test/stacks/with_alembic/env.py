"""What alembic runs for a migration. What it would write by itself is asked for in test.py."""
from alembic import context
from sqlalchemy import create_engine

engine = create_engine("postgresql+psycopg://")
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
