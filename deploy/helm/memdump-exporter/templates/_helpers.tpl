{{/* values.yaml's values where an upgrade with --reuse-values, from a chart that did not have them, leaves them out.
     Two levels deep, but for resources, whose limits a user may have taken away. */}}
{{- define "memdump-exporter.defaults" -}}
{{- range $key, $default := .Files.Get "files/values.yaml" | fromYaml }}
{{- if not (hasKey $.Values $key) }}{{ $_ := set $.Values $key $default }}
{{- else if and (kindIs "map" $default) (ne $key "resources") }}
{{- range $inner, $default := $default }}
{{- if not (hasKey (index $.Values $key) $inner) }}{{ $_ := set (index $.Values $key) $inner $default }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Begins with memdump whatever the release's name is, as the alerts expect of a job that is named after its Service. */}}
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

{{/* Only a connection, where a request would need a password or a certificate that the kubelet does not have. */}}
{{- define "memdump-exporter.probe" -}}
{{- $config := .root.Values.web.config -}}
{{- if or $config.basic_auth_users (($config.tls_server_config).client_auth_type) -}}
tcpSocket:
  port: http-metrics
{{- else -}}
httpGet:
  path: {{ .path }}
  port: http-metrics
  scheme: {{ include "memdump-exporter.scheme" .root | upper }}
{{- end }}
{{- end }}

{{/* What a ServiceMonitor and a PodMonitor have in common. */}}
{{- define "memdump-exporter.endpoint" -}}
{{- $fixed := dict "port" "http-metrics" "path" "/metrics" "scheme" (include "memdump-exporter.scheme" .root) "interval" .monitor.interval "scrapeTimeout" .monitor.scrapeTimeout "honorLabels" false }}
{{- merge (dict) .monitor.endpoint $fixed | toYaml }}
{{- end }}
