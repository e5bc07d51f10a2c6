"""The code of the README and the documentation, run as it stands, and every link."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "SECURITY")), *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_first_block_prints_what_the_readme_says() -> None:
    run = subprocess.run(
        [sys.executable, "-c", blocks("python")[0]], capture_output=True, text=True, check=True, cwd=ROOT
    )
    shape = re.compile(r"(?<==)A[\w-]+(\.\.\.)?(?=;)")  # the token differs each time
    assert shape.sub("TOKEN", run.stdout) == shape.sub("TOKEN", blocks("text")[0])


async def test_the_starlette_application_runs_as_it_stands(mongod_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGODB_URI", mongod_uri)
    monkeypatch.setenv("SESSION_KEY", "k" * 32)
    namespace: dict[str, Any] = {}
    exec(compile(blocks("python")[1], "README.md", "exec"), namespace)
    app = namespace["app"]
    transport = httpx2.ASGITransport(app)
    async with (
        namespace["lifespan"](app),
        httpx2.AsyncClient(transport=transport, base_url="https://shop.example") as http,
    ):
        visits = [(await http.get("/")).text for _ in range(3)]
    assert visits == ["visit 1", "visit 2", "visit 3"]


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name == "docs"], ids=lambda page: page.name)
def test_the_code_of_the_documentation_runs(page: Path) -> None:
    namespace: dict[str, Any] = {}  # the blocks of a page build on each other
    for block in blocks("python", page.read_text()):
        exec(compile(block, page.name, "exec"), namespace)


def anchors(page: Path) -> set[str]:
    """What a link may end with: a page's headings, as GitHub makes fragments of them."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def test_a_heading_is_a_fragment_as_on_github(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# Your devices\n## `pop_once`, at once: 10 s\n```sh\n# no heading\n```\n")
    assert anchors(tmp_path / "page.md") == {"your-devices", "pop_once-at-once-10-s"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [each for each in re.findall(r"\]\(([^)\s]+)", page.read_text()) if "://" not in each]
    for target in targets:
        path, _, fragment = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        assert not fragment or fragment in anchors(there), target
