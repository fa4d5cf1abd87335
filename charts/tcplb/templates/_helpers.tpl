{{- define "tcplb.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/*
A name for Services (RFC 1035) that other names can be appended to: 40 characters leave room within the 63 of a label. A
name that has to be changed gets a hash of the original one, since others may become the same otherwise.
*/}}
{{- define "tcplb.objectName" -}}
{{- $valid := regexReplaceAll "[^a-z0-9-]" (lower .) "-" -}}
{{- if and (eq $valid .) (le (len .) 40) -}}
{{- trimSuffix "-" . -}}
{{- else -}}
{{- printf "%s-%s" ($valid | trunc 31 | trimSuffix "-") (sha256sum . | trunc 8) -}}
{{- end -}}
{{- end -}}

{{- define "tcplb.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $whole := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- include "tcplb.objectName" (default $whole .Values.fullnameOverride) -}}
{{- end -}}

{{/* For what is not in the release's namespace: two releases of one name may be in two namespaces. */}}
{{- define "tcplb.clusterwide" -}}
{{- printf "%s-%s" .Release.Namespace (include "tcplb.fullname" .) -}}
{{- end -}}

{{- define "tcplb.labels" -}}
{{- include "tcplb.labelsAnd" (list . dict) -}}
{{- end -}}

{{/* The labels of an object that has labels of its own: (list context labels). The chart's own ones take precedence. */}}
{{- define "tcplb.labelsAnd" -}}
{{- $context := index . 0 -}}
{{- $own := include "tcplb.selector" $context | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/version" $context.Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" $context.Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" $context.Chart.Name $context.Chart.Version | replace "+" "_") -}}
{{- merge $own (default dict (index . 1)) (default dict $context.Values.commonLabels) | toYaml -}}
{{- end -}}

{{/* The metadata of an object for a monitoring system: (list context settings name). */}}
{{- define "tcplb.monitoringMetadata" -}}
{{- $context := index . 0 -}}
{{- $settings := index . 1 -}}
name: {{ index . 2 }}
namespace: {{ default $context.Release.Namespace $settings.namespace | quote }}
labels: {{- include "tcplb.labelsAnd" (list $context $settings.labels) | nindent 2 }}
{{- with $settings.annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The annotations of pods: (list context annotations port). */}}
{{- define "tcplb.podAnnotations" -}}
{{- $context := index . 0 -}}
{{- $scrape := dict -}}
{{- if $context.Values.metrics.scrapeAnnotations -}}
{{- $scrape = dict "prometheus.io/scrape" "true" "prometheus.io/path" "/metrics" "prometheus.io/port" (toString (int (index . 2))) -}}
{{- end -}}
{{- with merge (deepCopy (default dict (index . 1))) $scrape -}}
annotations: {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- define "tcplb.selector" -}}
app.kubernetes.io/name: {{ include "tcplb.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/*
Labels of the pods of a component: (list context component labels). Labels that selectors use cannot be replaced.
No versions: a change that does not concern the pods must not replace them, for connections end with them.
*/}}
{{- define "tcplb.podLabels" -}}
{{- $context := index . 0 -}}
{{- $own := include "tcplb.selector" $context | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/component" (index . 1) -}}
{{- merge $own (default dict (index . 2)) (default dict $context.Values.commonLabels) | toYaml -}}
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
  namespace: {{ $.Release.Namespace | quote }}
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
{{- with .allowedServiceTypes }}
- --allow-service-type={{ join "," . }}
{{- end }}
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
- --max-load-balancers-per-namespace={{ int64 .maxLoadBalancersPerNamespace }}
{{- end }}
{{- if not (kindIs "invalid" .maxListenersPerNamespace) }}
- --max-listeners-per-namespace={{ int64 .maxListenersPerNamespace }}
{{- end }}
- --max-secrets-per-namespace={{ kindIs "invalid" .maxSecretsPerNamespace | ternary "unlimited" (int64 .maxSecretsPerNamespace) }}
{{- end }}
- --log-format={{ .Values.log.format }}
- --log-filter-file=/etc/tcplb/log/filter
- --access-log={{ .Values.log.connections }}
{{- with .Values.log.connectionsFormat }}
- --access-log-format={{ . }}
{{- end }}
{{- with .Values.workers }}
- --workers={{ int . }}
{{- end }}
- --admin-authorization={{ .Values.admin.authorization }}
{{- if eq .Values.admin.authorization "kubernetes" }}
- --admin-token-file=/var/run/secrets/tcplb/token
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
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
startupProbe: {{- toYaml .Values.startupProbe | nindent 2 }}
livenessProbe: {{- toYaml .Values.livenessProbe | nindent 2 }}
readinessProbe: {{- toYaml .Values.readinessProbe | nindent 2 }}
volumeMounts:
- {name: log, mountPath: /etc/tcplb/log, readOnly: true}
{{- if eq .Values.admin.authorization "kubernetes" }}
- {name: admin-token, mountPath: /var/run/secrets/tcplb, readOnly: true}
{{- end }}
{{- end -}}

{{/* What is the same in the pods of both placements. */}}
{{- define "tcplb.pod" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 0 }}
{{- end }}
# Without this, the environment has variables for every Service of the namespace, which can be thousands.
enableServiceLinks: false
volumes:
- name: log
  configMap: {name: {{ include "tcplb.fullname" . }}-log, optional: true}
{{- if eq .Values.admin.authorization "kubernetes" }}
# The leader sends this token to the admin ports of all proxies. Nothing else accepts a token of this audience.
- name: admin-token
  projected:
    sources:
    - serviceAccountToken: {audience: tcplb, expirationSeconds: 3600, path: token}
{{- end }}
{{- end -}}

{{/* The eight 16-bit groups of an address as a JSON array, those of IPv4 as if mapped into IPv6. Empty: it is no address. */}}
{{- define "tcplb.groups" -}}
{{- $address := . -}}
{{- if contains "." $address -}}
{{- $dotted := last (splitList ":" $address) -}}
{{- $words := list -}}
{{- if regexMatch "^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])([.]|$)){4}$" $dotted -}}
{{- $octets := splitList "." $dotted -}}
{{- range list 0 2 -}}
{{- $words = append $words (printf "%x%02x" (int (index $octets .)) (int (index $octets (int (add1 .))))) -}}
{{- end -}}
{{- end -}}
{{- $address = printf "%s%s" (contains ":" $address | ternary (trimSuffix $dotted $address) "::ffff:") (join ":" $words) -}}
{{- end -}}
{{- $lists := list -}}
{{- range splitList "::" $address -}}
{{- $lists = append $lists (empty . | ternary list (splitList ":" .)) -}}
{{- end -}}
{{- $head := first $lists -}}
{{- $tail := default list (index (append $lists list) 1) -}}
{{- $zeros := list -}}
{{- range until (sub 8 (add (len $head) (len $tail)) | max 0 | int) -}}
{{- $zeros = append $zeros "0" -}}
{{- end -}}
{{- $groups := concat $head $zeros $tail -}}
{{- $complete := or (and (eq (len $lists) 1) (eq (len $head) 8)) (and (eq (len $lists) 2) (ne (len $zeros) 0) (eq (len $groups) 8)) -}}
{{- $numbers := list -}}
{{- range $groups -}}
{{- if regexMatch "^[0-9a-fA-F]{1,4}$" . -}}
{{- $numbers = append $numbers (int (printf "0x%s" .)) -}}
{{- end -}}
{{- end -}}
{{- and $complete (eq (len $numbers) 8) | ternary $numbers list | toJson -}}
{{- end -}}
