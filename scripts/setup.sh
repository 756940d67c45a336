#!/usr/bin/env bash
# Makes .venv ready: Python packages as pinned in pyproject.toml, system packages where they are missing and may be installed.
# Says nothing and takes a fraction of a second when all is ready. PYTHON names the interpreter to use.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=.venv
stamp=$venv/.ready
log=$venv/setup.log

die() { echo "$1" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
wave_headers() { printf '#include <lz4.h>\n#include <zlib.h>\n' | g++ -E -x c++ - >/dev/null 2>&1; }
works() { "$venv/bin/python" -c '' >/dev/null 2>&1; }

# Installs Debian packages when that is allowed without asking; fails where it is not.
apt_install() {
  local root=()
  have apt-get || return 1
  if [ "$(id -u)" != 0 ]; then
    have sudo && sudo -n true >/dev/null 2>&1 || return 1
    root=(sudo -n)
  fi
  echo "Installing system packages: $*"
  local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@")
  {
    "${root[@]}" "${install[@]}" || { "${root[@]}" apt-get update -q && "${root[@]}" "${install[@]}"; }
  } >>"$venv/apt.log" 2>&1 </dev/null || { echo "apt-get could not install them (see $venv/apt.log)."; return 1; }
}

python=${PYTHON:-}
if [ -z "$python" ]; then
  for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if new_enough "$candidate"; then python=$candidate; break; fi
  done
fi
if [ -z "$python" ] || ! new_enough "$python"; then
  die "twodim needs Python 3.11 or newer, which ${python:-python3} is not. Set PYTHON=..."
fi

mkdir -p "$venv"
missing=()
have g++ || missing+=(g++)
have perl || missing+=(perl)
have iverilog || missing+=(iverilog)
wave_headers || missing+=(liblz4-dev zlib1g-dev)
if [ ${#missing[@]} -gt 0 ] && [ ! -e "$venv/.apt-tried" ]; then
  apt_install "${missing[@]}"
  touch "$venv/.apt-tried"
fi
for tool in g++ perl; do
  have $tool || die "twodim needs $tool (Verilator compiles the RTL with it). Debian: apt-get install g++ perl"
done
lacks=()
so=
have iverilog || { lacks+=(iverilog); so='only Verilator will be used'; }
wave_headers || { lacks+=(liblz4-dev zlib1g-dev); so="${so:+$so, }Verilator writes VCD instead of FST"; }
[ ${#lacks[@]} -eq 0 ] || echo "Optional packages are missing, so $so. Debian: apt-get install ${lacks[*]}"

want="$(cksum <pyproject.toml) $PWD"
if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && works; then exit 0; fi

echo "Setting up $venv (one to three minutes, once)"
rm -f "$stamp"
fresh=(--clear)
if [ "$(cat "$venv/.place" 2>/dev/null)" = "$PWD" ] && works; then fresh=(); fi
make_venv() { said=$("$python" -m venv "${fresh[@]}" "$venv" 2>&1); }
make_venv || { apt_install python3-venv && make_venv; } || {
  echo "$said" >&2
  die "Python cannot create a virtual environment. Debian: apt-get install python3-venv"
}
printf '%s' "$PWD" >"$venv/.place"
"$venv/bin/python" -m pip install --quiet --editable . >"$log" 2>&1 </dev/null || {
  tail -n 15 "$log" >&2
  die "pip could not install the pinned packages of pyproject.toml (whole log: $log)"
}
libpython() { "$venv/bin/python" -c 'import sys, find_libpython as f; sys.exit(f.find_libpython() is None)'; }
libpython || { apt_install libpython3-dev && libpython; } ||
  die "This Python has no shared libpython, which cocotb loads. Debian: apt-get install libpython3-dev"
printf '%s' "$want" >"$stamp"
