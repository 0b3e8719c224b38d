#!/bin/sh
# Makes the store in the folder $1 if it is not there yet, with the model $2 as its first champion. Several pods may run
# this at once, and each again: a step that another one has done meanwhile is no failure.
set -eu
store=$1 model=$2
if [ ! -f "$store/store.yaml" ]; then
  finetune feedback init "$store" --who deployment --reviewers "${STORE_REVIEWERS:-1}" \
    ${STORE_DATABASE:+--database "$STORE_DATABASE"} ${STORE_AUDIO:+--audio "$STORE_AUDIO"} || [ -f "$store/store.yaml" ]
fi
if [ -n "$model" ] && [ ! -e "$store/models/champion" ]; then
  finetune models "$store" --who deployment add "$model" --name first || [ -d "$store/models/first" ]
  finetune models "$store" --who deployment promote first || [ -e "$store/models/champion" ]
fi
