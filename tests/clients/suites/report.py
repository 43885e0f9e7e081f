"""A pytest plugin: one line of JSON for each test of a suite, for the runner.

Tests that are left out for a reason (`LEFT_OUT`) are taken away here; an entry that
matches none fails the run. Skipped tests leave no line: what one player skips and the
other runs is a difference, what both skip is not counted.
"""

import json
import os
import pathlib
import re

import pytest

TEXT_CHARACTERS_MAX = 3000


def left_out():
    """Beginnings of test ids (`*` stands for anything), from `id -- reason` lines."""
    out = []
    for line in pathlib.Path(os.environ["LEFT_OUT"]).read_text("utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            place, _, reason = line.partition(" -- ")
            if not reason.strip():
                raise pytest.UsageError(f"left out without a reason: {place}")
            out.append((place.strip(), re.compile(".*".join(map(re.escape, place.strip().split("*"))))))
    return out


class Report:
    def __init__(self):
        self.outcomes = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config, items):
        places = left_out()
        kept, gone, met = [], [], set()
        for item in items:
            matching = [place for place, pattern in places if pattern.match(item.nodeid)]
            met.update(matching)
            (gone if matching else kept).append(item)
        for place, _ in places:
            if place not in met:
                raise pytest.UsageError(f"left out, but there is no such test: {place}")
        items[:] = kept
        config.hook.pytest_deselected(items=gone)

    def pytest_runtest_logreport(self, report):
        outcome = self.outcomes.setdefault(report.nodeid, {})
        if report.failed:
            outcome.setdefault("broken", f"{report.when}: {report.longreprtext[-TEXT_CHARACTERS_MAX:]}")
        elif report.when == "call" and report.passed:
            outcome["value"] = "passed"

    def pytest_sessionfinish(self):
        with open(os.environ["RECORDS"], "w", encoding="utf-8") as file:
            for test, outcome in self.outcomes.items():
                if "broken" in outcome:
                    outcome.pop("value", None)
                if outcome:
                    file.write(json.dumps({"test": test, **outcome}, ensure_ascii=False) + "\n")


def pytest_configure(config):
    config.pluginmanager.register(Report(), "pgspan-report")
