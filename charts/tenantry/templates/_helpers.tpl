{{/* The operator's ServiceAccount.  One release of this chart serves a cluster, so names are fixed. */}}
{{- define "tenantry.serviceAccountName" -}}
tenantry
{{- end }}

{{- define "tenantry.labels" -}}
app.kubernetes.io/name: tenantry
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* An image's reference: call with (dict "image" .Values.images.operator "root" .). */}}
{{- define "tenantry.image" -}}
{{- $tag := .image.tag | default .root.Chart.AppVersion -}}
{{- with .root.Values.images.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .image.repository }}:{{ $tag }}
{{- end }}

{{/* The kind that tells the Prometheus operator of a runtime, or nothing. */}}
{{- define "tenantry.monitor" -}}
{{- $wanted := .Values.metrics.monitor -}}
{{- if ne $wanted "Auto" -}}
{{- if ne $wanted "None" }}{{ $wanted }}{{ end -}}
{{- else if .Capabilities.APIVersions.Has "monitoring.coreos.com/v1/PodMonitor" -}}
PodMonitor
{{- end -}}
{{- end }}

{{/* Names of the Secrets of regions, as a JSON list: the only ones of its namespace that the operator may read. */}}
{{- define "tenantry.regionSecrets" -}}
{{- $names := .Values.operator.extraSecrets -}}
{{- $specs := list -}}
{{- if .Values.region.create }}{{ $specs = append $specs .Values.region }}{{ end -}}
{{- range .Values.regions }}{{ if . }}{{ $specs = append $specs . }}{{ end }}{{ end -}}
{{- range $spec := $specs -}}
{{- range list "postgres" "milvus" "provider" -}}
{{- with (index $spec .).credentialsSecret }}{{ $names = append $names .name }}{{ end -}}
{{- end -}}
{{- end -}}
{{- $names | uniq | sortAlpha | toJson -}}
{{- end }}
