#!/usr/bin/env bash
# Checks the machine, makes .venv and installs what the project needs. Called by `make setup`.
# TORCH: cpu or cuda, else chosen by what the machine has. TORCH_CPU_INDEX: where the CPU build is.
set -eu
cd "$(dirname "$0")/.."

fail() { echo "$1" >&2; exit 3; }
# Without this bash goes on to the next command where the one that runs makes an end of its own.
trap 'echo "Interrupted: make setup goes on from here, and fetches nothing twice." >&2; exit 130' INT

# What is installed is a function of these; nothing is done where they have not changed.
wanted=$(cat pyproject.toml constraints.txt deploy/setup.sh <(echo "${TORCH:-}") | cksum | tr ' ' -)
done_file=.venv/installed
[ "$(cat "$done_file" 2>/dev/null)" = "$wanted" ] && exit 0

# A Python with venv. Triton's stub also needs its shared library, which only leaves Triton out.
usable() { "$1" -c 'import ensurepip, venv, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }
shared() { "$1" -c 'import sysconfig, sys; sys.exit(not sysconfig.get_config_var("Py_ENABLE_SHARED"))' 2>/dev/null; }
python=
for candidate in ${PYTHON:-} python3.11 python3.12 python3; do
  command -v "$candidate" >/dev/null && usable "$candidate" || continue
  [ -n "$python" ] || python=$candidate
  if shared "$candidate"; then python=$candidate; break; fi
done
uv=
if [ -z "$python" ]; then
  uv=$(command -v uv) || fail "Python 3.11 or 3.12 with venv is needed: install it (Debian: apt install python3.11-venv libpython3.11), or install uv, which brings one."
fi

memory_mib=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo 2>/dev/null || sysctl -n hw.memsize 2>/dev/null | awk '{print int($1 / 1048576)}' || echo 99999)
[ "${memory_mib:-99999}" -ge 3500 ] || fail "The local stack needs 4 GiB of memory and this machine has ${memory_mib} MiB."

# Torch: the registry's build for Linux carries CUDA and is large.
torch=${TORCH:-}
index=()
if [ -z "$torch" ]; then
  if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then torch=cuda; else torch=cpu; fi
fi
case $torch in
  cuda) ;;
  cpu)
    if [ "$(uname -s)" = Linux ]; then
      if curl -fsS --max-time 5 -o /dev/null "$TORCH_CPU_INDEX/torch/" 2>/dev/null; then
        index=(--index-url "$TORCH_CPU_INDEX")
      else
        echo "torch's index of CPU builds does not answer; taking the registry's build, which carries CUDA."
        torch=cuda
      fi
    fi ;;
  *) fail "TORCH is cpu or cuda, not $torch." ;;
esac

extras=engine,eval,dev
triton=
glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | awk '{print $2}')
if [ "$(uname -sm)" = "Linux x86_64" ] && [ -w /dev/shm ] && [ -n "$glibc" ] &&
   [ "$(printf '2.35\n%s\n' "$glibc" | sort -V | head -1)" = 2.35 ]; then
  triton=yes extras=engine,eval,dev,triton
else
  echo "Triton cannot run here (it needs Linux on x86-64, glibc 2.35 and /dev/shm): the engine will run in process, and Triton's tests are left out."
fi

[ "$torch" = cuda ] && [ "$(uname -s)" = Linux ] && download="2.6 GB" disk=9 || { download="0.8 GB"; disk=4; }
free_gib=$(df -Pk . | awk 'NR == 2 {print int($4 / 1048576)}')
[ -x .venv/bin/python ] || [ "$free_gib" -ge "$disk" ] ||
  fail "The installation needs $disk GiB of disk and $free_gib GiB are free here; free some, or clone the project elsewhere."

echo "Installing into .venv: a download of about $download, some minutes the first time (what pip has cached is not fetched again)."
# One without pip is what an interrupted start has left.
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  rm -rf .venv
  if [ -n "$python" ]; then "$python" -m venv .venv; else "$uv" venv --python 3.11 --seed .venv; fi
fi
pip=(.venv/bin/python -m pip install --disable-pip-version-check --no-compile --progress-bar off -c constraints.txt)
# Shows what pip downloads and installs; all that it says is in the log.
step() {
  echo "[$1] $2"
  shift 2
  "$@" 2>&1 | tee .venv/install.log | { grep -E --line-buffered '^ *(Downloading|Installing|Building)' || true; } |
    sed -u -E 's/^ *(.{0,110}).*/    \1/'
  [ "${PIPESTATUS[0]}" = 0 ] || { tail -20 .venv/install.log >&2; fail "The installation failed; the lines above say why."; }
}
step 1/2 "torch ($torch build)" "${pip[@]}" ${index[@]+"${index[@]}"} torch
step 2/2 "qwarden${triton:+, Triton} and the tools of the tests" "${pip[@]}" -e ".[$extras]"
# pip would compile every file, one after the other: 75 s of CPU, and 37 without what hardly anything
# imports, on all cores. Python compiles the rest where it is imported. A template is no fault.
rarely='/(sympy|transformers/models|networkx|torch/testing|torch/_inductor|mpmath|mypy|hypothesis|pip|setuptools|tests)/'
.venv/bin/python -m compileall -q -j 0 -x "$rarely" .venv/lib >/dev/null 2>&1 || true
rm -rf qwarden.egg-info  # left by the build; what is installed stands in .venv
echo "$wanted" > "$done_file"
