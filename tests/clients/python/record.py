"""What the Python scripts share: each test prints one line of JSON, which the
runner compares with the other player's line of the same name.

A test that raises is broken whoever plays it: a script catches the errors that
it expects (`attempt`) and records their fields.
"""

import json
import os
import pathlib
import re
import traceback

STATEMENTS = json.loads(
    (pathlib.Path(__file__).resolve().parent.parent / "statements.json").read_text("utf-8")
)


def plain(value):
    """A value as JSON that keeps its type."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return f"{type(value).__name__}:{value!r}"


def emit(name, **outcome):
    """One line: `value` of what the test recorded, or why it is `broken`."""
    print(json.dumps({"test": name, **outcome}, ensure_ascii=False), flush=True)


def test(name):
    """Runs the decorated function at once and records what it returns."""

    def run(function):
        try:
            value = function()
        except Exception:
            emit(name, broken=traceback.format_exc())
        else:
            emit(name, value=plain(value))
        return function

    return run


async def test_async(name, coroutine):
    """The same for a coroutine."""
    try:
        value = await coroutine
    except Exception:
        emit(name, broken=traceback.format_exc())
    else:
        emit(name, value=plain(value))


def expect(statement, error):
    """A statement must fail with the SQLSTATE that the data file names, or succeed."""
    wanted = statement.get("error")
    if wanted != error:
        raise AssertionError(f"SQLSTATE {error}, wanted {wanted}")


def renumber(sql, style):
    """`$1` in another style: `pyformat` gives `%(p1)s`, `named` gives `:p1`."""
    if style == "pyformat":
        sql = sql.replace("%", "%%")
    form = {"pyformat": r"%(p\1)s", "named": r":p\1"}[style]
    return re.sub(r"\$(\d+)", form, sql)


def source():
    """Where the source is, past everything: libpq's words."""
    return dict(
        host=os.environ["SOURCE_HOST"],
        port=int(os.environ["SOURCE_PORT"]),
        dbname="clients_source",
        user=os.environ["PGUSER"],
        password=os.environ["PGPASSWORD"],
    )
