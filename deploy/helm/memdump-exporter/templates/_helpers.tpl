{{/* Adds values of values.yaml that are missing: helm upgrade --reuse-values leaves out those that the installed chart does not have.
     Two levels deep, except in tables from which a user may have removed a value. */}}
{{- define "memdump-exporter.defaults" -}}
{{- range $key, $default := .Files.Get "files/values.yaml" | fromYaml }}
{{- if not (hasKey $.Values $key) }}{{ $_ := set $.Values $key $default }}
{{- else if and (kindIs "map" $default) (not (has $key (list "resources" "podSecurityContext" "securityContext"))) }}
{{- range $inner, $default := $default }}
{{- if not (hasKey (index $.Values $key) $inner) }}{{ $_ := set (index $.Values $key) $inner $default }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Begins with memdump whatever the release's name is: the alerts select jobs by that, and a job may be named after the Service. */}}
{{- define "memdump-exporter.fullname" -}}
{{- .Release.Name | hasPrefix "memdump" | ternary .Release.Name (printf "memdump-exporter-%s" .Release.Name) | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "memdump-exporter.selectorLabels" -}}
app.kubernetes.io/name: memdump-exporter
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "memdump-exporter.metadata" -}}
name: {{ include "memdump-exporter.fullname" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "memdump-exporter.labels" . | nindent 2 }}
{{- end }}

{{- define "memdump-exporter.labels" -}}
{{ include "memdump-exporter.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "memdump-exporter.scheme" -}}
{{- hasKey .Values.web.config "tls_server_config" | ternary "https" "http" }}
{{- end }}

{{/* Only a connection where a request would need a password or a certificate that the kubelet does not have, or would count
     against the rate limit: enough scrapes would then fail the probe. */}}
{{- define "memdump-exporter.probe" -}}
{{- $config := .root.Values.web.config -}}
{{- if or $config.basic_auth_users $config.rate_limit (($config.tls_server_config).client_auth_type) -}}
tcpSocket:
  port: http-metrics
{{- else -}}
httpGet:
  path: {{ .path }}
  port: http-metrics
  scheme: {{ include "memdump-exporter.scheme" .root | upper }}
{{- end }}
{{- end }}

{{/* OpenShift chooses user and groups from the namespace's ranges, and rejects a pod with others. */}}
{{- define "memdump-exporter.securityContext" -}}
{{- $adapt := dig "compatibility" "openshift" "adaptSecurityContext" "auto" .root.Values.global }}
{{- $openshift := .root.Capabilities.APIVersions.Has "security.openshift.io/v1" }}
{{- $context := .context | default dict }}
{{- if or (eq $adapt "force") (and (eq $adapt "auto") $openshift) }}
{{- $context = omit $context "runAsUser" "runAsGroup" "fsGroup" }}
{{- end }}
{{- if $context }}{{ toYaml $context }}{{ end }}
{{- end }}

{{/* A duration of Prometheus in milliseconds. The zeros in front would make the number an octal one. */}}
{{- define "memdump-exporter.milliseconds" -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000 "w" 604800000 "y" 31536000000 }}
{{- $sum := 0 }}
{{- range regexFindAll "[0-9]+[a-z]+" . -1 }}
{{- $sum = add $sum (mul (regexFind "[1-9][0-9]*" . | int64) (get $units (regexFind "[a-z]+" .))) }}
{{- end }}
{{- $sum }}
{{- end }}

{{/* The endpoint of a ServiceMonitor or a PodMonitor. The operator drops a monitor whose scrapeTimeout is greater than its interval. */}}
{{- define "memdump-exporter.endpoint" -}}
{{- $fixed := dict "port" "http-metrics" "path" "/metrics" "scheme" (include "memdump-exporter.scheme" .root) "interval" .monitor.interval "scrapeTimeout" .monitor.scrapeTimeout "honorLabels" false }}
{{- $endpoint := merge (dict) .monitor.endpoint $fixed }}
{{- if gt (include "memdump-exporter.milliseconds" $endpoint.scrapeTimeout | int64) (include "memdump-exporter.milliseconds" $endpoint.interval | int64) }}
{{- $_ := set $endpoint "scrapeTimeout" $endpoint.interval }}
{{- end }}
{{- toYaml $endpoint }}
{{- end }}
