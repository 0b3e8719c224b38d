"""Tasks for Label Studio: utterances of the review queue with what a model wrote, to be corrected there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.feedback.imports.labeling import CONFIGURATION
from finetune.feedback.records import Utterance
from finetune.feedback.store import Store
from finetune.files import new_folder, write_bytes, write_text

TASKS, LABELING, AUDIO = "tasks.json", "labeling.xml", "audio"


def write_tasks(store: Store, utterances: Sequence[Utterance], folder: Path, who: str) -> None:
    """Write a new folder with tasks.json, labeling.xml and audio, which is decrypted; raises UserError and OSError.

    Label Studio serves the audio when LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT is the folder that this one is in. What
    `finetune feedback import --audio-root` reads of the project's export are the same utterances. The audit log keeps
    which utterances have left the store.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already, and nothing is overwritten: choose a new folder.")
    with new_folder(folder) as partial:
        (partial / AUDIO).mkdir()
        tasks = [_describe(store, utterance, partial, folder.name) for utterance in utterances]
        write_text(partial / TASKS, json.dumps(tasks, indent=1, ensure_ascii=False) + "\n")
        write_text(partial / LABELING, CONFIGURATION)
        store.log(who, "label studio", str(folder), ids=[utterance.id for utterance in utterances])


def _describe(store: Store, utterance: Utterance, folder: Path, name: str) -> dict[str, Any]:
    audio = f"{utterance.digest}{utterance.suffix}"
    write_bytes(folder / AUDIO / audio, store.read_audio(utterance.id))
    data = {"audio": f"/data/local-files/?d={name}/{AUDIO}/{audio}", "utterance": utterance.id}
    data |= {"domain": utterance.domain, "consent": utterance.consent}
    predictions: list[dict[str, Any]] = []
    for hypothesis in utterance.hypotheses[-1:]:
        result = {
            "id": f"utterance-{utterance.id}",
            "from_name": "transcription",
            "to_name": "audio",
            "type": "textarea",
            "value": {"text": [hypothesis.text]},
        }
        score = {} if hypothesis.confidence is None else {"score": hypothesis.confidence}
        predictions.append({"model_version": hypothesis.model, **score, "result": [result]})
    return {"data": data, "predictions": predictions}
