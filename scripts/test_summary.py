#!/usr/bin/env python3
"""Tells how a run of the tests went: the seconds of every suite, the ten slowest tests, what was skipped and why, and
last "N passed, N failed, N skipped", which also goes to a file as three numbers.

A test that could not run prints "SKIPPED: reason". No suite may: what `make test` needs it installs, so a skipped test
fails the run.

usage: test_summary.py JUNIT RUNNERS_EXIT_CODE TOTALS_FILE
"""

import re
import sys
import xml.etree.ElementTree as tree
from collections import defaultdict

SKIPPED = re.compile(r"^\s*SKIPPED:\s*(.*)$", re.MULTILINE)


def suite_of(program: str, test: str) -> str:
    """The suite's name: a module of the end-to-end tests, "command" for the binary's own, else the crate's."""
    if program == "holdfast::e2e":
        return test.split("::")[0]
    crate = program.split("::")[0]
    return "command" if crate == "holdfast" else crate.removeprefix("holdfast-")


def main(junit: str, code: int, totals: str) -> int:
    suites: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0, 0.0])  # passed, failed, skipped, seconds
    tests, reasons, failures = [], [], []
    try:
        programs = tree.parse(junit).getroot().iter("testsuite")
    except (OSError, tree.ParseError) as error:
        print(f"the run left no result: {error}")
        programs = iter(())
    for program in programs:
        for case in program.iter("testcase"):
            name, seconds = case.get("name", ""), float(case.get("time", 0))
            suite = suite_of(program.get("name", ""), name)
            skips = SKIPPED.findall(case.findtext("system-out") or "")
            failed = case.find("failure") is not None or case.find("error") is not None
            tests.append((seconds, suite, name))
            suites[suite][1 if failed else 2 if skips else 0] += 1
            suites[suite][3] += seconds
            reasons += [f"{suite} {name}: {reason}" for reason in skips]
            failures += [f"{suite} {name}"] if failed else []
    passed, failed, skipped = (int(sum(suite[column] for suite in suites.values())) for column in range(3))

    print("\nsuite          tests  failed  skipped  seconds (added up; suites run side by side)")
    for suite, (good, bad, left, seconds) in sorted(suites.items(), key=lambda item: -item[1][3]):
        print(f"{suite:14} {good + bad + left:5.0f}  {bad:6.0f}  {left:7.0f}  {seconds:7.1f}")
    print("\nthe ten slowest tests, seconds")
    for seconds, suite, name in sorted(tests, reverse=True)[:10]:
        print(f"{seconds:7.1f}  {suite}  {name}")
    for title, lines in (("failed", failures), ("SKIPPED, and nothing may be", reasons)):
        for line in lines:
            print(f"{title}: {line}")
    if skipped or (not failed and (code or not passed)):
        failed += 1  # something was left out, the runner itself failed, or nothing ran
    with open(totals, "w", encoding="ascii") as file:
        print(passed, failed, skipped, file=file)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
