# Sourced by the scripts beside it: makes a virtual environment from a lock file on first use. `environment=export`, set
# before, chooses requirements-export.lock (for the export of open models), else it is requirements.lock.
# $LATENTFLOW_PYTHON names an interpreter to use instead, on a machine that has all of these packages.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${LATENTFLOW_PYTHON:-}
if [ -z "$python" ]; then
    suffix=${environment:+-$environment}
    venv=$here/.venv$suffix
    lock=$here/requirements$suffix.lock
    python=$venv/bin/python
    if [ ! -f "$venv/complete" ] || [ "$lock" -nt "$venv/complete" ]; then
        echo "setting up $venv" >&2
        python3 -m venv "$venv"
        "$python" -m pip install --quiet --require-hashes -r "$lock" >&2
        touch "$venv/complete"
    fi
fi
export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
