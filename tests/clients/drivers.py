"""The drivers: what each needs, made once in a cache, and how its script is started."""

import dataclasses
import hashlib
import pathlib
import shutil
import subprocess
import sys


@dataclasses.dataclass
class Driver:
    """A script with a client."""

    name: str
    command: list
    environment: dict = dataclasses.field(default_factory=dict)


def run(*words, **options):
    done = subprocess.run([str(word) for word in words], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, words))}\n{done.stdout}")


def once(folder, sources, make):
    """Calls `make` unless `folder` was made from the same sources before."""
    stamp = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    file = folder / "made-from"
    if not file.exists() or file.read_text() != stamp:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make()
        file.write_text(stamp)


def python(here, cache):
    """A virtual environment with the pinned drivers."""
    folder, pins = cache / "python", here / "python/requirements.txt"

    def make():
        run(sys.executable, "-m", "venv", folder)
        run(folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", pins)

    once(folder, [pins], make)
    return folder / "bin/python"


def in_python(name):
    return lambda here, cache: [Driver(name, [python(here, cache), here / name / "run.py"])]


def of_programs(name):
    """A script that runs PostgreSQL's own programs; no packages."""
    return lambda here, cache: [Driver(name, [sys.executable, here / name / "run.py"])]


def node(here, cache):
    folder, source = cache / "node", here / "node-postgres"
    pins = [source / "package.json", source / "package-lock.json"]

    def make():
        for file in pins:
            shutil.copy(file, folder)
        run("npm", "ci", "--silent", "--no-audit", "--no-fund", cwd=folder)

    once(folder, pins, make)
    return [Driver("node-postgres", ["node", source / "run.js"], {"NODE_PATH": str(folder / "node_modules")})]


def java(here, cache):
    jar = pathlib.Path("/usr/share/java/postgresql.jar")
    if not jar.exists():
        sys.exit("the JDBC driver is missing: install libpostgresql-jdbc-java (scripts/bootstrap --clients)")
    folder, sources = cache / "java", sorted((here / "pgjdbc").glob("*.java"))
    once(folder, sources, lambda: run("javac", "-Xlint:all", "-Werror", "-cp", jar, "-d", folder, *sources))
    return [Driver("pgjdbc", ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", f"{folder}:{jar}", "Main"],
                   {"STATEMENTS": str(here / "statements.json")})]


def rust(here, cache):
    """tokio-postgres and sqlx: a workspace of their own, so that ordinary builds do not see it."""
    folder = cache / "rust"
    run("cargo", "build", "--quiet", "--locked", "--manifest-path", here / "rust/Cargo.toml", "--target-dir", folder)
    programs = folder / "debug"
    return [Driver("tokio-postgres", [programs / "with-tokio-postgres"]), Driver("sqlx", [programs / "with-sqlx"])]


MAKERS = {
    "psycopg": in_python("psycopg"),
    "asyncpg": in_python("asyncpg"),
    "sqlalchemy": in_python("sqlalchemy"),
    "node-postgres": node,
    "pgjdbc": java,
    "rust": rust,
    "psql": of_programs("psql"),
    "pgbench": of_programs("pgbench"),
    "pg_dump": of_programs("pg_dump"),
}


def prepare(here, cache, chosen):
    """The chosen drivers (all when none is), ready to run."""
    unknown = [name for name in chosen if name not in MAKERS]
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}; there are {', '.join(MAKERS)}")
    return [driver for name, make in MAKERS.items() if not chosen or name in chosen for driver in make(here, cache)]
