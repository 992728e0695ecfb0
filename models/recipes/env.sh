# Sourced by the scripts beside it: makes a virtual environment from a lock file on first use. `environment=export`, set
# before, chooses requirements-export.lock (for the export of open models), else it is requirements.lock.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
suffix=${environment:+-$environment}
venv=$here/.venv$suffix
lock=$here/requirements$suffix.lock
if [ ! -f "$venv/complete" ] || [ "$lock" -nt "$venv/complete" ]; then
    echo "setting up $venv" >&2
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --require-hashes -r "$lock" >&2
    touch "$venv/complete"
fi
export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
python=$venv/bin/python
