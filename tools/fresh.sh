#!/usr/bin/env bash
# Runs the two commands as a new user would: makes a bare system of a Debian or Ubuntu release, clones HEAD into it, runs
# ./quickstart --once and ./check there. Needs root, debootstrap and git; the machine outside is not changed but for DIR.
# usage: tools/fresh.sh SUITE [--dir DIR] [--quickstart | --check]
#   SUITE         bookworm, trixie, jammy or noble
#   --dir DIR     where the system is made (default /var/tmp/lserve-fresh); DIR/SUITE.tar keeps the bare system for the next run
#   --quickstart  only that command; --check: only that one
# Proxy, pip and certificate settings of the environment are passed on.
set -euo pipefail

die() {
  echo "fresh.sh: $*" >&2
  exit 1
}
suite=${1:-}
shift || true
folder=/var/tmp/lserve-fresh
commands=("./quickstart --once" "./check")
while [ $# -gt 0 ]; do
  case $1 in
    --dir) folder=$2 && shift ;;
    --quickstart) commands=("./quickstart --once") ;;
    --check) commands=("./check") ;;
    *) die "unknown argument $1" ;;
  esac
  shift
done
case $suite in
  bookworm | trixie) mirror=http://deb.debian.org/debian components=main script=sid ;;
  jammy | noble) mirror=http://archive.ubuntu.com/ubuntu components=main,universe script=gutsy ;;
  *) die "usage: tools/fresh.sh bookworm|trixie|jammy|noble [--dir DIR] [--quickstart | --check]" ;;
esac
[ "$(id -u)" = 0 ] || die "needs root (debootstrap, chroot)"
command -v debootstrap >/dev/null || die "debootstrap is missing: apt-get install debootstrap"
repository=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
mkdir -p "$folder"
archive=$folder/$suite.tar
root=$folder/$suite

# The mounts below live in a namespace of their own, so nothing but files is left behind to remove.
rm -rf --one-file-system "$root"
if [ ! -e "$archive" ]; then
  [ ! -e "/usr/share/debootstrap/scripts/$suite" ] || script=$suite  # an older debootstrap does not know newer releases by name
  echo "== debootstrap $suite from $mirror"
  debootstrap --variant=minbase --components="$components" "$suite" "$root" "$mirror" "$script" >"$folder/$suite.debootstrap.log" 2>&1 ||
    die "debootstrap failed; see $folder/$suite.debootstrap.log"
  tar -C "$root" -cf "$archive.part" .
  mv "$archive.part" "$archive"
else
  mkdir -p "$root"
  tar -C "$root" -xf "$archive"
fi
git clone --quiet --no-hardlinks --depth 1 "file://$repository" "$root/root/lserve"
cp --dereference /etc/resolv.conf "$root/etc/resolv.conf"

settings=(HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT; do
  [ -z "${!name:-}" ] || settings+=("$name=${!name}")
done
certificates=${PIP_CERT:-${SSL_CERT_FILE:-}}
if [ -n "$certificates" ]; then
  install -m 644 "$certificates" "$root/root/certificates.pem"
  settings+=(PIP_CERT=/root/certificates.pem SSL_CERT_FILE=/root/certificates.pem)
fi

inside() {
  unshare --mount --pid --fork --propagation private bash -c '
    root=$1 && shift
    mount -t proc proc "$root/proc" && mount --rbind /sys "$root/sys" && mount --rbind /dev "$root/dev" || exit 1
    exec chroot "$root" /usr/bin/env -i "$@"' _ "$root" "${settings[@]}" bash -c "cd /root/lserve && $1"
}
for command in "${commands[@]}"; do
  echo "== $suite: $command"
  start=$SECONDS
  inside "$command" 2>&1 | tee "$folder/$suite.$(basename "${command%% *}").log" || die "$suite: '$command' failed after $((SECONDS - start)) s"
  echo "== $suite: '$command' passed in $((SECONDS - start)) s"
done
