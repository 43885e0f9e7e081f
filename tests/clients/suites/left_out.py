"""Which tests of a suite are not played: `id -- reason` lines, read for every kind of suite."""

import pathlib
import re


class NotAList(Exception):
    """A line without a reason."""


def read(file):
    """Beginnings of test ids as they are written (`*` stands for anything), and what matches them."""
    out = []
    for line in pathlib.Path(file).read_text("utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            place, _, reason = line.partition(" -- ")
            if not reason.strip():
                raise NotAList(f"left out without a reason: {place}")
            out.append((place.strip(), re.compile(".*".join(map(re.escape, place.strip().split("*"))))))
    return out


def divide(names, places):
    """The names that are played, and the entries that match none."""
    kept, met = [], set()
    for name in names:
        matching = [place for place, pattern in places if pattern.match(name)]
        met.update(matching)
        if not matching:
            kept.append(name)
    return kept, [place for place, _ in places if place not in met]
