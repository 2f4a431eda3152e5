#!/usr/bin/env bash
# dvc 3.67.1: `dvc exp run -S 'section.mapping={}'` runs with the old mapping, without a word.
#
# Seen: params.yaml keeps the entries of the mapping, and the command ends with status 0; `++section.mapping={}` does the
# same. The value is merged into the mapping, not put in its place. An empty list does replace a list, and
# `-S '~section.mapping.key'` removes one entry.
# Expected: the mapping is empty, as the list is, or the command refuses.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3.11 -m venv env
env/bin/pip install --quiet --disable-pip-version-check dvc==3.67.1 2> pip.err || { cat pip.err; exit 1; }
export PATH="$folder/env/bin:$PATH" DVC_NO_ANALYTICS=1
mkdir project
cd project
git init --quiet
git config user.email a@example.org
git config user.name a
dvc init --quiet
printf 'section:\n  mapping: {first: 1, second: 2}\n  list: [1, 2]\n' > params.yaml
printf 'stages:\n  show:\n    cmd: cat params.yaml > out.txt\n    params: [section]\n    outs: [out.txt]\n' > dvc.yaml
git add . && git commit --quiet -m start

left() { # what the stage sees after an override
  dvc exp run --quiet -S "$1" > /dev/null
  python - <<'END'
import yaml

section = yaml.safe_load(open("out.txt"))["section"]
print(section["mapping"], section["list"])
END
  git checkout --quiet -- params.yaml
}

check() {
  found=$(left "$1")
  echo "-S $1: $found"
  [[ "$found" == "$2" ]]
}
check 'section.mapping={}' "{'first': 1, 'second': 2} [1, 2]"
check '++section.mapping={}' "{'first': 1, 'second': 2} [1, 2]"
check 'section.list=[]' "{'first': 1, 'second': 2} []"
check '~section.mapping.first' "{'second': 2} [1, 2]"
