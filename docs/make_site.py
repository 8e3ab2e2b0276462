"""Builds the site from the documents, the docstrings and public traces:  python docs/make_site.py

Into ``build/site``, which opens from the disk and loads nothing from a network. A link that leads nowhere,
a name of the API that is not there and a page that would load something from elsewhere end it with 1.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "build"
SITE = BUILT / "site"
SOURCES = BUILT / "site-sources"
TRACES = ROOT / "tests" / "data" / "traces"

PAGES = {  # of the repository, in the order of the site: title
    "README.md": "attnprof",
    "docs/tutorial.md": "The first hour",
    "docs/serving.md": "A server",
    "docs/whole-model.md": "The whole model",
    "docs/cli.md": "Commands",
    "docs/exit-codes.md": "Exit codes",
    "docs/evidence.md": "Evidence",
    "docs/known-differences.md": "Known differences",
    "docs/compatibility.md": "Compatibility",
    "docs/reliability.md": "Reliability",
    "benchmarks/README.md": "Benchmarks",
    "docs/architecture.md": "Architecture",
    "CONTRIBUTING.md": "Contributing",
    "tests/data/golden/README.md": "Golden data",
    "tests/data/golden/fa3.README.md": "Golden data of FlashAttention-3",
    "tests/data/README.md": "Public traces",
    "CHANGELOG.md": "Changes",
}
_AFTER = "docs/exit-codes.md"  # the gallery and the API follow it
_FILES = ("constraints.txt", "LICENSE")  # linked, as they are
_LINK = re.compile(r"(?<=\]\()[^)\s]+(?=\))")  # of images too

API = """# Python

What notebooks and programs use. Everything else of the package may change.

::: attnprof.runs.run.load
::: attnprof.runs.run.Run
::: attnprof.inside.recording.record
::: attnprof.dispatch.predict
::: attnprof.model.AttentionCall
::: attnprof.model.Gpu
::: attnprof.model.Prediction
::: attnprof.model.KernelLaunch
::: attnprof.model.Reason
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """A trace of the gallery: its file, what it is of, and which figure is drawn of it."""

    file: str
    title: str
    figure: str


GALLERY = (
    Shown("torch_b200_vllm_eager_trtllmgen_fmha.json.gz", "vLLM on a B200: TensorRT-LLM's kernels", "phases"),
    Shown("torch_h100_qwen1.5-0.5b_pytorch_flash.json.gz", "Qwen1.5-0.5B on an H100: torch's flash", "calls"),
    Shown("torch_mi300x_sglang_qwen3-8b_decode.json.gz", "SGLang on an MI300X: one decode step", "step"),
    Shown("nsys2026.2_h100x2_flash_fwd_nccl_slice.sqlite.gz", "Two H100 under Nsight Systems", "calls"),
)


def main() -> int:
    """0: built, and every link leads somewhere here."""
    shutil.rmtree(SOURCES, ignore_errors=True)
    shutil.rmtree(SITE, ignore_errors=True)
    SOURCES.mkdir(parents=True)
    for path in PAGES:
        (SOURCES / page_of(path)).write_text(page_text(path), encoding="utf-8")
    for name in _FILES:
        shutil.copy(ROOT / name, SOURCES / f"{name}.txt" if "." not in name else SOURCES / name)
    for image in (ROOT / "docs").glob("*.png"):
        shutil.copy(image, SOURCES)
    (SOURCES / "api.md").write_text(API, encoding="utf-8")
    gallery(SOURCES / "gallery")
    (BUILT / "zensical.toml").write_text(settings(), encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", "zensical.toml"]
    built = subprocess.run(command, cwd=BUILT, check=False)
    if built.returncode != 0:
        return 1
    wrong = [*dead_links(SITE), *loaded_from_elsewhere(SITE)]
    print("\n".join(wrong) or f"{SITE}: {len(list(SITE.rglob('*.html')))} pages")
    return 1 if wrong else 0


def page_of(path: str) -> str:
    """The name among the site's sources of a document of the repository."""
    if path == "README.md":
        return "index.md"
    folder, _, name = path.rpartition("/")
    return f"{folder.rpartition('/')[2]}.md" if name == "README.md" else name.lower()


def page_text(path: str) -> str:
    """A document with its links leading where the site has what they name."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return _LINK.sub(lambda found: target(path, found[0]), text)


def target(path: str, to: str) -> str:
    """Where a link of a document leads in the site. Raises SystemExit where the site has no such thing."""
    split = urlsplit(to)
    if split.scheme or not split.path:
        return to
    asked = Path(os.path.normpath(ROOT / Path(path).parent / split.path))
    named = asked.relative_to(ROOT).as_posix()
    fragment = f"#{split.fragment}" if split.fragment else ""
    if named in PAGES:
        return page_of(named) + fragment
    if named in _FILES:
        return named if "." in named else f"{named}.txt"
    if named.startswith("docs/") and asked.suffix == ".png" and asked.exists():
        return asked.name
    raise SystemExit(f"{path}: the link to {to} leads to nothing that the site has")


def gallery(folder: Path) -> None:
    """The page, figure and text report of each trace, and the page that shows them."""
    folder.mkdir()
    licences = licence_of_traces()
    parts = [
        "# Gallery\n\nWhat `attnprof report` makes of traces that others published. attnprof recorded none.\n"
    ]
    for shown in GALLERY:
        name = shown.file.partition(".json")[0].partition(".sqlite")[0]
        page, figure = folder / f"{name}.html", folder / f"{name}.png"
        trace = str(TRACES / shown.file)
        told = attnprof("report", trace, "--html", str(page), "--plot", str(figure), "--figure", shown.figure)
        source = licences[shown.file]
        parts.append(
            f"\n## {shown.title}\n\n"
            f"[![{shown.title}: figure](gallery/{figure.name})](gallery/{page.name})\n\n"
            f"[Open the page](gallery/{page.name}). Trace: {source}.\n\n"
            f"```console\n$ attnprof report {shown.file} --html page.html\n{told.strip()}\n```\n"
        )
    (SOURCES / "gallery.md").write_text("".join(parts), encoding="utf-8")


def licence_of_traces() -> dict[str, str]:
    """Where each trace is from, and its licence, as tests/data/README.md has it."""
    rows = re.findall(
        r"^\| `([^`]+)` \| (.+?) \| (.+?) \|$", (ROOT / "tests/data/README.md").read_text(), re.MULTILINE
    )
    return {name: f"{source} ({licence})" for name, source, licence in rows}


def attnprof(*arguments: str) -> str:
    """What the command prints, 80 columns wide; its own paths are not in it."""
    done = subprocess.run(
        [sys.executable, "-m", "attnprof", *arguments], cwd=SOURCES, capture_output=True, text=True,
        env={**os.environ, "COLUMNS": "80"}, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"attnprof {' '.join(arguments)}: {done.stderr}")
    told = [line for line in done.stdout.splitlines() if str(ROOT) not in line]
    return "\n".join(told)


def settings() -> str:
    """zensical's: fonts and icons of the reader's own machine, pages that open from the disk."""
    import tomllib  # Python 3.11 has it, as zensical needs

    titles = [(title, page_of(path)) for path, title in PAGES.items()]
    at = list(PAGES).index(_AFTER) + 1
    titles[at:at] = [("Gallery", "gallery.md"), ("Python", "api.md")]
    nav = ",\n".join(f'  {{ "{title}" = "{page}" }}' for title, page in titles)
    described = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["description"]
    return f"""[project]
site_name = "attnprof"
site_description = {described!r}
docs_dir = "{SOURCES.name}"
site_dir = "{SITE.name}"
use_directory_urls = false
nav = [
{nav},
]

[project.theme]
font = false
features = ["navigation.footer", "content.code.copy"]

[[project.theme.palette]]
media = "(prefers-color-scheme: light)"
scheme = "default"

[[project.theme.palette]]
media = "(prefers-color-scheme: dark)"
scheme = "slate"

[project.plugins.search]

[project.plugins.mkdocstrings.handlers.python]
paths = ["{ROOT}"]

[project.plugins.mkdocstrings.handlers.python.options]
show_source = false
show_root_heading = true
show_root_full_path = false
show_signature_annotations = true
separate_signature = true
merge_init_into_class = true
show_if_no_docstring = false
members_order = "source"
heading_level = 2
"""


class Links(HTMLParser):
    """What a page names: places to go to, names to arrive at, and what it loads by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.to: list[str] = []
        self.names: set[str] = set()
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.names |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.to.append(given["href"])
        elif "src" in given:
            self.loads.append(given["src"])
        elif tag == "link" and given.get("rel") not in ("canonical", "prev", "next", "alternate"):
            self.loads.append(given.get("href", ""))


def dead_links(site: Path) -> list[str]:
    """Links of its pages to files or places in files that are not there, a line each."""
    pages = {page: Links(page.read_text(encoding="utf-8")) for page in sorted(site.rglob("*.html"))}
    wrong = []
    for page, links in pages.items():
        for to in (*links.to, *links.loads):
            split = urlsplit(to)
            if split.scheme or split.netloc:
                continue
            asked = page if not split.path else (page.parent / unquote(split.path)).resolve()
            there = asked.exists() or (page.name == "404.html" and split.path.startswith("/"))
            if not there:
                wrong.append(f"{page.relative_to(site)}: {to} is not there")
            elif split.fragment and asked in pages and unquote(split.fragment) not in pages[asked].names:
                wrong.append(f"{page.relative_to(site)}: {to} names no place there")
    return wrong


def loaded_from_elsewhere(site: Path) -> list[str]:
    """What pages and style sheets load from another address, a line each."""
    wrong = []
    for page in sorted(site.rglob("*.html")):
        loads = Links(page.read_text(encoding="utf-8")).loads
        wrong += [f"{page.relative_to(site)} loads {to}" for to in loads if urlsplit(to).netloc]
    for sheet in sorted(site.rglob("*.css")):
        found = re.findall(
            r"(?:url\(|@import\s+)[\"']?((?:https?:)?//[^\"')]+)", sheet.read_text(encoding="utf-8")
        )
        wrong += [f"{sheet.relative_to(site)} loads {to}" for to in found]
    return wrong


if __name__ == "__main__":
    sys.exit(main())
