"""Lists the versions of the manual in a folder of sites, for the switch in the pages: `list_versions.py build/manual`.

Each version is a folder that was built by `sphinx-build -c scripts/docs . build/manual/VERSION`. Written are
versions.json, the newest first, and an index.html that leads to the newest.
"""

import json
import re
import sys
from pathlib import Path


def list_versions(folder: Path) -> list[str]:
    """The names of the folders with a site, the newest version first; names without numbers, such as main, are last."""
    names = [place.name for place in folder.iterdir() if (place / "index.html").is_file()]
    return sorted(names, key=lambda name: ([int(part) for part in re.findall(r"\d+", name)], name), reverse=True)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    versions = list_versions(place)
    if not versions:
        sys.exit(f"There is no version of the manual in {place}: expected folders that sphinx-build has written.")
    (place / "versions.json").write_text(json.dumps(versions), encoding="utf-8")
    (place / "index.html").write_text(
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={versions[0]}/index.html">'
        f'<title>finetune</title><a href="{versions[0]}/index.html">The manual</a>\n',
        encoding="utf-8",
    )
    print(f"{place}: {', '.join(versions)}")
