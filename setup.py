"""The description of the package on its index: README.md, its links made absolute. All else is in pyproject.toml."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
LINK = re.compile(r"(!?)\[((?:[^][]|\[[^][]*\])*)\]\((?!https?://|#)([^)\s]+)\)")


def description() -> str:
    """README.md, whose relative links hold in a checkout, for a reader who has none."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pages = project["urls"]["Homepage"]

    def absolute(link: re.Match[str]) -> str:
        image, text, path = link.groups()
        return f"{image}[{text}]({pages}/{'raw' if image else 'blob'}/main/{path})"

    return LINK.sub(absolute, (HERE / "README.md").read_text(encoding="utf-8"))


setup(long_description=description(), long_description_content_type="text/markdown")
