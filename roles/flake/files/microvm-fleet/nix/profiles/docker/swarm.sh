#!/bin/sh
# Makes the Docker engine of this machine a node of a swarm, once.  Run again, it looks and changes nothing; it never
# leaves a swarm, promotes or demotes.
#
#   swarm.sh manager --advertise ADDRESS --data-path-port PORT --pool NETWORK --subnet-size BITS     a new swarm
#   swarm.sh manager --advertise ADDRESS --data-path-port PORT --join ADDRESS --token-file FILE
#   swarm.sh worker  --advertise ADDRESS --data-path-port PORT --join ADDRESS --token-file FILE
#   ... --patience SECONDS     how long to wait for the engine and for the swarm (60)
#
# The state of a node lies below /var/lib/docker/swarm, from where the engine itself rejoins its swarm after a restart;
# the token is read the first time only, and is in no program's arguments.
#
# Exit status: 0 it is a node as wished; 1 it is not, which another try may mend; 2 called wrongly; 3 only somebody can
# mend it.
set -u

say() {
  echo "swarm: $*"
}

fail() {
  status=$1
  shift
  echo "swarm: $*" >&2
  exit "$status"
}

# Prints what a template of docker-info(1) gives; the engine may be restarting, so it may fail.
info() {
  timeout 20 docker info --format "$1" 2> /dev/null
}

# until CONDITION holds, for at most $patience seconds in all
wait_until() {
  while ! "$@"; do
    [ "$(date +%s)" -lt "$deadline" ] || return 1
    sleep 1
  done
}

engine_answers() {
  # Empty while the engine is starting.
  state=$(info '{{.Swarm.LocalNodeState}}') && [ -n "$state" ]
}

settled() {
  engine_answers && [ "$state" != pending ]
}

# expect WHAT WISHED SEEN HOW: a node that is not as wished stays as it is
expect() {
  [ -z "$3" ] || [ "$2" = "$3" ] ||
    fail 3 "this node has the $1 $3, and $2 is wished. It was left as it is. $4"
}

role=${1-}
[ $# -eq 0 ] || shift
advertise=
port=
pool=
size=
join=
token_file=
patience=60
while [ $# -ge 2 ]; do
  case $1 in
    --advertise) advertise=$2 ;;
    --data-path-port) port=$2 ;;
    --pool) pool=$2 ;;
    --subnet-size) size=$2 ;;
    --join) join=$2 ;;
    --token-file) token_file=$2 ;;
    --patience) patience=$2 ;;
    *) fail 2 "there is no option $1" ;;
  esac
  shift 2
done
case $role in
  manager) controls=true ;;
  worker) controls=false ;;
  *) fail 2 "say manager or worker, not '$role'" ;;
esac
[ $# -eq 0 ] || fail 2 "option $1 has no value"
if [ -z "$advertise" ] || [ -z "$port" ]; then
  fail 2 "give --advertise and --data-path-port"
fi
if [ -n "$join" ] && [ -z "$token_file" ]; then
  fail 2 "--join needs --token-file"
fi
if [ -z "$join" ]; then
  [ "$role" = manager ] || fail 2 "a worker needs --join"
  if [ -z "$pool" ] || [ -z "$size" ]; then
    fail 2 "a new swarm needs --pool and --subnet-size"
  fi
fi

case $advertise$join in
  *[!A-Za-z0-9.:-]*) fail 2 "--advertise and --join want addresses, not '$advertise' and '$join'" ;;
esac
# Where the engine listens.
socket=${DOCKER_HOST-unix:///run/docker.sock}
socket=${socket#unix://}

deadline=$(($(date +%s) + patience))
wait_until engine_answers || fail 1 "the Docker engine did not answer within $patience s"

if [ "$state" = inactive ]; then
  if [ -z "$join" ]; then
    say "making a new swarm"
    timeout 120 docker swarm init --advertise-addr "$advertise" --data-path-port "$port" \
      --default-addr-pool "$pool" --default-addr-pool-mask-length "$size" > /dev/null ||
      fail 1 "no swarm was made, see above"
  else
    [ -r "$token_file" ] || fail 1 "the token cannot be read from $token_file"
    # Without the newline that most editors leave.
    token=$(cat "$token_file") || fail 1 "the token cannot be read from $token_file"
    known=${token#SWMTKN-}
    case $known in
      "$token" | *[!A-Za-z0-9-]*)
        fail 3 "$token_file has no token; 'docker swarm join-token -q $role' on a manager prints it"
        ;;
    esac
    case $join in
      *:*) manager="[$join]:2377" ;;
      *) manager=$join:2377 ;;
    esac
    say "joining the swarm of $manager"
    # What `docker swarm join` does, over the engine's socket: every program of this machine could read its arguments.
    # What takes longer goes on in the engine, which is waited for below.
    printf '{"ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": "%s", "RemoteAddrs": ["%s"], "JoinToken": "%s"}' \
      "$advertise" "$manager" "$token" |
      timeout 120 curl -q --silent --show-error --fail-with-body --noproxy '*' --unix-socket "$socket" \
        --header 'Content-Type: application/json' --data-binary @- http://localhost/swarm/join >&2 ||
      say "joining did not end well yet, see above"
  fi
fi

deadline=$(($(date +%s) + patience))
wait_until settled || fail 1 "the engine is not yet part of the swarm: $state $(info '{{.Swarm.Error}}')"
case $state in
  active) ;;
  inactive) fail 1 "the engine is part of no swarm" ;;
  locked) fail 3 "the swarm's state on this manager is locked: 'docker swarm unlock' opens it" ;;
  *) fail 3 "the engine says $state: $(info '{{.Swarm.Error}}')" ;;
esac

# Who is a manager is known a moment after an engine has started.
has_role() {
  read -r seen_address seen_controls seen_port << END
$(info '{{.Swarm.NodeAddr}} {{.Swarm.ControlAvailable}} {{with .Swarm.Cluster}}{{.DataPathPort}}{{end}}')
END
  [ "$controls" = "$seen_controls" ]
}
wait_until has_role || {
  [ -n "$seen_controls" ] || fail 1 "the Docker engine stopped answering"
  case $role in
    manager) fail 3 "this node is a worker. It was left so; 'docker node promote' on a manager changes that." ;;
    *) fail 3 "this node is a manager. It was left so; 'docker node demote' on a manager changes that." ;;
  esac
}
expect "advertised address" "$advertise" "$seen_address" "Only a node that leaves its swarm and joins again can change it."
# Without a leader, as while most managers are away, nobody knows it.
[ "$seen_port" != 0 ] || seen_port=
expect "data path port" "$port" "$seen_port" "It is a property of the whole swarm, set when that was made."
say "this node is a $role of the swarm, at $seen_address"
