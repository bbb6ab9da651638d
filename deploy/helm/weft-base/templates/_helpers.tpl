{{- /* The namespace is part of the control plane's identity, which every sidecar checks. */ -}}
{{- define "weft.namespace" -}}
{{- if ne .Release.Namespace "weft-system" -}}
{{- fail "Weft's own parts live in the namespace weft-system: sidecars trust a control plane of that namespace only. Install with --namespace weft-system" -}}
{{- end -}}
{{- .Release.Namespace -}}
{{- end -}}

{{- /* Labels of an object of `component`; `root` is the chart's context. */ -}}
{{- define "weft.labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: weft
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}
