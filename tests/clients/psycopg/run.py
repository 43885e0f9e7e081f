"""psycopg 3: the common statements in four ways, transactions, pipelines,
cursors, COPY, notices, notifications, cancel, types; sync and async."""

import asyncio
import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "python"))

import psycopg
from psycopg import ClientCursor, RawCursor, RawServerCursor, pq, sql
from psycopg.rows import dict_row
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo
from psycopg.types.range import RangeInfo
from record import STATEMENTS, expect, plain, renumber, source, test, test_async

FIELDS = (
    "severity severity_nonlocalized sqlstate message_primary message_detail message_hint "
    "statement_position internal_position internal_query context schema_name table_name "
    "column_name datatype_name constraint_name"
).split()


def fields(diag):
    return {name: getattr(diag, name) for name in FIELDS if getattr(diag, name) is not None}


def attempt(function):
    """What a call returns, or the fields of its error."""
    try:
        return plain(function())
    except psycopg.Error as error:
        return {"class": type(error).__name__, "fields": fields(error.diag)}


def connect(**options):
    options.setdefault("autocommit", True)
    return psycopg.connect("", **options)


def answer(cursor):
    """Everything that a cursor shows of its results."""
    results = []
    while True:
        result = {"status": cursor.statusmessage, "rowcount": cursor.rowcount}
        if cursor.description is not None:
            result["columns"] = [
                [c.name, c.type_code, c.internal_size, c.precision, c.scale]
                for c in cursor.description
            ]
            result["rows"] = plain(cursor.fetchall())
        results.append(result)
        if not cursor.nextset():
            return results


def one(conn, query, params=None, **how):
    return attempt(lambda: answer(conn.execute(query, params, **how)))


def status(conn):
    return conn.info.transaction_status.name


# --- The common statements ----------------------------------------------------

MODES = {
    "simple": dict(cursor=ClientCursor),
    "extended": dict(cursor=RawCursor),
    "binary": dict(cursor=RawCursor, binary=True),
    "prepared": dict(cursor=RawCursor, prepare=True),
    "prepared again": dict(cursor=RawCursor, prepare=True),
}


def play(conn, statement, mode):
    params = statement.get("params")
    query = statement["sql"]
    if mode["cursor"] is ClientCursor:
        query = renumber(query, "pyformat") if params else query
        params = {f"p{i + 1}": value for i, value in enumerate(params)} if params else None
    cursor = mode["cursor"](conn)
    how = {name: value for name, value in mode.items() if name != "cursor"}
    seen = attempt(lambda: answer(cursor.execute(query, params, **how)))
    expect(statement, seen["fields"]["sqlstate"] if isinstance(seen, dict) else None)
    return [seen, status(conn)]


prepared = connect()
for mode_name, mode in MODES.items():
    conn = prepared if "prepared" in mode_name else connect()
    for statement in STATEMENTS:
        test(f"{mode_name}: {statement['name']}")(lambda: play(conn, statement, mode))

# --- Transactions -------------------------------------------------------------

ORDERS = "SELECT count(*), sum(total_amount) FROM remote_orders"
JOIN = "SELECT u.username, o.product_name FROM users u JOIN remote_orders o USING (user_id) ORDER BY o.order_id"


@test("transaction: commit and roll back")
def _():
    with connect(autocommit=False) as conn:
        seen = [one(conn, ORDERS), status(conn), one(conn, JOIN)]
        conn.rollback()
        seen += [status(conn), one(conn, "INSERT INTO notes (body) VALUES ('kept')")]
        conn.commit()
        seen += [one(conn, "SELECT count(*) FROM notes WHERE body = 'kept'"), status(conn)]
    return seen


@test("transaction: nested blocks, one rolls back")
def _():
    conn = connect()
    seen = []
    with conn.transaction():
        seen.append(one(conn, JOIN))
        try:
            with conn.transaction():
                conn.execute("INSERT INTO notes (body) VALUES ('undone')")
                seen.append(one(conn, "SELECT 1 / 0"))
                seen.append(one(conn, JOIN))
                raise psycopg.Rollback()
        except psycopg.Error as error:
            seen.append(type(error).__name__)
        seen.append(one(conn, ORDERS))
        seen.append(one(conn, "SELECT count(*) FROM notes WHERE body = 'undone'"))
    return seen + [status(conn)]


@test("transaction: a failed one refuses, then ends")
def _():
    conn = connect(autocommit=False)
    return [
        one(conn, JOIN), one(conn, "SELECT missing FROM remote_orders"), status(conn),
        one(conn, JOIN), one(conn, "SELECT 1"), attempt(conn.commit), status(conn), one(conn, JOIN),
    ]


for level in psycopg.IsolationLevel:
    for read_only in (False, True):

        @test(f"transaction: {level.name}, read only {read_only}")
        def _():
            conn = connect(autocommit=False)
            conn.isolation_level = level
            conn.read_only = read_only
            seen = [one(conn, "SHOW transaction_isolation"), one(conn, JOIN), one(conn, ORDERS)]
            seen += [one(conn, "INSERT INTO notes (body) VALUES ('level')"), status(conn)]
            conn.rollback()
            conn.deferrable = True
            return seen + [one(conn, ORDERS), one(conn, "SHOW transaction_deferrable")]


@test("transaction: what the source commits is seen as PostgreSQL shows it")
def _():
    other = psycopg.connect(**source(), autocommit=True)
    seen = []
    for level in psycopg.IsolationLevel:
        conn = connect(autocommit=False)
        conn.isolation_level = level
        seen.append(one(conn, ORDERS))
        other.execute("INSERT INTO orders (order_id, user_id, total_amount) VALUES (900, 1, 1)")
        seen.append(one(conn, ORDERS))
        conn.rollback()
        seen.append(one(conn, ORDERS))
        other.execute("DELETE FROM orders WHERE order_id = 900")
        seen.append(one(conn, ORDERS))
    return seen


@test("transaction: writes to the source in a block, read after")
def _():
    conn = connect(autocommit=False)
    seen = [one(conn, "INSERT INTO remote_notes VALUES (3000, 'block')")]
    seen += [one(conn, "SELECT * FROM remote_notes WHERE id = 3000"), one(conn, JOIN)]
    conn.rollback()
    return seen + [one(conn, "SELECT * FROM remote_notes WHERE id = 3000")]


@test("transaction: two-phase")
def _():
    conn = connect(autocommit=False)
    xid = conn.xid(1, "clients", "branch")
    return [attempt(lambda: conn.tpc_begin(xid)), one(conn, "SELECT 1"), attempt(conn.tpc_prepare)]


# --- Session --------------------------------------------------------------------


@test("session: what the server says of itself")
def _():
    conn = connect()
    names = "server_version server_encoding client_encoding DateStyle IntervalStyle TimeZone integer_datetimes standard_conforming_strings is_superuser session_authorization application_name in_hot_standby default_transaction_read_only".split()
    seen = {name: conn.info.parameter_status(name) for name in names}
    seen["more"] = [conn.info.server_version, conn.info.encoding, conn.info.dbname, conn.info.user]
    return seen


@test("session: settings are reported")
def _():
    conn = connect(options="-c application_name=first -c timezone=Asia/Tokyo")
    seen = [conn.info.parameter_status("application_name"), str(conn.info.timezone)]
    conn.execute("SET timezone = 'America/New_York'")
    seen += [str(conn.info.timezone), one(conn, "SELECT tz, tz::text FROM remote_kinds WHERE id = 1")]
    conn.execute("SET application_name = 'second'; SET client_encoding = 'LATIN1'")
    seen += [conn.info.parameter_status("application_name"), conn.info.encoding]
    seen += [one(conn, "SELECT t FROM remote_kinds WHERE id = 2"), one(conn, "RESET ALL")]
    return seen + [conn.info.encoding, str(conn.info.timezone)]


@test("session: notices")
def _():
    conn = connect()
    notices = []
    conn.add_notice_handler(lambda diag: notices.append(fields(diag)))
    seen = [one(conn, "SELECT complain('hear', 0)"), one(conn, "SELECT complain('beware', 1)")]
    seen.append(one(conn, "SELECT complain(product_name, 0) FROM remote_orders ORDER BY order_id"))
    seen.append(one(conn, "DROP TABLE IF EXISTS nothing_there"))
    return seen + [one(conn, "ROLLBACK"), notices]


@test("session: listen and notify")
def _():
    listener, speaker = connect(), connect()
    listener.execute("LISTEN news")
    seen = []
    for number in range(3):
        speaker.execute("SELECT pg_notify('news', %s)", (f"item {number}",))
    for notification in listener.notifies(timeout=10, stop_after=3):
        seen.append([notification.channel, notification.payload])
    own = connect()
    heard = []
    own.add_notify_handler(lambda n: heard.append([n.channel, n.payload, n.pid == 0]))
    own.execute("LISTEN self")
    own.execute("NOTIFY self, 'a word'")
    seen.append(one(own, JOIN))
    return seen + [heard]


@test("session: cancel")
def _():
    conn = connect()
    seen = []
    holder = psycopg.connect(**source())
    holder.execute("LOCK TABLE many")
    for query in ("SELECT pg_sleep(30)", "SELECT count(*) FROM remote_many",
                  "SELECT m.name, u.username FROM remote_many m JOIN users u ON u.user_id = m.id",
                  "SELECT * FROM remote_many FOR UPDATE"):
        timer = threading.Timer(0.5, conn.cancel_safe)
        timer.start()
        began = time.monotonic()
        seen.append(one(conn, query))
        timer.join()
        seen.append([time.monotonic() - began < 10, status(conn), one(conn, "SELECT 1")])
    holder.close()
    return seen + [one(conn, "SELECT count(*) FROM remote_many")]


@test("session: statement_timeout")
def _():
    conn = connect()
    conn.execute("SET statement_timeout = '300ms'")
    holder = psycopg.connect(**source())
    holder.execute("LOCK TABLE many")
    seen = [one(conn, "SELECT pg_sleep(30)"), one(conn, "SELECT count(*) FROM remote_many"), status(conn)]
    holder.close()
    return seen


@test("session: temporary tables shadow, DISCARD ALL")
def _():
    conn = connect()
    conn.execute("CREATE TEMP TABLE remote_orders (order_id int, total_amount numeric)")
    seen = [one(conn, ORDERS), one(conn, "DROP TABLE remote_orders"), one(conn, ORDERS)]
    seen += [one(conn, "DISCARD ALL"), one(conn, ORDERS), one(conn, JOIN)]
    return seen


@test("session: SQL's own prepared statements and cursors")
def _():
    conn = connect()
    seen = [one(conn, "PREPARE p (int) AS SELECT product_name FROM remote_orders WHERE order_id = $1")]
    seen += [one(conn, "EXECUTE p (1)"), one(conn, "EXECUTE p (2)"), one(conn, "DEALLOCATE p")]
    seen += [one(conn, "EXECUTE p (1)"), one(conn, "BEGIN"), one(conn, "DECLARE c CURSOR WITH HOLD FOR " + JOIN)]
    seen += [one(conn, "FETCH 2 FROM c"), one(conn, "COMMIT"), one(conn, "FETCH ALL FROM c"), one(conn, "CLOSE c")]
    return seen


@test("session: several statements at once")
def _():
    conn = connect()
    return [
        one(conn, f"SELECT 1; {ORDERS}; SELECT 2"),
        one(conn, f"{ORDERS}; SELECT 1 / 0; SELECT 3"),
        one(conn, "BEGIN; INSERT INTO notes (body) VALUES ('several'); ROLLBACK; " + JOIN),
        one(conn, ""), one(conn, ";"), one(conn, "-- nothing"), status(conn),
    ]


# --- Prepared statements and DDL --------------------------------------------------


@test("prepared: DDL between executions")
def _():
    conn, other = connect(), connect()
    conn.prepare_threshold = 0
    queries = ("SELECT * FROM remote_shrinking", "SELECT name FROM remote_shrinking",
               "SELECT s.*, u.username FROM remote_shrinking s JOIN users u ON u.user_id = s.id",
               "SELECT * FROM shifting")
    other.execute("CREATE TABLE shifting (id int); INSERT INTO shifting VALUES (1)")
    seen = [[one(conn, query) for query in queries]]
    far = psycopg.connect(**source(), autocommit=True)
    far.execute("ALTER TABLE shrinking ADD extra int DEFAULT 5")
    for ddl in ("ALTER FOREIGN TABLE remote_shrinking ADD extra int; ALTER TABLE shifting ADD more text",
                "ALTER FOREIGN TABLE remote_shrinking DROP extra; ALTER TABLE shifting DROP more",
                "ALTER FOREIGN TABLE remote_shrinking ALTER name TYPE varchar(10)",
                "ALTER FOREIGN TABLE remote_shrinking RENAME name TO title",
                "ALTER FOREIGN TABLE remote_shrinking RENAME title TO name",
                "ALTER FOREIGN TABLE remote_shrinking OPTIONS (SET table_name 'absent')",
                "ALTER FOREIGN TABLE remote_shrinking OPTIONS (SET table_name 'shrinking')",
                "ALTER FOREIGN TABLE remote_shrinking RENAME TO elsewhere",
                "CREATE TABLE remote_shrinking AS SELECT 7 AS id, 'local'::text AS name",
                "DROP TABLE remote_shrinking; ALTER FOREIGN TABLE elsewhere RENAME TO remote_shrinking"):
        other.execute(ddl)
        seen.append([ddl, [one(conn, query) for query in queries], status(conn)])
    return seen


@test("prepared: the plan cache turns generic")
def _():
    conn = connect(prepare_threshold=2)
    query = "SELECT o.product_name, u.username FROM remote_orders o JOIN users u USING (user_id) WHERE o.order_id = %s"
    seen = [one(conn, query, (number % 7,)) for number in range(20)]
    return seen + [one(conn, "SELECT count(*) > 0 FROM pg_prepared_statements")]


# --- Cursors ------------------------------------------------------------------------


@test("cursor: server-side, forward, scroll, hold")
def _():
    seen = []
    for query in (JOIN, "SELECT order_id FROM remote_orders ORDER BY 1", "SELECT user_id FROM users ORDER BY 1"):
        conn = connect(autocommit=False)
        with conn.cursor("forward") as cursor:
            cursor.itersize = 2
            cursor.execute(query)
            seen += [[row for row in cursor], cursor.rowcount]
        with conn.cursor("scrolling", scrollable=True) as cursor:
            cursor.execute(query)
            seen += [cursor.fetchmany(3), cursor.scroll(-2), cursor.fetchone()]
            seen += [attempt(lambda: cursor.scroll(0, mode="absolute")), cursor.fetchall()]
            seen.append([column.name for column in cursor.description])
        held = conn.cursor("held", withhold=True)
        held.execute(query)
        seen.append(held.fetchone())
        conn.commit()
        seen.append(held.fetchall())
        held.close()
        with conn.cursor("once") as cursor:
            cursor.execute(query)
            conn.rollback()
            seen.append(attempt(cursor.fetchall))
        raw = RawServerCursor(conn, "raw")
        raw.execute("SELECT username FROM users JOIN remote_orders USING (user_id) WHERE order_id < $1 ORDER BY 1", (4,))
        seen.append(attempt(raw.fetchall))
    return seen


@test("cursor: stream in single-row mode")
def _():
    conn = connect()
    seen = [list(conn.cursor().stream(query)) for query in (JOIN, ORDERS, "SELECT id FROM remote_many WHERE id < 50 ORDER BY id")]
    seen.append(attempt(lambda: list(conn.cursor().stream("SELECT 1 / (order_id - 4) FROM remote_orders ORDER BY order_id"))))
    iterator = conn.cursor().stream("SELECT id FROM remote_many ORDER BY id")
    seen += [next(iterator), next(iterator)]
    iterator.close()
    return seen + [status(conn), list(conn.cursor(row_factory=dict_row).execute(JOIN))]


@test("cursor: executemany")
def _():
    conn = connect()
    cursor = conn.cursor()
    seen = []
    for table in ("notes", "remote_notes"):
        cursor.executemany(f"INSERT INTO {table} (id, body) VALUES (%s, %s) RETURNING id",
                           [(number, f"many {number}") for number in range(4000, 4010)], returning=True)
        rows = []
        while True:
            rows += cursor.fetchall()
            if not cursor.nextset():
                break
        seen += [rows, cursor.rowcount]
        seen.append(attempt(lambda: cursor.executemany(f"INSERT INTO {table} (id, body) VALUES (%s, %s)", [(4100, "x"), (4001, "y"), (4102, "z")])))
        seen.append(one(conn, f"SELECT id, body FROM {table} WHERE id >= 4000 ORDER BY id"))
        seen.append(one(conn, f"DELETE FROM {table} WHERE id >= 4000"))
    cursor.executemany("SELECT product_name FROM remote_orders WHERE order_id = %s", [(1,), (2,), (9,)], returning=True)
    while True:
        seen.append(cursor.fetchall())
        if not cursor.nextset():
            return seen


# --- Pipelines ------------------------------------------------------------------------


@test("pipeline: mixed queries")
def _():
    conn = connect()
    with conn.pipeline():
        cursors = [conn.execute(query) for query in (
            "SELECT 1", ORDERS, JOIN, "SELECT 2", "INSERT INTO notes (body) VALUES ('piped') RETURNING body", JOIN)]
        seen = [answer(cursor) for cursor in cursors]
    return seen + [status(conn)]


@test("pipeline: an error in the middle")
def _():
    seen = []
    for bad in ("SELECT 1 / 0", "SELECT 1 / (order_id - 3) FROM remote_orders", "SELECT missing FROM remote_orders",
                "SELECT name FROM remote_absent"):
        conn = connect()
        cursors = []

        def play():
            with conn.pipeline() as pipeline:
                for query in (ORDERS, bad, JOIN):
                    cursors.append(conn.execute(query))
                pipeline.sync()
                cursors.append(conn.execute(JOIN))

        seen += [attempt(play), status(conn)]
        seen += [attempt(lambda: answer(cursor)) for cursor in cursors] + [one(conn, JOIN)]
    return seen


@test("pipeline: syncs between, in a transaction")
def _():
    conn = connect()
    seen = []
    with conn.pipeline() as pipeline, conn.transaction():
        first = conn.execute(JOIN)
        pipeline.sync()
        second = conn.execute("INSERT INTO notes (body) VALUES ('synced')")
        third = conn.execute("SELECT count(*) FROM notes WHERE body = 'synced'")
        seen = [answer(cursor) for cursor in (first, second, third)]
    return seen + [status(conn)]


@test("pipeline: prepared statements over and over")
def _():
    conn = connect(prepare_threshold=0)
    with conn.pipeline():
        cursors = [conn.execute("SELECT product_name FROM remote_orders WHERE order_id = %s", (n,)) for n in range(12)]
        return [answer(cursor) for cursor in cursors]


# --- COPY -------------------------------------------------------------------------------


def copied(conn, query, params=None):
    def read():
        with conn.cursor().copy(query, params) as copy:
            return b"".join(bytes(block) for block in copy).hex()
    return attempt(read)


@test("copy: out")
def _():
    conn = connect()
    seen = []
    for query in (JOIN, ORDERS, "SELECT * FROM remote_kinds ORDER BY id", "SELECT * FROM users ORDER BY 1", "SELECT missing FROM remote_orders",
                  "SELECT 1 / (order_id - 4) FROM remote_orders ORDER BY order_id"):
        for options in ("", " (FORMAT csv, HEADER)", " (FORMAT binary)"):
            seen.append(copied(conn, f"COPY ({query}) TO STDOUT{options}"))
    return seen + [copied(conn, "COPY users TO STDOUT"), copied(conn, "COPY remote_orders TO STDOUT"), status(conn)]


@test("copy: rows of types")
def _():
    conn = connect()
    with conn.cursor().copy("COPY (SELECT id, t, i8 FROM remote_kinds ORDER BY id) TO STDOUT (FORMAT binary)") as copy:
        copy.set_types(["int4", "text", "int8"])
        return list(copy.rows())


@test("copy: in, to home and to the source")
def _():
    conn = connect()
    seen = []
    for table in ("notes", "remote_notes"):
        with conn.cursor().copy(f"COPY {table} (id, body) FROM STDIN") as copy:
            for number in range(300):
                copy.write_row((6000 + number, f"row {number}\t\\"))
        seen.append(one(conn, f"SELECT count(*), min(body), max(body) FROM {table} WHERE id >= 6000"))
        with conn.cursor().copy(f"COPY {table} (id, body) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "text"])
            copy.write_row((6500, "binary"))

        def bad_row():
            with conn.cursor().copy(f"COPY {table} (id, body) FROM STDIN") as copy:
                copy.write("6600\tfine\nnot a number\tx\n")

        def given_up():
            with conn.cursor().copy(f"COPY {table} (id, body) FROM STDIN") as copy:
                copy.write_row((6700, "never"))
                raise psycopg.DataError("the client gives up")

        seen += [attempt(bad_row), attempt(given_up), status(conn)]
        seen.append(one(conn, f"SELECT count(*) FROM {table} WHERE id >= 6000"))
        seen.append(one(conn, f"DELETE FROM {table} WHERE id >= 6000"))
    return seen


@test("copy: the client stops reading")
def _():
    conn = connect()
    seen = []
    for query in ("SELECT id, name FROM remote_many", "SELECT m.id, repeat('x', 1000) FROM remote_many m JOIN users u ON true"):
        def read():
            with conn.cursor().copy(f"COPY ({query}) TO STDOUT") as copy:
                next(iter(copy))
                raise psycopg.DataError("enough")
        seen += [attempt(read), conn.closed, conn.broken, status(conn)]
        if conn.closed:
            conn = connect()
        seen.append(one(conn, "SELECT 1"))
    return seen


# --- Types ----------------------------------------------------------------------------------


@test("types: composite, enum, range")
def _():
    conn = connect()
    register_composite(CompositeInfo.fetch(conn, "pair"), conn)
    EnumInfo.fetch(conn, "mood").register(conn)
    seen = [RangeInfo.fetch(conn, "int4range").subtype_oid]
    for binary in (False, True):
        cursor = conn.cursor(binary=binary)
        seen.append(cursor.execute("SELECT p, ps, r, po FROM pairs ORDER BY id").fetchall())
        seen.append(cursor.execute("SELECT k.m, p.p FROM remote_kinds k JOIN pairs p USING (id) ORDER BY id").fetchall())
    return seen


@test("types: parameters of every kind against the source")
def _():
    import datetime
    import decimal
    import ipaddress
    import uuid

    conn = connect()
    seen = []
    values = dict(
        i2=1, i8=9007199254740993, f8=0.1, n=decimal.Decimal("1.10"), b=True, t="plain", v="vary", c="ab",
        by=b"\x00\xff\x10", d=datetime.date(2024, 2, 29), ti=datetime.time(23, 59, 59, 500000),
        ts=datetime.datetime(2024, 2, 29, 23, 59, 59, 123456),
        tz=datetime.datetime(2024, 2, 29, 23, 59, 59, tzinfo=datetime.timezone.utc),
        iv=datetime.timedelta(days=1, seconds=7384, microseconds=500000), u=uuid.UUID(int=1),
        ia=[1, None, 3], ta=["a", "b c", None], ip=ipaddress.ip_interface("10.0.0.1/24"), m="ok",
    )
    for name, value in values.items():
        for form in ("%s", "%b", "%t"):
            for joined in ("", " JOIN users ON user_id = id"):
                query = sql.SQL("SELECT id, {name} FROM remote_kinds" + joined + " WHERE {name} = " + form).format(name=sql.Identifier(name))
                seen.append([name, form, one(conn, query, (value,))])
    return seen


# --- libpq itself -----------------------------------------------------------------------------


@test("libpq: describe, portal, single rows")
def _():
    pgconn = connect().pgconn
    seen = []
    for query in (JOIN.encode(), b"SELECT order_id FROM remote_orders WHERE order_id < $1::int"):
        result = pgconn.prepare(b"named", query)
        described = pgconn.describe_prepared(b"named")
        seen.append([pq.ExecStatus(result.status).name, described.nparams, described.nfields,
                     [described.fname(i).decode() for i in range(described.nfields)],
                     [described.ftype(i) for i in range(described.nfields)],
                     [described.param_type(i) for i in range(described.nparams)]])
        params = [b"3"] * described.nparams
        for fmt in (0, 1):
            result = pgconn.exec_prepared(b"named", params, result_format=fmt)
            seen.append([[str(result.get_value(r, c)) for c in range(result.nfields)] for r in range(result.ntuples)])
        pgconn.exec_(b"DEALLOCATE named")
    return seen


# --- Async ----------------------------------------------------------------------------------------


async def asynchronous():
    async def aconnect(**options):
        return await psycopg.AsyncConnection.connect("", autocommit=True, **options)

    async def fetch(conn, query, params=None):
        try:
            cursor = await conn.execute(query, params)
            return plain(await cursor.fetchall())
        except psycopg.Error as error:
            return fields(error.diag)

    async def parallel():
        conns = [await aconnect() for _ in range(6)]
        return await asyncio.gather(*(fetch(conn, JOIN) for conn in conns), *(fetch(conn, ORDERS) for conn in conns[:3]))

    async def piped():
        conn = await aconnect()
        async with conn.pipeline():
            cursors = [await conn.execute(query) for query in (ORDERS, JOIN, "SELECT 1")]
            return [await cursor.fetchall() for cursor in cursors]

    async def cancelled():
        conn = await aconnect()
        holder = psycopg.connect(**source())
        holder.execute("LOCK TABLE many")
        task = asyncio.create_task(fetch(conn, "SELECT count(m.name || username) FROM remote_many m JOIN users ON user_id = id"))
        await asyncio.sleep(0.5)
        await conn.cancel_safe()
        seen = await task
        holder.close()
        return [seen, await fetch(conn, JOIN)]

    async def timed_out():
        conn = await aconnect()
        try:
            await asyncio.wait_for(conn.execute("SELECT pg_sleep(20)"), 0.3)
            seen = "ended"
        except asyncio.TimeoutError:
            seen = "timed out"
        return [seen, await fetch(conn, JOIN)]

    async def server_cursor():
        conn = await aconnect()
        async with conn.transaction(), conn.cursor("async_cursor") as cursor:
            await cursor.execute(JOIN)
            return [row async for row in cursor]

    async def copy():
        conn = await aconnect()
        async with conn.cursor().copy(f"COPY ({JOIN}) TO STDOUT") as copy:
            return [row async for row in copy.rows()]

    for name, work in (("parallel", parallel), ("pipeline", piped), ("cancel", cancelled), ("task cancelled", timed_out),
                       ("server cursor", server_cursor), ("copy", copy)):
        await test_async(f"async: {name}", work())


asyncio.run(asynchronous())
