"""A platform for agents as one is written with SQLAlchemy and a typed API: its usage names a session by its folder, its
tasks by a foreign key that is NULL in practice, and a run ends in a function."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from sqlalchemy import BigInteger, DateTime, ForeignKey, Identity, String, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    username: Mapped[str] = mapped_column(String(50), unique=True)


class Session(Base):
    __tablename__ = "sessions"
    id: Mapped[UUID] = mapped_column(primary_key=True)


class Task(Base):
    __tablename__ = "tasks"
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    session_id: Mapped[UUID | None] = mapped_column(ForeignKey("sessions.id"))
    status: Mapped[str] = mapped_column(String(20), server_default="running")
    result_data: Mapped[dict | None] = mapped_column(JSONB)


class TokenUsage(Base):
    __tablename__ = "token_usage"
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    # A log: it has no foreign key to the users.
    user_id: Mapped[int]
    session_id: Mapped[str | None] = mapped_column(String(100))
    prompt_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    total_tokens: Mapped[int | None]
    model: Mapped[str | None] = mapped_column(String(100))
    stage: Mapped[str | None] = mapped_column(String(50))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class Strict(BaseModel):
    """A response model that refuses what it does not know, and takes no text for a number."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Totals(Strict):
    total_prompt_tokens: int
    total_completion_tokens: int
    total_tokens: int
    record_count: int


class Group(Strict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    record_count: int


class StageGroup(Group):
    stage: str


class ModelGroup(Group):
    model: str | None


class Record(Strict):
    id: str
    session_id: str | None
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    model: str | None
    stage: str | None
    created_at: str


class SummaryResponse(Strict):
    summary: Totals
    by_stage: list[StageGroup]
    by_model: list[ModelGroup]
    recent_records: list[Record]
    token_balance: int
    is_overdraft: bool


def end_run(session_id):
    """The statement at the end of a run, in place of code that reads the balance, subtracts and writes it back."""
    return select(func.extensions.settle_workflow(session_id))


def summary(user_id, days=30):
    return select(func.token_balance.summary(user_id, days))


def balance(user_id):
    return select(func.token_balance.balance(user_id))
