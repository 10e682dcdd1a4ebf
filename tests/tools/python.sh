# Sourced by ./test: tests/python/*.py run by pytest in a virtual environment below the target directory.
# They find the debug binaries in $TEST_BIN_DIR and start their own servers on free ports.

python_tests() {
  compgen -G 'tests/python/test_*.py' >/dev/null || return 0
  say "Python tests"
  need python3 python3 python3-venv || { count 0 1 1 "python3"; return; }
  # Prometheus reads our rules and our metrics as an operator's does.
  unpack promtool prometheus || { count 0 1 1 "prometheus"; return; }
  python_environment || { count 0 1 1 "the Python environment"; return; }
  local log=$tools/pytest.log status summary select=()
  [ ${#filters[@]} -gt 0 ] && select=(-k "$(printf '%s or ' "${filters[@]}" | sed 's/ or $//')")
  PYTHONDONTWRITEBYTECODE=1 TEST_BIN_DIR=$target/debug timeout --foreground 900 \
    "$tools/python/bin/python" -m pytest -q -p no:cacheprovider --color=no "${select[@]}" tests/python </dev/null 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  # pytest's status 5 says that no test was selected, which a filter may do.
  [ "$status" -eq 5 ] && [ ${#filters[@]} -gt 0 ] && status=0
  summary=$(tail -n 1 "$log")
  count "$(before_word passed "$summary")" \
    $(($(before_word failed "$summary") + $(before_word 'errors*' "$summary"))) "$status" "pytest"
}

# python_environment: made once, and again whenever the requirements change.
python_environment() {
  local wanted=tests/python/requirements.txt env=$tools/python
  cmp -s "$wanted" "$env/installed.txt" && return 0
  say "installing Python packages"
  if ! python3 -m venv --clear "$env" >"$tools/venv.log" 2>&1; then
    # Debian ships venv's ensurepip in a package of its own.
    as_root env DEBIAN_FRONTEND=noninteractive sh -c 'apt-get update -q && apt-get install -q -y python3-venv' \
      </dev/null >>"$tools/venv.log" 2>&1
    python3 -m venv --clear "$env" >>"$tools/venv.log" 2>&1 || { tail -n 20 "$tools/venv.log" >&2; return 1; }
  fi
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check -r "$wanted" </dev/null || return 1
  cp "$wanted" "$env/installed.txt"
}

# before_word WORD LINE: the number before WORD, 0 if there is none.
before_word() {
  local number
  number=$(grep -oE "[0-9]+ $1" <<<"$2" | head -n 1 | tr -dc 0-9)
  echo "${number:-0}"
}
