# Sourced by ./test: Debian packages, installed or unpacked only when a command is missing.

# as_root COMMAND...: runs it as root, or says why that is not possible.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo -n "$@"
  else
    echo "root is needed for: $*" >&2
    return 1
  fi
}

# need COMMAND PACKAGE...: makes sure that COMMAND exists, else installs the packages that bring it.
need() {
  local command=$1
  shift
  command -v "$command" >/dev/null && return 0
  say "installing $* (for $command)"
  if command -v apt-get >/dev/null; then
    as_root env DEBIAN_FRONTEND=noninteractive sh -c \
      'apt-get update -q && exec apt-get install -q -y --no-install-recommends "$@"' sh "$@" </dev/null >"$tools/apt.log" 2>&1 ||
      tail -n 20 "$tools/apt.log" >&2
    hash -r
  fi
  command -v "$command" >/dev/null && return 0
  echo "the tests need the command $command: install the package(s) $* and run ./test again" >&2
  return 1
}

# unpack COMMAND PACKAGE: puts the directory of a command into PATH. A package that would start a service when it is
# installed is only unpacked, below the target directory.
unpack() {
  local command=$1 package=$2 into=$tools/$2
  command -v "$command" >/dev/null && return 0
  if [ ! -x "$into/usr/bin/$command" ]; then
    say "unpacking $package (for $command)"
    rm -rf "$into"
    mkdir -p "$into"
    (
      cd "$into" || exit 1
      # Without package lists, or with old ones, the first try finds nothing.
      apt-get download -q "$package" || { as_root apt-get update -q && apt-get download -q "$package"; } || exit 1
      dpkg-deb -x "$package"_*.deb . && rm -f -- *.deb
    ) </dev/null >"$tools/apt.log" 2>&1 || tail -n 20 "$tools/apt.log" >&2
  fi
  PATH=$PATH:$into/usr/bin
  command -v "$command" >/dev/null && return 0
  echo "the tests need the command $command: install the package $package and run ./test again" >&2
  return 1
}
