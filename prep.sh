#!/bin/sh
# Downloads and preprocesses a data set: ./prep.sh [ml-1m | ml-100k ...]. The work is in preprocess.py; --help tells all.
here=$(dirname "$0")
python=$here/.venv/bin/python
[ -x "$python" ] || python=python3
exec "$python" "$here/preprocess.py" "$@"
