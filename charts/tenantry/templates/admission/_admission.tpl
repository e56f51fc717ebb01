{{/*
Labels of every admission policy.
*/}}
{{- define "tenantry.admission.labels" -}}
app.kubernetes.io/name: tenantry
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: admission
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/*
The operator, as the API server knows it.
*/}}
{{- define "tenantry.admission.operator" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "tenantry.serviceAccountName" . }}
{{- end }}

{{/*
The match condition that lets the break-glass group pass.
*/}}
{{- define "tenantry.admission.notBreakGlass" -}}
- name: not-break-glass
  expression: >-
    !has(request.userInfo.groups) || !({{ .Values.admission.breakGlassGroup | quote }} in request.userInfo.groups)
{{- end }}

{{/*
The match conditions that let pass those who do what others asked for: the operator, Kubernetes' own controllers
(whether each has an identity of its own or all share the controller manager's), the API server itself (it counts
quota), and the break-glass group. No person is among them, and no controller whose Pods are somebody's: what the
ReplicaSet controller makes from a Deployment was refused at the Deployment, or is refused as a Pod.
*/}}
{{- define "tenantry.admission.notExempt" -}}
- name: not-exempt
  expression: >-
    !(request.userInfo.username in [
      {{ include "tenantry.admission.operator" . | quote }},
      "system:apiserver",
      "system:kube-controller-manager",
      {{- range list "cronjob-controller" "daemon-set-controller" "deployment-controller" "disruption-controller" "endpoint-controller" "endpointslice-controller" "endpointslicemirroring-controller" "generic-garbage-collector" "horizontal-pod-autoscaler" "job-controller" "namespace-controller" "replicaset-controller" "replication-controller" "resourcequota-controller" "root-ca-cert-publisher" "service-account-controller" "statefulset-controller" "storage-version-migrator-controller" "ttl-after-finished-controller" }}
      "system:serviceaccount:kube-system:{{ . }}",
      {{- end }}
      {{- range .Values.admission.trustedUsers }}
      {{ . | quote }},
      {{- end }}
    ])
{{ include "tenantry.admission.notBreakGlass" . }}
{{- end }}

{{/*
Only namespaces that are a tenant's. By name they are tenant-NAME and tenant-NAME--SUFFIX (workloads) or
runtime-NAME: call with (dict "prefix" "tenant-").
*/}}
{{- define "tenantry.admission.inNamespaces" -}}
- name: namespace
  expression: request.namespace.startsWith("{{ .prefix }}")
{{- end }}

{{- define "tenantry.admission.tenantNamespaces" -}}
namespaceSelector:
  matchExpressions:
    - {key: tenantry.dev/tenant, operator: Exists}
{{- end }}

{{/*
The binding that puts a policy in force: call with (dict "name" NAME "root" $).
*/}}
{{- define "tenantry.admission.binding" -}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ .name }}
  labels:
    {{- include "tenantry.admission.labels" .root | nindent 4 }}
spec:
  policyName: {{ .name }}
  validationActions: [Deny]
{{- end }}
