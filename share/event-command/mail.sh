#!/bin/sh
# Example of an event_command: mails each event to the address in its first argument.
# Needs sendmail (of postfix, exim4, msmtp-mta and others) and jq.
set -eu
event=$(cat)
field() { printf '%s' "$event" | jq -r --arg name "$1" '.[$name] // "" | tostring | gsub("[[:cntrl:]]"; " ")'; }
{
    printf 'To: %s\n' "$1"
    printf 'Subject: Zeek agent %s: %s %s\n' "$(field agent)" "$(field kind)" "$(field node)"
    # The same event has the same id, however often it is sent.
    printf 'X-Zeek-Agent-Event: %s\n\n' "$(field id)"
    printf '%s\n\n' "$(field message)"
    printf '%s' "$event" | jq .
} | "${SENDMAIL:-/usr/sbin/sendmail}" -t
