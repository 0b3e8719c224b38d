#!/bin/sh
# Makes the store in the folder $1 if it is not there yet, with the model $2 as its first champion. Several pods may run
# this at once, and each again: a step that another one has done meanwhile is no failure.
set -eu
store=$1 model=$2
key=${STORE_KEY_FILE:+--key-file $STORE_KEY_FILE}
if [ ! -f "$store/store.yaml" ]; then
  finetune feedback init "$store" $key --who deployment --reviewers "${STORE_REVIEWERS:-1}" \
    ${STORE_DATABASE:+--database "$STORE_DATABASE"} ${STORE_AUDIO:+--audio "$STORE_AUDIO"} || [ -f "$store/store.yaml" ]
fi
if [ -n "$model" ] && [ ! -e "$store/models/champion" ]; then
  finetune models "$store" $key --who deployment add "$model" --name first || [ -d "$store/models/first" ]
  finetune models "$store" $key --who deployment promote first || [ -e "$store/models/champion" ]
fi
