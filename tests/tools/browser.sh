# Sourced by ./test: tests/browser/*.test.mjs run by Node's own test runner with playwright-core and Debian's Chromium.
# They find the debug binaries in $TEST_BIN_DIR, the browser in $CHROMIUM, and start their own servers.

browser_tests() {
  compgen -G 'tests/browser/*.test.mjs' >/dev/null || return 0
  say "browser tests"
  need node nodejs && need npm npm && need chromium chromium || { count 0 1 1 "the browser"; return; }
  browser_environment || { count 0 1 1 "the Node packages"; return; }
  local log=$tools/browser.log status select=()
  # Node takes one regular expression; the names of our tests hold no special characters.
  [ ${#filters[@]} -gt 0 ] && select=(--test-name-pattern "$(printf '%s|' "${filters[@]}" | sed 's/|$//')")
  TEST_BIN_DIR=$target/debug CHROMIUM=$(command -v chromium) timeout --foreground 600 \
    node --test --test-reporter=tap "${select[@]}" tests/browser/*.test.mjs </dev/null 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  count "$(tap_total pass "$log")" $(($(tap_total fail "$log") + $(tap_total cancelled "$log"))) "$status" "node --test"
}

# browser_environment: packages live below the target directory; the link lets the tests import them by name.
browser_environment() {
  local env=$tools/browser
  mkdir -p "$env"
  if ! cmp -s tests/browser/package.json "$env/installed.json"; then
    say "installing Node packages"
    cp tests/browser/package.json "$env/package.json"
    npm install --prefix "$env" --no-audit --no-fund --no-package-lock --loglevel=error </dev/null || return 1
    cp tests/browser/package.json "$env/installed.json"
  fi
  ln -sfn "$env/node_modules" tests/browser/node_modules
}

# tap_total WORD LOG: the number in the last "# WORD n" line of a TAP report, 0 if there is none.
tap_total() {
  awk -v word="$1" '$1 == "#" && $2 == word { n = $3 } END { print n + 0 }' "$2"
}
