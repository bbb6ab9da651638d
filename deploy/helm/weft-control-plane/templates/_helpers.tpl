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

{{- /* What a Service and a Deployment select. */ -}}
{{- define "weft.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
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

{{- /* What every container of Weft's own needs: its place, and how it logs. */ -}}
{{- define "weft.env" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: WEFT_LOG
  value: {{ .Values.log.level | quote }}
- name: WEFT_LOG_FORMAT
  value: {{ .Values.log.format | quote }}
- name: WEFT_TRUST_DOMAIN
  value: {{ .Values.trustDomain | quote }}
{{- end -}}

{{- /* The parts of a container that control plane and injector share. */ -}}
{{- define "weft.container" -}}
image: {{ include "weft.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
readinessProbe:
  httpGet:
    path: /readyz
    port: http-metrics
  periodSeconds: 2
livenessProbe:
  httpGet:
    path: /livez
    port: http-metrics
  initialDelaySeconds: 10
  periodSeconds: 10
  timeoutSeconds: 5
resources:
  {{- toYaml .part.resources | nindent 2 }}
{{- end -}}

{{- /* The parts of a pod's spec that control plane and injector share: as Pod Security's `restricted` asks. */ -}}
{{- define "weft.pod" -}}
serviceAccountName: {{ .name }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 1337
  runAsGroup: 1337
  fsGroup: 1337
  seccompProfile:
    type: RuntimeDefault
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "weft.selector" $ | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- with .part.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* The head of a Deployment: everything above the pod's spec. */ -}}
{{- define "weft.deployment" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .name }}
  namespace: {{ include "weft.namespace" .root }}
  labels:
    {{- include "weft.labels" . | nindent 4 }}
spec:
  {{- if not .part.autoscaling.enabled }}
  replicas: {{ int .part.replicas }}
  {{- end }}
  selector:
    matchLabels:
      {{- include "weft.selector" . | nindent 6 }}
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxUnavailable: 0
      maxSurge: 1
  template:
    metadata:
      labels:
        {{- include "weft.labels" . | nindent 8 }}
        weft.dev/inject: "false"
        {{- with .part.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        prometheus.io/scrape: "true"
        prometheus.io/port: "15014"
        prometheus.io/path: /metrics
        kubectl.kubernetes.io/default-container: {{ .component }}
        {{- with .part.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- end -}}

{{- /* Namespaces that no webhook looks at: a dead injector must be able to start again. */ -}}
{{- define "weft.leftAlone" -}}
- key: kubernetes.io/metadata.name
  operator: NotIn
  values:
    - kube-system
    - kube-public
    - kube-node-lease
    - {{ include "weft.namespace" . }}
    {{- range .Values.injector.webhook.excludedNamespaces }}
    - {{ . | quote }}
    {{- end }}
{{- end -}}

{{- /* What both webhooks for pods share. */ -}}
{{- define "weft.inject" -}}
clientConfig:
  service:
    namespace: {{ include "weft.namespace" . }}
    name: weft-injector
    path: /inject
    port: 443
rules:
  - apiGroups: [""]
    apiVersions: [v1]
    operations: [CREATE]
    resources: [pods]
    scope: Namespaced
admissionReviewVersions: [v1]
failurePolicy: {{ .Values.injector.webhook.failurePolicy }}
matchPolicy: Equivalent
reinvocationPolicy: IfNeeded
sideEffects: None
timeoutSeconds: {{ int .Values.injector.webhook.timeoutSeconds }}
{{- end -}}

{{- /* What the webhooks that only help people share: they never stand in the way. */ -}}
{{- define "weft.advice" -}}
admissionReviewVersions: [v1]
failurePolicy: Ignore
sideEffects: None
timeoutSeconds: {{ int .Values.injector.webhook.timeoutSeconds }}
{{- end -}}
