"""The tables of a small application: users, their runs, and what each model call has used."""
from sqlalchemy import BigInteger, FetchedValue, ForeignKey, Identity, Index, Integer, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    email: Mapped[str] = mapped_column(String(200))


class Run(Base):
    __tablename__ = "workflows"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey(User.id))
    status: Mapped[str] = mapped_column(String(20), default="running")


class Usage(Base):
    __tablename__ = "token_usage"
    __table_args__ = (Index("token_usage_of_run", "workflow_id", postgresql_include=["user_id", "total_tokens"]),)
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    workflow_id: Mapped[int] = mapped_column(BigInteger)
    user_id: Mapped[int] = mapped_column(BigInteger)
    total_tokens: Mapped[int] = mapped_column(Integer)


class BaseAfter(DeclarativeBase):
    pass


class UserWithBalance(BaseAfter):
    """The same table once the extension is attached: the server fills the column, and changes it."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    email: Mapped[str] = mapped_column(String(200))
    token_balance: Mapped[int] = mapped_column(Integer, server_default=FetchedValue(), server_onupdate=FetchedValue())
