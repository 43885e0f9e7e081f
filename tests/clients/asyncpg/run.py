"""asyncpg: binary only, its own introspection of types and its statement cache;
cursors, COPY, listeners, transactions, cancel, DDL between executions."""

import asyncio
import datetime
import decimal
import io
import ipaddress
import pathlib
import sys
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "python"))

import asyncpg
from record import STATEMENTS, expect, plain, source, test_async

JOIN = "SELECT u.username, o.product_name FROM users u JOIN remote_orders o USING (user_id) ORDER BY o.order_id"
ORDERS = "SELECT count(*), sum(total_amount) FROM remote_orders"
FIELDS = (
    "severity severity_en sqlstate message detail hint position internal_position internal_query "
    "context schema_name table_name column_name data_type_name constraint_name"
).split()


async def connect(**options):
    return await asyncpg.connect(**options)


async def at_source():
    where = source()
    where["database"] = where.pop("dbname")
    return await asyncpg.connect(**where)


def fields(error):
    return {"class": type(error).__name__,
            "fields": {name: getattr(error, name) for name in FIELDS if getattr(error, name, None) is not None}}


async def attempt(awaitable):
    """What a call returns, or the fields of its error."""
    try:
        return plain(await awaitable)
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return fields(error)


def rows(records):
    return [list(dict(record).items()) if record else [] for record in records]


async def fetched(conn, query, *params):
    return await attempt(listed(conn, query, *params))


async def listed(conn, query, *params):
    return rows(await conn.fetch(query, *params))


async def play(conn, statement, how):
    """One of the common statements."""
    query, params = statement["sql"], statement.get("params", [])
    if how == "prepared":

        async def prepared():
            ready = await conn.prepare(query)
            shape = [[a.name, a.type.name, a.type.oid] for a in ready.get_attributes()]
            return [[p.name for p in ready.get_parameters()], shape, rows(await ready.fetch(*params)), ready.get_statusmsg()]

        seen = await attempt(prepared())
    elif how == "script":
        seen = await attempt(conn.execute(query))
    else:
        seen = await fetched(conn, query, *params)
    expect(statement, seen["fields"]["sqlstate"] if isinstance(seen, dict) else None)
    return [seen, conn.is_in_transaction()]


async def transactions():
    seen = []
    for level in ("read_committed", "repeatable_read", "serializable"):
        for readonly in (False, True):
            conn = await connect()
            transaction = conn.transaction(isolation=level, readonly=readonly, deferrable=readonly and level == "serializable")
            await transaction.start()
            seen += [await fetched(conn, JOIN), await fetched(conn, ORDERS)]
            seen += [await fetched(conn, "INSERT INTO notes (body) VALUES ('x') RETURNING body"), conn.is_in_transaction()]
            await transaction.rollback()
            seen += [await fetched(conn, JOIN)]
            await conn.close()
    return seen


async def savepoints():
    conn = await connect()
    seen = []
    async with conn.transaction():
        seen.append(await fetched(conn, JOIN))
        try:
            async with conn.transaction():
                await conn.fetch("SELECT 1 / (order_id - 2) FROM remote_orders")
        except asyncpg.PostgresError as error:
            seen.append(fields(error))
        seen.append(await fetched(conn, JOIN))
        async with conn.transaction():
            seen.append(await conn.execute("INSERT INTO remote_notes VALUES (1, 'one')"))
            seen.append(await fetched(conn, "SELECT * FROM remote_notes"))
        seen.append(await fetched(conn, ORDERS))
    seen.append(await conn.execute("DELETE FROM remote_notes"))
    return seen


async def introspection():
    conn = await connect()
    seen = [rows(await conn.fetch("SELECT id, p, ps, r, po FROM pairs ORDER BY id"))]
    seen.append(rows(await conn.fetch("SELECT k.m, p.p FROM remote_kinds k JOIN pairs p USING (id) ORDER BY id")))
    await conn.set_type_codec("jsonb", encoder=str, decoder=lambda text: ["decoded", text], schema="pg_catalog")
    seen.append(rows(await conn.fetch("SELECT jb, j FROM remote_kinds ORDER BY id")))
    await conn.reset_type_codec("jsonb", schema="pg_catalog")
    await conn.reload_schema_state()
    seen.append(await conn.fetchval("SELECT row(u.*)::text FROM users u ORDER BY user_id LIMIT 1"))
    seen.append(rows(await conn.fetch("SELECT array_agg(o ORDER BY order_id)::text FROM remote_orders o")))
    return seen


async def parameters():
    conn = await connect()
    values = dict(
        i2=1, i8=9007199254740993, f4=0.1, f8=0.1, n=decimal.Decimal("1.10"), b=True, t="plain", v="vary", c="ab",
        by=b"\x00\xff\x10", d=datetime.date(2024, 2, 29), ti=datetime.time(23, 59, 59, 500000),
        ts=datetime.datetime(2024, 2, 29, 23, 59, 59, 123456),
        tz=datetime.datetime(2024, 2, 29, 23, 59, 59, tzinfo=datetime.timezone.utc),
        iv=datetime.timedelta(days=1, seconds=7384, microseconds=500000), u=uuid.UUID(int=1),
        jb='{"b": 2}', ia=[1, None, 3], ta=["a", "b c", None], ip=ipaddress.ip_interface("10.0.0.1/24"), m="ok",
    )
    seen = []
    for name, value in values.items():
        for query in (f"SELECT id, {name} FROM remote_kinds WHERE {name} = $1",
                      f"SELECT id, {name}, username FROM remote_kinds JOIN users ON user_id = id WHERE {name} = $1",
                      f"SELECT id FROM remote_kinds WHERE {name} = ANY($1) OR {name} IS NULL ORDER BY id"):
            given = [value, None] if "ANY" in query else value
            seen.append([name, await fetched(conn, query, given)])
    return seen


async def ddl_between():
    conn, other, far = await connect(), await connect(), await at_source()
    queries = ("SELECT * FROM remote_shrinking", "SELECT name FROM remote_shrinking", "SELECT * FROM shifting",
               "SELECT s.*, u.username FROM remote_shrinking s JOIN users u ON u.user_id = s.id")
    await other.execute("CREATE TABLE shifting (id int); INSERT INTO shifting VALUES (1)")
    await far.execute("ALTER TABLE shrinking ADD extra int DEFAULT 5")
    seen = [[await fetched(conn, query) for query in queries]]
    for ddl in ("ALTER FOREIGN TABLE remote_shrinking ADD extra int; ALTER TABLE shifting ADD more text",
                "ALTER FOREIGN TABLE remote_shrinking DROP extra; ALTER TABLE shifting DROP more",
                "ALTER FOREIGN TABLE remote_shrinking ALTER name TYPE varchar(10)",
                "ALTER FOREIGN TABLE remote_shrinking RENAME name TO title",
                "ALTER FOREIGN TABLE remote_shrinking RENAME title TO name",
                "DROP FOREIGN TABLE remote_shrinking",
                "CREATE FOREIGN TABLE remote_shrinking (name text, id int) SERVER orders_server OPTIONS (table_name 'shrinking')"):
        await other.execute(ddl)
        seen.append([ddl, [await fetched(conn, query) for query in queries], [await fetched(conn, query) for query in queries]])
    async with conn.transaction():
        seen.append(await fetched(conn, queries[0]))
        await other.execute("ALTER TABLE shifting ADD again int")
        seen.append(await fetched(conn, "SELECT * FROM shifting"))
    return seen


async def cursors():
    conn = await connect()
    seen = [await attempt(conn.cursor(JOIN))]
    async with conn.transaction():
        for query, params in ((JOIN, []), ("SELECT order_id FROM remote_orders WHERE order_id > $1 ORDER BY 1", [1]),
                              ("SELECT id, name FROM remote_many WHERE id < 120 ORDER BY id", [])):
            seen.append([list(record) async for record in conn.cursor(query, *params, prefetch=2)])
            cursor = await conn.cursor(query, *params)
            seen += [rows(await cursor.fetch(2)), await cursor.forward(1), rows([await cursor.fetchrow()]), rows(await cursor.fetch(100))]
    return seen


async def copies():
    conn = await connect()

    async def out(query, **options):
        sink = io.BytesIO()
        status = await conn.copy_from_query(query, output=sink, **options)
        return [status, sink.getvalue().hex()]

    seen = []
    for options in ({}, {"format": "csv", "header": True}, {"format": "binary"}):
        for query in (JOIN, ORDERS, "SELECT * FROM users ORDER BY 1", "SELECT missing FROM remote_orders"):
            seen.append(await attempt(out(query, **options)))
        sink = io.BytesIO()
        seen += [await attempt(conn.copy_from_table("users", output=sink, **options)), sink.getvalue().hex()]
    for table in ("notes", "remote_notes"):
        records = [(7000 + number, f"record {number}") for number in range(300)]
        seen.append(await attempt(conn.copy_records_to_table(table, records=records, columns=["id", "body"])))
        seen.append(await attempt(conn.copy_to_table(table, source=io.BytesIO(b"7500\ttext\n"), columns=["id", "body"])))
        seen.append(await attempt(conn.copy_to_table(table, source=io.BytesIO(b"x\ttext\n"), columns=["id", "body"])))
        seen.append(await fetched(conn, f"SELECT count(*), max(body) FROM {table} WHERE id >= 7000"))
        seen.append(await conn.execute(f"DELETE FROM {table} WHERE id >= 7000"))
    return seen


async def listening():
    conn, other = await connect(), await connect()
    heard = asyncio.Queue()
    await conn.add_listener("news", lambda _, pid, channel, payload: heard.put_nowait([channel, payload]))
    await other.execute("NOTIFY news, 'one'; SELECT pg_notify('news', 'two')")
    seen = [await asyncio.wait_for(heard.get(), 10) for _ in range(2)]
    seen.append(await fetched(conn, JOIN))
    await conn.execute("NOTIFY news, 'own'")
    seen.append(await asyncio.wait_for(heard.get(), 10))
    notices = []
    conn.add_log_listener(lambda _, message: notices.append([message.severity, message.message, message.detail]))
    await conn.fetch("SELECT complain(product_name, 0) FROM remote_orders ORDER BY order_id")
    await asyncio.sleep(0.1)
    return seen + [notices]


async def cancels():
    conn, far = await connect(), await at_source()
    seen = []
    holder = far.transaction()
    await holder.start()
    await far.execute("LOCK TABLE many")
    for query in ("SELECT pg_sleep(30)", "SELECT count(*) FROM remote_many",
                  "SELECT m.name, u.username FROM remote_many m JOIN users u ON u.user_id = m.id"):
        try:
            await conn.fetch(query, timeout=0.5)
            seen.append("ended")
        except asyncio.TimeoutError:
            seen.append("timed out")
        seen.append([await fetched(conn, "SELECT 1"), await fetched(conn, JOIN)])
    await holder.rollback()
    return seen + [await fetched(conn, "SELECT count(*) FROM remote_many")]


async def executemany():
    conn = await connect()
    seen = []
    for table in ("notes", "remote_notes"):
        insert = f"INSERT INTO {table} (id, body) VALUES ($1, $2)"
        seen.append(await attempt(conn.executemany(insert, [(n, "many") for n in range(8000, 8100)])))
        seen.append(await attempt(conn.executemany(insert, [(8200, "new"), (8001, "twice"), (8201, "new")])))
        seen.append(await fetched(conn, f"SELECT count(*) FROM {table} WHERE id >= 8000"))
        seen.append(await conn.execute(f"DELETE FROM {table} WHERE id >= 8000"))
    seen.append(await attempt(conn.fetchmany("SELECT product_name FROM remote_orders WHERE order_id = $1", [(1,), (2,), (9,)])))
    return seen


async def cache():
    seen = []
    for size in (0, 2, 100):
        conn = await connect(statement_cache_size=size)
        for n in range(15):
            seen.append(await fetched(conn, "SELECT product_name FROM remote_orders WHERE order_id = $1", n))
            seen.append(await fetched(conn, "SELECT o.product_name, u.username FROM remote_orders o JOIN users u USING (user_id) WHERE o.order_id = $1", n))
            seen.append(await fetched(conn, f"SELECT {n % 4} FROM remote_orders LIMIT 1"))
        await conn.close()
    return seen


async def pool():
    async with asyncpg.create_pool(min_size=2, max_size=4) as made:
        async def one():
            async with made.acquire() as conn:
                await conn.execute("SET application_name = 'pooled'")
                return rows(await conn.fetch(JOIN))
        answers = await asyncio.gather(*(one() for _ in range(12)))
        return [answers, await made.fetchval("SHOW application_name")]


async def server_says():
    conn = await connect(server_settings={"application_name": "asyncpg", "timezone": "Asia/Tokyo"})
    settings = conn.get_settings()
    names = "server_version server_encoding client_encoding DateStyle TimeZone application_name integer_datetimes".split()
    seen = [getattr(settings, name, None) for name in names]
    return seen + [str(conn.get_server_version()), rows(await conn.fetch("SELECT tz, tz::text FROM remote_kinds WHERE id = 1"))]


async def main():
    for how in ("fetch", "fetch again", "prepared", "script"):
        conn = await connect() if how != "fetch again" else conn
        for statement in STATEMENTS:
            if how == "script" and statement.get("params"):
                continue
            await test_async(f"{how}: {statement['name']}", play(conn, statement, how))
    for name, work in (
        ("transactions of each level", transactions), ("savepoints", savepoints), ("introspection", introspection),
        ("parameters of every kind", parameters), ("DDL between executions", ddl_between), ("cursors", cursors),
        ("copy", copies), ("listen, notify, notices", listening), ("cancel", cancels), ("executemany", executemany),
        ("statement cache", cache), ("pool", pool), ("what the server says", server_says),
    ):
        await test_async(name, work())


asyncio.run(main())
