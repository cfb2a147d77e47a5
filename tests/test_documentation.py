"""The documentation leads where it says, and its command lines are right."""

import re
import shlex
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = sorted((ROOT / "documentation").glob("*.md"))
ALL = [README, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *PAGES, *sorted(ROOT.glob("results_templates/**/*.md"))]

FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:)([^)\s]+)\)")
COMMANDS = {
    entry.name: entry
    for entry in distribution("nnunetv2_airway").entry_points
    if entry.group == "console_scripts" and entry.name.startswith("nnUNetv2_airway_")
}


def named(file: Path) -> str:
    return str(file.relative_to(ROOT))


def links(page: Path) -> list[str]:
    """Relative links and pictures of a page, outside code."""
    return LINK.findall(re.sub("`[^`\n]*`", "", FENCED.sub("", page.read_text())))


def target(page: Path, link: str) -> Path:
    file = link.partition("#")[0]
    return (page.parent / file).resolve() if file else page


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    heads = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def command_lines(page: Path) -> list[str]:
    """Lines of our commands in blocks of shell code; a line may go on after a backslash."""
    blocks = [text for language, text in FENCED.findall(page.read_text()) if language == "bash"]
    lines = [line for text in blocks for line in text.replace("\\\n", " ").splitlines()]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [part for part in parts if part.startswith("nnUNetv2_airway_")]


@pytest.fixture
def help_of(monkeypatch, capsys):
    """What a command prints with -h, after the words of a subcommand; it has to end with exit code 0."""
    monkeypatch.setenv("NO_COLOR", "1")

    def help_of(name: str, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *words, "-h"])
        with pytest.raises(SystemExit) as ended:
            COMMANDS[name].load()()
        assert ended.value.code in (0, None), f"{name} {' '.join(words)} -h"
        return capsys.readouterr().out

    return help_of


def options(text: str) -> set[str]:
    """The options that a help text lists, not those that it mentions."""
    listed = re.findall(r"^ {2}(-.*?)(?: {2,}|$)", text, re.MULTILINE)
    return {word for line in listed for word in re.findall(r"(?<!\S)--?[a-zA-Z][\w-]*", line)}


@pytest.mark.parametrize("page", ALL, ids=named)
def test_every_link_leads_to_a_file_and_a_heading(page):
    lost = [link for link in links(page) if not target(page, link).exists()]
    assert not lost
    for link in links(page):
        file, _, anchor = target(page, link), *link.partition("#")[1:]
        assert not anchor or anchor in anchors(file), f"{link} leads to no heading"


def test_there_are_links_and_pictures_to_test():
    assert len([link for page in ALL for link in links(page)]) > 60
    assert len([link for page in ALL for link in links(page) if link.endswith((".png", ".jpg"))]) >= 6


def test_the_readme_is_short_and_shows_both_commands():
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    blocks = [block for language, block in FENCED.findall(text) if language == "bash"]
    assert "pip install . && nnUNetv2_airway_demo\n" in blocks
    assert "pip install '.[test]' && pytest\n" in blocks


def test_every_page_is_reached_from_the_readme():
    reached, new = set(), {README}
    while new:
        reached |= new
        new = {target(page, link) for page in new for link in links(page)} - reached
        new = {file for file in new if file.suffix == ".md" and file.is_file()}
    assert PAGES and not set(PAGES) - reached


def test_pictures_are_shown_somewhere():
    shown = {target(page, link) for page in ALL for link in links(page)}
    pictures = {file for folder in (".github", "documentation/pictures") for file in (ROOT / folder).glob("*.*g")}
    assert pictures and not pictures - shown


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_prints_its_help(name, help_of):
    text = help_of(name)
    assert f"usage: {name}" in text and "-h" in options(text)


@pytest.mark.parametrize("page", ALL, ids=named)
def test_every_option_of_a_command_line_exists(page, help_of):
    for line in command_lines(page):
        name, *words = shlex.split(line, comments=True)
        assert name in COMMANDS, line
        known = options(help_of(name, *words[:1]) if name == "nnUNetv2_airway_convert" else help_of(name))
        given = {word.partition("=")[0] for word in words if re.match("--?[a-zA-Z]", word)}
        assert not given - known, line


def test_there_are_command_lines_to_test():
    lines = [line for page in (README, *PAGES) for line in command_lines(page)]
    assert {line.split()[0] for line in lines} == set(COMMANDS)
