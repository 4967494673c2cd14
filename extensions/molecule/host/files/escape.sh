#!/bin/sh
# escape.sh NAME OTHER: what a process that has broken out of guest NAME could do, with the user and the sandbox of its
# hypervisor.  Prints a line for each attempt that succeeded; none is what is wanted.
name=$1
other=$2
pid=$(systemctl show --property=MainPID --value "microvm@$name")
state=/var/lib/microvms

# The user alone, outside of the sandbox.
as_user() {
    runuser -u microvm -- "$@" 2>/dev/null && echo "user: $*"
}

# The user in the mount namespace of the hypervisor.
inside() {
    nsenter --target "$pid" --mount setpriv --reuid microvm --regid kvm --clear-groups --no-new-privs "$@" \
        >/dev/null 2>&1 && echo "inside: $*"
}

as_user ln -sfn /tmp "$state/$name/current"
as_user rm -f "$state/$name/current"
as_user mv -T "$state/$name/booted" "$state/$name/current"
as_user mv "$state/$name" "$state/moved"
as_user touch "$state/planted"
as_user ls /var/lib/microvm-fleet
as_user touch /nix/store/planted
as_user ln -sfn /tmp "/run/microvm-fleet/booted/$name"
as_user touch /usr/local/lib/microvm-fleet/planted
inside test -e "$state/$other"
inside touch "$state/$other/planted"
inside ls /root
inside ls /home
inside touch /srv/planted
inside touch /dev/shm/../../etc/planted

# Root follows what was noted, not the link that the user owns.
runuser -u microvm -- mkdir -p "$state/$name/evil/bin"
printf '#!/bin/sh\ntouch /run/owned\n' | runuser -u microvm -- tee "$state/$name/evil/bin/tap-down" >/dev/null
runuser -u microvm -- chmod 755 "$state/$name/evil/bin/tap-down"
runuser -u microvm -- ln -sfn "$state/$name/evil" "$state/$name/booted"
exit 0
