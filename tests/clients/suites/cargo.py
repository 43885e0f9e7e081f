"""Plays a Rust driver's own test suite at the server that the environment names, and prints
one line of JSON for each test.

    cargo.py SUITE FOLDER TARGET     the suite's name, the workspace with its sources, and
                                     the folder in which it is compiled

Every test is a process of its own, so that one that hangs or aborts is one test.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import urllib.parse

import left_out

HERE = pathlib.Path(__file__).resolve().parent
TEST_SECONDS_MAX = 120
TEXT_CHARACTERS_MAX = 3000


def build(suite, folder, target, environment):
    """The programs of the suite's tests, by name."""
    # sqlx's macros ask the database for each statement while they are compiled.
    for file in (folder / suite / "tests").rglob("*.rs"):
        file.touch()
    done = subprocess.run(
        ["cargo", "test", "--quiet", "--locked", "--no-run", "--package", f"{suite}-suite", "--message-format", "json",
         "--target-dir", target],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode != 0:
        texts = [message["message"]["rendered"] for message in messages if message.get("message", {}).get("level") == "error"]
        sys.exit(f"not compiled: {''.join(texts)[:TEXT_CHARACTERS_MAX]}{done.stderr[-TEXT_CHARACTERS_MAX:]}")
    return {message["target"]["name"]: message["executable"] for message in messages
            if message.get("executable") and "test" in message["target"]["kind"]}


def play(program, test, folder, environment):
    """What became of one test; nothing when it asks to be ignored."""
    try:
        done = subprocess.run([program, "--exact", test, "--nocapture"], cwd=folder, env=environment,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=TEST_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        return {"broken": f"more than {TEST_SECONDS_MAX} s"}
    output = done.stdout.decode("utf-8", "replace")
    end = re.search(r"test result: .* (\d+) passed; (\d+) failed; (\d+) ignored;", output)
    if done.returncode == 0 and end and end.groups() == ("1", "0", "0"):
        return {"value": "passed"}
    if done.returncode == 0 and end and end.groups() == ("0", "0", "1"):
        return None
    return {"broken": f"{done.returncode}: {output[-TEXT_CHARACTERS_MAX:]}"}


def main():
    suite, (folder, target) = sys.argv[1], map(pathlib.Path, sys.argv[2:])
    words = {name: urllib.parse.quote(value, safe="") for name, value in os.environ.items()}
    environment = {**os.environ, "RUST_BACKTRACE": "0", "DATABASE_URL": "postgresql://{PGUSER}:{PGPASSWORD}@{PGHOST}:{PGPORT}/{PGDATABASE}".format_map(words)}
    for setup in (folder / suite / name for name in ("setup.sql", "tests/postgres/setup.sql")):
        if setup.exists():
            subprocess.run(["psql", "-w", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", setup], stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, check=True)
    programs = build(suite, folder, target, environment)
    tests = {}
    for name, program in sorted(programs.items()):
        listed = subprocess.run([program, "--list", "--format", "terse"], stdin=subprocess.DEVNULL, capture_output=True,
                                text=True, check=True, cwd=folder / suite, env=environment).stdout
        for line in listed.splitlines():
            test, _, kind = line.rpartition(": ")
            if kind == "test":
                tests[f"{name}::{test}"] = (program, test)
    kept, unmet = left_out.divide(tests, left_out.read(HERE / f"{suite}.txt"))
    if unmet:
        sys.exit(f"left out, but there is no such test: {', '.join(unmet)}")
    for name in kept:
        outcome = play(*tests[name], folder / suite, environment)
        if outcome:
            print(json.dumps({"test": name, **outcome}, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
