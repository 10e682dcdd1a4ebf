# Sourced by ./test: the Rust tests, by cargo-nextest where it is installed, else by cargo test.

# rust_components: rustfmt and clippy belong to the toolchain, but a minimal rustup profile leaves them out.
rust_components() {
  if ! command -v cargo >/dev/null; then
    echo "cargo is missing: install Rust 1.95 or later (https://rustup.rs) and run ./test again" >&2
    exit 1
  fi
  if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
    rustup component add rustfmt clippy
  fi
}

# transport_features: the library that is published alone, with each feature alone, none, all, and TLS for WebSocket
# without QUIC. What only one set of them leaves unused or undefined is an error here and nowhere else.
transport_features() {
  local features
  for features in "" tcp tls websocket quic webtransport qlog unix zstd zlib chaos tls,websocket; do
    transport_builds --no-default-features --features "$features" || return 1
  done
  transport_builds --all-features
}

# As clippy, so that RUSTFLAGS stay what they are and no dependency is built again.
transport_builds() {
  cargo clippy "${locked[@]}" --quiet -p trunkline-transport "$@" -- -D warnings
}

# transport_qlog: what the feature qlog writes. It is off in all programs of the workspace, since quinn and JSON would be built
# otherwise with it; of the workspace all other crates are built as they are for the rest of the tests.
transport_qlog() {
  cargo test "${locked[@]}" --quiet --workspace --features trunkline-transport/qlog --test qlog
}

# transport_packs: the library as it is published, and that its package alone builds. Nothing is uploaded, no token is
# needed. cargo's own check of the package would build every dependency once more; with the profiles of the workspace, which
# a package has not, those of transport_features are there.
transport_packs() {
  local folder package status
  cargo publish "${locked[@]}" --quiet --dry-run --no-verify --allow-dirty -p trunkline-transport || return 1
  package=$(find "$target/package" -name 'trunkline-transport-*.crate' -printf '%T@ %p\n' | sort -n | tail -n 1)
  folder=$(mktemp -d)
  tar -xzf "${package#* }" -C "$folder" --strip-components 1 \
    && cargo check --config "$PWD/Cargo.toml" --locked --quiet --manifest-path "$folder/Cargo.toml"
  status=$?
  rm -rf "$folder"
  return "$status"
}

rust_tests() {
  say "Rust tests"
  if cargo nextest --version >/dev/null 2>&1; then
    rust_tests_by_nextest
    rust_tests_by_cargo --doc
  else
    rust_tests_by_cargo
  fi
}

# The counts come from the JUnit file that .config/nextest.toml asks for, so the terminal keeps nextest's own display.
# Most tests wait for timers, processes and the network: two for each core keep the cores busy.
rust_tests_by_nextest() {
  # nextest's own directory lies in the workspace, whatever the target directory is.
  local report=$PWD/target/nextest/default/junit.xml status line total bad
  rm -f "$report"
  cargo nextest run "${locked[@]}" --workspace --test-threads "$((2 * $(nproc)))" --no-fail-fast --no-tests=pass \
    "${filters[@]}" </dev/null
  status=$?
  line=$(grep -m 1 -o '<testsuites [^>]*>' "$report" 2>/dev/null)
  total=$(attribute tests "$line")
  bad=$(($(attribute failures "$line") + $(attribute errors "$line")))
  count $((total - bad)) "$bad" "$status" "cargo nextest"
}

# attribute NAME ELEMENT: the number in NAME="..." of an XML element, 0 if there is none.
attribute() {
  local number
  number=$(grep -o " $1=\"[0-9]*\"" <<<"$2" | tr -dc 0-9)
  echo "${number:-0}"
}

# libtest has no time limit of its own, so the whole run has one: a test that hangs must fail, not stall CI.
rust_tests_by_cargo() {
  local log=$tools/cargo-test.log status
  timeout --foreground 1500 cargo test "${locked[@]}" --workspace --no-fail-fast "$@" -- "${filters[@]}" \
    </dev/null >"$log" 2>&1
  status=$?
  [ "$status" -eq 0 ] || cat "$log" >&2
  count "$(sum_of passed "$log")" "$(sum_of failed "$log")" "$status" "cargo test $*"
}

# sum_of WORD LOG: the sum of the numbers before WORD in libtest's result lines.
sum_of() {
  awk -v word="$1;" '/^test result: / { for (i = 2; i <= NF; i++) if ($i == word) n += $(i - 1) } END { print n + 0 }' "$2"
}
