"""A pytest plugin: one line of JSON for each test of a suite, for the runner.

Tests that are left out for a reason (`LEFT_OUT`) are taken away here; an entry that
matches none fails the run. Skipped tests leave no line: what one player skips and the
other runs is a difference, what both skip is not counted.
"""

import json
import os

import pytest

import left_out

TEXT_CHARACTERS_MAX = 3000


class Report:
    def __init__(self):
        self.outcomes = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config, items):
        try:
            kept, unmet = left_out.divide([item.nodeid for item in items], left_out.read(os.environ["LEFT_OUT"]))
        except left_out.NotAList as error:
            raise pytest.UsageError(str(error)) from error
        if unmet:
            raise pytest.UsageError(f"left out, but there is no such test: {', '.join(unmet)}")
        kept = set(kept)
        gone = [item for item in items if item.nodeid not in kept]
        items[:] = [item for item in items if item.nodeid in kept]
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
