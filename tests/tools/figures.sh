# Sourced by the items of ./prove: reports figures, and starts and stops a node of their own.

# figure WHAT READING UNIT at-most|at-least FLOOR GOAL: reports one figure. The floor decides, the goal is what we are after.
figure() {
  local what=$1 reading=$2 unit=$3 way=$4 floor=$5 goal=$6 result word="at most"
  [ "$way" = at-least ] && word="at least"
  result=$(awk -v r="$reading" -v f="$floor" -v way="$way" \
    'BEGIN { print ((way == "at-least") ? (r >= f) : (r <= f)) ? "pass" : "fail" }')
  printf '%s\t%s %s\t%s %s %s (goal %s)\t%s\n' "$what" "$reading" "$unit" "$word" "$floor" "$unit" "$goal" "$result" >>"$FIGURES"
}

# median: of the numbers on standard input, one a line.
median() { sort -n | awk '{ n[NR] = $1 } END { print n[int((NR + 1) / 2)] }'; }

# start_node DATA_DIR READY_FILE [FLAG...]: starts a node on free ports; its process id is in $node. Returns when it serves.
start_node() {
  local data=$1 ready=$2
  shift 2
  rm -f "$ready"
  "$TRUNKLINE" serve --data-dir "$data" --ready-file "$ready" --http 127.0.0.1:0 --tcp 127.0.0.1:0 --quic 127.0.0.1:0 \
    --grpc 127.0.0.1:0 --metrics 127.0.0.1:0 "$@" >"$WORK/node.log" 2>&1 &
  node=$!
  # A tight loop of shell built-ins: some 10 µs a turn, where waiting for an event would need a program of its own.
  local deadline=$((SECONDS + 20))
  until [ -e "$ready" ]; do
    if [ "$SECONDS" -ge "$deadline" ] || ! kill -0 "$node" 2>/dev/null; then
      echo "the node does not serve:" >&2
      tail -n 20 "$WORK/node.log" >&2
      return 1
    fi
  done
}

# stop_node: asks the node to end, and waits for it.
stop_node() {
  kill -TERM "$node" 2>/dev/null
  wait "$node"
}

# same_test CARGO_TEST_ARGUMENT... -- WHAT LIMIT: runs a test of ./test at the size that the environment says. What it
# prints as "reading counts ..." is the reading.
same_test() {
  local arguments=() told
  while [ "$1" != -- ]; do
    arguments+=("$1")
    shift
  done
  local what=$2 limit=$3
  if cargo test --quiet "${arguments[@]}" -- --nocapture >"$WORK/log" 2>&1 && told=$(sed -n 's/^reading counts //p' "$WORK/log") && [ -n "$told" ]; then
    printf '%s\t%s\t%s\tpass\n' "$what" "$told" "$limit" >>"$FIGURES"
  else
    tail -n 40 "$WORK/log" >&2
    printf '%s\t%s\t%s\tfail\n' "$what" "the test failed" "$limit" >>"$FIGURES"
  fi
}
