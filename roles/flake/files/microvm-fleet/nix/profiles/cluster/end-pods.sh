# shellcheck shell=bash
# Ends the containers of this node: asks them, waits for FLEET_GRACE seconds at most, and kills what is left.
# Read by fleet-pods.service; the kubelet has stopped by then, so nothing starts them again.

# The processes of all pods, by control group: kubepods.slice is systemd's driver, kubepods the other one.
pods() {
  find "${FLEET_CGROUPS:-/sys/fs/cgroup}"/kubepods* -name cgroup.procs -exec cat {} + 2>/dev/null || true
}

# Of each container the first process, which is whom a runtime asks: the one that is number 1 among its own, or any
# that has no numbers of its own (a pod with hostPID).  Not the one that only holds a pod's namespaces.
first() {
  for pid in $(pods); do
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" != pause ] &&
      grep -Eq '^NSpid:[[:space:]]+([0-9]+|.*[[:space:]]1)$' "/proc/$pid/status" 2>/dev/null; then
      echo "$pid"
    fi
  done
}

asked=$(first)
if [ -n "$asked" ]; then
  # shellcheck disable=SC2086
  kill -TERM $asked 2>/dev/null || true
  end=$(($(date +%s) + FLEET_GRACE))
  while [ -n "$(first)" ] && [ "$(date +%s)" -le "$end" ]; do
    sleep 0.2
  done
fi

left=$(pods)
if [ -n "$left" ]; then
  # shellcheck disable=SC2086
  kill -KILL $left 2>/dev/null || true
fi

# k3s brings a script that also ends what ran beside the containers; older packages of it have none.
if command -v k3s-killall.sh >/dev/null; then
  k3s-killall.sh || true
fi
