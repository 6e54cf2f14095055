from recipe_alembic_attach import downgrade, upgrade  # noqa: F401

revision = "attached"
down_revision = "tables"
