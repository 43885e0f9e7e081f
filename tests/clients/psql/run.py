"""psql: every \\d command, COPY both ways, variables, \\gdesc, \\gset, \\gexec,
\\watch, \\crosstabview, formats, error reports, and completion's own queries."""

import os
import pathlib
import pty
import re
import select
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "python"))

from record import test

JOIN = "SELECT u.username, o.product_name FROM users u JOIN remote_orders o USING (user_id) ORDER BY o.order_id"


def psql(script, *words):
    """Exit status, output and errors of a script."""
    done = subprocess.run(["psql", "-w", "-X", *words], input=script, capture_output=True, text=True)
    return [done.returncode, tidy(done.stdout), tidy(done.stderr)]


def tidy(text):
    # The player's own address, as \conninfo and \connect tell it.
    text = re.sub(r'\(?address "[^"]*"\)?|(on host|at port) "[^"]*"|server at "[^"]*", port \d+', r"\1 …", text)
    text = re.sub(r"process with PID \d+", "process with PID …", text)
    text = re.sub(r"Time: .*? ms.*", "Time: …", text)
    return re.sub(r"^.* \(every .*\)$", "(every …)", text, flags=re.M)


COMMANDS = """
d d+ dS dS+ da daS dA dA+ dAc dAf dAo dAp db db+ dc dcS+ dC dC+ dd ddS dD dD+ dconfig ddp dE dE+ des des+ det det+ deu
dew dew+ df df+ dfS dF dFd dFp dFt dg dg+ di di+ dl dL dL+ dm dm+ dn dn+ dnS do doS dO dOS dp dP drds dRp dRs ds ds+
dt dt+ dtS dT dT+ dTS du du+ dv dv+ dx dx+ dX dy l l+ z sf sv encoding conninfo lo_list password
""".split()
NAMED = ["d users", "d+ users", "d remote_orders", "d+ remote_orders", "d+ spending", "d order_days", "d notes", "d pairs",
         "d users_pkey", "d users_user_id_seq", "dT+ mood", "dT+ pair", "dD+ positive", "det+ remote*", "df+ complain", "df *",
         "sf complain", "sf+ order_count", "sv spending", "sv+ spending", "dx+ postgres_fdw", "d nothing", "d public.u*", "dp users",
         "dE+ remote_*", "des+ orders_server", "dn+ public", "do+ + int4", "dC text", "df+ count", "dconfig *timeout*", "dS pg_class"]
for command in COMMANDS + NAMED:
    if command not in ("password", "l+", "db+"):  # these ask, or tell sizes on disk
        test(f"\\{command}")(lambda: psql(f"\\{command}\n"))

test("echo hidden")(lambda: psql("\\d+ remote_orders\n\\dt+\n\\deu+\n", "-E"))

FORMATS = ["aligned", "asciidoc", "csv", "html", "latex", "latex-longtable", "troff-ms", "unaligned", "wrapped"]
for form in FORMATS:
    test(f"format {form}")(lambda: psql(f"\\pset format {form}\n{JOIN};\n\\x\n{JOIN};\nSELECT * FROM remote_kinds WHERE id <> 2;\n"))

SCRIPTS = {
    "gdesc": f"{JOIN} \\gdesc\nSELECT * FROM remote_kinds \\gdesc\nSELECT 1 AS a, 'x' \\gdesc\nSELECT missing FROM remote_orders \\gdesc\nINSERT INTO notes (body) VALUES ('x') \\gdesc\n",
    "gset": "SELECT count(*) AS n, sum(total_amount) AS total FROM remote_orders \\gset\n\\echo :n :total\nSELECT username AS u FROM users \\gset\nSELECT order_id AS o FROM remote_orders WHERE order_id = :n \\gset\n\\echo :o\n",
    "gexec": "SELECT format('SELECT %s AS n, product_name FROM remote_orders WHERE order_id = %s', order_id, order_id) FROM remote_orders ORDER BY order_id \\gexec\n",
    "gx": f"{JOIN} LIMIT 1 \\gx\n{JOIN} \\g (format=csv tuples_only=on)\n",
    "crosstabview": "SELECT u.username, o.order_status, count(*) FROM users u JOIN remote_orders o USING (user_id) GROUP BY 1, 2 ORDER BY 1, 2 \\crosstabview\n",
    "variables": "\\set id 3\n\\set name 'it''s'\nSELECT product_name, :'name', :\"id\" FROM (SELECT product_name, 1 AS \"3\" FROM remote_orders WHERE order_id = :id) x;\n\\echo :ROW_COUNT :SQLSTATE :ERROR :LAST_ERROR_MESSAGE\nSELECT nope FROM remote_orders;\n\\echo :ROW_COUNT :SQLSTATE :ERROR :LAST_ERROR_SQLSTATE :LAST_ERROR_MESSAGE\n",
    "fetch count": f"\\set FETCH_COUNT 3\n{JOIN};\nSELECT id FROM remote_many ORDER BY id LIMIT 20;\nSELECT 1 / (order_id - 5) FROM remote_orders ORDER BY order_id;\n",
    "on error rollback": f"\\set ON_ERROR_ROLLBACK on\nBEGIN;\n{JOIN};\nSELECT 1 / (order_id - 3) FROM remote_orders;\n{JOIN};\nSELECT count(*) FROM remote_orders;\nCOMMIT;\n",
    "autocommit off": f"\\set AUTOCOMMIT off\n{JOIN};\nSELECT count(*) FROM remote_orders;\nINSERT INTO notes (body) VALUES ('x');\nROLLBACK;\nSELECT count(*) FROM notes;\n",
    "errors, verbose": "\\set VERBOSITY verbose\nSELECT complain('no', 2);\nSELECT missing FROM remote_orders;\nSELECT 1 / (order_id - 3) FROM remote_orders;\nSELECT name FROM remote_absent;\nSELECT f.q, u.username FROM remote_failing f JOIN users u ON u.user_id = f.id;\n\\errverbose\n",
    "errors, terse": "\\set VERBOSITY terse\nSELECT complain('no', 2);\nSELECT 1 / (order_id - 3) FROM remote_orders;\n\\set VERBOSITY sqlstate\nSELECT missing FROM remote_orders;\n\\set SHOW_CONTEXT always\nSELECT complain('hear', 0);\n",
    "notices": "SELECT complain(product_name, 0) FROM remote_orders ORDER BY order_id;\nDROP TABLE IF EXISTS nothing;\n",
    "several at once": f"SELECT 1\\; {JOIN}\\; SELECT 2;\nSELECT 1\\; SELECT 1/0\\; SELECT 2;\n",
    "transactions": f"BEGIN;\n{JOIN};\nSAVEPOINT a;\nSELECT 1 / (order_id - 3) FROM remote_orders;\n{JOIN};\nROLLBACK TO a;\nSELECT count(*) FROM remote_orders;\nCOMMIT;\nBEGIN ISOLATION LEVEL SERIALIZABLE;\n{JOIN};\nEND AND CHAIN;\nSHOW transaction_isolation;\nROLLBACK;\n",
    "timing": f"\\timing on\n{JOIN};\nSELECT 1;\n\\timing off\n",
    "cursors": f"BEGIN;\nDECLARE c SCROLL CURSOR WITH HOLD FOR {JOIN};\nFETCH 2 FROM c;\nCOMMIT;\nFETCH BACKWARD 1 FROM c;\nFETCH ALL FROM c;\nCLOSE c;\n",
    "prepare": f"PREPARE p (int) AS SELECT product_name FROM remote_orders WHERE order_id = $1;\nEXECUTE p (2);\nEXECUTE p (9);\nDEALLOCATE p;\nEXECUTE p (2);\n",
    "connect again": f"{JOIN};\n\\c postgres\nSELECT current_database();\n\\c clients_home\n{JOIN};\n\\c nowhere\n",
    "settings": "SET datestyle = 'SQL, DMY';\nSELECT ts, d FROM remote_kinds WHERE id = 1;\nSET client_encoding = 'LATIN1';\n\\encoding\nSELECT length(t) FROM remote_kinds;\nRESET ALL;\n\\encoding\nSET bytea_output = escape;\nSELECT by FROM remote_kinds;\nSET extra_float_digits = 0;\nSELECT f4, f8 FROM remote_kinds ORDER BY id;\n",
    "listen": "LISTEN news;\nNOTIFY news, 'heard';\nSELECT count(*) FROM remote_orders;\nUNLISTEN *;\n",
    "lo": "SELECT lo_from_bytea(4242, 'abc');\n\\lo_list\n\\lo_unlink 4242\n",
    "nothing": ";\n;;\n-- a comment\n/* remote_orders */\n",
    "explain of local": "EXPLAIN (COSTS OFF) SELECT username FROM users WHERE user_id = 1;\n",
}
for name, script in SCRIPTS.items():
    test(name)(lambda: psql(script))


@test("watch, three times, then cancelled")
def _():
    running = subprocess.Popen(["psql", "-w", "-X", "-At", "-P", "pager=off"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    running.stdin.write("SELECT count(*), 'seen' FROM remote_orders \\watch 1\n")
    running.stdin.flush()
    seen = []
    while len(seen) < 3:
        line = running.stdout.readline()
        if "seen" in line:
            seen.append(line)
    # While it waits for the next turn: nothing is to be cancelled at the server.
    time.sleep(0.3)
    running.send_signal(2)
    running.stdin.write("SELECT count(*) FROM users;\n")
    running.stdin.close()
    rest = [line for line in running.stdout.read().splitlines() if re.fullmatch(r"\d+", line)]
    return [seen, rest, running.wait()]


@test("an interrupt cancels")
def _():
    seen = []
    for query in ("SELECT pg_sleep(30)", "SELECT m.name, pg_sleep(30) FROM remote_many m", "SELECT count(*) FROM remote_many a, remote_many b, remote_many c"):
        running = subprocess.Popen(["psql", "-w", "-X"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        running.stdin.write(f"SELECT 1;\n{query};\nSELECT 2;\n")
        running.stdin.flush()
        time.sleep(1)
        running.send_signal(2)
        output, errors = running.communicate(timeout=30)
        seen.append([running.returncode, output, errors])
    return seen


@test("copy")
def _():
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/rows"
        seen = []
        for options in ("", "csv header", "(format binary)"):
            for query in (JOIN, "SELECT * FROM remote_orders ORDER BY order_id", "SELECT * FROM users ORDER BY 1"):
                seen.append(psql(f"\\copy ({query}) to '{file}' {options}\n")[:2])
                seen.append(pathlib.Path(file).read_bytes().hex())
        pathlib.Path(file).write_text("9100\tone\n9101\ttwo\n")
        for table in ("notes", "remote_notes"):
            seen.append(psql(f"\\copy {table} (id, body) from '{file}'\nSELECT id, body FROM {table} WHERE id >= 9100;\n"))
            seen.append(psql(f"COPY {table} (id, body) FROM STDIN;\n9102\tthree\n\\.\nCOPY {table} (id, body) FROM STDIN;\nx\ty\n\\.\nDELETE FROM {table} WHERE id >= 9100;\n"))
        seen.append(psql(f"COPY ({JOIN}) TO STDOUT;\nCOPY remote_orders TO STDOUT;\n\\copy remote_orders to stdout\n"))
        return seen


@test("completion")
def _():
    """What the Tab key asks of the server, as a terminal shows it."""
    starts = ["SELECT * FROM remote_o", "SELECT * FROM use", "\\d remo", "INSERT INTO no", "ALTER FOREIGN TABLE remote_k",
              "UPDATE users SET user", "CALL add_", "SELECT complai", "DROP VIEW spe", "ALTER SERVER ord", "\\df order_c", "SET stateme", "COPY remote_m"]
    child, terminal = pty.fork()
    if child == 0:
        os.environ["TERM"] = "dumb"
        os.execvp("psql", ["psql", "-w", "-X", "-P", "pager=off"])

    def read(wanted, seconds=10):
        text, end = "", time.monotonic() + seconds
        while not re.search(wanted, text) and time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                text += os.read(terminal, 4096).decode("utf-8", "replace")
        return text

    read("=# ")
    seen = []
    for start in starts:
        os.write(terminal, start.encode() + b"\t")
        # The completed word comes back, after a bell where there is a choice; then
        # nothing more for a while, and the line is given up.
        text = more = read(r"[a-z_]{3}", 5)
        while more:
            more = read(r".", 0.6)
            text += more
        seen.append(text.replace("\r", ""))
        os.write(terminal, b"\x03")
        read("=# ")
    os.write(terminal, b"\\q\n")
    os.waitpid(child, 0)
    if not any("remote_orders " in text for text in seen):
        raise AssertionError(seen)
    return seen


@test("single transaction, commands, list")
def _():
    return [
        psql("", "-c", JOIN, "-c", "SELECT count(*) FROM remote_orders"),
        psql("", "-1", "-c", "INSERT INTO notes (body) VALUES ('one')", "-c", "SELECT 1/0", "-c", JOIN),
        psql("", "-c", f"SELECT 1; {JOIN}; SELECT 2"),
        psql("", "-v", "ON_ERROR_STOP=1", "-c", "SELECT missing FROM remote_orders"),
        psql("", "-At", "-F", "|", "-c", JOIN), psql("", "--csv", "-c", JOIN), psql("", "-l", "-At")[0],
    ]
