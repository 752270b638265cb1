{{/* The image, by digest where there is one. */}}
{{- define "egret.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Labels that never change, to select by. Called with the component's name. */}}
{{- define "egret.selector" -}}
app.kubernetes.io/name: egret
app.kubernetes.io/component: {{ . }}
{{- end -}}

{{/* Labels of an object. Called with (list . "component"). */}}
{{- define "egret.labels" -}}
{{- $root := index . 0 -}}
{{ include "egret.selector" (index . 1) }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- end -}}

{{/* Labels of Egret's own pods: never captured by Egret, nor by an Istio that is there as well. */}}
{{- define "egret.unmeshed" -}}
egret.dev/egress: disabled
sidecar.istio.io/inject: "false"
istio.io/dataplane-mode: none
{{- end -}}

{{/* Who and where a pod is: what every role reads with --kubernetes. */}}
{{- define "egret.env" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: POD_UID
  valueFrom: {fieldRef: {fieldPath: metadata.uid}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: EGRET_LOG
  value: {{ .Values.logLevel | quote }}
{{- end -}}

{{/* A container that may do nothing but compute and talk. */}}
{{- define "egret.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* The user of every pod but the agent's; the image's own, said so that PodSecurity "restricted" sees it. */}}
{{- define "egret.user" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* The service-account token by which the CA knows a pod: for the CA only, and short-lived. */}}
{{- define "egret.token" -}}
- name: token
  projected:
    sources:
      - serviceAccountToken:
          path: token
          audience: egret-ca
          expirationSeconds: 3600
{{- end -}}

{{/* Where a pod may run. Called with the component's values. */}}
{{- define "egret.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Annotations of a pod, and those by which a Prometheus without operator finds it. Called with (list . podAnnotations). */}}
{{- define "egret.annotations" -}}
{{- $metrics := (index . 0).Values.metrics -}}
{{- $own := dict -}}
{{- if and $metrics.enabled $metrics.annotations -}}
{{- $own = dict "prometheus.io/scrape" "true" "prometheus.io/port" (toString (int $metrics.port)) "prometheus.io/path" "/metrics" -}}
{{- end -}}
{{- with merge (deepCopy (index . 1)) $own -}}
annotations: {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* Where a role serves metrics, as an argument. */}}
{{- define "egret.metricsAddress" -}}
--metrics-address=[::]:{{ int .Values.metrics.port }}
{{- end -}}

{{- define "egret.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}
