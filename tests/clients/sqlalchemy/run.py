"""SQLAlchemy over psycopg: core with the common statements, the ORM across a local
and a foreign table, reflection, sessions, savepoints, server-side cursors."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "python"))

import sqlalchemy as sa
from record import STATEMENTS, expect, plain, renumber, test
from sqlalchemy import orm

JOIN = "SELECT u.username, o.product_name FROM users u JOIN remote_orders o USING (user_id) ORDER BY o.order_id"
engine = sa.create_engine("postgresql+psycopg://", pool_size=3)


def attempt(function):
    try:
        return plain(function())
    except sa.exc.DBAPIError as error:
        diag = error.orig.diag
        return {"class": type(error).__name__, "fields": {
            "sqlstate": diag.sqlstate, "message": diag.message_primary, "detail": diag.message_detail, "hint": diag.message_hint}}


def answer(result):
    return [list(result.keys()), result.all()] if result.returns_rows else result.rowcount


def play(conn, statement):
    params = statement.get("params", [])
    query = renumber(statement["sql"].replace(":", r"\:"), "named")
    given = {f"p{i + 1}": value for i, value in enumerate(params)}
    seen = attempt(lambda: answer(conn.execute(sa.text(query), given)))
    expect(statement, seen["fields"]["sqlstate"] if isinstance(seen, dict) else None)
    return seen


with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
    for round_ in ("core", "core again"):
        for statement in STATEMENTS:
            test(f"{round_}: {statement['name']}")(lambda: play(conn, statement))

# In transactions that SQLAlchemy opens itself.
for statement in STATEMENTS:

    @test(f"core in a transaction: {statement['name']}")
    def _():
        with engine.connect() as conn:
            seen = [play(conn, statement), attempt(lambda: conn.execute(sa.text(JOIN)).all())]
            conn.rollback()
            return seen


class Base(orm.DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    user_id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    username: orm.Mapped[str]
    email: orm.Mapped[str | None]
    orders: orm.Mapped[list["Order"]] = orm.relationship(
        primaryjoin="User.user_id == foreign(Order.user_id)", order_by="Order.order_id", back_populates="user")


class Order(Base):
    __tablename__ = "remote_orders"
    order_id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    user_id: orm.Mapped[int]
    product_name: orm.Mapped[str]
    total_amount = orm.mapped_column(sa.Numeric(10, 2))
    order_status: orm.Mapped[str | None]
    user: orm.Mapped[User] = orm.relationship(
        primaryjoin="User.user_id == foreign(Order.user_id)", back_populates="orders")


class Note(Base):
    __tablename__ = "notes"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    body: orm.Mapped[str]


class RemoteNote(Base):
    __tablename__ = "remote_notes"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    body: orm.Mapped[str]


for strategy in (orm.lazyload, orm.joinedload, orm.selectinload, orm.subqueryload):

    @test(f"orm: {strategy.__name__}")
    def _():
        with orm.Session(engine) as session:
            users = session.scalars(sa.select(User).options(strategy(User.orders)).order_by(User.user_id)).unique().all()
            seen = [[user.username, [[o.order_id, o.total_amount] for o in user.orders]] for user in users]
            orders = session.scalars(sa.select(Order).options(strategy(Order.user)).order_by(Order.order_id)).all()
            return seen + [[order.product_name, order.user.username] for order in orders]


@test("orm: aggregates, subqueries, windows, paging")
def _():
    with orm.Session(engine) as session:
        spent = sa.func.coalesce(sa.func.sum(Order.total_amount), 0).label("spent")
        by_user = sa.select(User.username, sa.func.count(Order.order_id), spent).outerjoin(User.orders).group_by(User.user_id, User.username)
        seen = [session.execute(by_user.order_by(spent.desc(), User.username)).all()]
        seen.append(session.execute(by_user.having(spent > 500).order_by(User.username)).all())
        some = sa.exists().where(Order.user_id == User.user_id, Order.order_status == "pending")
        seen.append(session.scalars(sa.select(User.username).where(some).order_by(User.username)).all())
        seen.append(session.scalars(sa.select(User.username).where(User.user_id.in_([1, 2, 9])).order_by(User.username)).all())
        rank = sa.func.row_number().over(partition_by=Order.user_id, order_by=Order.total_amount.desc())
        seen.append(session.execute(sa.select(Order.order_id, rank).order_by(Order.order_id)).all())
        for page in range(3):
            seen.append(session.scalars(sa.select(Order.product_name).join(Order.user).order_by(Order.order_id).limit(2).offset(2 * page)).all())
        return seen


@test("orm: get, unit of work, identity, savepoints")
def _():
    with orm.Session(engine) as session:
        seen = [session.get(Order, 2).product_name, session.get(Order, 99)]
        session.add_all([Note(body=f"note {n}") for n in range(5)])
        session.add_all([RemoteNote(id=n, body=f"far {n}") for n in (1, 2)])
        session.flush()
        seen.append(session.scalars(sa.select(Note.body).order_by(Note.id)).all())
        seen.append(session.scalars(sa.select(RemoteNote.body).order_by(RemoteNote.id)).all())
        session.get(RemoteNote, 1).body = "changed"
        session.delete(session.get(RemoteNote, 2))
        session.flush()
        try:
            with session.begin_nested():
                session.add(RemoteNote(id=1, body="twice"))
        except (sa.exc.IntegrityError, orm.exc.FlushError, sa.exc.InvalidRequestError) as error:
            seen.append(type(error).__name__)
        seen.append(session.execute(sa.text(JOIN)).all())
        session.commit()
        seen.append(session.execute(sa.select(RemoteNote.id, RemoteNote.body)).all())
        session.rollback()
        session.execute(sa.delete(RemoteNote))
        session.commit()
        return seen + [session.scalar(sa.select(sa.func.count()).select_from(RemoteNote))]


@test("orm: stream and yield_per")
def _():
    with orm.Session(engine) as session:
        query = sa.select(Order.product_name, User.username).join(Order.user).order_by(Order.order_id)
        seen = [list(part) for part in session.execute(query.execution_options(yield_per=2)).partitions()]
        with engine.connect() as conn:
            many = conn.execution_options(stream_results=True, max_row_buffer=50).execute(
                sa.text("SELECT m.id FROM remote_many m LEFT JOIN users u ON u.user_id = m.id ORDER BY m.id"))
            seen += [many.fetchmany(120), many.fetchone()]
            many.close()
            seen.append(conn.execute(sa.text(JOIN)).all())
        return seen


@test("reflection")
def _():
    inspector = sa.inspect(engine)
    seen = [inspector.get_table_names(), inspector.get_view_names(), inspector.get_schema_names()]
    seen += [inspector.get_foreign_table_names(), inspector.get_enums(), inspector.get_materialized_view_names()]
    for table in ("users", "remote_orders", "notes", "pairs", "spending"):
        seen.append([table, [[c["name"], str(c["type"]), c["nullable"], c["default"]] for c in inspector.get_columns(table)]])
        seen += [inspector.get_pk_constraint(table), inspector.get_unique_constraints(table), inspector.get_indexes(table)]
        seen += [inspector.get_foreign_keys(table), inspector.get_check_constraints(table), inspector.get_table_comment(table)]
    seen.append(inspector.get_view_definition("spending"))
    meta = sa.MetaData()
    reflected = sa.Table("remote_orders", meta, autoload_with=engine)
    with engine.connect() as conn:
        seen.append(conn.execute(sa.select(reflected).order_by(reflected.c.order_id)).all())
    return seen


for level in ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE", "AUTOCOMMIT"):

    @test(f"isolation: {level}")
    def _():
        with engine.connect().execution_options(isolation_level=level) as conn:
            seen = [conn.get_isolation_level(), conn.execute(sa.text(JOIN)).all()]
            seen.append(attempt(lambda: conn.execute(sa.text("SELECT 1 / (order_id - 1) FROM remote_orders")).all()))
            seen.append(attempt(lambda: conn.execute(sa.text(JOIN)).all()))
            return seen


@test("insertmanyvalues and returning")
def _():
    with engine.begin() as conn:
        notes, far = Note.__table__, RemoteNote.__table__
        seen = [conn.execute(notes.insert().returning(notes.c.body), [{"body": f"n {n}"} for n in range(30)]).all()]
        seen.append(conn.execute(far.insert().returning(far.c.id), [{"id": n, "body": "x"} for n in range(30)]).all())
        seen.append(conn.execute(sa.update(far).where(far.c.id > sa.select(sa.func.min(Order.order_id)).scalar_subquery()).values(body="y")).rowcount)
        seen.append(conn.execute(sa.delete(far)).rowcount)
        conn.rollback()
        return seen
