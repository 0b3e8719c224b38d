{{- define "finetune.fullname" -}}
{{- if contains "finetune" .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-finetune" .Release.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "finetune.selector" -}}
app.kubernetes.io/name: finetune
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "finetune.consumeSelector" -}}
app.kubernetes.io/name: finetune-consume
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "finetune.labels" -}}
{{ include "finetune.selector" . }}
{{ include "finetune.commonLabels" . }}
{{- end }}

{{- define "finetune.consumeLabels" -}}
{{ include "finetune.consumeSelector" . }}
{{ include "finetune.commonLabels" . }}
{{- end }}

{{- define "finetune.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.region.name }}
topology.kubernetes.io/region: {{ . }}
{{- end }}
{{- end }}

{{- define "finetune.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default (printf "%s%s" .Chart.AppVersion (ternary "-gpu" "" .Values.gpu.enabled)) }}{{ end }}
{{- end }}

{{- define "finetune.claim" -}}
{{ .Values.store.existingClaim | default (printf "%s-store" (include "finetune.fullname" .)) }}
{{- end }}

{{- define "finetune.keysSecret" -}}
{{ .Values.keys.existingSecret | default (printf "%s-keys" (include "finetune.fullname" .)) }}
{{- end }}

{{/* What does not fit together, and what values.schema.json can't see. */}}
{{- define "finetune.check" -}}
{{- if and (not .Values.keys.insecure) (not .Values.keys.existingSecret) (not .Values.keys.content) }}
{{- fail "The service needs keys: give keys.existingSecret or keys.content, or keys.insecure in a network that you trust." }}
{{- end }}
{{- if and .Values.keys.existingSecret .Values.keys.content }}
{{- fail "keys.existingSecret and keys.content are both given; expected one of them (an empty existingSecret: \"\")." }}
{{- end }}
{{- if and .Values.ingress.enabled (not (and .Values.ingress.host .Values.ingress.tlsSecret)) }}
{{- fail "The ingress needs ingress.host and ingress.tlsSecret: keys and speech are not sent without TLS." }}
{{- end }}
{{- if and .Values.store.enabled .Values.store.database (not .Values.store.audio) }}
{{- fail "A store in PostgreSQL needs store.audio, a URL that all pods reach." }}
{{- end }}
{{- if and .Values.store.enabled (not .Values.store.database) (or (gt (int .Values.replicas) 1) (ne .Values.autoscaling.kind "none")) }}
{{- fail "A store in SQLite is on one node: set replicas to 1 and autoscaling.kind to none, or give store.database." }}
{{- end }}
{{- if and .Values.improve.enabled (not (and .Values.store.enabled .Values.improve.recipe)) }}
{{- fail "improve needs store.enabled and improve.recipe." }}
{{- end }}
{{- if .Values.consume.enabled }}
{{- if not (and .Values.consume.brokers .Values.consume.topics .Values.consume.results .Values.consume.group) }}
{{- fail "consume needs consume.brokers, consume.topics, consume.results and consume.group." }}
{{- end }}
{{- if and .Values.consume.autoscaling.secretKeys (not .Values.consume.secret) }}
{{- fail "consume.autoscaling.secretKeys are keys of consume.secret, which is not given." }}
{{- end }}
{{- if and (ne .Values.consume.autoscaling.sasl "none") (ne .Values.consume.autoscaling.kind "none") (not .Values.consume.autoscaling.secretKeys) }}
{{- fail "consume.autoscaling.sasl needs consume.autoscaling.secretKeys: [username, password] of consume.secret." }}
{{- end }}
{{- end }}
{{- if and .Values.region.role (not (and .Values.region.name .Values.region.host .Values.region.healthCheck .Values.ingress.enabled)) }}
{{- fail "region.role needs region.name, region.host, region.healthCheck and the ingress, whose DNS record fails over." }}
{{- end }}
{{- $sources := 0 }}{{- $champions := 0 }}
{{- range .Values.models }}
{{- if .champion }}{{ $champions = add1 $champions }}{{ else if not .hub }}{{ $sources = add1 $sources }}{{ end }}
{{- end }}
{{- if and $champions (not (and .Values.store.enabled $sources)) }}
{{- fail "A model with champion: true needs store.enabled, and a model with url or path that becomes the store's first version." }}
{{- end }}
{{- end }}

{{/* The model of the consumers, of `models`. */}}
{{- define "finetune.consumeModel" -}}
{{- $wanted := .Values.consume.model }}{{ $found := dict }}
{{- range .Values.models }}
{{- if and (not $found) (not .champion) (or (not $wanted) (eq .name $wanted)) }}{{ $found = . }}{{ end }}
{{- end }}
{{- if not $found }}
{{- fail "consume.model is not the name of one of `models` with hub, url or path." }}
{{- end }}
{{- toJson $found }}
{{- end }}

{{- define "finetune.place" -}}
{{- if .hub }}{{ .hub }}{{ else if .path }}{{ .path }}{{ else if .url }}/models/{{ .name }}{{ else }}/store/corrections/models/champion{{ end }}
{{- end }}

{{/* The security of each container: nothing to gain from it, and nothing to write to. */}}
{{- define "finetune.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "finetune.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "finetune.storeEnv" -}}
{{- if .Values.store.databaseSecret }}
- name: PGPASSWORD
  valueFrom: {secretKeyRef: {name: {{ .Values.store.databaseSecret }}, key: password}}
{{- end }}
{{- end }}

{{/* As a file, not in the environment: a service that runs takes a new key from it. */}}
{{- define "finetune.storeKey" -}}
{{- if and .Values.store.enabled .Values.store.encryptionSecret }}/etc/finetune-store/key{{ end }}
{{- end }}

{{- define "finetune.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: models, mountPath: /models}
{{- if .Values.store.enabled }}
- {name: store, mountPath: /store}
{{- end }}
{{- if include "finetune.storeKey" . }}
- {name: store-key, mountPath: /etc/finetune-store, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "finetune.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: {{ .Values.temporarySize }}}
- name: models
  emptyDir: {}
{{- if .Values.store.enabled }}
- name: store
  persistentVolumeClaim: {claimName: {{ include "finetune.claim" . }}}
{{- end }}
{{- if include "finetune.storeKey" . }}
- name: store-key
  secret: {secretName: {{ .Values.store.encryptionSecret }}, defaultMode: 0440}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "finetune.gpuLimits" -}}
{{- $resources := deepCopy .resources }}
{{- if .gpu }}
{{- $_ := set $resources "limits" (merge (dict .root.Values.gpu.resource (int .root.Values.gpu.count)) ($resources.limits | default dict)) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{- define "finetune.hasUrls" -}}
{{- range .Values.models }}{{ if .url }}yes{{ end }}{{ end }}
{{- end }}

{{/*
A pod helps only a minute or two after it is asked for; meanwhile the wait still grows. Twice as many pods in each step
would be far too many (scripts/deploy/capacity.py simulates a day). Down slowly: a pod that ends takes its live sessions.
*/}}
{{- define "finetune.scalingBehavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  policies:
    - {type: Percent, value: 20, periodSeconds: 60}
    - {type: Pods, value: 4, periodSeconds: 60}
  selectPolicy: Max
scaleDown:
  stabilizationWindowSeconds: 600
  policies:
    - {type: Pods, value: 1, periodSeconds: 120}
{{- end }}
