"""One of the peers that live in Python: reads requests as JSON lines, answers likewise.

The first line tells where the servers are; each later one is a statement.
"""

import json
import os
import sys
import time


def text(value):
    if value is None:
        return None
    if isinstance(value, bool):
        return "t" if value else "f"
    return str(value)


class DuckDb:
    def __init__(self, setup):
        import duckdb

        self.version = duckdb.__version__
        self.db = duckdb.connect()
        self.db.execute("LOAD '%s'" % extension())
        for name, server in setup["servers"].items():
            dsn = "host=%(host)s port=%(port)s user=%(user)s password=%(password)s dbname=%(database)s" % server
            self.db.execute("ATTACH '%s' AS %s (TYPE postgres, READ_ONLY)" % (dsn, name))
        for table, (server, remote) in setup["tables"].items():
            self.db.execute("CREATE VIEW %s AS SELECT * FROM %s.public.%s" % (table, server, remote))

    def run(self, sql):
        return self.db.execute(sql).fetchall()


def extension():
    import glob
    import duckdb_extension_postgres_scanner as package

    found = glob.glob(os.path.join(list(package.__path__)[0], "**", "*.duckdb_extension"), recursive=True)
    return found[0]


class ChDb:
    def __init__(self, setup):
        import chdb
        from chdb.session import Session

        self.version = chdb.__version__
        self.session = Session()
        # PostgreSQL's outer joins bring NULLs.
        self.session.query("SET join_use_nulls = 1")
        self.session.query("CREATE DATABASE bench ENGINE = Memory")
        for table, (name, remote) in setup["tables"].items():
            server = setup["servers"][name]
            self.session.query(
                "CREATE TABLE bench.%s AS postgresql('%s:%s', '%s', '%s', '%s', '%s')"
                % (table, server["host"], server["port"], server["database"], remote, server["user"], server["password"])
            )
        self.session.query("USE bench")

    def run(self, sql):
        answer = self.session.query(sql, "JSONCompactStrings")
        return json.loads(answer.bytes() or b'{"data": []}')["data"]


def main():
    setup = json.loads(sys.stdin.readline())
    # What libraries print, a progress bar for one, is not part of the answers.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value):
        out.write(json.dumps(value) + "\n")
        out.flush()

    try:
        peer = {"duckdb": DuckDb, "chdb": ChDb}[sys.argv[1]](setup)
    except Exception as error:
        answer({"error": "%s: %s" % (type(error).__name__, error)})
        return
    answer({"version": peer.version})
    for line in sys.stdin:
        try:
            began = time.monotonic()
            rows = peer.run(json.loads(line)["sql"])
            seconds = time.monotonic() - began
            answer({"seconds": seconds, "rows": [[text(value) for value in row] for row in rows]})
        except Exception as error:
            answer({"error": "%s: %s" % (type(error).__name__, error)})


main()
