{{- define "tcplb.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* 40 characters leave room for what is appended within the 63 of a label. */}}
{{- define "tcplb.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $whole := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- default $whole .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* For what is not in the release's namespace: two releases of one name may be in two namespaces. */}}
{{- define "tcplb.clusterwide" -}}
{{- printf "%s-%s" .Release.Namespace (include "tcplb.fullname" .) -}}
{{- end -}}

{{- define "tcplb.labels" -}}
{{- $own := include "tcplb.selector" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/version" .Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") -}}
{{- merge $own .Values.commonLabels | toYaml -}}
{{- end -}}

{{- define "tcplb.selector" -}}
app.kubernetes.io/name: {{ include "tcplb.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/*
Labels of the pods of a component: (list context component labels). Labels that selectors use cannot be replaced.
No versions: a change that does not concern the pods must not replace them, for connections end with them.
*/}}
{{- define "tcplb.podLabels" -}}
{{- $context := index . 0 -}}
{{- $own := include "tcplb.selector" $context | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/component" (index . 1) -}}
{{- merge $own (index . 2) $context.Values.commonLabels | toYaml -}}
{{- end -}}

{{- define "tcplb.serviceAccount" -}}
{{- default (include "tcplb.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "tcplb.hostServiceAccount" -}}
{{- include "tcplb.serviceAccount" . }}{{ if .Values.serviceAccount.create }}-host{{ end -}}
{{- end -}}

{{/* Those who watch the cluster's objects. */}}
{{- define "tcplb.subjects" -}}
{{- $names := list -}}
{{- if ne .Values.kind "None" }}{{ $names = append $names (include "tcplb.serviceAccount" .) }}{{ end -}}
{{- if .Values.host.enabled }}{{ $names = append $names (include "tcplb.hostServiceAccount" .) }}{{ end -}}
{{- range uniq $names }}
- kind: ServiceAccount
  name: {{ . }}
  namespace: {{ $.Release.Namespace }}
{{- end }}
{{- end -}}

{{- define "tcplb.image" -}}
{{- $image := .Values.image -}}
{{- $tag := default .Chart.AppVersion $image.tag -}}
{{ $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $tag }}{{ end }}
{{- end -}}

{{/* The names of the admin Service of proxies that are called so, and those that are added: (list . $name) */}}
{{- define "tcplb.adminHosts" -}}
{{- $ := index . 0 -}}
{{- $name := printf "%s-admin" (index . 1) -}}
{{- $qualified := printf "%s.%s" $name $.Release.Namespace -}}
{{- $inCluster := printf "%s.svc.%s" $qualified $.Values.clusterDomain -}}
{{- join "," (concat (list $name $qualified (printf "%s.svc" $qualified) $inCluster) $.Values.admin.hosts) -}}
{{- end -}}

{{/* The arguments that every controller gets. */}}
{{- define "tcplb.arguments" -}}
- --class={{ .Values.class }}
- --cluster-domain={{ .Values.clusterDomain }}
{{- with .Values.watchNamespaces }}
- --watch-namespace={{ join "," . }}
{{- end }}
{{- with .Values.tenancy }}
- --allow-service-type={{ join "," .allowedServiceTypes }}
{{- with .allowedAnnotations }}
- --allow-annotation={{ join "," . }}
{{- end }}
{{- with .allowedLabels }}
- --allow-label={{ join "," . }}
{{- end }}
{{- with .allowedLoadBalancerClasses }}
- --allow-load-balancer-class={{ join "," . }}
{{- end }}
{{- if .allowNodePorts }}
- --allow-node-ports
{{- end }}
{{- with .allowedBackendNetworks }}
- --allow-backend-network={{ join "," . }}
{{- end }}
{{- with .deniedBackendNetworks }}
- --deny-backend-network={{ join "," . }}
{{- end }}
{{- if not (kindIs "invalid" .maxLoadBalancersPerNamespace) }}
- --max-load-balancers-per-namespace={{ int .maxLoadBalancersPerNamespace }}
{{- end }}
{{- if not (kindIs "invalid" .maxListenersPerNamespace) }}
- --max-listeners-per-namespace={{ int .maxListenersPerNamespace }}
{{- end }}
- --max-secrets-per-namespace={{ int .maxSecretsPerNamespace }}
{{- end }}
- --log-format={{ .Values.log.format }}
- --access-log={{ .Values.log.connections }}
{{- with .Values.workers }}
- --workers={{ int . }}
{{- end }}
{{- with .Values.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What is the same in the containers of both placements, but for security and resources. */}}
{{- define "tcplb.container" -}}
image: {{ include "tcplb.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_IPS
  valueFrom: {fieldRef: {fieldPath: status.podIPs}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: RUST_LOG
  value: {{ .Values.log.level | quote }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
startupProbe: {{- toYaml .Values.startupProbe | nindent 2 }}
livenessProbe: {{- toYaml .Values.livenessProbe | nindent 2 }}
readinessProbe: {{- toYaml .Values.readinessProbe | nindent 2 }}
{{- end -}}

{{/* What is the same in the pods of both placements. */}}
{{- define "tcplb.pod" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 0 }}
{{- end }}
# The namespace may have thousands of Services, and the environment would have variables for all of them.
enableServiceLinks: false
{{- end -}}
