from recipe_alembic_alter import upgrade  # noqa: F401

revision = "altered"
down_revision = "attached"
