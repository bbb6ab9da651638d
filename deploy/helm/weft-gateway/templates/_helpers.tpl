{{- /* Labels of every object; `root` is the chart's context. The last two tell this gateway's objects from those of others, in whatever namespace they are. */ -}}
{{- define "weft.labels" -}}
app.kubernetes.io/name: weft-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: gateway
app.kubernetes.io/part-of: weft
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
weft.dev/gateway-namespace: {{ .Release.Namespace }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* What a Service and a Deployment select. */ -}}
{{- define "weft.selector" -}}
app.kubernetes.io/name: weft-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "weft.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ printf "%s@%s" .repository .digest }}
{{- else -}}
{{ printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Which Secrets the control plane may read, as a rule. */ -}}
{{- define "weft.secrets" -}}
- apiGroups: [""]
  resources: [secrets]
  {{- with .Values.tls.secrets }}
  resourceNames:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  verbs: [get, list, watch]
{{- end -}}
