"""Write DVC's plots page with Vega inside, so that it works without internet: ``python -m effir.lab.plots_page``."""

import subprocess
import sys
from pathlib import Path

from vl_convert import javascript_bundle

from effir.errors import EffirError
from effir.files import project_root, writing

PAGE = Path(".dvc/plots/page.html")
# Vega-Lite's last 5.x: the plots that DVC writes say v5.
VEGA_LITE = "5.21"
# DVC replaces {plot_divs}. Without {scripts} it adds no links to a content network. A function encloses the bundle:
# its top-level names, such as `n` and `t`, may clash with those of the page's own scripts.
TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
    <meta charset="utf-8">
    {refresh_tag}
    <title>effir: plots</title>
    <link rel="icon" href="data:,">
    <script>(() => BUNDLE)();</script>
    <style>
        body { display: flex; flex-wrap: wrap; gap: 2em; align-items: start; margin: 2em; font-family: sans-serif; }
        body > div { max-width: 100%; }
        img { max-width: min(800px, 44vw); }  /* two revisions side by side */
    </style>
</head>
<body>
    {plot_divs}
</body>
</html>
"""


def write_page(root: Path) -> Path:
    """Write the template of the plots page of the DVC project at ``root``, and tell DVC to use it; return its path.

    ``config.local`` names it; git ignores that file and the page (0.9 MB). A clone has neither, and ``dvc plots`` works
    there with internet; it would fail if the name of a missing page were committed. EffirError if ``root`` is not a DVC
    project.
    """
    if not (root / ".dvc").is_dir():
        raise EffirError(f"{root} is not a DVC project: run `python -m effir.lab.plots_page` in the project's root")
    with writing(root / PAGE) as draft:
        # The plots call the name vegaEmbed.
        draft.write_text(page(javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)), encoding="utf-8")
    name = PAGE.relative_to(".dvc").as_posix()  # relative to .dvc
    command = [sys.executable, "-m", "dvc", "config", "--local", "plots.html_template", name]
    done = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True)
    if done.returncode:
        reason = next((line for line in reversed(done.stderr.splitlines()) if line), "no reason given")
        raise EffirError(f"DVC refuses plots.html_template = {name} ({reason}): correct {root / '.dvc/config.local'}")
    return root / PAGE


def page(bundle: str) -> str:
    r"""Put a JavaScript bundle into the template, with each ``</script>`` in its strings escaped.

    >>> r'"<\/script>"' in page('"</script>"')
    True
    """
    return TEMPLATE.replace("BUNDLE", "{\n" + bundle.replace("</script", r"<\/script") + "\n}")


if __name__ == "__main__":
    try:
        write_page(project_root())
    except EffirError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
