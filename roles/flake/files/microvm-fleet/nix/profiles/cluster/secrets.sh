# shellcheck shell=bash
# Puts the secrets of a cluster where services.kubernetes looks for them: in $SECRETS on every machine, in $AUTHORITY
# where its certificates are signed (empty elsewhere).  Read by fleet-kubernetes-secrets.service.

# A file beside, then a rename, so that a reader finds the old or the new one.
put() { # SOURCE DESTINATION MODE [OWNER]
  install -m "$3" ${4:+-o "$4" -g "$4"} "$1" "$2.new"
  mv -f "$2.new" "$2"
}

given=$CREDENTIALS_DIRECTORY

# Neither cfssl nor certmgr takes every white space around a key, and both want the digits of whole bytes.
token=$(tr -d '[:space:]' <"$given/kubernetes-token")
if ! [[ $token =~ ^([0-9A-Fa-f]{2}){16,}$ ]]; then
  echo "The credential kubernetes-token has ${#token} characters and is to be 32 hexadecimal digits." >&2
  exit 1
fi
# In a directory that root alone can enter (RuntimeDirectory=).
runtime=$RUNTIME_DIRECTORY/token
(umask 077 && printf %s "$token" >"$runtime")

install -d -m 0755 "$SECRETS"
if [ -n "$AUTHORITY" ]; then
  install -d -m 0700 -o cfssl -g cfssl "$AUTHORITY"
  put "$runtime" "$AUTHORITY/apitoken.secret" 0400 cfssl
  if [ -e "$given/kubernetes-ca-key" ]; then
    put "$given/kubernetes-ca" "$AUTHORITY/ca.pem" 0444 cfssl
    put "$given/kubernetes-ca-key" "$AUTHORITY/ca-key.pem" 0400 cfssl
  fi
  ln -sfn "$AUTHORITY/apitoken.secret" "$SECRETS/apitoken.secret"
else
  put "$runtime" "$SECRETS/apitoken.secret" 0600
fi
if [ -e "$given/kubernetes-ca" ]; then
  put "$given/kubernetes-ca" "$SECRETS/ca.pem" 0444
fi
rm -f "$runtime"
