# What ./quickstart and ./check share: messages, and installing Debian and Ubuntu packages. Sourced from the root of the repository.

build_packages=(g++ cmake ninja-build ccache pkg-config git ca-certificates python3 python3-numpy python3-pip
  libboost-dev libssl-dev nlohmann-json3-dev libcli11-dev libspdlog-dev libfmt-dev libpcre2-dev
  libutf8proc-dev zlib1g-dev)
test_packages=(libgtest-dev python3-venv)

system_python=/usr/bin/python3  # the one that the packages above belong to, whatever else is in PATH
lserve_cache=${LSERVE_CACHE:-$HOME/.cache/lserve}
export CCACHE_DIR=${CCACHE_DIR:-$HOME/.cache/ccache}

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "'$*' needs root: run as root, or install sudo"
  fi
}

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# The given packages that are not installed, one a line.
missing_packages() {
  local package
  for package in "$@"; do installed "$package" || echo "$package"; done
}

# Installs what is missing and asks nothing. Does not touch apt when all is there.
install_packages() {
  command -v dpkg-query >/dev/null || die "only Debian and Ubuntu are set up by this script; other systems: docs/structure.md lists what a build needs"
  local missing
  mapfile -t missing < <(missing_packages "$@")
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing ${missing[*]}"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" ||
    die "apt-get could not install the packages above (on Ubuntu most of them are in 'universe')"
}

# The first of the given packages that this distribution has; nothing if none.
first_available() {
  local package
  for package in "$@"; do
    if [ -n "$(apt-cache madison "$package" 2>/dev/null)" ]; then
      echo "$package"
      return
    fi
  done
}
