"""The drivers: what each needs, made once in a cache, and how its script is started."""

import dataclasses
import hashlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile


@dataclasses.dataclass
class Driver:
    """A script with a client."""

    name: str
    command: list
    environment: dict = dataclasses.field(default_factory=dict)
    # The databases that it finds, by the names of their setups, and how long it may take.
    databases: str = "clients"
    seconds_max: int = 180


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


# Suites of drivers, by the name of the package in whose sources they are published, and
# the folders of it that they need.
SUITES = {
    "asyncpg": ("asyncpg", ["tests"]),
    "psycopg2": ("psycopg2-binary", ["tests"]),
    "pg8000": ("pg8000", ["test", "README.md"]),
    "sqlalchemy": ("SQLAlchemy", ["lib", "test", "setup.cfg", "pyproject.toml"]),
}
SUITE_SECONDS_MAX = 900


def suite(name):
    """A driver's own tests, from the source package of the version that is installed."""
    package, parts = SUITES[name]

    def make_driver(here, cache):
        program, pins = python(here, cache), here / "python/requirements.txt"
        wanted = next(line for line in pins.read_text("utf-8").splitlines() if line.startswith(f"{package}=="))
        folder = cache / "suites" / name

        def make():
            download = folder / "download"
            run(program.parent / "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                "--no-binary", package, "--dest", download, wanted)
            archive, = download.glob("*.tar.gz")
            with tarfile.open(archive) as opened:
                opened.extractall(download, filter="data")
            top, = (entry for entry in download.iterdir() if entry.is_dir())
            for part in parts:
                shutil.move(top / part, folder / part)
            shutil.rmtree(download)

        once(folder, [pins], make)
        return [Driver(f"{name}-suite", [program, here / "suites/run.py", name, folder], databases="suite", seconds_max=SUITE_SECONDS_MAX)]

    return make_driver


# Suites of Rust drivers: the folders of a package that they need, and where they go.
RUST_SUITES = {
    "tokio-postgres": {"tests": "tests"},
    "postgres": {"src/test.rs": "tests/test.rs"},
    "sqlx": {"tests": "tests"},
}
# What the tests connect to, when it is written into them; the tests of parsing such texts stay.
RUST_PLACE = re.compile(r'&format!\("[^"]*\buser=[^"]*",?\)|"(?:[^"]*\buser=[^"]*|127\.0\.0\.1:5433)"')
RUST_PLACE_NOT_IN = "parse.rs"


def rust_suites(here, cache):
    """The workspace with the tests of all of them, from the packages that its lock names."""
    source, folder = here / "suites/rust", cache / "suites/rust"

    def make():
        shutil.copytree(source, folder, dirs_exist_ok=True)
        (folder / "postgres/tests").mkdir()
        shutil.move(folder / "postgres/main.rs", folder / "postgres/tests/main.rs")
        described = subprocess.run(["cargo", "metadata", "--locked", "--format-version", "1"], cwd=folder,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True).stdout
        packages = {package["name"]: pathlib.Path(package["manifest_path"]).parent for package in json.loads(described)["packages"]}
        for name, parts in RUST_SUITES.items():
            for part, place in parts.items():
                (shutil.copytree if (packages[name] / part).is_dir() else shutil.copy)(packages[name] / part, folder / name / place)
        for file in (file for name in ("tokio-postgres", "postgres") for file in (folder / name / "tests").rglob("*.rs")):
            if file.name != RUST_PLACE_NOT_IN:
                file.write_text(RUST_PLACE.sub(r"place::place(\g<0>)", file.read_text("utf-8")), "utf-8")

    once(folder, sorted(file for file in source.rglob("*") if file.is_file()), make)
    return folder


def rust_suite(name):
    def make_driver(here, cache):
        folder, target = rust_suites(here, cache), cache / "suites/rust-target"
        # What needs no server is compiled here, once; the tests are when they are played.
        run("cargo", "build", "--quiet", "--locked", "--package", f"{name}-suite", "--target-dir", target, cwd=folder)
        return [Driver(f"{name}-suite", [sys.executable, here / "suites/cargo.py", name, folder, target], databases="suite",
                       seconds_max=SUITE_SECONDS_MAX)]

    return make_driver


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
    **{f"{name}-suite": suite(name) for name in SUITES},
    **{f"{name}-suite": rust_suite(name) for name in RUST_SUITES},
}


def prepare(here, cache, only, skip):
    """The chosen drivers (all when none is), ready to run."""
    unknown = [name for name in (*only, *skip) if name not in MAKERS]
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}; there are {', '.join(MAKERS)}")
    chosen = [name for name in only or MAKERS if name not in skip]
    return [driver for name, make in MAKERS.items() if name in chosen for driver in make(here, cache)]
