#!/usr/bin/env bash
# Read a freshly converted dataset with supervision and with datumaro, each in an environment of its own, and write
# RESULT.md. Takes a few minutes, most of them installing. PYTHON makes the environments (default: python3).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
work=$(mktemp -d -t readers-XXXXXX)
trap 'rm -rf "$work"' EXIT
ours=.venv/bin/python

convert=(--root "$work/sample" --category all --classes category-defect)
$ours -m converters.sample --small --to "$work/sample"
$ours -m converters all "${convert[@]}" --out "$work/out"
$ours -m converters.to_coco --segmentation rle "${convert[@]}" --out "$work/rle"

hashes() { (cd "$work" && find out rle -type f -print0 | sort -z | xargs -0 sha256sum); }
hashes >"$work/before"
for reader in supervision datumaro; do
    "${PYTHON:-python3}" -m venv "$work/$reader"
    "$work/$reader/bin/pip" install --quiet --requirement "$here/requirements-$reader.txt"
    "$work/$reader/bin/python" -W ignore "$here/check.py" "$work/out/all" "$work/rle/all" | tee -a "$work/lines.jsonl"
done
hashes | diff "$work/before" -

$ours "$here/report.py" "$work/lines.jsonl" tests/readers/run.sh >"$work/RESULT.md"
mv "$work/RESULT.md" "$here/RESULT.md"
