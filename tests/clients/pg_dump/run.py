"""pg_dump, pg_restore and their like: dumps of both players are equal byte for
byte, and what was restored through a player dumps as it was."""

import pathlib
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "python"))

from record import test

work = pathlib.Path(tempfile.mkdtemp(prefix="pgspan-dump-"))


def run(*words, text=""):
    done = subprocess.run(words, input=text, capture_output=True, text=True)
    return [done.returncode, tidy(done.stdout), done.stderr.replace(str(work), "WORK")]


def tidy(dump):
    # \restrict carries a random key in newer minor versions.
    return re.sub(r"^(\\(?:un)?restrict) .*$", r"\1", dump, flags=re.M)


def must(seen):
    if seen[0] != 0:
        raise AssertionError(seen)
    return seen


DUMPS = {
    "plain": [],
    "inserts": ["--inserts", "--rows-per-insert=3"],
    "column inserts": ["--column-inserts"],
    "schema only": ["--schema-only", "--clean", "--if-exists", "--create"],
    "foreign data": ["--include-foreign-data=orders_server", "--exclude-table=remote_absent", "--exclude-table=remote_failing"],
    "one table": ["--table=users"],
    "a foreign table": ["--table=remote_orders", "--include-foreign-data=orders_server"],
    "serializable": ["--serializable-deferrable", "--data-only"],
}
for name, words in DUMPS.items():
    test(f"pg_dump: {name}")(lambda: must(run("pg_dump", *words)))

test("pg_dumpall")(lambda: [line for line in must(run("pg_dumpall", "--globals-only"))[1].splitlines() if "PASSWORD" not in line])

for form in ("custom", "directory", "tar"):

    @test(f"pg_restore: {form}")
    def _():
        file, jobs = work / form, ["--jobs=2"] if form == "directory" else []
        seen = [must(run("pg_dump", f"--format={form}", f"--file={file}", *jobs))]
        listing = must(run("pg_restore", "--list", str(file)))[1]
        # Line by line: the archive's own time and OIDs of large numbers are left out.
        seen.append([line.split(";")[-1].split(" ", 3)[-1] for line in listing.splitlines() if not line.startswith(";")])
        must(run("psql", "-wXq", "-c", "DROP DATABASE IF EXISTS clients_restored WITH (FORCE)"))
        must(run("psql", "-wXq", "-c", "CREATE DATABASE clients_restored TEMPLATE template0"))
        jobs = ["--jobs=2"] if form != "tar" else ["--single-transaction"]
        seen.append(must(run("pg_restore", "--dbname=clients_restored", *jobs, str(file))))
        seen.append(must(run("pg_dump", "--dbname=clients_restored")))
        seen.append(must(run("psql", "-wXAt", "-d", "clients_restored", "-c", "SELECT * FROM spending ORDER BY 1")))
        return seen + [run("psql", "-wXq", "-c", "DROP DATABASE clients_restored WITH (FORCE)")]


@test("psql restores a plain dump")
def _():
    dump = must(run("pg_dump", "--inserts"))[1]
    must(run("psql", "-wXq", "-c", "CREATE DATABASE clients_restored TEMPLATE template0"))
    seen = [run("psql", "-wX", "-q", "-v", "ON_ERROR_STOP=1", "-d", "clients_restored", text=dump)[0]]
    seen.append(must(run("pg_dump", "--dbname=clients_restored", "--inserts")))
    return seen + [run("psql", "-wXq", "-c", "DROP DATABASE clients_restored WITH (FORCE)")]


test("vacuumdb, reindexdb, clusterdb")(lambda: [run("vacuumdb", "--analyze", "-q"), run("reindexdb", "-q"), run("clusterdb", "-q")])
test("createdb, dropdb")(lambda: [run("createdb", "clients_made"), run("dropdb", "clients_made")])
test("createuser, dropuser")(lambda: [run("createuser", "clients_user"), run("dropuser", "clients_user")])
test("pg_isready")(lambda: must(run("pg_isready", "-q")))
