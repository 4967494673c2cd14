# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Settings of sphinx-build(1) for ``make docs``."""

from __future__ import annotations

from pygments.lexers.special import TextLexer
from sphinx.highlighting import lexers

project = "microvm.fleet"
project_copyright = "microvm.fleet contributors"
extensions = ["myst_parser", "sphinx_antsibull_ext"]
html_theme = "furo"
html_title = "microvm.fleet"
html_show_sphinx = False
templates_path: list[str] = []
# Pages link to headings of each other, and to files of the repository that are no pages.
myst_heading_anchors = 4
suppress_warnings = ["myst.xref_missing", "toc.not_included"]
highlight_language = "yaml"
nitpicky = False
# Drawings are shown as their code: what draws them is fetched from elsewhere.
lexers["mermaid"] = TextLexer()
