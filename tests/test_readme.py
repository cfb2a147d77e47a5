import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_local_link_leads_somewhere():
    links = re.findall(r"\]\((?!https?://|#)([^)]+)\)", (ROOT / "README.md").read_text())
    assert len(links) >= 2 and [link for link in links if not (ROOT / link).exists()] == []
