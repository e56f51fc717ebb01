#!/bin/sh
# Makes .dev/venv with exactly what requirements/dev.lock names. Does nothing when that is done.
set -eu
cd "$(dirname "$0")/.."
lock=requirements/dev.lock
stamp=.dev/venv/made-from
python=${PYTHON:-python3}

digest=$("$python" - "$lock" pyproject.toml <<'END'
import hashlib, sys
if sys.version_info < (3, 11):
    sys.exit("Python 3.11 or newer is needed; name one with PYTHON=/path/to/python3.")
print(hashlib.sha256(sys.version.encode() + b"".join(open(name, "rb").read() for name in sys.argv[1:])).hexdigest())
END
)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$digest" ]; then
  exit 0
fi

echo "Making .dev/venv from $lock (a minute or two the first time)."
mkdir -p .dev
rm -f "$stamp"
if [ -n "${TENANTRY_PREBUILD:-}" ] && [ -z "${KUBECONFIG:-}" ]; then
  # What needs the cluster next needs these programs, which take longest: begin now, beside pip.
  "$python" -m dev.cluster.golang >.dev/go-build.log 2>&1 &
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing the Debian package python3-venv, which Python's own environments need."
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3-venv >/dev/null
  fi
fi
# An environment of another Python can't be gone on with.
if [ -x .dev/venv/bin/python ] &&
   [ "$(.dev/venv/bin/python -V 2>&1)" != "$("$python" -V 2>&1)" ]; then
  rm -rf .dev/venv
fi
if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  "$python" -m venv .dev/venv
elif command -v virtualenv >/dev/null; then
  virtualenv -q -p "$python" .dev/venv
else
  echo "Install python3-venv (or virtualenv) first: this Python can make no environments." >&2
  exit 1
fi
.dev/venv/bin/python -m pip install -q --require-hashes -r "$lock"
# Its build tools are in the lock, so that this needs no network.
.dev/venv/bin/python -m pip install -q --no-deps --no-build-isolation -e .
printf %s "$digest" > "$stamp"
echo "Made .dev/venv."
