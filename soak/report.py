"""The page docs/promises.md, made of the results: ``python -m soak.report``.

The page is written by people; what stands between two markers, ``<!-- NAME -->`` and ``<!-- end -->``, is written here.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from .promises import PAINS, PROMISES, Promise
from .result import ROOT, Result, read

PAGE = ROOT / "docs" / "promises.md"

MARKED = re.compile(r"(?<=^<!-- )(?!end )(\w+)( -->\n).*?(?=^<!-- end -->$)", re.DOTALL | re.MULTILINE)

KINDS = {"did": "done", "faults": "fault", "losses": "promise broken"}
"""What was counted, and what the page calls it."""


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rows(*heads: str) -> Iterator[str]:
    yield _line(*heads)
    yield _line(*["---"] * len(heads))


def _tests(tests: Iterable[str]) -> str:
    return ", ".join(f"`{each}`" for each in tests)


def _seen(promise: Promise, results: Mapping[str, Result]) -> str:
    """The figures that show a promise, the part's name before them."""
    figures = {
        part: ", ".join(f"{results[part].counts[name]:,} {name}" for name in names)
        for part, names in promise.seen.items()
        if part in results
    }
    return "; ".join(f"*{part}*: {told}" for part, told in figures.items()) or "no part of the soak: the tests alone"


def summary(results: Mapping[str, Result]) -> Iterator[str]:
    """Lines of Markdown: each part in a row."""
    yield from _rows("part", "what was done", "took", "faults that happened", "promises broken", "")
    for name, result in results.items():
        verdict = "**failed**" if result.failures else "held"
        faults, losses = sum(result.faults.values()), sum(result.losses.values())
        yield _line(f"[{name}](#{name})", result.title, f"{result.took:.0f} s", f"{faults:,}", f"{losses:,}", verdict)
    yield ""
    yield f"In all {sum(result.took for result in results.values()) / 60:.0f} minutes."


def circumstances(results: Mapping[str, Result]) -> Iterator[str]:
    """Lines of Markdown: when and on what it ran. What was not the same for all parts stands there as often."""
    told: dict[str, list[str]] = {}
    for result in results.values():
        for what, value in result.circumstances.items():
            told.setdefault(what, [])
            if value not in told[what]:
                told[what].append(value)
    if dates := sorted(told.pop("date", [])):  # of each part's beginning
        yield f"- date: {dates[0]}" + (f" to {dates[-1]}" if len(dates) > 1 else "")
    for what, values in told.items():
        yield f"- {what}: {', '.join(values)}"


def promises(results: Mapping[str, Result]) -> Iterator[str]:
    """Lines of Markdown: what is promised, the tests, the figures."""
    yield from _rows("we promise", "tests, in `tests/`", "the last soak saw")
    for promise in PROMISES:
        yield _line(promise.text, _tests(promise.tests), _seen(promise, results))


def pains() -> Iterator[str]:
    """Lines of Markdown: what people suffer from elsewhere."""
    yield from _rows("pain", "reported by users of", "here", "tests, in `tests/`")
    for pain in PAINS:
        yield _line(pain.text, pain.where, pain.answer, _tests(pain.tests))


def section(result: Result) -> Iterator[str]:
    """Lines of Markdown: everything that a part has counted."""
    yield f"{result.title[0].upper()}{result.title[1:]}."
    yield ""
    yield from _rows("", "", "count")
    for kind, word in KINDS.items():
        counts: Mapping[str, float] = getattr(result, kind)
        for name, count in counts.items():
            least = f" (at least {result.least[name]:,})" if name in result.least else ""
            yield _line(word, name, f"{count:,}{least}")
    yield from _more([result.notes] if result.notes else [])
    yield from _more(f"**Failed**: {failure}." for failure in result.failures)


def _more(paragraphs: Iterable[str]) -> Iterator[str]:
    for paragraph in paragraphs:
        yield f"\n{paragraph}"


def render(page: str, results: Mapping[str, Result]) -> str:
    """The page with these results in it."""

    def filled(match: re.Match[str]) -> str:
        name = match[1]
        lines: Sequence[str]
        match name:
            case "summary":
                lines = list(summary(results))
            case "circumstances":
                lines = list(circumstances(results))
            case "promises":
                lines = list(promises(results))
            case "pains":
                lines = list(pains())
            case _:
                lines = list(section(results[name])) if name in results else ["Not run yet."]
        return f"{name}{match[2]}\n" + "\n".join(lines) + "\n\n"

    return MARKED.sub(filled, page)


def main() -> None:
    """Write the page."""
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8"), read()), encoding="utf-8")


if __name__ == "__main__":
    main()
