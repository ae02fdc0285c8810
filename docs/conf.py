"""Sphinx's settings: the pages as they are, the reference from the docstrings, nothing fetched.

The pages link to each other by file, as in ```errors <errors.rst>`_``, which is what a browser of the repository wants.
Here such a link leads to the page that was made of the file, and one that leads nowhere is a warning.  The contents in
``index.rst`` are the only ones, but for a page that has pages of its own in a folder of its name: the tree that Sphinx
wants is made of their links.
"""

from __future__ import annotations

import builtins
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

import mpengine

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
README = DOCS.parent / "README.rst"
PAGE_LINK = re.compile(r"<(\w+)\.rst>`_")

project = "mpengine"
project_copyright = "mpengine developers"
version = release = mpengine.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["changes/+*"]  # all on one page, see add_to_source()

nitpicky = True
_elsewhere = "asyncio|collections|concurrent|dataclasses|enum|multiprocessing|os|pathlib|types|typing"
nitpick_ignore_regex = [
    ("py:class", "Stages|PipelineSource"),  # a pipeline, or a list of stages; an iterable: each docstring says so
    ("py:class", "Proxy|BoardAddress"),  # see mpengine.monitor.board
    ("py:class", "Record"),  # any of those that an observer is told; the reference has them all
    ("py:class", "Consumer"),  # what an AsyncResultStream is made of; the same
    ("py:class", r"Token|(mpengine\.reading\.)?Reading"),  # for whoever writes a sink or a source
    ("py:class", "JournalLike"),  # a path or a Journal: the same
    ("py:class", "StageFunction"),  # any callable: the docstring of Stage says which
    (
        "py:class",
        r"BaseContext|Future|P|T|P\.args|P\.kwargs",
    ),  # the standard library's, and what any function takes and gives
    ("py:exc", "BrokenProcessPool"),  # of concurrent.futures.process
    ("py:class", "Run"),  # what a ResultStream is made of, which nobody but the engine does
    ("py:.*", rf"({_elsewhere})\..*"),  # their documentation would have to be fetched
    ("py:.*", "|".join(name for name in dir(builtins) if name.isidentifier())),
]

add_module_names = False
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "alabaster"
html_theme_options = {"description": mpengine.__doc__.splitlines()[0]}
html_show_sourcelink = False

_logger = logging.getLogger(__name__)


class FileLinks(SphinxTransform):
    """Make links to files of the repository links to what has become of them."""

    default_priority = 5

    def apply(self, **_: Any) -> None:
        """Replace every link whose target is a relative path."""
        for link in list(self.document.findall(nodes.reference)):
            target = link.get("refuri", "")
            if target and ":" not in target:
                link.replace_self(self._lead(link, target))

    def _lead(self, link: nodes.reference, target: str) -> nodes.Element:
        written_in = Path(link.parent.source or self.document["source"])  # the file, also of a page that includes it
        path = (written_in.parent / target).resolve()
        page = self.env.path2doc(_page_of(path))
        text = nodes.inline("", link.astext())
        if page in self.env.found_docs:
            return addnodes.pending_xref(
                "", text, refdomain="std", reftype="doc", reftarget="/" + page, refdoc=self.env.docname,
                refexplicit=True, refwarn=True,
            )  # fmt: skip
        if path.is_file():
            here = DOCS / self.env.docname
            return addnodes.download_reference("", text, reftarget=os.path.relpath(path, here.parent))
        _logger.warning("a link to %s, where no file is", target, location=link)
        return link


class NameLinks(SphinxTransform):
    """Make a public name that stands for itself, as in ````Engine````, a link to what the reference says of it."""

    default_priority = 5

    def apply(self, **_: Any) -> None:
        """Replace the names of classes; functions have names that are words of other things too."""
        for literal in list(self.document.findall(nodes.literal)):
            name = literal.astext()
            if name in mpengine.__all__ and name[0].isupper() and not isinstance(literal.parent, nodes.title):
                target = f"{getattr(mpengine, name).__module__}.{name}"
                xref = addnodes.pending_xref(
                    "", literal.deepcopy(), refdomain="py", reftype="obj", reftarget=target, refwarn=True
                )
                literal.replace_self(xref)


def _page_of(path: Path) -> Path:
    """Return the file in this folder that stands for ``path``, as far as one does."""
    if path == README:
        return DOCS / "readme.rst"
    return path / "README.rst" if path.is_dir() else path


def _hidden_tree(pages: list[str]) -> str:
    return "\n.. toctree::\n   :hidden:\n\n" + "".join(f"   /{page}\n" for page in pages)


def add_to_source(_app: Sphinx, page: str, content: list[str]) -> None:
    """Give the contents the tree that their links make, and the page of changes the changes."""
    if page == "index":
        pages = ["readme", *PAGE_LINK.findall(content[0]), "changes/README"]
        content[0] += _hidden_tree(pages)
    if (DOCS / page).is_dir():
        content[0] += _hidden_tree(re.findall(rf"<({page}/\w+)\.rst>`_", content[0]))
    if page == "changes/README":
        for fragment in sorted((DOCS / "changes").glob("+*.rst")):
            content[0] += f"\n----\n\n.. include:: {fragment.name}\n"


def setup(app: Sphinx) -> None:
    """Add all of it to the build."""
    app.add_transform(FileLinks)
    app.add_transform(NameLinks)
    app.connect("source-read", add_to_source)
