#!/usr/bin/env python3
"""Real clients at PostgreSQL and at the gateway: what each driver sees must be equal.

Every folder with a driver is played twice against the same servers and databases
that are made anew before each run: directly at home, and through the gateway.
Each test of a driver prints one line of JSON; the lines are compared by name.
"""

import argparse
import difflib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import drivers

HERE = pathlib.Path(__file__).resolve().parent
HOME, SOURCE = "clients_home", "clients_source"
# Setups: a driver finds the copies of these databases under the names above.
SETUPS = {"clients": ("setup_home.sql", "setup_source.sql"), "suite": ("suites/home.sql", "suites/source.sql")}
# Roles that suites log in as, besides postgres, and their passwords: the gateway has to know
# them. suites/home.sql makes the first three; tests of pg8000 make the last.
GATEWAY_USERS = {"pass_user": "password", "md5_user": "password", "scram_user": "password", "boltzmann": "cha\uff6fs"}
SHOWN_CHARACTERS_MAX = 1500


def template(name, setup):
    return f"{name}_template_{setup}"


class Lab:
    """Real clusters and a gateway: one of our own, or one that is described."""

    def __init__(self, env_file, program):
        self.program, self.folder = program, None
        if env_file:
            text = pathlib.Path(env_file).read_text("utf-8")
        else:
            self.folder = tempfile.mkdtemp(prefix="pgspan-clients-")
            os.rmdir(self.folder)
            users = (word for name, password in GATEWAY_USERS.items() for word in ("--gateway-user", f"{name}={password}"))
            self.pgspan("up", "--server-setting", "fsync=off", "--server-setting", "max_connections=200", *users)
            text = self.pgspan("env", "--json")
        described = json.loads(text)
        self.password = described["database_password"]
        places = described["connection_info"]
        self.home, self.source = places["servers"]["users_writer"], places["servers"]["orders_writer"]
        self.foreign, self.gateway = places["foreign_server"], places["users_writer"]

    def pgspan(self, command, *words):
        done = subprocess.run(
            [self.program, "lab", command, "--dir", self.folder, *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )
        if done.returncode != 0:
            sys.exit(f"pgspan lab {command}: {done.stdout}{done.stderr}")
        return done.stdout

    def close(self):
        if self.folder:
            self.pgspan("down")

    def psql(self, place, database, *words, script=None):
        command = ["psql", "-w", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", place["host"],
                   "-p", str(place["port"]), "-U", "postgres", "-d", database, *words]
        done = subprocess.run(command, input=script or "", capture_output=True, text=True,
                              env={**os.environ, "PGPASSWORD": self.password})
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def make_templates(self, setups):
        """The databases as every run finds them; copies keep the OIDs."""
        for setup in setups:
            home, source = (HERE / file for file in SETUPS[setup])
            for place, name in ((self.source, SOURCE), (self.home, HOME)):
                self.drop(place, template(name, setup))
                self.fresh(place, name, "template0")
            self.psql(self.source, SOURCE, script=source.read_text("utf-8"))
            self.psql(self.home, HOME, "-v", f"source_host={self.foreign['host']}", "-v", f"source_port={self.foreign['port']}",
                      "-v", f"source_password={self.password}", script=home.read_text("utf-8"))
            for place, name in ((self.source, SOURCE), (self.home, HOME)):
                self.psql(place, "postgres", "-c", f"ALTER DATABASE {name} RENAME TO {template(name, setup)}")

    def drop(self, place, name):
        self.psql(place, "postgres", "-c", f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def fresh(self, place, name, original):
        self.drop(place, name)
        self.psql(place, "postgres", "-c", f"CREATE DATABASE {name} TEMPLATE {original}")

    def routes(self):
        """Statements per strategy since the gateway started."""
        counts = {}
        for line in self.psql(self.gateway, "postgres", "-c", "SHOW pgspan.routes").splitlines():
            if "a defect of the gateway" in line:
                sys.exit(line)
            strategy, *_, count = line.split("|")
            counts[strategy] = counts.get(strategy, 0) + int(count)
        return counts


def play(lab, driver, place):
    """One driver at one player, on databases of its own: its records by name."""
    for at, name in ((lab.source, SOURCE), (lab.home, HOME)):
        lab.fresh(at, name, template(name, driver.databases))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PG")},
        "PGHOST": place["host"], "PGPORT": str(place["port"]), "PGUSER": "postgres",
        "PGPASSWORD": lab.password, "PGDATABASE": HOME, "TZ": "UTC", "LC_ALL": "C.UTF-8",
        "SOURCE_HOST": lab.source["host"], "SOURCE_PORT": str(lab.source["port"]),
        **driver.environment,
    }
    began = time.monotonic()
    try:
        done = subprocess.run(driver.command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              env=environment, timeout=driver.seconds_max)
        end, output, trouble = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as late:
        end, trouble = "out of time", ""
        output = (late.stdout or b"").decode("utf-8", "replace")
    records = {}
    for line in output.splitlines():
        try:
            record = json.loads(line)
            name = record.pop("test")
        except (ValueError, KeyError):
            record, name = {"broken": f"not a record: {line}"}, f"line {len(records)}"
        if name in records:
            record = {"broken": "two records of this name"}
        records[name] = record
    if end != 0:
        records["(the script's end)"] = {"broken": f"{end}: {trouble}"}
    return records, time.monotonic() - began


def load_divergences():
    """Reviewed differences: `driver/test: reason` a line."""
    known = {}
    for line in (HERE / "divergences.txt").read_text("utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            place, _, reason = line.partition(" -- ")
            if not reason.strip():
                sys.exit(f"divergences.txt: {place}: a reason is missing")
            known[place.strip()] = reason.strip()
    return known


def shorten(text):
    return text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + " …"


def explain(direct, gateway):
    """The lines in which two records differ."""
    one, two = (json.dumps(record, ensure_ascii=False, indent=1).splitlines() for record in (direct, gateway))
    changed = [line for line in difflib.unified_diff(one, two, "PostgreSQL", "gateway", n=1, lineterm="")]
    return shorten("\n".join(f"    {line}" for line in changed))


def judge(name, direct, gateway, known, used):
    """same, different, known: why, and how many of each."""
    totals = {"same": 0, "different": 0, "known": 0}
    for test in dict.fromkeys([*direct, *gateway]):
        one, two = direct.get(test), gateway.get(test)
        place = f"{name}/{test}"
        if one == two and "broken" not in one:
            totals["same"] += 1
        elif one is not None and "broken" in one:
            totals["different"] += 1
            print(f"  BROKEN {place}\n    {shorten(one['broken'])}")
        elif place in known:
            totals["known"] += 1
            used.add(place)
        else:
            totals["different"] += 1
            print(f"  DIFFERENT {place}\n{explain(one, two)}")
    return totals


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pgspan", default=os.environ.get("PGSPAN_BIN", "pgspan"), help="the pgspan program")
    parser.add_argument("--cache", required=True, help="where environments of drivers are made")
    parser.add_argument("--lab-env", help="servers as `pgspan lab env --json` tells them")
    parser.add_argument("--only", help="drivers, with commas between", default="")
    parser.add_argument("--skip", help="drivers to leave out, with commas between", default="")
    parser.add_argument("--gateway", help="HOST:PORT of another gateway in front of the same servers")
    parser.add_argument("--report", help="write the totals of each driver into this file, for the compatibility page")
    parser.add_argument("--keep", help="write the records of both players into this folder")
    options = parser.parse_args()
    only, skip = ([name for name in words.split(",") if name] for words in (options.only, options.skip))
    cache = pathlib.Path(options.cache).resolve()
    cache.mkdir(parents=True, exist_ok=True)
    made = drivers.prepare(HERE, cache, only, skip)
    known, used = load_divergences(), set()
    lab = Lab(options.lab_env, options.pgspan)
    try:
        if options.gateway:
            host, _, port = options.gateway.rpartition(":")
            lab.gateway = {"host": host, "port": int(port)}
        lab.make_templates(dict.fromkeys(driver.databases for driver in made))
        totals = {"same": 0, "different": 0, "known": 0}
        lines = []
        for driver in made:
            direct, direct_seconds = play(lab, driver, lab.home)
            before = lab.routes()
            gateway, gateway_seconds = play(lab, driver, lab.gateway)
            after = lab.routes()
            if options.keep:
                folder = pathlib.Path(options.keep)
                folder.mkdir(parents=True, exist_ok=True)
                for player, records in (("direct", direct), ("gateway", gateway)):
                    text = json.dumps(records, ensure_ascii=False, indent=1)
                    (folder / f"{driver.name}.{player}.json").write_text(text, "utf-8")
            found = judge(driver.name, direct, gateway, known, used)
            routes = {name: after[name] - before.get(name, 0) for name in after}
            lines.append({"name": driver.name, **found, "routes": {name: count for name, count in routes.items() if count}})
            routes = ", ".join(f"{name} {count}" for name, count in sorted(routes.items()) if count)
            print(f"{driver.name:<16} {sum(found.values()):>5} tests, {found['same']:>5} same, {found['different']:>3} different, "
                  f"{found['known']:>2} known divergences   {direct_seconds:.1f} s and {gateway_seconds:.1f} s   {routes}", flush=True)
            for word, count in found.items():
                totals[word] += count
    finally:
        lab.close()
    played = {driver.name for driver in made}
    for place in known:
        if place not in used and place.split("/")[0] in played:
            totals["different"] += 1
            print(f"  divergences.txt: {place} is not different any more: delete it")
    print(f"clients: {sum(totals.values())} tests, {totals['same']} same, {totals['different']} different, {totals['known']} known divergences")
    if options.report:
        text = json.dumps({"drivers": lines}, ensure_ascii=False, indent=1, sort_keys=True)
        pathlib.Path(options.report).write_text(text + "\n", "utf-8")
    sys.exit(1 if totals["different"] or not totals["same"] else 0)


if __name__ == "__main__":
    main()
