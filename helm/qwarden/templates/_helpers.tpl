{{/* The release's name, with the chart's name in it. Cut so that every suffix below fits in 63. */}}
{{- define "qwarden.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" (.Release.Name | trunc 32 | trimSuffix "-") .Chart.Name -}}
{{- end -}}
{{- end -}}

{{/* What never changes for one component: (list . COMPONENT). */}}
{{- define "qwarden.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* All labels of one component's objects: (list . COMPONENT). Pods get the ones above alone, so that
a new chart version that changes nothing in them restarts none. */}}
{{- define "qwarden.labels" -}}
{{- $root := index . 0 -}}
{{ include "qwarden.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* One image, by digest or by tag: (list . NAME DIGEST). */}}
{{- define "qwarden.image" -}}
{{- $image := (index . 0).Values.image -}}
{{- $name := printf "%s/%s" $image.registry (index . 1) -}}
{{- with index . 2 -}}
{{- printf "%s@%s" $name . -}}
{{- else -}}
{{- printf "%s:%s" $name ($image.tag | default (index . 0).Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "qwarden.servicesImage" -}}
{{- include "qwarden.image" (list . "qwarden" .Values.image.servicesDigest) -}}
{{- end -}}

{{- define "qwarden.tritonImage" -}}
{{- include "qwarden.image" (list . "qwarden-triton" .Values.image.tritonDigest) -}}
{{- end -}}

{{/*
The part of a pod's spec that all pods share. Service links are off because Kubernetes would set
QWARDEN_TRITON_PORT and the like for a release named qwarden, and the services refuse settings that
they do not know.
*/}}
{{- define "qwarden.podDefaults" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "qwarden.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Annotations by which Prometheus finds a pod: a port. */}}
{{- define "qwarden.scrapeAnnotations" -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ . | quote }}
prometheus.io/path: /metrics
{{- end -}}

{{/* One environment variable out of an existing Secret: (list VARIABLE SECRET KEY). */}}
{{- define "qwarden.secretEnv" -}}
- name: {{ index . 0 }}
  valueFrom:
    secretKeyRef:
      name: {{ index . 1 }}
      key: {{ index . 2 }}
{{- end -}}

{{/* host:port where the moderator finds Triton; the name resolves to every pod that is ready. */}}
{{- define "qwarden.tritonAddress" -}}
{{- printf "%s-triton.%s.svc:8001" (include "qwarden.fullname" .) .Release.Namespace -}}
{{- end -}}

{{/* "yes" where Kafka asks for a user. */}}
{{- define "qwarden.kafkaHasSasl" -}}
{{- if hasPrefix "SASL_" .Values.kafka.securityProtocol -}}yes{{- end -}}
{{- end -}}

{{/* "yes" where a certificate authority of one's own is mounted. */}}
{{- define "qwarden.kafkaHasCa" -}}
{{- if and .Values.kafka.ca.secretName (hasSuffix "SSL" .Values.kafka.securityProtocol) -}}yes{{- end -}}
{{- end -}}

{{/* "yes" where the certificate authority of a schema registry of one's own is mounted. */}}
{{- define "qwarden.registryHasCa" -}}
{{- with .Values.schemaRegistry }}
{{- if and .ca.secretName (hasPrefix "https://" .url) -}}yes{{- end -}}
{{- end -}}
{{- end -}}

{{/* What reads values in the Confluent wire format needs. */}}
{{- define "qwarden.registryEnv" -}}
{{- with .Values.schemaRegistry -}}
{{- if .url -}}
- name: QWARDEN_REGISTRY__URL
  value: {{ .url | quote }}
{{- if .user.secretName }}
{{ include "qwarden.secretEnv" (list "QWARDEN_REGISTRY__USERNAME" .user.secretName .user.usernameKey) }}
{{ include "qwarden.secretEnv" (list "QWARDEN_REGISTRY__PASSWORD" .user.secretName .user.passwordKey) }}
{{- end }}
{{- if include "qwarden.registryHasCa" $ }}
- name: QWARDEN_REGISTRY__CA_FILE
  value: /etc/qwarden/registry-ca/ca.crt
{{- end }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What every command of the services image needs: the content key and Kafka. */}}
{{- define "qwarden.servicesEnv" -}}
{{- with .Values.contentKey }}
{{- include "qwarden.secretEnv" (list "QWARDEN_CONTENT_KEY" .secretName .secretKey) }}
{{- end }}
{{- with .Values.kafka }}
- name: QWARDEN_KAFKA__BOOTSTRAP_SERVERS
  value: {{ .bootstrapServers | quote }}
- name: QWARDEN_KAFKA__SECURITY_PROTOCOL
  value: {{ .securityProtocol }}
{{- if include "qwarden.kafkaHasSasl" $ }}
- name: QWARDEN_KAFKA__SASL_MECHANISM
  value: {{ .sasl.mechanism }}
{{ include "qwarden.secretEnv" (list "QWARDEN_KAFKA__SASL_USERNAME" .sasl.secretName .sasl.usernameKey) }}
{{ include "qwarden.secretEnv" (list "QWARDEN_KAFKA__SASL_PASSWORD" .sasl.secretName .sasl.passwordKey) }}
{{- end }}
{{- if include "qwarden.kafkaHasCa" $ }}
- name: QWARDEN_KAFKA__CA_FILE
  value: /etc/qwarden/kafka-ca/ca.crt
{{- end }}
{{- end }}
{{- end -}}

{{/* Mounts of the services image: a small /tmp beside the read-only root, and Kafka's authority. */}}
{{- define "qwarden.servicesMounts" -}}
- name: tmp
  mountPath: /tmp
{{- if include "qwarden.kafkaHasCa" . }}
- name: kafka-ca
  mountPath: /etc/qwarden/kafka-ca
  readOnly: true
{{- end }}
{{- end -}}

{{- define "qwarden.servicesVolumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- if include "qwarden.kafkaHasCa" . }}
- name: kafka-ca
  secret:
    secretName: {{ .Values.kafka.ca.secretName }}
    items:
      - key: {{ .Values.kafka.ca.secretKey }}
        path: ca.crt
{{- end }}
{{- end -}}

{{/* The folders of QWARDEN_POLICY__PATH, each with the value that holds its files. */}}
{{- define "qwarden.policyFolders" -}}
policies: policies
tenants: tenants
topics: topicFiles
{{- end -}}

{{/* Policy, tenant and topic files as ConfigMap entries. A key there holds no slash: the volume's
items put FOLDER.NAME.yaml at FOLDER/NAME.yaml. Empty where the values name none. */}}
{{- define "qwarden.policyFiles" -}}
{{- $files := dict -}}
{{- range $folder, $value := include "qwarden.policyFolders" . | fromYaml -}}
{{- range $name, $text := index $.Values $value -}}
{{- $_ := set $files (printf "%s.%s.yaml" $folder $name) $text -}}
{{- end -}}
{{- end -}}
{{- if $files -}}
{{- toYaml $files -}}
{{- end -}}
{{- end -}}
