"""Plays a driver's own test suite at the server that the environment names, and prints
one line of JSON for each test.

    run.py SUITE FOLDER     the suite's name, and where its sources were unpacked
"""

import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
TEST_SECONDS_MAX = 60
LOG_CHARACTERS_MAX = 3000


def sqlalchemy():
    place = "postgresql+psycopg://{PGUSER}:{PGPASSWORD}@{PGHOST}:{PGPORT}/{PGDATABASE}".format_map(os.environ)
    files = ["suite.py", "postgresql"]
    return ["--backend-only", "--maxfail=0", "--dburi", place,
            *(f"test/dialect/{'test_' if file.endswith('.py') else ''}{file}" for file in files),
            "test/engine/test_transaction.py", "test/engine/test_execute.py", "test/engine/test_reconnect.py",
            "test/sql/test_returning.py", "test/sql/test_resultset.py", "test/sql/test_sequences.py",
            "test/orm/test_versioning.py", "test/orm/test_unitofwork.py"]


ARGUMENTS = {
    "asyncpg": lambda: ["tests"],
    "psycopg2": lambda: ["tests"],
    "pg8000": lambda: ["--benchmark-skip", "test"],
    "sqlalchemy": sqlalchemy,
}


def main():
    suite, folder = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="pgspan-suite-") as scratch:
        records = pathlib.Path(scratch) / "records"
        environment = {
            **os.environ, "RECORDS": str(records), "LEFT_OUT": str(HERE / f"{suite}.txt"), "PYTHONPATH": str(HERE),
            "PYTHONDONTWRITEBYTECODE": "1",
            **{f"PSYCOPG2_TESTDB{word}": os.environ[name] for word, name in (
                ("", "PGDATABASE"), ("_HOST", "PGHOST"), ("_PORT", "PGPORT"), ("_USER", "PGUSER"), ("_PASSWORD", "PGPASSWORD"))},
        }
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "report", "-p", "no:cacheprovider", "--quiet",
             "-o", f"faulthandler_timeout={TEST_SECONDS_MAX}", "-o", "faulthandler_exit_on_timeout=true",
             *ARGUMENTS[suite]()],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )
        if records.exists():
            print(records.read_text("utf-8"), end="")
        # 1: there were failures, which the records tell.
        if done.returncode not in (0, 1) or not records.exists():
            sys.exit(f"pytest ended with {done.returncode}: {done.stdout[-LOG_CHARACTERS_MAX:]}")


if __name__ == "__main__":
    main()
