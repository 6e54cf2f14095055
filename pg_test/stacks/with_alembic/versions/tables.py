"""The tables, as they are before the extension comes."""
import sqlalchemy as sa
from alembic import op

revision = "tables"
down_revision = None


def upgrade():
    op.create_table(
        "users",
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("email", sa.String(200), nullable=False),
    )
    op.create_table(
        "workflows",
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("user_id", sa.BigInteger, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
    )
    op.create_table(
        "token_usage",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("workflow_id", sa.BigInteger, nullable=False),
        sa.Column("user_id", sa.BigInteger, nullable=False),
        sa.Column("total_tokens", sa.Integer, nullable=False),
    )
    op.create_index(
        "token_usage_of_run", "token_usage", ["workflow_id"], postgresql_include=["user_id", "total_tokens"]
    )


def downgrade():
    for table in ("token_usage", "workflows", "users"):
        op.drop_table(table)
