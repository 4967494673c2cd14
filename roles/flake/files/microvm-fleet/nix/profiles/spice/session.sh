#!/bin/sh
# A desktop session's first program: starts what talks to the SPICE client, then becomes the desktop.
#
#   session.sh AGENT RESIZER COMMAND...
#
# AGENT is spice-vdagent(1).  RESIZER follows the size of the client's window, or is - for none.
set -eu
agent=$1
resizer=$2
shift 2
# Where the user's own systemd runs the agent already, a second one would make the daemon serve neither.
if ! systemctl --user cat spice-vdagent.service > /dev/null 2>&1; then
  "$agent"
fi
if [ "$resizer" != - ]; then
  "$resizer" &
fi
exec "$@"
