"""pgbench in its three protocol modes, with several clients at once: every
transaction must succeed, and what the scripts read and write must be equal."""

import pathlib
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "python"))

from record import test

SCRIPTS = {
    "join": r"""
\set id random(1, 6)
SELECT u.username, ro.product_name FROM users u JOIN remote_orders ro USING (user_id) WHERE ro.order_id = :id;
""",
    "aggregate": """
SELECT u.username, COUNT(ro.order_id), COALESCE(SUM(ro.total_amount), 0) AS spent
FROM users u LEFT JOIN remote_orders ro ON u.user_id = ro.user_id GROUP BY u.user_id, u.username ORDER BY spent DESC;
""",
    "direct": r"""
\set id random(1, 2000)
SELECT name FROM remote_many WHERE id = :id;
""",
    "block": r"""
\set id random(1, 6)
BEGIN;
SELECT username FROM users WHERE user_id = 1 + :id % 5;
SELECT product_name FROM remote_orders WHERE order_id = :id;
INSERT INTO notes (body) VALUES ('bench');
SELECT count(*) FROM remote_orders JOIN users USING (user_id);
COMMIT;
""",
    "pipeline": r"""
\set id random(1, 6)
\startpipeline
SELECT product_name FROM remote_orders WHERE order_id = :id;
SELECT username FROM users WHERE user_id = 2;
SELECT count(*) FROM remote_orders JOIN users USING (user_id);
\endpipeline
""",
    "gset": r"""
SELECT user_id AS who, total_amount AS amount FROM remote_orders ORDER BY order_id LIMIT 1 \gset
SELECT count(*) FROM users WHERE user_id = :who AND :amount = 999.99 \gset found_
\if :found_count = 1
SELECT 1;
\else
SELECT 1 / 0;
\endif
""",
}


def bench(script, mode, *words):
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        done = subprocess.run(["pgbench", "-n", "-M", mode, "-f", file.name, *words], capture_output=True, text=True)
    kept = [line for line in done.stdout.splitlines() if re.match("number of|query mode|scaling", line)]
    return [done.returncode, kept, [line for line in done.stderr.splitlines() if "error" in line.lower()]]


def psql(query):
    done = subprocess.run(["psql", "-wXAt", "-c", query], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return [done.returncode, done.stdout, done.stderr]


for mode in ("simple", "extended", "prepared"):
    for name, script in SCRIPTS.items():
        if name == "pipeline" and mode == "simple":
            continue

        @test(f"{mode}: {name}")
        def _():
            seen = bench(script, mode, "-c", "4", "-j", "2", "-t", "20")
            if seen[0] != 0:
                raise AssertionError(seen)
            return [seen, psql("SELECT count(*) FROM notes WHERE body = 'bench'")]


@test("its own tables and script")
def _():
    seen = []
    for words in (["-i", "-s", "1", "-q"], ["-b", "tpcb-like", "-c", "2", "-t", "50"], ["-b", "select-only", "-M", "prepared", "-c", "2", "-t", "50"]):
        done = subprocess.run(["pgbench", "-n", *words], capture_output=True, text=True)
        seen.append([done.returncode, [line for line in done.stdout.splitlines() if line.startswith("number of")]])
    seen.append(psql("SELECT count(*), sum(bbalance) = (SELECT sum(delta) FROM pgbench_history) FROM pgbench_branches"))
    return seen
