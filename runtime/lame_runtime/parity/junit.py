"""Writes verified rows as a JUnit XML report, which CI systems show as tests."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from lame_runtime.files.atomic import atomic_text
from lame_runtime.parity.verify import VerifiedRow

# XML 1.0 does not allow other control characters, but ElementTree writes them unchanged
_NOT_XML = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")


def write_junit(rows: list[VerifiedRow], suite: str, path: Path) -> None:
    """Writes one test case per row: failed if its gate is not met, skipped if it has no gate.

    Args:
        rows: the return value of `verify`.
        suite: name of the test suite, usually the bundle's folder.
        path: the XML file, which is replaced only when it is complete.

    Raises:
        StorageError: the file cannot be written.
    """
    results = [row.today for row in rows]
    attributes = {
        "name": suite,
        "tests": str(len(results)),
        "failures": str(sum(result.passed is False for result in results)),
        "skipped": str(sum(result.passed is None for result in results)),
        # a graph that did not run is a failed row, not an error
        "errors": "0",
    }
    element = ElementTree.Element("testsuite", attributes)
    for row in rows:
        result = row.today
        # JUnit groups cases by class name, here by graph
        graph = result.graph or "contract"
        name = f"{result.comparison} [{result.modality}]"
        case = ElementTree.SubElement(
            element, "testcase", {"classname": f"{suite}.{graph}", "name": name}
        )
        if result.passed is False:
            ElementTree.SubElement(case, "failure", {"message": result.describe()})
        elif result.passed is None:
            ElementTree.SubElement(case, "skipped", {"message": "reported without a gate"})
        lines = [f"today: {result.describe()}"]
        if row.certified is not None:
            lines.append(f"certificate: {row.certified.describe()}")
        lines.append(f"backend: {row.backend or 'nothing ran'}")
        ElementTree.SubElement(case, "system-out").text = "\n".join(lines)
    # GitLab, Jenkins and GitHub's report actions all accept a root of <testsuites>
    root = ElementTree.Element("testsuites")
    root.append(element)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
    atomic_text(path, _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text) + "\n")
